"""What a training leaves behind: a router, a run that says all about it, and the champion's holdout unseen."""

import dataclasses
import json

import numpy as np
import pytest

from howhard.router import Router
from howhard.router.features import FeatureSpec
from howhard.router.objective import Objective
from howhard.training import champions, registry, tracking
from howhard.training.commands import Source, train
from howhard.training.fit import FitSettings
from howhard.training.matrix import OutcomeMatrix
from howhard.training.provenance import code_version, data_version, prompt_keys

QUICK = FitSettings(components=("text",), folds=2, seed=3, features=FeatureSpec(n_hashed=0, n_text=256))


@pytest.fixture(scope="module")
def source(make_world):
    world = make_world(240, seed=8)
    return Source(name="made up", outcomes=world.outcomes, matrix=OutcomeMatrix.of(world.outcomes, world.prompts))


def trained(source, out, uri, **options):
    return train(source, out, settings=QUICK, tracking_uri=uri, quiet=True, **options)


def test_a_training_is_a_router_and_a_run_with_params_metrics_plots_versions_and_data_set(source, mlflow_uri, tmp_path):
    limited = Objective(value=9.0, max_cost=50.0)
    done = trained(source, tmp_path / "router", mlflow_uri, objective=limited, value=11.0)
    router = Router.load(tmp_path / "router")
    with tracking.store(mlflow_uri) as client:
        run = client.get_run(done.run_id)
        artifacts = {a.path for a in client.list_artifacts(done.run_id)}
    assert run.data.params["settings.components"] == "('text',)"
    assert run.data.params["settings.seed"] == "3"
    assert run.data.params["holdout"] == "0.25"
    assert run.data.metrics.keys() >= {
        "router_quality",
        "gain_at_0.3",
        "gain_at_0.3_low",
        "validation_gain",
        "weight/text",
    }
    assert artifacts >= {"router", "router.png", "router-calibration.png"}
    learned = source.matrix.rows(~champions.champion_holdout(mlflow_uri).within(source.matrix))
    assert run.data.tags["howhard.router_version"] == router.version
    assert run.data.tags["howhard.data_version"] == router.manifest.training.data_version == data_version(learned)
    assert run.data.tags["howhard.code_version"] == router.manifest.howhard_version == code_version()
    assert [d.dataset.name for d in run.inputs.dataset_inputs] == ["made up"]
    low, high = router.manifest.training.values
    assert 0 < low < high
    assert router.objective == limited.but(value=11.0)


def test_a_later_training_keeps_the_champions_holdout_out_though_the_log_grew_and_the_share_is_another(
    source, mlflow_uri, tmp_path
):
    trained(source.only(source.matrix.prompt_ids[:160]), tmp_path / "first", mlflow_uri, holdout=0.4)
    fixed = champions.champion_holdout(mlflow_uri)
    assert np.isin(fixed.keys, prompt_keys(source.matrix.texts[:160])).all()
    second = trained(source, tmp_path / "second", mlflow_uri, holdout=0.1)
    held = source.matrix.rows(fixed.within(source.matrix))
    assert not champions.contender(tmp_path / "second").saw(held).any()
    assert second.proposed.verdict.holdout.version == fixed.version
    assert second.proposed.verdict.n_prompts == len(held)
    apart = trained(source, tmp_path / "apart", mlflow_uri, holdout=0.1, register=False)
    assert apart.n_learned > second.n_learned
    assert apart.proposed is None
    refused = champions.propose(
        champions.contender(tmp_path / "apart"),
        source.matrix,
        lambda: registry.register_router(apart.run_id, uri=mlflow_uri),
        uri=mlflow_uri,
    )
    assert "that the champion is judged on" in refused.verdict.reason


def test_a_log_of_one_arm_per_prompt_trains_a_router_that_says_it_was_not_judged(source, mlflow_uri, tmp_path):
    matrix, outcomes = source.matrix, source.outcomes
    dealt = np.random.default_rng(0).integers(len(matrix.arms), size=len(matrix))
    ran = {(p, matrix.arms[j]) for p, j in zip(matrix.prompt_ids, dealt, strict=True)}
    kept = outcomes.loc[[pair in ran for pair in zip(outcomes["prompt_id"], outcomes["arm"], strict=True)]]
    quality = np.where(np.arange(len(matrix.arms)) == dealt[:, None], matrix.quality, np.nan)
    sparse = Source(name="sparse", outcomes=kept, matrix=dataclasses.replace(matrix, quality=quality))
    done = trained(sparse, tmp_path / "router", mlflow_uri)
    assert done.proposed is None
    assert "held-out prompts: not possible" in done.text()
    assert "not registered: it could not be judged on held-out prompts" in done.text()
    assert Router.load(tmp_path / "router").decide(matrix.texts[0]).arm in matrix.arms
    json.dumps(done.to_dict(), allow_nan=False)
