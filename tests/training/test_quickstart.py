"""The main job, whole but small: the embedded models, a real log, a real MLflow store."""

import shutil

import pytest

from howhard.router import Router
from howhard.strategies.errors import InputError
from howhard.training.commands import train
from howhard.training.evaluate import Evaluation
from howhard.training.quickstart import embedded_config, quickstart

PROMPTS, SAMPLES = 64, 8


@pytest.fixture(scope="module")
def directory(tmp_path_factory, migrated_database):
    path = tmp_path_factory.mktemp("quickstart")
    shutil.copy(migrated_database, path / "mlflow.db")
    return path


@pytest.fixture(scope="module")
def report(directory):
    return quickstart(directory, n_prompts=PROMPTS, n_samples=SAMPLES, quiet=True)


def test_it_records_all_samples_and_runs_what_cannot_be_derived(report):
    config = embedded_config()
    searches = [arm for arm in config.arms if arm.strategy.name.startswith("beam")]
    assert report.collected.collected.samples == PROMPTS * SAMPLES * len(config.backends)
    assert report.collected.collected.runs + report.collected.collected.timed >= PROMPTS * len(searches)
    assert report.collected.collected.failed == 0


def test_its_table_has_every_arm_the_router_the_baselines_and_the_oracles_with_intervals(report):
    held = report.trained.report.evaluations[0]
    assert isinstance(held, Evaluation)
    names = {row.name for row in held.rows}
    assert names >= {arm.name for arm in embedded_config().arms}
    assert names >= {"router", "length", "cluster", "nearest", "group", "difficulty .3/.7", "router, picks shuffled"}
    assert names >= {"oracle (peeks)", "oracle (true probabilities)"}
    for row in held.rows:
        assert row.quality.low <= row.quality.mean <= row.quality.high
        assert row.latency is not None


def test_it_shows_three_prompts_and_why_each_was_decided_so(report):
    assert [example.title for example in report.examples] == ["easy", "middling", "hopeless"]
    for example in report.examples:
        assert example.routed.text
        assert example.routed.decision.reason.sentence in report.text()


def test_a_second_run_draws_nothing_anew(report, directory):
    again = quickstart(directory, n_prompts=PROMPTS, n_samples=SAMPLES, quiet=True)
    assert again.collected.collected.samples == again.collected.collected.runs == 0
    assert again.trained.router_version == report.trained.router_version
    assert again.collected.run_id == report.collected.run_id
    assert not again.trained.proposed.promoted
    assert "not surely" in again.trained.proposed.verdict.reason


def test_the_champion_is_loaded_from_mlflow(report):
    router = Router.load("models:/howhard-router@champion", tracking_uri=report.trained.tracking_uri)
    assert router.version == report.trained.router_version
    assert router.decide("Use 3, 5 and 7 to make 36.").arm in router.arms


def test_train_takes_a_collection_run_of_mlflow_as_its_input(report, tmp_path):
    uri, run = report.trained.tracking_uri, report.collected.run_id
    trained = train(None, tmp_path / "router", runs=[run], register=False, tracking_uri=uri, quiet=True)
    assert Router.load(tmp_path / "router").arms == Router.load(report.trained.out).arms
    assert trained.proposed is None


def test_too_few_prompts_are_refused_before_anything_is_drawn(tmp_path):
    with pytest.raises(InputError, match="prompts=3: at least"):
        quickstart(tmp_path / "new", n_prompts=3)
    assert not (tmp_path / "new").exists()
