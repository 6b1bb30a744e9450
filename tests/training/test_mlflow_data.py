"""On a real MLflow store in SQLite, with data sets that MLflow itself logged."""

import warnings

import pandas as pd
import pytest

from howhard.strategies.errors import TableError
from howhard.training.importing import import_source
from howhard.training.tracking import store

FRAME = pd.DataFrame(
    {"question": ["a", "a", "b", "b"], "arm": ["x", "y"] * 2, "score": [1, 0, 1, 1], "cost": [1.0, 2.0, 1.0, 2.0]}
)
MAPPING = {"prompt": "question", "quality": "score"}


@pytest.fixture
def run(mlflow_uri, tmp_path):
    """The id of a run that logged a data set with a place to read it at, and one made by code."""
    from mlflow.entities import DatasetInput

    FRAME.to_parquet(tmp_path / "answers.parquet")
    with store(mlflow_uri) as client, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.data

        experiment = client.create_experiment("mine", artifact_location=(tmp_path / "artifacts").as_uri())
        run_id = client.create_run(experiment).info.run_id
        kept = mlflow.data.from_pandas(FRAME, source=str(tmp_path / "answers.parquet"), name="answers")
        made = mlflow.data.from_pandas(FRAME, name="made")
        client.log_inputs(run_id, datasets=[DatasetInput(d._to_mlflow_entity()) for d in (kept, made)])
    return run_id


def test_a_data_set_is_read_where_it_lies_and_compared_with_its_digest(run, mlflow_uri, tmp_path):
    got = import_source(f"datasets:/{run}/answers", MAPPING, tracking_uri=mlflow_uri)
    assert got.outcomes["quality"].tolist() == [1, 0, 1, 1]
    assert got.prompts["group"].tolist() == ["answers", "answers"]
    assert got.notes == ()
    FRAME.assign(score=1).to_parquet(tmp_path / "answers.parquet")
    changed = import_source(f"datasets:/{run}/answers", MAPPING, tracking_uri=mlflow_uri)
    assert "they changed since then" in changed.notes[0]


def test_a_data_set_that_cant_be_found_again_is_told(run, mlflow_uri):
    with pytest.raises(TableError, match=r"made by code.*log it with a source"):
        import_source(f"datasets:/{run}/made", MAPPING, tracking_uri=mlflow_uri)
    with pytest.raises(TableError, match="no data set 'answer'; did you mean 'answers'"):
        import_source(f"datasets:/{run}/answer", MAPPING, tracking_uri=mlflow_uri)
    with pytest.raises(TableError, match=r"which data set\? Add /NAME; there are"):
        import_source(f"datasets:/{run}", MAPPING, tracking_uri=mlflow_uri)
    with pytest.raises(TableError, match="has no run 'nonesuch'"):
        import_source("datasets:/nonesuch", MAPPING, tracking_uri=mlflow_uri)
