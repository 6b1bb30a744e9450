import dataclasses

import numpy as np
import pytest

from howhard.router.features import FeatureSpec
from howhard.training.baselines import CellForecaster
from howhard.training.curves import Interval
from howhard.training.evaluate import evaluate
from howhard.training.fit import FitSettings
from howhard.training.worth import summary, worth_having

TINY = FitSettings(components=("neighbours",), folds=2, features=FeatureSpec(n_text=1024))


@pytest.fixture(scope="module")
def found(make_world):
    matrix = make_world(160).matrix
    return evaluate(matrix, settings=TINY, draws=200, folds=2, baselines=[CellForecaster("no features", n_cells=0)])


def having(e, gain, *, split="prompt", families=20, rival=None):
    """The verdict for a gain, beside a simpler contender that the router is `rival` ahead of."""
    p = e.prices[0]
    baseline = next(s for s in p.standings if s.kind == "baseline")
    others = (dataclasses.replace(baseline, ahead=rival or Interval(0.2, 0.1, 0.3)),)
    router = dataclasses.replace(p.router, gain=gain)
    p = dataclasses.replace(p, standings=(router, *others), best_arm="small/single")
    return worth_having(dataclasses.replace(e, split=split, n_families=families), p)


def test_a_gain_that_is_surely_above_nothing_is_worth_having(found):
    verdict = having(found, Interval(0.05, 0.02, 0.08))
    assert verdict.worth is True
    assert verdict.sentence == "worth having: +.050 [+.020, +.080] over the best fixed arm small/single"


def test_a_gain_that_is_sure_but_tiny_is_hardly_worth_having(found):
    verdict = having(found, Interval(0.002, 0.001, 0.003))
    assert verdict.worth is False
    assert verdict.sentence.startswith("hardly worth having: +.002")


def test_a_gain_that_may_be_nothing_is_not_and_the_arm_that_does_as_well_is_named(found):
    verdict = having(found, Interval(0.01, -0.02, 0.04))
    assert verdict.worth is False
    assert verdict.sentence.startswith("not worth having: the best fixed arm small/single does as well (+.010 [-.020")


def test_a_router_that_loses_is_told_so(found):
    assert "it LOSES to the best fixed arm" in having(found, Interval(-0.04, -0.06, -0.02)).sentence


@pytest.mark.parametrize(
    ("ahead", "said"),
    [
        (Interval(0.01, -0.01, 0.03), "does about as well"),
        (Interval(-0.03, -0.05, -0.01), "does better by .030 [.010, .050]"),
    ],
)
def test_a_simpler_way_that_is_as_good_is_named_beside(found, ahead, said):
    verdict = having(found, Interval(0.05, 0.02, 0.08), rival=ahead)
    assert verdict.worth is True
    assert said in verdict.sentence
    assert "'no features'" in verdict.sentence


@pytest.mark.parametrize("gain", [Interval(0.05, 0.02, 0.08), Interval(-0.05, -0.08, -0.02)])
def test_fewer_than_eight_families_are_too_few_to_say_whatever_they_show(found, gain):
    verdict = having(found, gain, split="group", families=7)
    assert verdict.worth is None
    assert verdict.sentence.startswith("too few families (n = 7 < 8) to say")
    assert having(found, gain, split="group", families=8).worth is not None


def test_on_families_never_seen_a_router_that_loses_nothing_is_safe(found):
    assert having(found, Interval(0.0, -0.005, 0.005), split="group").sentence.startswith("safe, without a gain")
    assert having(found, Interval(0.0, -0.05, 0.05), split="group").sentence.startswith("not shown to be safe")


def test_comparisons_that_are_read_together_have_wider_intervals_that_hold_all_at_once(found):
    other = dataclasses.replace(found)
    lines = summary([("one", [found]), ("two", [other])])
    assert [(line.table, line.price) for line in lines] == [("one", 0.1), ("one", 0.3), ("two", 0.1), ("two", 0.3)]
    for line in lines:
        assert line.together.low < line.gain.low
        assert line.together.high > line.gain.high
        assert line.together.mean == line.gain.mean
    alone = summary([("one", [dataclasses.replace(found, prices=found.prices[:1])])])
    assert np.ptp([alone[0].together.low, alone[0].gain.low]) < 0.02
    assert summary([("none", [])]) == ()
