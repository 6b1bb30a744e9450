import dataclasses

import numpy as np
import pytest

from howhard.router.features import FeatureSpec, featurize
from howhard.training.baselines import (
    CellForecaster,
    NearestForecaster,
    oracle_picks,
    shuffled,
    standard_baselines,
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
]


@pytest.mark.parametrize("forecaster", FORECASTERS, ids=lambda f: f.name)
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


@pytest.mark.parametrize("forecaster", FORECASTERS, ids=lambda f: f.name)
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
    for forecaster in FORECASTERS:
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
    assert [b.name for b in standard_baselines(1)] == ["length", "cluster", "nearest"]
    assert [b.name for b in standard_baselines(2)][-1] == "group"
