import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.router.predictor import sigmoid
from howhard.training.stacking import MOST_SHARPENED, mean_log_odds, sharpened, stack


def logged(n=3000, *, seed=0, strength=1.0, base=(-0.5, 0.3, 1.0)):
    """What a prompt truly adds (n, a), and outcomes drawn from it."""
    rng = np.random.default_rng(seed)
    truth = strength * (rng.normal(size=(n, 1)) + rng.normal(size=(n, len(base))))
    y = (rng.random(truth.shape) < sigmoid(np.array(base) + truth)).astype(float)
    return truth, y, rng.integers(4, size=n), rng


def test_the_truth_has_weight_one_and_noise_has_none():
    truth, y, fold, rng = logged()
    found = stack([truth, rng.normal(size=truth.shape)], y, fold)
    assert found.weights[0] == pytest.approx([1, 1], abs=0.1)
    assert found.weights[1].max() < 0.05
    assert found.slope == pytest.approx(1, abs=0.1)
    assert found.intercept == pytest.approx([-0.5, 0.3, 1.0], abs=0.15)
    assert found.gain > 0.1


def test_two_noisy_views_share_the_weight():
    truth, y, fold, rng = logged()
    views = [truth + rng.normal(size=truth.shape) for _ in range(2)]
    both = stack(views, y, fold)
    assert both.weights[0] == pytest.approx(both.weights[1], rel=0.3)
    assert both.gain > 1.1 * stack(views[:1], y, fold).gain


def test_what_is_upside_down_gets_no_weight():
    truth, y, fold, _ = logged()
    found = stack([-truth], y, fold)
    assert found.weights.tolist() == [[0, 0]]
    assert found.gain == 0
    np.testing.assert_allclose(found.quality, np.tile(y.mean(axis=0), (len(y), 1)), atol=0.001)


def test_noise_alone_leaves_the_arms_means():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        y = (rng.random((400, 2)) < [0.3, 0.6]).astype(float)
        found = stack([rng.normal(size=y.shape)], y, rng.integers(4, size=400))
        assert found.of([rng.normal(size=y.shape)]).std(axis=0).max() < 0.04
        assert found.gain < 0.004


def test_differences_between_arms_count_beside_the_outcomes():
    """One component knows how hard prompts are, the other which arm wins: the router needs the second."""
    rng = np.random.default_rng(0)
    n = 4000
    hard, wins = rng.normal(size=(n, 1)) * 2, rng.normal(size=(n, 2)) * [[1, -1]]
    y = (rng.random((n, 2)) < sigmoid(hard + wins)).astype(float)
    found = stack([np.repeat(hard, 2, axis=1), wins], y, rng.integers(4, size=n))
    assert found.weights[0, 0] == pytest.approx(1, abs=0.15)
    assert found.weights[1, 1] == pytest.approx(1, abs=0.1)


def test_differences_that_come_out_too_small_are_widened():
    """A component that knows how hard prompts are, and halves what tells arms apart."""
    truth, y, fold, _ = logged(6000)
    mean = truth.mean(axis=1, keepdims=True)
    found = stack([mean + (truth - mean) / 2], y, fold)
    assert found.weights[0, 1] / found.weights[0, 0] == pytest.approx(2, rel=0.15)


def test_an_arm_of_another_scale_has_a_slope_of_its_own_and_one_of_few_outcomes_has_that_of_all():
    truth, y, fold, _ = logged(6000)
    half = truth * [1, 1, 2]  # the third arm's log-odds are twice what they should be
    found = stack([half], y, fold)
    assert found.slope[2] / found.slope[0] == pytest.approx(0.5, abs=0.1)
    y[20:, 2] = np.nan
    few = stack([half], y, fold)
    assert few.slope[2] / few.slope[0] > 0.8


def test_every_arm_is_calibrated_in_the_mean():
    truth, y, fold, rng = logged(500)
    found = stack([2 * truth + rng.normal(size=truth.shape)], y, fold)
    assert found.quality.mean(axis=0) == pytest.approx(y.mean(axis=0), abs=0.002)
    assert found.of([2 * truth]).mean(axis=0) == pytest.approx(y.mean(axis=0), abs=0.05)


def test_a_prompts_own_fold_does_not_weigh_what_is_said_of_it():
    """Some outcomes of fold 0 turned round: which of its prompts look easier than others stays as it was."""
    truth, y, fold, rng = logged(800)
    views = [truth, truth + 2 * rng.normal(size=truth.shape)]
    turned = y.copy()
    some = np.flatnonzero(fold == 0)[:30]
    turned[some] = 1 - turned[some]
    before, after = stack(views, y, fold).quality, stack(views, turned, fold).quality
    for arm in range(3):
        np.testing.assert_array_equal(np.argsort(before[fold == 0, arm]), np.argsort(after[fold == 0, arm]))
    assert (np.argsort(before[:, 0]) != np.argsort(after[:, 0])).any()


def test_a_log_of_one_arm_per_prompt_is_stacked_too():
    truth, y, fold, rng = logged(2000)
    y[np.arange(3) != rng.integers(3, size=2000)[:, None]] = np.nan
    found = stack([truth], y, fold)
    assert found.weights[0] == pytest.approx([1, 1], abs=0.25)


def test_the_mean_of_members_is_bolder_than_each_of_them():
    """Predictions are the truth and noise: calibrated by one of them, the mean of four is too timid."""
    truth, y, fold, rng = logged(6000)

    def noisy():
        return truth + rng.normal(size=truth.shape)

    first, again = noisy(), noisy()
    alone = stack([first], y, fold)
    four = sharpened(alone, [first], [again], y, members=4)
    fresh, outcomes, _, rng = logged(20_000, seed=9)
    members = [fresh + rng.normal(size=fresh.shape) for _ in range(4)]

    def slope(found):
        """Of realised on predicted, on prompts that nobody has seen."""
        predicted = np.mean([found.of([m]) for m in members], axis=0)
        return np.polyfit(predicted.ravel(), outcomes.ravel(), 1)[0]

    assert slope(alone) > 1.15
    assert slope(four) == pytest.approx(1, abs=0.06)
    predicted = np.mean([four.of([m]) for m in members], axis=0)
    assert predicted.mean(axis=0) == pytest.approx(outcomes.mean(axis=0), abs=0.02)


def test_predictions_without_noise_stay_as_they_are():
    truth, y, fold, _ = logged(1000)
    found = stack([truth], y, fold)
    same = sharpened(found, [truth], [truth], y, members=4)
    np.testing.assert_allclose(same.slope, found.slope, rtol=1e-6)
    np.testing.assert_allclose(same.intercept, found.intercept, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(8, 40), a=st.integers(2, 4), gaps=st.floats(0, 0.7))
def test_any_table_gives_finite_figures_in_range(seed, n, a, gaps):
    rng = np.random.default_rng(seed)
    y = rng.choice([0.0, 0.5, 1.0], size=(n, a))
    y[1:][rng.random((n - 1, a)) < gaps] = np.nan
    added = [rng.normal(size=(n, a)) * 5, np.zeros((n, a))]
    found = stack(added, y, rng.permutation(n) % 3)
    assert np.isfinite(found.quality).all()
    assert ((found.quality >= 0) & (found.quality <= 1)).all()
    assert (found.weights >= 0).all()
    assert (found.weights[1] == 0).all()
    assert np.isfinite(found.intercept).all()
    assert (found.slope >= 0).all()


def test_the_mean_of_certain_outcomes_is_not_quite_certain():
    assert mean_log_odds(np.ones((9, 1))) == pytest.approx(np.log(9.5 / 0.5))
    assert mean_log_odds(np.full((9, 1), np.nan)) == pytest.approx(0)


def test_two_deals_that_disagree_altogether_sharpen_no_further_than_the_most():
    """What one deal says the other denies: their mean says nothing, and no factor would be large enough."""
    rng = np.random.default_rng(4)
    z = rng.normal(size=(400, 2))
    y = (rng.random((400, 2)) < sigmoid(z)).astype(float)
    found = stack([z], y, np.arange(400) % 4)
    half = np.where(rng.random((400, 1)) < 0.5, 1.0, -1.0)
    out = sharpened(found, [np.maximum(half, 0) * z], [np.maximum(-half, 0) * z], y, members=4)
    assert (out.slope > 0).all()
    assert (out.slope <= MOST_SHARPENED * found.slope + 1e-12).all()
