import decimal
import sqlite3
import uuid

import pandas as pd
import pytest

from howhard.strategies.errors import ConfigError, InputError, TableError, WorldError
from howhard.training import tables
from howhard.training.importers.sql import _plain, _shown, import_sql, is_url


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as made:
        made.execute("create table answers (question text, model text, score real, usd real, asked text, id integer)")
        made.executemany(
            "insert into answers values (?, ?, ?, ?, ?, ?)",
            [
                ("2 + 2?", "small", 1, 0.1, "2026-01-02T03:04:05", 1),
                ("2 + 2?", "large", 1, 0.9, "2026-01-02T03:04:05", 1),
                ("三加三?", "small", 0, 0.1, "2026-01-03T00:00:00", 2),
                ("三加三?", "large", 1, None, "2026-01-03T00:00:00", 2),
            ],
        )
        made.execute("create table other (x integer)")
    made.close()
    return path


MAPPING = {"prompt": "question", "arm": "model", "quality": "score", "cost": "usd", "time": "asked", "prompt_id": "id"}


@pytest.mark.parametrize("form", ["sqlite:///{}?table=answers", "sqlite:///{}"])
def test_a_table_of_a_database_is_read_through_a_mapping(database, form):
    url = form.format(database)
    got = import_sql(url, None if "table=" in url else "answers", MAPPING)
    assert got.prompts["text"].tolist() == ["2 + 2?", "三加三?"]
    assert got.prompts["prompt_id"].tolist() == ["1", "2"]
    assert got.prompts["time"].tolist()[0] == pd.Timestamp("2026-01-02T03:04:05Z")
    assert got.outcomes["quality"].tolist() == [1, 1, 0, 1]
    assert got.outcomes["cost"].isna().tolist() == [False, False, False, True]


def test_a_database_is_only_read(database):
    before = database.read_bytes()
    import_sql(f"sqlite:///{database}", "answers", MAPPING)
    assert database.read_bytes() == before
    with pytest.raises(TableError, match="there is no such file"):
        import_sql(f"sqlite:///{database.with_name('new.db')}", "answers")
    assert not database.with_name("new.db").exists()


def test_which_table_is_asked_and_a_wrong_one_is_named(database):
    with pytest.raises(InputError, match=r"which table.*answers, other"):
        import_sql(f"sqlite:///{database}")
    with pytest.raises(TableError, match="no table 'answer'; did you mean 'answers'"):
        import_sql(f"sqlite:///{database}", "answer")
    with pytest.raises(TableError, match="table other: the table is empty"):
        import_sql(f"sqlite:///{database}", "other")


def test_bad_rows_are_refused_by_table_row_column_and_value(database):
    with sqlite3.connect(database) as made:
        made.execute("update answers set usd = -1 where id = 2 and model = 'small'")
    made.close()
    with pytest.raises(TableError, match=r"table answers: .*'cost', row 2: -1.0: negative"):
        import_sql(f"sqlite:///{database}", "answers", MAPPING)


def test_a_file_that_is_no_database_and_a_driver_that_is_not_there_are_told(tmp_path):
    (tmp_path / "no.db").write_text("no database at all" * 100)
    with pytest.raises(WorldError, match="cannot be read"):
        import_sql(f"sqlite:///{tmp_path / 'no.db'}", "t")
    with pytest.raises(ConfigError, match="driver is not installed"):
        import_sql("oracle+nonesuch://user:secret@host/db", "t")
    with pytest.raises(InputError, match="not the URL of a database"):
        import_sql("mysql:/what", "t")


def test_no_password_is_shown_and_values_of_postgres_become_plain():
    assert _shown("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert _plain(decimal.Decimal("0.25")) == 0.25
    assert _plain(uuid.UUID(int=7)).endswith("7")
    assert is_url("postgresql+psycopg://host/db")
    assert not is_url("traces:/chat")


def test_howhards_own_tables_in_a_database_are_read_whole(tmp_path):
    prompts = tables.fill("prompts", [{"prompt_id": "a", "text": "one", "group": "g"}])
    samples = [
        {
            "prompt_id": "a", "backend": "small", "fingerprint": "", "params": "{}", "sample_index": i, "text": "1",
            "answer": "1", "extractor": "final/1", "quality": float(i), "finish_reason": "stop", "prompt_tokens": 2,
            "completion_tokens": 3, "verdicts": '[{"verifier": "prm", "score": 0.5, "tokens": 3, "cost": 1.0}]',
        }
        for i in range(2)
    ]  # fmt: skip
    connection = sqlite3.connect(tmp_path / "own.db")
    prompts.drop(columns=["time"]).to_sql("prompts", connection, index=False)
    pd.DataFrame(samples).to_sql("samples", connection, index=False)
    connection.close()
    got = import_sql(f"sqlite:///{tmp_path / 'own.db'}")
    assert got.outcomes is None
    assert got.samples["quality"].tolist() == [0.0, 1.0]
    assert got.samples["verdicts"].tolist()[0][0]["score"] == 0.5
