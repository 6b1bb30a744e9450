import numpy as np
import pandas as pd
import pytest

from howhard.strategies import ArmSpec, LocalSpec, SingleSpec
from howhard.training import tables, tracking
from howhard.training.commands import collect, held_out, import_source, load_source
from howhard.training.config import CollectConfig, Config
from howhard.training.duplicates import clusters_of
from howhard.training.log import Log


def test_twins_are_held_out_together_and_other_prompts_do_not_move_when_some_are_added():
    ids = [f"p{i:03d}" for i in range(400)]
    texts = [f"Question {i // 2}" if i % 2 else f"question  {i // 2}" for i in range(400)]
    held = held_out(clusters_of(ids, texts), 0.25)
    assert (held[::2] == held[1::2]).all()
    assert 60 < held.sum() < 140
    more = held_out(clusters_of([*ids, "a new one"], [*texts, "another question"]), 0.25)
    assert np.array_equal(more[:400], held)


def test_a_collection_in_mlflow_is_imported_as_the_log_that_it_was(mlflow_uri, tmp_path):
    rows = [{"prompt_id": "a", "group": "g", "arm": arm, "quality": 1.0, "cost": 1.0, "source": "run"} for arm in "xy"]
    with Log(tmp_path / "log") as log:
        log.append_prompts([{"prompt_id": "a", "text": "one", "group": "g"}])
        log.append_outcomes(rows)
        run_id = tracking.log_collection(log, uri=mlflow_uri)
    (tmp_path / "families.csv").write_text("group,family\ng,kin\n")
    report = import_source(
        f"runs:/{run_id}", tmp_path / "again", families=tmp_path / "families.csv", tracking_uri=mlflow_uri
    )
    assert (report.prompts, report.outcomes, report.samples) == (1, 2, 0)
    assert load_source(tmp_path / "again").matrix.families == ("kin",)


def test_the_confidence_that_a_configuration_asks_for_is_in_the_log(mlflow_uri, tmp_path):
    pytest.importorskip("torch")
    backends = {"tiny": LocalSpec(model="tiny-small")}
    arms = [ArmSpec(backend="tiny", strategy=SingleSpec(max_tokens=8))]
    rows = [{"prompt_id": "a", "text": "1 + 2", "group": "g", "reference": "3", "grader": "exact"}]
    prompts = tables.validate_prompts(tables.fill("prompts", rows))
    for of in (0, 20):
        settings = CollectConfig(samples=2, max_tokens=8, latency_prompts=0, confidence_of=of)
        config = Config(backends=backends, arms=arms, collect=settings)
        collect(config, prompts, tmp_path / f"{of}", tracking_uri=mlflow_uri, quiet=True)
    assert Log.open(tmp_path / "0").samples()["confidence"].isna().all()
    assert (Log.open(tmp_path / "20").samples()["confidence"] > 0).all()


def test_a_table_without_groups_is_one_family_of_the_files_name(tmp_path):
    rows = [(f"prompt {i}", arm, 1.0, 1.0) for i in range(3) for arm in "xy"]
    pd.DataFrame(rows, columns=["prompt", "arm", "quality", "cost"]).to_csv(tmp_path / "mine.csv", index=False)
    assert set(load_source(tmp_path / "mine.csv").matrix.families) == {"mine"}
