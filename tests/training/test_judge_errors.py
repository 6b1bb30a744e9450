"""Error rates of a judge, and accuracy corrected for them, against data whose truth we made."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.strategies.errors import InputError
from howhard.training.judge_errors import JudgeErrors, Rate, corrected_accuracy, judge_errors, wilson


def binomial(n, k, p):
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_estimate_and_solves_wilsons_equation(case):
    hits, n = case
    rate = wilson(hits, n)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    for end in (rate.low, rate.high):
        if 0 < end < 1:
            assert abs(rate.value - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), rel=1e-5)


@pytest.mark.parametrize("n, p", [(10, 0.5), (20, 0.1), (40, 0.9), (15, 0.97)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(n, p):
    covered = sum(binomial(n, k, p) for k in range(n + 1) if wilson(k, n).low <= p <= wilson(k, n).high)
    assert 0.85 < covered < 0.995


def test_the_rates_are_those_of_the_table():
    judged = [1, 1, 1, 0, 1, 0, 0, 0, 0, 0]
    human = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    errors = judge_errors(judged, human)
    assert (errors.true_positive.value, errors.true_positive.n) == (0.75, 4)
    assert (errors.false_positive.value, errors.false_positive.n) == (pytest.approx(1 / 6), 6)
    assert errors.agreement.value == 0.8
    assert errors.informative
    assert str(wilson(9, 10)) == "0.900 [0.596, 0.982] of 10"


def test_qualities_count_as_right_from_the_threshold_on():
    errors = judge_errors([0.9, 0.6, 0.2], [1.0, 0.4, 0.0], threshold=0.6)
    assert errors.true_positive.value == 1
    assert errors.false_positive.value == 0.5


def rates(t, f, n=1000):
    return JudgeErrors(
        true_positive=Rate(t, t, t, n), false_positive=Rate(f, f, f, n), agreement=Rate(1, 1, 1, n), confidence=0.95
    )


@given(st.floats(0.5, 1), st.floats(0, 0.4), st.integers(0, 200))
@settings(max_examples=50, deadline=None)
def test_the_correction_undoes_what_the_error_rates_do(t, f, right):
    """Of 200 answers `right` are right; the judge's share is then q = t p + f (1 - p), taken here without sampling."""
    p = right / 200
    hits = round((t * p + f * (1 - p)) * 200_000)
    found = corrected_accuracy([1] * (hits // 100) + [0] * (2000 - hits // 100), rates(t, f))
    assert found.value == pytest.approx(p, abs=0.02)
    assert found.low <= found.value <= found.high


def test_a_perfect_judge_needs_no_correction():
    found = corrected_accuracy([1] * 30 + [0] * 70, rates(1.0, 0.0, n=10_000))
    assert found.value == 0.3
    assert (found.low, found.high) == (pytest.approx(0.22, abs=0.02), pytest.approx(0.40, abs=0.02))


@pytest.mark.parametrize("p, t, f, labels", [(0.6, 0.9, 0.2, 60), (0.2, 0.8, 0.1, 60), (0.9, 0.85, 0.3, 100)])
def test_the_corrected_accuracy_covers_the_truth_and_the_raw_share_does_not(p, t, f, labels):
    rng = random.Random(17)

    def verdicts(truth):
        return [rng.random() < (t if right else f) for right in truth]

    covered = raw = 0
    for _ in range(300):
        human = [rng.random() < 0.5 for _ in range(labels)]
        human[:2] = [True, False]
        errors = judge_errors(verdicts(human), human)
        judged = verdicts([rng.random() < p for _ in range(400)])
        found = corrected_accuracy(judged, errors)
        covered += found.low <= p <= found.high
        share = wilson(sum(judged), len(judged))
        raw += share.low <= p <= share.high
    assert 0.91 < covered / 300 <= 1.0
    assert raw < covered


def test_what_cannot_be_estimated_is_refused():
    with pytest.raises(InputError, match="2 verdicts and 1 human grades"):
        judge_errors([1, 0], [1])
    with pytest.raises(InputError, match="no answer is wrong by the human grades, so the false positive rate"):
        judge_errors([1, 0], [1, 1])
    with pytest.raises(InputError, match=r"judged\[1\] is 3"):
        judge_errors([1, 3], [1, 0])
    with pytest.raises(InputError, match="it does not tell them apart"):
        corrected_accuracy([1, 0], judge_errors([1, 1, 1, 1], [1, 0, 1, 0]))
    with pytest.raises(InputError, match="no verdicts"):
        corrected_accuracy([], rates(0.9, 0.1))
    with pytest.raises(InputError, match="confidence=1"):
        wilson(1, 2, confidence=1)


def test_so_few_labels_that_anything_is_possible_say_so():
    errors = judge_errors([1, 0, 1], [1, 0, 0])
    assert errors.true_positive.n == 1
    found = corrected_accuracy([1, 1, 0, 0], errors)
    assert found.high - found.low > 0.9
