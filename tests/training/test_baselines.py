import dataclasses

import numpy as np
import pytest

from howhard.router.features import FeatureSpec, featurize
from howhard.router.objective import Objective
from howhard.router.policy import UtilityPolicy
from howhard.training.baselines import (
    CellForecaster,
    NearestForecaster,
    RidgeForecaster,
    oracle_picks,
    quick_baselines,
    shuffled,
    standard_baselines,
    stitch,
)

SPEC = FeatureSpec()


@pytest.fixture(scope="module")
def halves(world):
    matrix, x = world.matrix, featurize(world.matrix.texts, SPEC)
    train = np.arange(len(matrix)) < 300
    return matrix.rows(train), x[train], matrix.rows(~train), x[~train], world.truth[~train]


FORECASTERS = [
    CellForecaster("length"),
    CellForecaster("cluster", n_cells=12),
    CellForecaster("group", n_cells=0),
    NearestForecaster(),
    RidgeForecaster(),
]
PROBE = CellForecaster("difficulty probe")
NO_FEATURES = CellForecaster("no features", n_cells=0)


@pytest.mark.parametrize("forecaster", [*FORECASTERS, PROBE, NO_FEATURES], ids=lambda f: f.name)
def test_every_baseline_gives_estimates_for_new_prompts_and_for_its_own_out_of_fold(forecaster, halves):
    train, x, test, x_test, _ = halves
    forecast = forecaster.fit(train, x, seed=0)
    estimates = forecast.predict(test, x_test)
    for e, n in ((estimates, len(test)), (forecast.validation, len(train))):
        assert e.quality.shape == (n, 3)
        assert ((e.quality >= 0) & (e.quality <= 1)).all()
        assert (e.cost > 0).all()
        assert (e.benefit_se[:, e.arms.index(e.fallback)] == 0).all()
    assert (estimates.fallback, estimates.reference) == (train.arms[train.best_arm], "small/single")


@pytest.mark.parametrize("forecaster", [*FORECASTERS, PROBE, NO_FEATURES], ids=lambda f: f.name)
def test_no_baseline_reads_the_outcomes_of_the_prompts_it_estimates(forecaster, halves):
    train, x, test, x_test, _ = halves
    forecast = forecaster.fit(train, x, seed=0)
    blank = dataclasses.replace(
        test, quality=np.full(test.quality.shape, np.nan), cost=np.full(test.cost.shape, np.nan)
    )
    assert forecast.predict(blank, x_test).quality.tolist() == forecast.predict(test, x_test).quality.tolist()


def test_a_prompts_own_outcome_is_not_in_its_out_of_fold_estimate(halves):
    train, x, *_ = halves
    flipped = train.quality.copy()
    flipped[0] = 1 - flipped[0]
    other = dataclasses.replace(train, quality=flipped)
    # With one strength of shrinkage: choosing among several looks at all validation outcomes, as choosing does.
    for forecaster in [*FORECASTERS[:4], RidgeForecaster(alphas=(1.0,))]:
        before = forecaster.fit(train, x, seed=0).validation.quality[0]
        after = forecaster.fit(other, x, seed=0).validation.quality[0]
        assert before.tolist() == after.tolist(), forecaster.name


@pytest.mark.parametrize("forecaster", FORECASTERS[1:], ids=lambda f: f.name)
def test_baselines_that_see_the_kind_of_prompt_come_near_the_truth(forecaster, halves):
    train, x, test, x_test, truth = halves
    found = forecaster.fit(train, x, seed=0).predict(test, x_test).quality
    assert np.abs(found - truth).mean() < 0.15


def test_group_means_are_shrunk_as_the_formula_says(halves):
    train, x, test, x_test, _ = halves
    found = CellForecaster("group", strength=10.0).fit(train, x, seed=0).predict(test, x_test)
    mine = np.array(train.groups) == test.groups[0]
    brute = (train.quality[mine].sum(axis=0) + 10 * train.quality.mean(axis=0)) / (mine.sum() + 10)
    assert found.quality[0] == pytest.approx(brute)


def test_a_group_never_seen_has_the_arms_means(halves):
    train, x, test, x_test, _ = halves
    strange = dataclasses.replace(test, groups=("unheard of",) * len(test))
    found = CellForecaster("group").fit(train, x, seed=0).predict(strange, x_test).quality
    assert found[0] == pytest.approx(train.quality.mean(axis=0))


def test_nearest_is_the_mean_of_the_k_nearest_by_brute_force(halves):
    train, x, test, x_test, _ = halves
    found = NearestForecaster(k=7, strength=0.0).fit(train, x, seed=0).predict(test, x_test)
    x, x_test = x.dense, x_test.dense
    root = np.where(x.min(axis=0) >= 0, np.sqrt(np.maximum(x, 0)), x)
    root_test = np.where(x.min(axis=0) >= 0, np.sqrt(np.maximum(x_test, 0)), x_test)
    keep = root.std(axis=0) > 1e-6
    z = np.clip(((root - root.mean(axis=0)) / np.where(keep, root.std(axis=0), 1))[:, keep], -6, 6)
    z_test = np.clip(((root_test - root.mean(axis=0)) / np.where(keep, root.std(axis=0), 1))[:, keep], -6, 6)
    for i in range(10):
        near = np.argsort(((z - z_test[i]) ** 2).sum(axis=1), kind="stable")[:7]
        assert found.quality[i] == pytest.approx(train.quality[near].mean(axis=0), abs=0.15)


def test_shuffled_picks_are_the_mean_over_all_permutations(halves):
    _, _, test, _, _ = halves
    picks = np.random.default_rng(0).integers(3, size=len(test))
    rng = np.random.default_rng(1)
    rows = np.arange(len(test))
    dealt = [test.quality[rows, rng.permutation(picks)].mean() for _ in range(3000)]
    exact = (shuffled(picks, test) * test.quality).sum(axis=1).mean()
    assert exact == pytest.approx(np.mean(dealt), abs=4 * np.std(dealt) / np.sqrt(3000))


def test_the_oracle_takes_the_highest_observed_utility_and_of_equal_ones_the_cheaper(halves):
    _, _, test, _, _ = halves
    picks = oracle_picks(test, value=5.0)
    utility = 5.0 * test.quality - test.cost
    assert utility[np.arange(len(test)), picks].tolist() == utility.max(axis=1).tolist()
    tied = dataclasses.replace(test, cost=np.zeros(test.cost.shape), quality=np.ones(test.quality.shape))
    assert (oracle_picks(tied, value=1.0) == 0).all()


def test_group_means_join_the_baselines_only_where_there_are_groups():
    assert [b.name for b in quick_baselines(1)] == ["no features", "length", "cluster", "nearest"]
    assert [b.name for b in quick_baselines(2)][-1] == "group"
    assert [b.name for b in standard_baselines(2)][:2] == ["TF-IDF ridge", "difficulty probe"]


def test_the_counts_alone_know_the_arms_means_and_pick_the_best_fixed_arm_of_any_objective(halves):
    train, x, test, x_test, _ = halves
    found = NO_FEATURES.fit(train, x, seed=0).predict(test, x_test)
    assert found.quality[0] == pytest.approx(train.arm_quality)
    for value in (0.1, 5.0, 50.0):
        objective = Objective(value=value)
        best = (value * train.arm_quality - train.arm_cost).argmax()
        assert (UtilityPolicy(guard=0.5).choose(found, objective).index == best).all()


def test_the_peers_ways_take_the_plain_argmax_whatever_the_guard(halves):
    train, x, test, x_test, _ = halves
    for forecaster in (RidgeForecaster(), PROBE):
        found = forecaster.fit(train, x, seed=0).predict(test, x_test)
        picks = [UtilityPolicy(guard=g).choose(found, Objective(value=20.0)).index.tolist() for g in (0.0, 3.0)]
        assert picks[0] == picks[1], forecaster.name
        assert len(set(picks[0])) > 1


def test_the_probe_gives_every_prompt_the_means_of_those_as_hard(halves):
    train, x, test, x_test, truth = halves
    found = PROBE.fit(train, x, seed=0).predict(test, x_test).quality
    small = train.arms.index("small/single")
    easy, hard = truth[:, small] > 0.9, truth[:, small] < 0.1
    assert found[easy, small].mean() > 0.65
    assert found[hard, small].mean() < 0.35
    assert len(np.unique(found, axis=0)) <= 11  # ten bins, and nothing else that tells prompts apart


def test_ridge_learns_of_an_arm_from_the_prompts_on_which_it_was_run(halves):
    train, x, test, x_test, truth = halves
    quality = train.quality.copy()
    quality[np.arange(len(train)) % 2 == 0, 0] = np.nan
    quality[np.arange(len(train)) % 3 == 0, 1] = np.nan
    found = RidgeForecaster().fit(dataclasses.replace(train, quality=quality), x, seed=0).predict(test, x_test)
    assert np.abs(found.quality - truth).mean() < 0.15


def test_prompts_without_a_word_leave_ridge_with_the_means(halves):
    train, x, test, x_test, _ = halves
    blank = dataclasses.replace(train, texts=(" ",) * len(train))
    found = RidgeForecaster().fit(blank, x, seed=0).predict(test, x_test)
    assert found.quality[0] == pytest.approx(train.arm_quality)


@pytest.mark.parametrize("forecaster", FORECASTERS[:4], ids=lambda f: f.name)
def test_every_pair_of_arms_has_an_error_of_its_own_and_the_best_fixed_arm_follows_the_objective(forecaster, halves):
    train, x, test, x_test, _ = halves
    found = forecaster.fit(train, x, seed=0).predict(test, x_test)
    se = found.fixed.difference_se
    assert se.shape == (len(test), 3, 3)
    assert np.allclose(se, se.transpose(0, 2, 1))
    assert (se[:, np.arange(3), np.arange(3)] == 0).all()
    cheap = found.at(Objective(value=1e-3))
    assert cheap.fallback == "small/single"
    assert (cheap.benefit_se[:, 2] == 0).all()
    assert (cheap.benefit_se[:, 0] > 0).all()


def test_folds_put_together_keep_who_was_flagged(halves):
    train, x, test, x_test, _ = halves
    found = NO_FEATURES.fit(train, x, seed=0).predict(test, x_test)
    odd = np.arange(len(test)) % 2 == 1
    parts = [
        (np.flatnonzero(odd), dataclasses.replace(found[odd], familiar=np.zeros(odd.sum(), bool))),
        (np.flatnonzero(~odd), dataclasses.replace(found[~odd], familiar=np.ones((~odd).sum(), bool))),
    ]
    assert stitch(parts, test).familiar.tolist() == (~odd).tolist()
    assert stitch([(np.arange(len(test)), found)], test).familiar is None
