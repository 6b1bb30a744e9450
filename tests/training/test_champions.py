"""Contests of real routers over a real MLflow store, and what the command line makes of them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from howhard.router.features import FeatureSpec
from howhard.router.objective import Objective
from howhard.router.router import Router
from howhard.strategies.errors import InputError
from howhard.training import champions, registry, tracking
from howhard.training.cli import main
from howhard.training.commands import load_source
from howhard.training.commands import promote as promote_command
from howhard.training.fit import FitSettings, fit, write_router
from howhard.training.holdout import Holdout

VALUE = Objective(value=30.0)
QUICK = FitSettings(components=("text",), folds=2, features=FeatureSpec(n_hashed=0, n_text=256))
LEARNED, HELD = slice(0, 300), slice(300, 480)


@pytest.fixture(scope="module")
def world(make_world):
    """480 prompts: 300 to learn from, 180 held out."""
    return make_world(480, seed=3)


@pytest.fixture(scope="module")
def routers(world, make_world, tmp_path_factory):
    """good has learned the world, poor has learned from outcomes dealt out at random, leaky has seen the holdout."""
    folder = tmp_path_factory.mktemp("routers")
    matrix, rows = world.matrix, np.arange(480)
    nothing = replace(matrix, quality=np.roll(matrix.quality, 7, axis=0))
    made = {"good": matrix.rows(rows[LEARNED]), "poor": nothing.rows(rows[LEARNED]), "leaky": matrix.rows(rows[:310])}
    for name, learned in made.items():
        write_router(folder / name, fit(learned, settings=QUICK), dataset=name, objective=VALUE)
    return folder


@pytest.fixture
def uri(mlflow_uri):
    return mlflow_uri


@pytest.fixture
def table(world):
    return world.matrix


@pytest.fixture
def propose(uri, routers, table):
    def go(name, outcomes=None, force=None):
        enrol = lambda: registry.register_router(tracking.log_training(routers / name, uri=uri), uri=uri)  # noqa: E731
        return champions.propose(
            champions.contender(routers / name), table if outcomes is None else outcomes, enrol, uri=uri, force=force
        )

    return go


def champion(uri):
    return registry.version_of(registry.CHAMPION, uri=uri)


def test_the_first_router_becomes_champion_and_what_it_has_not_seen_becomes_the_holdout(propose, uri, table):
    done = propose("poor")
    assert (done.promoted, done.forced, done.previous) == (True, False, None)
    assert "there is no champion yet" in done.text()
    held = registry.holdout_of(done.version, uri=uri)
    assert held.keys.tolist() == Holdout.of(table.rows(np.arange(480)[HELD])).keys.tolist()
    assert champions.champion_holdout(uri).version == held.version == done.verdict.holdout.version


def test_a_surely_better_router_takes_its_place_and_its_holdout(propose, uri):
    first, second = propose("poor"), propose("good")
    assert second.promoted
    assert second.verdict.difference.low > 0
    assert second.verdict.n_prompts == 180
    assert (champion(uri), second.previous) == (second.version, first.version)
    assert registry.holdout_of(second.version, uri=uri).version == first.verdict.holdout.version


def test_one_that_is_not_surely_better_is_refused_with_what_to_do(propose, uri, tags_of):
    first, second = propose("good"), propose("poor")
    assert not second.promoted
    assert (champion(uri), registry.version_of(registry.CHALLENGER, uri=uri)) == (first.version, second.version)
    assert "not surely above the champion's" in tags_of(second.version, uri=uri)["verdict"]
    text = second.text()
    assert text.startswith("not promoted: howhard-router version 2 is the challenger")
    assert "keep the champion" in text
    assert "--force` promotes it all the same" in text
    plain = json.loads(json.dumps(second.to_dict(), allow_nan=False))
    assert plain["promoted"] is False
    assert plain["holdout"] == {"version": first.verdict.holdout.version, "prompts": len(first.verdict.holdout)}


def test_one_that_was_trained_on_the_champions_holdout_is_refused(propose, uri):
    propose("poor")
    done = propose("leaky")
    assert not done.promoted
    assert done.verdict.difference is None
    assert "trained on 10 of the 180 prompts that the champion is judged on" in done.verdict.reason
    assert "keeps the champion's holdout out" in done.verdict.remedy


def test_a_log_that_lacks_some_of_the_holdout_is_refused(propose, table):
    propose("poor")
    done = propose("good", outcomes=table.rows(np.arange(470)))
    assert not done.promoted
    assert "judged on 180 prompts, of which the table lacks 10" in done.verdict.reason


def test_a_log_that_has_grown_is_judged_on_the_old_holdout_alone(propose, table, world):
    first = propose("poor", outcomes=table.rows(np.arange(450)))
    assert first.verdict.n_prompts == 150
    done = propose("good")
    assert done.verdict.n_prompts == 150
    assert done.verdict.holdout.version == first.verdict.holdout.version


def test_a_log_that_lacks_an_arm_is_refused_rather_than_breaking_the_training(propose, table):
    propose("poor")
    done = propose("good", outcomes=table.columns(table.arms[1:]))
    assert not done.promoted
    assert "cannot be compared: no outcome of arm 'large/single'" in done.verdict.reason


def test_a_table_of_training_prompts_alone_makes_no_champion(propose, table, uri):
    done = propose("good", outcomes=table.rows(np.arange(480)[LEARNED]))
    assert not done.promoted
    assert "all 300 prompts of the table were used in training" in done.verdict.reason
    assert champion(uri) is None


def test_force_promotes_what_was_refused_and_leaves_a_mark(propose, uri, tags_of):
    first = propose("good")
    done = propose("poor", force="it is cheaper to explain")
    assert (done.promoted, done.forced, done.verdict.promote) == (True, True, False)
    assert champion(uri) == done.version
    tags = tags_of(done.version, uri=uri)
    assert tags["forced"].startswith("it is cheaper to explain (20")
    assert tags["previous"] == first.version
    assert tags["holdout"] == first.verdict.holdout.version
    assert "promoted by force" in done.text()
    assert propose("good", force="only if needed").forced is False


def test_a_champion_that_cannot_be_read_any_more_gives_way_to_force_alone(propose, uri, routers, tmp_path):
    old = shutil.copytree(routers / "good", tmp_path / "old")
    raw = json.loads((old / "manifest.json").read_text())
    (old / "manifest.json").write_text(json.dumps(raw | {"schema_version": 1}))
    version = registry.register_router(tracking.log_training(old, uri=uri), uri=uri)
    registry.crown(version, "before", holdout=None, uri=uri)
    done = propose("good")
    assert not done.promoted
    assert "version 1, cannot be read" in done.verdict.reason
    assert "schema_version 1" in done.verdict.reason
    done = propose("good", force="the schema is new")
    assert done.promoted
    assert len(registry.holdout_of(done.version, uri=uri)) == 180


def test_a_champion_made_before_holdouts_were_recorded_is_judged_on_what_neither_has_seen(propose, uri, routers):
    version = registry.register_router(tracking.log_training(routers / "poor", uri=uri), uri=uri)
    registry.crown(version, "by hand", holdout=None, uri=uri)
    done = propose("good")
    assert done.promoted
    assert done.verdict.n_prompts == 180


def test_training_keeps_the_champions_holdout_out_and_all_that_asks_the_same(table):
    few = table.rows(np.arange(6))
    fixed = Holdout.of(table.rows([1]))
    twins = replace(few, clusters=("a", "a", "b", "c", "d", "d"))
    held = np.array([False, False, False, False, False, True])
    assert champions.kept_out(held, twins, fixed).tolist() == [True, True, False, False, True, True]
    assert champions.kept_out(held, twins, None).tolist() == [False, False, False, False, True, True]


@pytest.fixture
def outcomes_file(world, tmp_path):
    path = tmp_path / "outcomes.parquet"
    texts = world.prompts.set_index("prompt_id")
    frame = world.outcomes.drop(columns="latency_s")
    frame["prompt"] = texts.loc[frame["prompt_id"], "text"].to_numpy()
    frame["group"] = texts.loc[frame["prompt_id"], "group"].to_numpy()
    frame.to_parquet(path)
    return path


def test_the_diff_command_reads_directories_and_registered_versions(routers, outcomes_file, uri, capsys):
    promote_command(routers / "poor", outcomes_file, tracking_uri=uri)
    words = ["diff", "models:/howhard-router@champion", str(routers / "good"), str(outcomes_file)]
    assert main([*words, "--tracking-uri", uri]) == 0
    said = capsys.readouterr().out
    assert said.startswith("A: models:/howhard-router/1 (")
    assert "B was trained on 300 of these prompts" in said
    assert main([*words, "--tracking-uri", uri, "--value", "7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == 7


def test_the_commands_promote_refuse_force_and_roll_back(routers, outcomes_file, uri, capsys):
    table = str(outcomes_file)

    def run(*words):
        code = main([*words, "--tracking-uri", uri])
        return code, capsys.readouterr()

    code, said = run("rollback")
    assert (code, said.out) == (2, "")
    assert "has no champion to roll back" in said.err
    assert run("promote", str(routers / "good"), table)[0] == 0
    code, said = run("promote", str(routers / "poor"), table)
    assert code == 1
    assert "not promoted" in said.out
    code, said = run("promote", "models:/howhard-router@challenger", table, "--force", "--why", "an order", "--json")
    assert code == 0
    found = json.loads(said.out)
    assert (found["forced"], found["model_version"], found["previous"]) == (True, "2", "1")
    code, said = run("rollback", "--why", "it was a bad order")
    assert code == 0
    assert "howhard-router version 1 is the champion again, version 2 is not" in said.out
    assert (
        Router.load("models:/howhard-router@champion", tracking_uri=uri).version
        == Router.load(routers / "good").version
    )
    assert run("promote", str(routers / "poor"), table, "--why", "no reason")[0] == 2


def test_a_promotion_is_a_run_with_its_table_and_the_versions_of_data_and_code(routers, outcomes_file, uri):
    promote_command(routers / "good", outcomes_file, tracking_uri=uri)
    with tracking.store(uri) as client:
        run = client.get_run(client.get_model_version(registry.MODEL, "1").run_id)
    manifest = Router.load(routers / "good").manifest
    assert run.data.tags["howhard.kind"] == "promotion"
    assert run.data.tags["howhard.data_version"] == manifest.training.data_version
    assert run.data.tags["howhard.code_version"] == manifest.howhard_version
    assert [d.dataset.name for d in run.inputs.dataset_inputs] == ["outcomes.parquet"]
    assert len(load_source(outcomes_file).matrix) == 480


def test_a_version_of_another_model_is_not_promoted_under_our_name():
    assert champions.registered_version("models/router-quickstart") is None
    assert champions.registered_version("models:/howhard-router/7") == "7"
    with pytest.raises(InputError, match="models:/other/7 is not a version of howhard-router"):
        champions.registered_version("models:/other/7")
