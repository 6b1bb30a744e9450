import dataclasses
import hashlib

import numpy as np
import pytest

from howhard.router.artifact import BackendFacts
from howhard.router.features import FeatureSpec
from howhard.router.objective import Objective
from howhard.router.policy import UtilityPolicy
from howhard.router.router import Router
from howhard.router.trees import TreesComponent
from howhard.strategies import ArmSpec, BestOfNSpec, ExactCheckSpec, SingleSpec
from howhard.strategies.base import Prices
from howhard.strategies.errors import ArtifactError, ConfigError, TableError
from howhard.training.fit import FitSettings, choose_value, fit, value_grid, write_router
from howhard.training.guard import GuardSettings
from howhard.training.learn_trees import TreesLearner
from howhard.training.matrix import OutcomeMatrix

SMALL = FeatureSpec(n_hashed=16, n_text=1024)
FAST = FitSettings(components=("neighbours",), features=SMALL)


def test_it_learns_which_arm_a_prompt_needs(world, fitted):
    truth, found = world.truth, fitted.validation.quality
    assert np.abs(found - truth).mean() < 0.08
    assert 1 - ((found - truth) ** 2).mean() / ((truth.mean(axis=0) - truth) ** 2).mean() > 0.8


def test_shuffled_outcomes_teach_it_nothing_but_the_arms_means(make_world):
    shuffled = make_world(shuffle=True, seed=3).matrix
    found = fit(shuffled, settings=FitSettings(features=SMALL))
    spread = found.predictor.predict_texts(shuffled.texts).quality.std(axis=0)
    assert spread.max() < 0.03
    assert np.abs(found.validation.quality.mean(axis=0) - shuffled.arm_quality).max() < 0.02


def test_every_arm_is_calibrated_in_the_mean(world, fitted):
    assert fitted.validation.quality.mean(axis=0) == pytest.approx(world.matrix.arm_quality, abs=0.005)


def test_predicted_costs_average_to_the_logged_ones(world, fitted):
    predicted = fitted.predictor.predict_texts(world.matrix.texts).cost.mean(axis=0)
    assert predicted == pytest.approx(world.matrix.arm_cost, rel=0.03)


def test_equal_seeds_give_equal_bytes_and_another_seed_does_not(make_world):
    matrix = make_world(120).matrix
    settings = FitSettings(features=SMALL, trees=TreesLearner(rounds=3))
    files = fit(matrix, settings=settings).files
    assert fit(matrix, settings=settings).files == files
    assert fit(matrix, settings=dataclasses.replace(settings, seed=1)).files != files


def test_components_without_weight_are_not_kept(fitted):
    kept = {name for name, weight in fitted.weights.items() if weight > 0}
    assert kept
    assert {c.name for c in fitted.predictor.components} == kept
    assert set(fitted.weights) == set(fitted.settings.components) - {"encoder"}  # without an encoder's embeddings
    assert fitted.gain > 0.2


def test_ten_thousand_prompts_are_decided_served_as_they_are_offline(tmp_path, world, fitted):
    """Offline in one batch, as evaluation does; served one by one and in batches by a router read from disk."""
    write_router(tmp_path / "r", fitted, dataset="made up")
    router = Router.load(tmp_path / "r")
    texts = [f"{t} {i}" for i in range(25) for t in world.matrix.texts]
    assert len(texts) == 10_000
    objective = Objective(value=fitted.value)
    offline = fitted.predictor.predict_texts(texts)
    picks = fitted.policy.choose(offline, objective)
    served = router.decide_many(texts)
    assert [d.arm for d in served] == [offline.arms[i] for i in picks.index]
    assert [d.reason for d in served] == picks.reason.tolist()
    for i in range(0, len(texts), 10):
        alone = router.decide(texts[i])
        assert (alone.arm, alone.reason, alone.utility) == (served[i].arm, served[i].reason, served[i].utility)
    alone = [router.estimate([t]) for t in texts[::20]]
    for name in ("quality", "benefit_se", "cost", "tokens", "familiar"):
        one_by_one = np.concatenate([getattr(e, name) for e in alone])
        assert hashlib.sha256(one_by_one.tobytes()).digest() == (
            hashlib.sha256(np.ascontiguousarray(getattr(offline, name)[::20]).tobytes()).digest()
        ), name


def test_what_is_written_is_what_the_router_loads(tmp_path, world, fitted):
    specs = {"small/single": ArmSpec(backend="small", strategy=SingleSpec())}
    facts = {"small": BackendFacts(kind="local", model="m", fingerprint="f", prices=Prices(prompt=0, completion=1))}
    manifest = write_router(
        tmp_path / "r", fitted, dataset="made up", specs=specs, backends=facts, metrics={"brier_skill": 0.5}
    )
    router = Router.load(tmp_path / "r")
    assert router.version == manifest.router_version
    assert router.objective == Objective(value=fitted.value)
    assert router.policy == fitted.policy == UtilityPolicy(guard=fitted.guard.strength)
    assert (manifest.fallback, manifest.reference) == (fitted.predictor.fallback, "small/single")
    assert manifest.specs == (None, None, specs["small/single"])
    assert manifest.training.metrics == {"brier_skill": 0.5}
    assert manifest.training.values == fitted.values
    assert manifest.training.data_version == fitted.data_version
    assert router.decide("indeed indeed Name the river that crosses province 12 of 13.").arm == "large/single"
    with pytest.raises(ArtifactError, match="not an empty directory"):
        write_router(tmp_path / "r", fitted, dataset="made up")


def test_the_policy_of_the_settings_takes_the_place_of_the_learned_guard(world):
    own = UtilityPolicy(guard=3, epsilon=0.1)
    assert fit(world.matrix, settings=dataclasses.replace(FAST, policy=own)).policy == own


def test_an_arm_that_is_always_equally_good_is_predicted_at_its_mean(make_world):
    matrix = make_world(80).matrix
    for same in (0.5, 1.0, 0.0):
        equal = dataclasses.replace(matrix, quality=np.full(matrix.quality.shape, same))
        quality = fit(equal, settings=FAST).predictor.predict_texts(matrix.texts).quality
        assert quality == pytest.approx(same, abs=0.02)


def test_an_arm_with_one_outcome_leans_on_the_others(world):
    matrix = world.matrix
    quality = matrix.quality.copy()
    quality[1:, 1] = np.nan
    found = fit(dataclasses.replace(matrix, quality=quality), settings=FitSettings(features=SMALL))
    assert np.isfinite(found.validation.quality).all()
    assert np.abs(found.validation.quality[:, 0] - world.truth[:, 0]).mean() < 0.1


def test_outcomes_that_are_missing_are_neither_zero_nor_an_obstacle(world):
    matrix = world.matrix
    quality, cost = matrix.quality.copy(), matrix.cost.copy()
    gone = np.random.default_rng(0).random(len(matrix)) < 0.5
    quality[gone, 1] = cost[gone, 1] = np.nan
    holes = dataclasses.replace(matrix, quality=quality, cost=cost)
    found = fit(holes, settings=FAST).validation
    assert np.abs(found.quality[:, 1].mean() - np.nanmean(quality[:, 1])) < 0.04
    assert np.abs(found.quality - world.truth).mean() < 0.12


def test_a_log_of_one_arm_per_prompt_teaches_more_than_the_arms_means(world):
    matrix = world.matrix
    run = np.random.default_rng(1).integers(len(matrix.arms), size=len(matrix))
    lacking = run[:, None] != np.arange(len(matrix.arms))
    live = dataclasses.replace(
        matrix, **{n: np.where(lacking, np.nan, getattr(matrix, n)) for n in ("quality", "cost", "tokens", "draws")}
    )
    found = fit(live, settings=FitSettings(features=SMALL)).validation.quality
    means = np.broadcast_to(live.arm_quality, found.shape)
    assert ((found - world.truth) ** 2).mean() < 0.6 * ((means - world.truth) ** 2).mean()


def test_prompts_that_are_all_alike_have_the_arms_means(world):
    matrix = dataclasses.replace(world.matrix, texts=("what now?",) * len(world.matrix))
    found = fit(matrix, settings=FitSettings(features=SMALL))
    assert found.predictor.predict_texts(["what now?"]).quality[0] == pytest.approx(matrix.arm_quality, abs=0.02)


def test_latency_quantiles_come_from_the_rows_that_were_timed(make_world):
    matrix = make_world(100, seconds=True).matrix
    latency = matrix.latency.copy()
    latency[:, 0] = np.nan
    latency[10:, 1] = np.nan
    found = fit(dataclasses.replace(matrix, latency=latency), settings=FAST)
    predictor = found.predictor
    assert predictor.quantiles == (0.5, 0.9, 0.95, 0.99)
    assert predictor.latency is not None
    assert np.isnan(predictor.latency[0]).all()
    ratio = found.validation.cost / matrix.arm_cost
    assert predictor.latency[1] == pytest.approx(np.quantile((latency / ratio)[:10, 1], predictor.quantiles))
    seconds = predictor.predict_texts(matrix.texts).seconds
    assert np.median(seconds[:, 2]) == pytest.approx(np.median(latency[:, 2]), rel=0.1)
    assert np.isnan(found.predictor.means.seconds[0])


def test_specs_and_verifiers_become_features_of_the_arms(world):
    specs = {
        "small/best_of_8": ArmSpec(backend="small", strategy=BestOfNSpec(n=8, verifier="best")),
        "small/single": ArmSpec(backend="small", strategy=SingleSpec()),
    }
    settings = FitSettings(components=("trees",), features=SMALL, trees=TreesLearner(rounds=3))
    found = fit(world.matrix, specs=specs, verifiers={"best": ExactCheckSpec()}, settings=settings)
    component = found.predictor.components[0]
    assert isinstance(component, TreesComponent)
    # backend, kind, verifier, log2 n under a sound verifier, log2 n without; the large arm's spec is not known
    assert component.table[:, 3:8].tolist() == [[-1] * 5, [1, 1, 1, 3, -1], [1, 2, 0, -1, 0]]


def test_whole_families_left_out_decide_how_unfamiliar_prompts_are_treated(world, fitted):
    assert fitted.guard.families == 4
    assert fitted.guard.left_out is not None
    few = dataclasses.replace(world.matrix, families=("one",) * 200 + ("two",) * 200)
    assert fit(few, settings=FAST).guard.left_out is None


def test_prompts_unlike_the_training_prompts_go_to_the_fallback_arm(world, fitted):
    strange = ["SELECT COUNT(*) FROM t WHERE x >= 10; -- why is it slow?", "```python\ndef f(x): return x**2\n```"]
    e = fitted.predictor.predict_texts([*strange, *world.matrix.texts])
    assert e.familiar is not None
    assert e.familiar[:2].tolist() == [False, False]
    assert (~e.familiar[2:]).mean() < 0.08
    objective = Objective(value=fitted.value)
    choices = fitted.policy.choose(e, objective)
    assert [e.arms[i] for i in choices.index[:2]] == [e.at(objective).fallback] * 2


def test_near_duplicates_are_on_one_side_of_every_fold(world):
    """Every prompt twice under two names, with outcomes of its own that are coin flips: nothing can be learned."""
    rng = np.random.default_rng(0)
    n = 150
    texts = tuple(f"question {rng.integers(10**9)} of {rng.integers(10**9)}" for _ in range(n)) * 2
    coin = np.tile((rng.random((n, 2)) < 0.5).astype(float), (2, 1))
    blank = np.full((2 * n, 2), np.nan)
    matrix = OutcomeMatrix(
        prompt_ids=tuple(map(str, range(2 * n))),
        texts=texts,
        groups=("",) * 2 * n,
        families=("",) * 2 * n,
        clusters=texts,
        arms=("a", "b"),
        quality=coin,
        cost=np.ones((2 * n, 2)),
        tokens=blank,
        latency=blank,
        draws=np.ones((2 * n, 2)),
    )
    assert fit(matrix, settings=FitSettings(components=("neighbours", "text"), features=SMALL)).gain < 0.01


def test_the_chosen_value_is_the_cheapest_that_keeps_the_best_arms_quality(world, fitted):
    matrix, settings = world.matrix, fitted.settings
    rows = np.arange(len(matrix))
    fine = []
    for v in value_grid(matrix):
        picks = fitted.policy.choose(fitted.validation, Objective(value=float(v))).index
        d = matrix.quality[rows, picks] - matrix.quality[:, matrix.best_arm]
        if d.mean() - settings.margin * d.std() / np.sqrt(len(d)) >= -settings.tolerance:
            fine.append((matrix.cost[rows, picks].mean(), v))
    assert fitted.value == min(fine)[1]
    assert min(fine)[0] < 0.7 * matrix.arm_cost[matrix.best_arm]
    assert fitted.values == (value_grid(matrix)[0], value_grid(matrix)[-1])


def test_where_no_value_keeps_the_quality_the_best_one_there_is_wins(world, fitted):
    settings = FitSettings(tolerance=-0.5, policy=UtilityPolicy())
    value = choose_value(fitted.validation, world.matrix, settings=settings)
    assert value >= np.median(value_grid(world.matrix))


def test_free_arms_have_one_value(world):
    free = dataclasses.replace(world.matrix, cost=np.zeros(world.matrix.cost.shape))
    assert value_grid(free).tolist() == [1.0]
    assert fit(free, settings=FAST).value == 1.0


def test_progress_counts_every_step(world):
    seen = []
    fit(world.matrix, settings=FAST, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_tables_that_no_router_can_be_fitted_on_are_errors(world):
    matrix = world.matrix
    with pytest.raises(TableError, match="the table has one arm, 'small/single'"):
        fit(matrix.columns(["small/single"]))
    with pytest.raises(TableError, match="7 prompts: at least 8 are needed"):
        fit(matrix.rows(np.arange(7)))
    empty = dataclasses.replace(matrix, quality=np.where([True, False, False], np.nan, matrix.quality))
    with pytest.raises(TableError, match="arm 'large/single' has no outcome in the table"):
        fit(empty)
    with pytest.raises(TableError, match=r"arm 'large/single' has a quality of 1\.5: it must lie in \[0, 1\]"):
        fit(dataclasses.replace(matrix, quality=np.full(matrix.quality.shape, 1.5)))
    with pytest.raises(TableError, match="needs two families"):
        fit(dataclasses.replace(matrix, families=("one",) * len(matrix)), settings=FitSettings(split="group"))


def test_settings_out_of_range_are_errors_that_name_them():
    with pytest.raises(ConfigError, match="folds=1: it must be at least 2"):
        FitSettings(folds=1)
    with pytest.raises(ConfigError, match="there is no 'tree'; did you mean 'trees'"):
        FitSettings(components=("tree",))
    with pytest.raises(ConfigError, match="name at least one of"):
        FitSettings(components=())
    with pytest.raises(ConfigError, match="split='time'"):
        FitSettings(split="time")
    with pytest.raises(ConfigError, match="strange_share"):
        FitSettings(guard=GuardSettings(strange_share=2))


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
    settings = FitSettings(features=SMALL, components=("trees", "neighbours"), trees=TreesLearner(rounds=3))
    found = fit(matrix, settings=settings).predictor.predict_texts(matrix.texts[:1]).quality[0]
    assert np.abs(found - quality.mean(axis=0)).mean() < 0.05
