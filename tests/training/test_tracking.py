import json
import logging
import subprocess
import sys

import pandas as pd
import pytest

from howhard.strategies import ArmSpec, BestOfNSpec, SingleSpec, VoteSpec
from howhard.strategies.errors import ConfigError, InputError, TableError, WorldError
from howhard.training import tables, tracking
from howhard.training.collect import assemble
from howhard.training.log import Log

SAMPLING = {"temperature": 1.0, "max_tokens": 16}
ARMS = [
    ArmSpec(backend="small", strategy=SingleSpec(**SAMPLING)),
    ArmSpec(backend="small", strategy=BestOfNSpec(n=2, verifier="vote", **SAMPLING)),
]


@pytest.fixture
def uri(mlflow_uri):
    return mlflow_uri


def make_log(path, prompts=3, first=0):
    params = ARMS[0].strategy.params()
    rows = range(first, first + prompts)
    log = Log(path)
    log.append_prompts([{"prompt_id": f"p{i}", "text": f"prompt {i}", "group": "g"} for i in rows])
    log.append_samples(
        [
            {
                "prompt_id": f"p{i}",
                "backend": "small",
                "fingerprint": "f",
                "params": tables.params_json(params),
                "sample_index": j,
                "text": f"Answer: {j}",
                "answer": str(j),
                "extractor": "final/1",
                "quality": float(j == 0),
                "verdicts": [{"verifier": "prm", "score": 0.5, "tokens": 3, "cost": 1.0}],
                "finish_reason": "stop",
                "prompt_tokens": 5,
                "completion_tokens": 2,
                "cost": 2.0,
            }
            for i in rows
            for j in range(4)
        ]
    )
    log.note(
        arms=[{"backend": a.backend, "strategy": builtins(a.strategy)} for a in ARMS],
        verifiers={"vote": builtins(VoteSpec())},
    )
    return log


def builtins(spec):
    import msgspec

    return msgspec.to_builtins(spec)


def run_of(uri, run_id):
    with tracking.store(uri) as client:
        return client.get_run(run_id)


def make_router(path):
    path.mkdir()
    facts = {"data_version": "d" * 16}
    manifest = {"router_version": "r" * 16, "howhard_version": "0.2.0+gabc", "training": facts}
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "quality.txt").write_text("tree")
    return path


def test_the_store_is_the_argument_then_the_environment_then_a_file_here(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.resolve_uri() == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    assert tracking.resolve_uri() == "http://tracking"
    assert tracking.resolve_uri("sqlite:///other.db") == "sqlite:///other.db"
    assert tracking.ui_command("sqlite:///other.db") == "mlflow ui --backend-store-uri sqlite:///other.db"


def test_a_collection_is_one_run_with_its_settings_figures_and_tables(uri, tmp_path):
    config = {"collect": {"samples": 4, "temperature": 1.0}, "arms": [{"backend": "small"}], "tracking": {}}
    with make_log(tmp_path / "log") as log:
        run = run_of(uri, tracking.log_collection(log, uri=uri, config=config))
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "log"
    assert run.data.params["collect.samples"] == "4"
    assert run.data.params["arms.0.backend"] == "small"
    assert run.data.metrics["samples"] == 12
    assert run.data.metrics["quality/small/single"] == pytest.approx(0.25)
    assert run.data.metrics["cost/small/vote_of_2"] == pytest.approx(4.0)
    assert "latency_s/small/single" not in run.data.metrics
    [dataset] = run.inputs.dataset_inputs
    assert dataset.dataset.name == "log"
    assert run.info.artifact_uri.startswith((tmp_path / "mlartifacts").as_uri())


def test_a_collection_that_is_continued_goes_on_in_its_run(uri, tmp_path):
    with make_log(tmp_path / "log") as log:
        first = tracking.log_collection(log, uri=uri)
        log.append_prompts([{"prompt_id": "q", "text": "more", "group": "g"}])
        assert tracking.log_collection(log, uri=uri) == first
        assert run_of(uri, first).data.metrics["prompts"] == 4
        with tracking.store(uri) as client:
            client.delete_run(first)
        assert tracking.log_collection(log, uri=uri) != first


def test_the_tables_come_back_from_a_run_and_from_a_whole_experiment(uri, tmp_path):
    with make_log(tmp_path / "a") as a, make_log(tmp_path / "b", prompts=2, first=2) as b:
        first = tracking.log_collection(a, uri=uri)
        second = tracking.log_collection(b, uri=uri)
        one = tracking.log_from_runs(tmp_path / "one", runs=[first], uri=uri)
        pd.testing.assert_frame_equal(one.samples(), a.samples())
        assert one.notes()["arms"] == a.notes()["arms"]
        assert "mlflow" not in one.notes()
    assert tracking.collection_runs(uri=uri) == [first, second]
    whole = tracking.log_from_runs(tmp_path / "whole", experiment="howhard", uri=uri)
    assert whole.prompts()["prompt_id"].tolist() == ["p0", "p1", "p2", "p3"]
    assert len(whole.samples()) == 16
    outcomes = assemble(whole)
    assert len(outcomes) == 8
    assert outcomes["source"].unique().tolist() == ["derived"]


def test_runs_without_tables_are_refused_with_what_to_do(uri, tmp_path):
    with pytest.raises(InputError, match="name the runs, or an experiment"):
        tracking.log_from_runs(tmp_path / "x", uri=uri)
    with pytest.raises(TableError, match="has no run 'nope'"):
        tracking.log_from_runs(tmp_path / "x", runs=["nope"], uri=uri)
    with pytest.raises(TableError, match="experiment 'howhard' has no collection"):
        tracking.collection_runs(uri=uri)
    run_id = tracking.log_training(make_router(tmp_path / "router"), uri=uri)
    with pytest.raises(TableError, match="holds no collection"):
        tracking.log_from_runs(tmp_path / "x", runs=[run_id], uri=uri)
    with pytest.raises(TableError, match="has no collection"):
        tracking.collection_runs(uri=uri)


def test_a_training_is_one_run_with_the_router_its_plots_and_its_tables(uri, tmp_path):
    plot = tmp_path / "plane.png"
    plot.write_bytes(b"PNG")
    outcomes = pd.DataFrame({"prompt_id": ["a", "b"], "arm": ["x", "y"], "quality": [1.0, None], "n": [1, 2]})
    run_id = tracking.log_training(
        make_router(tmp_path / "router"),
        params={"value": 20.0, "model": {"trees": 200}},
        metrics={"quality": 0.7, "gap": None, "regret": float("nan"), "best arm (±)": 1.0},
        outcomes=outcomes,
        source="howhard-log",
        files=[plot],
        frames={"report": outcomes},
        parents=["abc"],
        uri=uri,
    )
    run = run_of(uri, run_id)
    assert run.data.params == {"value": "20.0", "model.trees": "200"}
    assert run.data.metrics == {"quality": 0.7, "best arm ___": 1.0}
    assert run.data.tags["howhard.collections"] == "abc"
    assert run.data.tags["howhard.kind"] == "training"
    assert run.data.tags["howhard.router_version"] == "r" * 16
    assert run.data.tags["howhard.data_version"] == "d" * 16
    assert run.data.tags["howhard.code_version"] == "0.2.0+gabc"
    assert run.inputs.dataset_inputs[0].dataset.name == "howhard-log"
    with tracking.store(uri) as client:
        assert sorted(a.path for a in client.list_artifacts(run_id)) == ["plane.png", "router", "tables"]
    with pytest.raises(InputError, match="holds no router"):
        tracking.log_training(tmp_path / "nothing", uri=uri)


def test_a_store_that_cannot_be_used_says_where_and_what_to_set_and_keeps_the_password(tmp_path, uri):
    blocked = tmp_path / "file"
    blocked.write_text("x")
    with pytest.raises(WorldError, match=r"MLflow at sqlite:///.*MLFLOW_TRACKING_URI"):
        tracking.collection_runs(uri=f"sqlite:///{blocked}/mlflow.db")
    assert tracking.without_password("https://me:secret@host:5000/x") == "https://host:5000/x"
    with tracking.store(uri) as client:
        client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(ConfigError, match="'gone' was deleted"):
        tracking.log_training(make_router(tmp_path / "router"), experiment="gone", uri=uri)


def test_work_with_mlflow_is_silent_and_leaves_logging_as_it_was(uri, tmp_path, capfd):
    before = {name: logging.getLogger(name).level for name in tracking._NOISY}
    with make_log(tmp_path / "log") as log:
        tracking.log_from_runs(tmp_path / "back", runs=[tracking.log_collection(log, uri=uri)], uri=uri)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert {name: logging.getLogger(name).level for name in tracking._NOISY} == before


def test_importing_the_module_does_not_import_mlflow():
    code = "import sys, howhard.training.tracking; print('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
