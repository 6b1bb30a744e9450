"""Scores made into probabilities."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.strategies.errors import ConfigError, InputError
from howhard.strategies.verifiers.calibration import calibrated, check_calibration, fit_isotonic, fit_platt

labelled = st.lists(st.tuples(st.integers(0, 8).map(lambda i: i / 8), st.booleans()), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(labelled)
def test_fitted_maps_are_calibrations_that_do_not_fall(data):
    scores, labels = zip(*data, strict=True)
    for fit in (fit_isotonic, fit_platt):
        points = fit(scores, labels)
        check_calibration(points)
        values = [calibrated(s / 50, points) for s in range(51)]
        assert all(0 <= v <= 1 for v in values)
        assert values == sorted(values)


@settings(max_examples=60, deadline=None)
@given(labelled)
def test_isotonic_is_the_least_squares_map_that_does_not_fall(data):
    """By the min-max formula: at each score, the largest over starts of the least over ends of the block means."""
    points = fit_isotonic(*zip(*data, strict=True))
    for score in {s for s, _ in data}:
        starts = {s for s, _ in data if s <= score}
        ends = {s for s, _ in data if s >= score}

        def mean(a, b):
            block = [label for s, label in data if a <= s <= b]
            return sum(block) / len(block)

        best = max(min(mean(a, b) for b in ends) for a in starts)
        assert calibrated(score, points) == pytest.approx(best)


def test_platt_finds_the_logistic_map_that_made_the_labels():
    rng = random.Random(5)
    scores = [rng.random() for _ in range(4000)]
    labels = [rng.random() < 1 / (1 + math.exp(-(6 * s - 4))) for s in scores]
    points = fit_platt(scores, labels)
    for s in (0.1, 0.4, 0.7, 0.95):
        assert calibrated(s, points) == pytest.approx(1 / (1 + math.exp(-(6 * s - 4))), abs=0.05)


def test_a_handful_of_labels_that_agree_give_no_certainty():
    points = fit_platt([0.1, 0.2, 0.8, 0.9], [False, False, True, True])
    assert 0.1 < calibrated(0.0, points) < 0.5 < calibrated(1.0, points) < 0.9
    falling = fit_platt([0.1, 0.9] * 5, [True, False] * 5)
    assert calibrated(0.0, falling) == calibrated(1.0, falling) == pytest.approx(0.5)


def test_without_breakpoints_a_score_is_itself_and_beyond_them_the_map_is_flat():
    assert calibrated(0.3, ()) == 0.3
    points = ((0.2, 0.1), (0.6, 0.5))
    assert [calibrated(s, points) for s in (0.0, 0.2, 0.4, 0.6, 1.0)] == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.5])


@pytest.mark.parametrize(
    "points, words",
    [
        (((0.1, 1.2),), r"calibration\[0\]"),
        (((0.1, 0.2), (0.1, 0.3)), "scores must rise"),
        (((0.1, 0.2), (0.2, 0.1)), "probabilities must not fall"),
        (((0.1,),), "must be a pair"),
        (((math.nan, 0.1),), "must be a pair"),
    ],
)
def test_breakpoints_that_are_no_calibration_are_refused(points, words):
    with pytest.raises(ConfigError, match=words):
        check_calibration(points)


@pytest.mark.parametrize("fit", [fit_isotonic, fit_platt])
def test_what_cannot_be_fitted_is_refused(fit):
    with pytest.raises(InputError, match="0 scores and 0 labels"):
        fit([], [])
    with pytest.raises(InputError, match="score 0 is 2"):
        fit([2], [1])
