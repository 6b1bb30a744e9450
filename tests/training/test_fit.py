import dataclasses

import lightgbm as lgb
import numpy as np
import pytest

from howhard.router.artifact import BackendFacts, unpack_arrays
from howhard.router.objective import Objective
from howhard.router.policy import UtilityPolicy
from howhard.router.predictor import STRANGE_SE
from howhard.router.router import Router
from howhard.strategies import ArmSpec, BestOfNSpec, SingleSpec
from howhard.strategies.base import Prices
from howhard.strategies.errors import ArtifactError, ConfigError, TableError
from howhard.training.fit import FitSettings, choose_value, fit, value_grid, write_router
from howhard.training.matrix import OutcomeMatrix


def test_it_learns_which_arm_a_prompt_needs(world, fitted):
    truth, found = world.truth, fitted.validation.quality
    assert np.abs(found - truth).mean() < 0.08
    assert 1 - ((found - truth) ** 2).mean() / ((truth.mean(axis=0) - truth) ** 2).mean() > 0.8


def test_shuffled_outcomes_teach_it_nothing_but_the_arms_means(make_world):
    shuffled = make_world(shuffle=True, seed=3).matrix
    fitted = fit(shuffled)
    spread = fitted.predictor.predict_texts(shuffled.texts).quality.std(axis=0)
    assert spread.max() < 0.03
    assert np.abs(fitted.validation.quality.mean(axis=0) - shuffled.arm_quality).max() < 0.02


def test_predicted_costs_average_to_the_logged_ones(world, fitted):
    predicted = fitted.predictor.predict_texts(world.matrix.texts).cost.mean(axis=0)
    assert predicted == pytest.approx(world.matrix.arm_cost, rel=0.03)


def test_equal_seeds_give_equal_bytes_and_another_seed_does_not(make_world):
    matrix = make_world(120).matrix
    settings = FitSettings(rounds=15)
    assert fit(matrix, settings=settings).files == fit(matrix, settings=settings).files
    assert fit(matrix, settings=dataclasses.replace(settings, seed=1)).files != fit(matrix, settings=settings).files


def test_what_is_written_is_what_the_router_loads(tmp_path, world, fitted):
    specs = {"small/single": ArmSpec(backend="small", strategy=SingleSpec())}
    facts = {"small": BackendFacts(kind="local", model="m", fingerprint="f", prices=Prices(prompt=0, completion=1))}
    manifest = write_router(
        tmp_path / "r", fitted, dataset="made up", specs=specs, backends=facts, metrics={"brier_skill": 0.5}
    )
    router = Router.load(tmp_path / "r")
    assert router.version == manifest.router_version
    assert router.objective == Objective(value=fitted.value)
    assert router.policy == fitted.settings.policy
    assert (manifest.fallback, manifest.reference) == (fitted.predictor.fallback, "small/single")
    assert manifest.specs == (None, None, specs["small/single"])
    assert manifest.training.metrics == {"brier_skill": 0.5}
    texts = world.matrix.texts[:20]
    assert router.estimate(texts).quality.tolist() == fitted.predictor.predict_texts(texts).quality.tolist()
    assert router.decide("indeed indeed Name the river that crosses province 12 of 13.").arm == "large/single"
    with pytest.raises(ArtifactError, match="not an empty directory"):
        write_router(tmp_path / "r", fitted, dataset="made up")


def test_lightgbm_reads_the_same_trees(world, fitted):
    x = np.zeros((3, len(fitted.predictor.features.names)), dtype=np.float32)
    outputs, _ = fitted.predictor.bag_outputs(x)
    assert outputs.shape == (3, len(fitted.predictor.arms), fitted.settings.bags)
    booster = lgb.Booster(model_str=fitted.files["quality-0.txt"].decode())
    tails = unpack_arrays(fitted.files["arms.npz"], what="arms.npz")["arm_features"]
    rows = np.concatenate([np.zeros((len(tails), x.shape[1])), tails], axis=1)
    assert np.asarray(booster.predict(rows)) == pytest.approx(outputs[0, :, 0], abs=1e-12)


def test_an_arm_that_is_always_equally_good_is_predicted_at_its_mean(make_world):
    matrix = make_world(80, shuffle=True).matrix
    same = dataclasses.replace(matrix, quality=np.full(matrix.quality.shape, 0.5))
    quality = fit(same).predictor.predict_texts(matrix.texts).quality
    assert quality == pytest.approx(0.5, abs=0.02)


def test_outcomes_that_are_missing_are_neither_zero_nor_an_obstacle(world):
    matrix = world.matrix
    quality, cost = matrix.quality.copy(), matrix.cost.copy()
    gone = np.random.default_rng(0).random(len(matrix)) < 0.5
    quality[gone, 1] = cost[gone, 1] = np.nan
    holes = dataclasses.replace(matrix, quality=quality, cost=cost)
    found = fit(holes).validation
    assert np.abs(found.quality[:, 1].mean() - np.nanmean(quality[:, 1])) < 0.04
    assert np.abs(found.quality - world.truth).mean() < 0.12


def test_latency_quantiles_come_from_the_rows_that_were_timed(make_world):
    matrix = make_world(100, seconds=True).matrix
    latency = matrix.latency.copy()
    latency[:, 0] = np.nan
    latency[10:, 1] = np.nan
    found = fit(dataclasses.replace(matrix, latency=latency), settings=FitSettings(rounds=5)).predictor
    assert found.quantiles == (0.5, 0.9, 0.95, 0.99)
    assert np.isnan(found.latency[0]).all()
    assert found.latency[1] == pytest.approx(np.quantile(latency[:10, 1], found.quantiles))


def test_specs_become_features_of_the_arms(world):
    specs = {
        "small/best_of_8": ArmSpec(backend="small", strategy=BestOfNSpec(n=8, verifier="best")),
        "small/single": ArmSpec(backend="small", strategy=SingleSpec()),
    }
    fitted = fit(world.matrix, specs=specs, settings=FitSettings(rounds=3))
    table = unpack_arrays(fitted.files["arms.npz"], what="arms.npz")["arm_features"]
    # backend, kind, verifier, log2 n; the large arm's spec is not known
    assert table[:, 3:7].tolist() == [[-1, -1, -1, -1], [1, 1, 1, 3], [1, 2, 0, 0]]


def test_the_uncertainty_is_larger_where_whole_families_are_left_out(world):
    by_prompt = fit(world.matrix).validation.benefit_se[0]
    by_group = fit(world.matrix, settings=FitSettings(split="group")).validation.benefit_se[0]
    assert by_group.max() > 1.5 * by_prompt.max()


def test_the_chosen_value_is_the_cheapest_that_keeps_the_best_arms_quality(world, fitted):
    matrix, settings = world.matrix, fitted.settings
    rows = np.arange(len(matrix))
    fine = []
    for v in value_grid(matrix):
        picks = settings.policy.choose(fitted.validation, Objective(value=float(v))).index
        d = matrix.quality[rows, picks] - matrix.quality[:, matrix.best_arm]
        if d.mean() - settings.margin * d.std() / np.sqrt(len(d)) >= -settings.tolerance:
            fine.append((matrix.cost[rows, picks].mean(), v))
    assert fitted.value == min(fine)[1]
    assert min(fine)[0] < 0.7 * matrix.arm_cost[matrix.best_arm]


def test_where_no_value_keeps_the_quality_the_best_one_there_is_wins(world, fitted):
    settings = FitSettings(tolerance=-0.5, policy=UtilityPolicy())
    value = choose_value(fitted.validation, world.matrix, settings=settings)
    assert value >= np.median(value_grid(world.matrix))


def test_free_arms_have_one_value(world):
    free = dataclasses.replace(world.matrix, cost=np.zeros(world.matrix.cost.shape))
    assert value_grid(free).tolist() == [1.0]
    assert fit(free, settings=FitSettings(rounds=3)).value == 1.0


def test_prompts_unlike_the_training_prompts_go_to_the_fallback_arm(world, fitted):
    strange = ["SELECT COUNT(*) FROM t WHERE x >= 10; -- why is it slow?", "```python\ndef f(x): return x**2\n```"]
    e = fitted.predictor.predict_texts([*strange, *world.matrix.texts])
    others = [j for j, arm in enumerate(e.arms) if arm != e.fallback]
    assert (e.benefit_se[:2, others] == STRANGE_SE).all()
    choices = fitted.settings.policy.choose(e, Objective(value=fitted.value))
    assert [e.arms[i] for i in choices.index[:2]] == [e.fallback] * 2
    assert (e.benefit_se[2:, others] == STRANGE_SE).mean() < 0.08
    assert (e.benefit_se[:, e.index(e.fallback)] == 0).all()


def test_the_share_of_known_prompts_that_counts_as_strange_is_what_was_asked(world):
    for share in (0.0, 0.2):
        found = fit(world.matrix, settings=FitSettings(rounds=2, strange_share=share)).validation
        strange = (found.benefit_se == STRANGE_SE).any(axis=1).mean()
        assert strange == pytest.approx(share, abs=0.01)


def test_progress_counts_every_model(world):
    seen = []
    fit(world.matrix, settings=FitSettings(rounds=2), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_tables_that_no_router_can_be_fitted_on_are_errors(world):
    matrix = world.matrix
    with pytest.raises(TableError, match="the table has one arm, 'small/single'"):
        fit(matrix.columns(["small/single"]))
    with pytest.raises(TableError, match="7 prompts: at least 8 are needed"):
        fit(matrix.rows(np.arange(7)))
    empty = dataclasses.replace(matrix, quality=np.where([True, False, False], np.nan, matrix.quality))
    with pytest.raises(TableError, match="arm 'large/single' has no outcome in the table"):
        fit(empty)
    with pytest.raises(TableError, match="needs two families"):
        fit(dataclasses.replace(matrix, families=("one",) * len(matrix)), settings=FitSettings(split="group"))


def test_settings_out_of_range_are_errors_that_name_them():
    with pytest.raises(ConfigError, match="bags=1: it must be at least 2"):
        FitSettings(bags=1)
    with pytest.raises(ConfigError, match="leaves=65"):
        FitSettings(leaves=65)


def test_more_arms_than_a_tree_has_leaves_can_be_fitted():
    rng = np.random.default_rng(0)
    n, a = 40, 70
    quality = (rng.random((n, a)) < np.linspace(0.1, 0.9, a)).astype(float)
    matrix = OutcomeMatrix(
        prompt_ids=tuple(map(str, range(n))),
        texts=tuple(f"prompt {i}" for i in range(n)),
        groups=("",) * n,
        families=("",) * n,
        arms=tuple(f"arm{j:02d}" for j in range(a)),
        quality=quality,
        cost=np.ones((n, a)),
        tokens=np.ones((n, a)),
        latency=np.full((n, a), np.nan),
        draws=np.ones((n, a)),
    )
    found = fit(matrix, settings=FitSettings(rounds=3)).predictor.predict_texts(matrix.texts[:1]).quality[0]
    assert np.abs(found - quality.mean(axis=0)).mean() < 0.05
