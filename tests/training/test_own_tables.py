import pandas as pd
import pytest

from howhard.strategies.errors import InputError, TableError
from howhard.training import tables
from howhard.training.importing import import_source
from howhard.training.log import Log

PROMPTS = [{"prompt_id": i, "text": f"prompt {i}", "group": "g", "cluster": "one"} for i in "ab"]
OUTCOMES = [
    {"prompt_id": i, "group": "g", "arm": arm, "quality": 1.0, "cost": 2.0, "source": "import"}
    for i in "ab"
    for arm in ("x", "y")
]


def exported(folder, outcomes=OUTCOMES):
    folder.mkdir()
    with Log(folder.with_name("log")) as log:
        log.append_prompts(PROMPTS)
        log.append_outcomes(outcomes)
        log.export("prompts", folder / "prompts.parquet")
        log.export("outcomes", folder / "outcomes.parquet")
    return folder


def test_exported_tables_become_a_log_again(tmp_path):
    got = import_source(str(exported(tmp_path / "tables")))
    with Log(tmp_path / "again") as log:
        got.write(log)
        assert log.outcomes()["arm"].tolist() == ["x", "y", "x", "y"]
        assert log.prompts()["cluster"].tolist() == ["one", "one"]


def test_a_row_without_its_prompt_is_refused_by_row_and_id(tmp_path):
    folder = exported(tmp_path / "tables", [*OUTCOMES, OUTCOMES[0] | {"prompt_id": "c"}])
    with pytest.raises(TableError, match="outcomes: column 'prompt_id', row 4: 'c': no prompt has this id"):
        import_source(str(folder))


def test_folders_without_the_tables_and_logs_are_told(tmp_path):
    exported(tmp_path / "tables")
    with pytest.raises(InputError, match="is a log already"):
        import_source(str(tmp_path / "log"))
    (tmp_path / "tables" / "outcomes.parquet").unlink()
    with pytest.raises(TableError, match=r"neither a log directory nor a folder with prompts\.parquet"):
        import_source(str(tmp_path / "tables"))


def test_a_log_from_before_clusters_is_read(tmp_path):
    old = tables.to_arrow("prompts", tables.validate_prompts(tables.fill("prompts", PROMPTS))).drop_columns(["cluster"])
    assert pd.isna(tables.validate_prompts(tables.from_arrow("prompts", old))["cluster"]).all()
