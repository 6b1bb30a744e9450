import dataclasses

import numpy as np
import pytest

from howhard.training.calibration import benefit_of, calibration_of, forecasting
from howhard.training.curves import PairedMeans, resampling_weights

RNG = np.random.default_rng(0)
N = 2000
P = RNG.uniform(0.05, 0.95, N)
ONCE = np.ones(N)


def means(n=N, draws=200):
    return PairedMeans(resampling_weights(np.arange(n), draws=draws, seed=0))


def outcomes(p, tries=1, seed=0):
    return np.random.default_rng(1000 + seed).binomial(tries, p) / tries  # a stream of its own, not that of P


def test_a_forecaster_that_is_right_lies_in_the_range_of_perfect_ones():
    found = [calibration_of("a", P, outcomes(P, seed=s), ONCE, np.random.default_rng(99 + s)) for s in range(8)]
    assert sum(f.in_order for f in found) >= 7
    assert np.mean([f.error for f in found]) == pytest.approx(np.mean([f.perfect.mean for f in found]), rel=0.2)
    inside = np.mean([b.low <= b.observed <= b.high for f in found for b in f.bins])
    assert inside > 0.85


def test_a_forecaster_that_is_off_by_a_tenth_lies_above_it():
    found = calibration_of("a", np.clip(P + 0.1, 0, 1), outcomes(P), ONCE, np.random.default_rng(0))
    assert not found.in_order
    assert found.error == pytest.approx(0.1, abs=0.02)


def test_with_fewer_prompts_chance_alone_shows_a_larger_error():
    few = calibration_of("a", P[:100], outcomes(P[:100]), ONCE[:100], np.random.default_rng(0))
    many = calibration_of("a", P, outcomes(P), ONCE, np.random.default_rng(0))
    assert 0.07 < few.perfect.mean < 0.14
    assert many.perfect.mean == pytest.approx(few.perfect.mean / np.sqrt(20), rel=0.2)


def test_more_draws_behind_each_quality_narrow_the_range():
    once = calibration_of("a", P, outcomes(P), ONCE, np.random.default_rng(0))
    often = calibration_of("a", P, outcomes(P, 16), 16 * ONCE, np.random.default_rng(0))
    assert often.perfect.mean == pytest.approx(once.perfect.mean / 4, rel=0.15)
    assert often.in_order


def test_a_forecaster_need_not_know_each_prompts_own_chance_to_be_calibrated():
    known = np.where(P < 0.5, 0.3, 0.7)  # the forecaster tells two kinds of prompts apart
    chance = np.clip(known + np.random.default_rng(5).uniform(-0.25, 0.25, N), 0, 1)
    found = calibration_of("a", known, outcomes(chance, 100), 100 * ONCE, np.random.default_rng(0))
    assert found.in_order
    off = calibration_of("a", known + 0.05, outcomes(chance, 100), 100 * ONCE, np.random.default_rng(0))
    assert not off.in_order


def test_grades_that_are_no_counts_get_their_own_noise():
    grades = np.clip(P + np.random.default_rng(1).normal(0, 0.02, N), 0, 1)
    found = calibration_of("a", P, grades, ONCE, np.random.default_rng(0))
    assert found.perfect.high < 0.01
    assert found.in_order


def test_equal_predictions_share_one_bin_however_the_prompts_are_sorted():
    y = np.sort(outcomes(np.full(N, 0.3)))
    found = calibration_of("a", np.full(N, y.mean()), y, ONCE, np.random.default_rng(0))
    assert len(found.bins) == 1
    assert found.error < 1e-9


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_the_slope_says_how_much_of_a_predicted_benefit_comes_true(strength):
    truth = 0.3 * (P - P.mean())
    realised = np.stack([np.zeros(N), truth + np.random.default_rng(2).normal(0, 0.05, N)], axis=1)
    predicted = np.stack([np.zeros(N), truth / strength], axis=1)
    found = benefit_of(("best", "other"), predicted, realised, np.zeros(N, int), 0, means())
    assert found.slope.mean == pytest.approx(strength, rel=0.05)
    assert found.slope.low < strength < found.slope.high
    assert found.arms["other"] == found.slope
    assert [b.n for b in found.bins] == [N // 10] * 10
    assert found.bins[-1].realised.mean > found.bins[0].realised.mean


def test_models_that_differ_only_in_the_arms_means_predict_no_benefit():
    fold = np.arange(N) % 5
    predicted = np.stack([np.zeros(N), 0.01 * fold], axis=1)  # each fold's model has a mean of its own
    realised = np.stack([np.zeros(N), -0.01 * fold], axis=1)
    found = benefit_of(("best", "other"), predicted, realised, fold, 0, means())
    assert found.slope is None
    assert found.arms == {"other": None}


def test_skill_is_one_for_the_truth_and_nothing_for_the_means(world):
    matrix = world.matrix
    n = len(matrix)
    soft = dataclasses.replace(matrix, quality=world.truth, draws=np.full((n, 3), 100.0))
    fold = np.zeros(n, int)
    best = soft.best_arm
    right = forecasting(soft, world.truth, fold, best, means(n))
    assert right.brier_skill.mean == pytest.approx(1)
    assert right.benefit_skill.mean == pytest.approx(1)
    nothing = forecasting(soft, np.broadcast_to(world.truth.mean(axis=0), (n, 3)), fold, best, means(n))
    assert nothing.brier_skill.mean == pytest.approx(0, abs=1e-9)
    assert nothing.benefit.slope is None
    assert [a.arm for a in nothing.arms] == list(soft.arms)
