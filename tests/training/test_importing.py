import json
from importlib import resources

import pandas as pd
import pytest

from howhard.strategies.errors import InputError, TableError
from howhard.training import tables
from howhard.training.commands import load_source
from howhard.training.importing import import_source, import_table
from howhard.training.log import Log


def long_table(**columns):
    df = pd.DataFrame(
        {
            "prompt": ["2 + 2?", "2 + 2?", "3 + 3?", "3 + 3?"],
            "arm": ["single/a", "best_of_4/a"] * 2,
            "correct": [0, 1, 1, 1],
            "prompt_tokens": [5, 5, 6, 6],
            "completion_tokens": [2, 8, 2, 8],
            "cost": [0.1, 0.4, 0.1, None],
        }
    )
    return df.assign(**columns)


def write(df, path):
    if path.suffix == ".csv":
        df.to_csv(path, index=False)
    else:
        df.to_parquet(path)
    return path


@pytest.mark.parametrize("name", ["sums.csv", "sums.parquet"])
def test_a_long_table_becomes_prompts_and_outcomes(tmp_path, name):
    got = import_table(write(long_table(), tmp_path / name))
    assert got.samples is None
    assert got.notes == ()
    assert got.prompts["prompt_id"].tolist() == [tables.prompt_id("2 + 2?"), tables.prompt_id("3 + 3?")]
    assert got.prompts["group"].unique().tolist() == ["sums"]
    assert got.outcomes["quality"].tolist() == [0, 1, 1, 1]
    assert got.outcomes["cost"].isna().tolist() == [False, False, False, True]
    assert (got.outcomes["source"] == "import").all()
    assert got.outcomes["latency_s"].isna().all()


def test_columns_of_other_names_are_mapped_and_numbers_in_columns_of_names_become_text(tmp_path):
    df = long_table(task=7).rename(columns={"prompt": "question", "correct": "score", "arm": "method"})
    mapping = {"prompt": "question", "quality": "score", "arm": "method", "group": "task", "latency_s": "cost"}
    got = import_table(write(df, tmp_path / "t.csv"), mapping)
    assert got.prompts["group"].tolist() == ["7", "7"]
    assert got.outcomes["latency_s"].tolist()[:3] == [0.1, 0.4, 0.1]


def test_only_an_empty_cell_of_a_csv_is_null(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("prompt,arm,quality,answer\np,a,1,None\nq,a,0,\n")
    answers = import_table(path).outcomes["answer"].tolist()
    assert answers[0] == "None"
    assert pd.isna(answers[1])


def with_samples():
    rows = [("p", "sample/a", i, q, 3.4) for i, q in enumerate((1, 0, 0, 1))]
    rows += [("q", "sample/a", i, 1, 2.6) for i in range(2)] + [
        ("p", "search/a", 0, 1, 90),
        ("q", "search/a", 0, 0, 70),
    ]
    return pd.DataFrame(rows, columns=["prompt", "arm", "sample_index", "quality", "completion_tokens"])


def test_raw_samples_stay_samples_and_are_averaged_only_on_wish(tmp_path):
    path = write(with_samples(), tmp_path / "t.parquet")
    got = import_table(path)
    assert got.outcomes["arm"].tolist() == ["search/a", "search/a"]
    assert got.samples["sample_index"].tolist() == [0, 1, 2, 3, 0, 1]
    assert got.samples["backend"].unique().tolist() == ["a"]
    assert got.samples["completion_tokens"].tolist() == [3, 3, 3, 3, 3, 3]
    mean = import_table(path, average_samples=True)
    assert mean.samples is None
    quality = mean.outcomes.set_index(["arm", "prompt_id"])["quality"]
    assert quality["sample/a"].tolist() == [0.5, 1.0]
    assert mean.outcomes.set_index("arm")["completion_tokens"]["sample/a"].tolist() == pytest.approx([3.4, 2.6])
    assert "means over their samples" in mean.notes[0]


def test_what_was_imported_is_written_to_a_log_once(tmp_path):
    path = write(with_samples(), tmp_path / "t.parquet")
    with Log(tmp_path / "log") as log:
        for _ in range(2):
            import_table(path).write(log)
            assert (len(log.prompts()), len(log.samples()), len(log.outcomes())) == (2, 6, 2)


@pytest.mark.parametrize(
    "change, mapping, words",
    [
        (lambda d: d.assign(completion_tokens=[2, 8, -3, 8]), {}, r"'completion_tokens', row 2: -3: negative"),
        (lambda d: d.assign(correct=[0, 1, 100, 1]), {}, r"'quality', row 2: 100.*percentages / 100"),
        (lambda d: d.assign(correct=[0, None, 1, 1]), {}, "'quality', row 1: nan: a value is needed"),
        (lambda d: d.assign(arm=["a", "b", "c", None]), {}, "'arm', row 3: .*a value is needed"),
        (lambda d: d.assign(prompt=["a", "a", " ", "b"]), {}, "'prompt', row 2: ' ': no prompt"),
        (lambda d: d.assign(arm="same"), {}, "rows 0 and 1 have the same prompt, arm.*average repeated runs"),
        (lambda d: d.drop(columns="arm"), {}, "no column 'arm'.*--map arm=COLUMN"),
        (lambda d: d.rename(columns={"prompt": "promt"}), {}, "no column 'prompt'.*did you mean 'promt'"),
        (lambda d: d, {"qualty": "correct"}, "no field is called 'qualty'; did you mean 'quality'"),
        (lambda d: d, {"quality": "corect"}, "no such column; did you mean 'correct'"),
        (lambda d: d.iloc[:0], {}, "the table is empty"),
    ],
)
def test_bad_tables_are_refused_by_file_column_row_and_value(tmp_path, change, mapping, words):
    path = write(change(long_table()), tmp_path / "bad.parquet")
    with pytest.raises(TableError, match=words):
        import_table(path, mapping)


def test_files_that_are_no_tables_are_refused(tmp_path):
    (tmp_path / "a.parquet").write_text("no")
    (tmp_path / "a.csv").write_text('a,b\n"1,2\n3')
    for name, words in [
        ("a.parquet", "not parquet"),
        ("a.csv", "not csv"),
        ("a.xlsx", r"\.xlsx is not a known kind of table"),
        ("none.csv", "cannot be read"),
    ]:
        with pytest.raises(TableError, match=words):
            import_table(tmp_path / name)


def test_what_a_reader_should_know_is_said(tmp_path):
    df = long_table(prompt_id=["a", "a", "b", "b"], tokens_estimated=[True, True, False, False])
    df["prompt"] = ["x", "y", "x", "x"]
    notes = import_table(write(df, tmp_path / "t.parquet")).notes
    assert notes[0] == "tokens are estimates in 50% of the rows, as the table says"
    assert "1 times a prompt has another text" in notes[1]
    assert "1 prompts have the text of another one" in notes[2]


def test_the_game_of_24_table_travels_with_its_licence_and_imports_as_it_is():
    folder = resources.files("howhard.training") / "data" / "game24"
    assert "Shunyu Yao" in (folder / "LICENSE").read_text()
    assert "princeton-nlp/tree-of-thought-llm" in (folder / "README.md").read_text()
    with resources.as_file(folder / "outcomes.parquet") as path:
        got = import_table(path)
    assert len(got.prompts) == 100
    quality = got.outcomes.groupby("arm")["quality"].mean()
    assert quality["tree_search_b5/gpt-4"] == pytest.approx(0.69)
    assert quality["single/io"] == pytest.approx(0.073, abs=0.001)
    assert got.outcomes.groupby("arm")["prompt_id"].count()["single/cot"] == 99
    assert got.outcomes.groupby("arm")["cost"].mean()["tree_search_b5/gpt-4"] == pytest.approx(0.745, abs=0.001)


def test_json_lines_are_read_with_chats_and_ids_as_they_stand(tmp_path):
    chat = [{"role": "system", "content": "Brief."}, {"role": "user", "content": "2 + 2?"}]
    rows = [
        {"prompt": chat, "arm": "a", "quality": True, "completion_tokens": 3, "answer": 4, "cluster": 7},
        {"prompt": "2 + 2?", "arm": "a", "quality": 0.5, "completion_tokens": None},
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("\ufeff" + "\n".join(map(json.dumps, rows)) + "\n\n")
    got = import_table(path)
    assert got.prompts["text"].tolist() == ["Brief.\n2 + 2?", "2 + 2?"]
    assert got.prompts["prompt_id"].tolist() == [tables.prompt_id(chat), tables.prompt_id("2 + 2?")]
    assert json.loads(got.prompts["messages"][0]) == chat
    assert pd.isna(got.prompts["messages"][1])
    assert got.prompts["cluster"].tolist()[0] == "7"
    assert got.outcomes["quality"].tolist() == [1.0, 0.5]
    assert got.outcomes["answer"].tolist()[0] == "4"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"prompt": "a"}\n{', "line 2 is not JSON"),
        ("[1]", "line 1 is not a JSON object"),
        ("\n", "the table is empty"),
        ('{"prompt": [{"role": "user"}], "arm": "a", "quality": 1}', "column 'prompt', row 0"),
    ],
)
def test_lines_that_are_no_rows_are_refused_by_line(tmp_path, text, words):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(TableError, match=words):
        import_table(tmp_path / "t.jsonl")


def test_prompts_of_a_megabyte_and_of_other_scripts_are_imported_and_empty_ones_are_not(tmp_path):
    texts = ["word " * 200_000, "三加三等于几？", "كم يساوي ٣ + ٣؟", "e\u0301\u200b🙂"]
    df = pd.DataFrame({"prompt": texts, "arm": "a", "quality": 1, "cost": 1.0})
    got = import_table(write(df, tmp_path / "t.parquet"))
    assert got.prompts["text"].tolist() == texts
    for empty in ("", " \n", None):
        path = write(df.assign(prompt=[*texts[:3], empty], prompt_id=list("abcd")), tmp_path / "e.parquet")
        with pytest.raises(TableError, match=r"'prompt', row 3: .*: no prompt\. Drop the row"):
            import_table(path)


def test_the_same_sample_twice_is_refused_by_rows_even_where_samples_are_averaged(tmp_path):
    df = pd.concat([with_samples(), with_samples().iloc[[2]]])
    with pytest.raises(TableError, match=r"rows 2 and 8 have the same prompt, arm and sample.*sample_index=2"):
        import_table(write(df, tmp_path / "t.parquet"), average_samples=True)


def test_an_arm_whose_cost_was_never_logged_is_named_and_can_be_left_out(tmp_path):
    df = long_table(cost=[0.1, None, 0.1, None])
    path = str(write(df, tmp_path / "t.csv"))
    with pytest.raises(TableError, match=r"arm 'best_of_4/a' can't be priced: its cost was never logged, .*--without"):
        import_source(path)
    got = import_source(path, without=["best_of_4/a"])
    assert got.outcomes["arm"].tolist() == ["single/a", "single/a"]
    with pytest.raises(TableError, match="arm 'single' to leave out; did you mean 'single/a'"):
        import_source(path, without=["single"])
    with pytest.raises(TableError, match="no outcome is left"):
        import_source(path, without=["best_of_4/a", "single/a"])
    with pytest.raises(TableError, match="1 of its 2 rows have no cost"):
        import_source(str(write(long_table(), tmp_path / "gaps.csv")))


def test_raw_samples_of_which_some_have_no_cost_are_refused_and_none_is_said(tmp_path):
    df = with_samples().assign(cost=[1.0, None, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    with pytest.raises(TableError, match="arm 'sample/a' can't be priced: 1 of 6 raw samples have no cost"):
        import_table(write(df, tmp_path / "t.parquet"))
    notes = import_table(write(with_samples(), tmp_path / "t.parquet")).notes
    assert any("no cost of a raw sample was logged" in note for note in notes)


def test_families_are_kept_with_the_log_and_notes_are_not_repeated(tmp_path):
    path = str(write(long_table(tokens_estimated=True, cost=1.0), tmp_path / "t.csv"))
    with Log(tmp_path / "log") as log:
        for _ in range(2):
            import_source(path, families={"t": "sums"}).write(log)
        assert log.notes() == {
            "imported": ["tokens are estimates in 100% of the rows, as the table says"],
            "families": {"t": "sums"},
        }
    assert load_source(tmp_path / "log").matrix.families == ("sums", "sums")
    assert load_source(tmp_path / "log", families={"t": "other"}).matrix.families == ("other", "other")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("trace:/chat", r"no source begins with trace:/; did you mean 'traces'"),
        ("table.pkl", "pickles are never opened"),
        ("none.csv", "cannot be read"),
    ],
)
def test_sources_of_no_known_form_are_told(tmp_path, monkeypatch, source, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        import_source(source)
    with pytest.raises(InputError, match="--table is for databases"):
        import_source(source, table="x")
