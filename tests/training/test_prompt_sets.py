import json
from types import SimpleNamespace

import pandas as pd
import pytest

from howhard.strategies.base import Message
from howhard.strategies.errors import InputError, TableError
from howhard.training import prompt_sets, tables


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_a_grader_that_is_nobodys_is_told_even_where_every_prompt_names_its_own(tmp_path):
    path = write(tmp_path / "a.jsonl", json.dumps({"prompt": "2 + 2?", "reference": "4", "grader": "exact"}))
    with pytest.raises(InputError, match="'numerik'"):
        prompt_sets.read_prompts(path, grader="numerik")


def test_a_jsonl_file_becomes_a_prompts_table(tmp_path):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "3 + 3?"}]
    lines = [
        {"prompt": "2 + 2?", "reference": 4, "time": "2026-11-24T10:00:00Z", "source": "mine", "cluster": 7},
        {"prompt": chat, "reference": "6", "grader": "exact", "group": "chat"},
        {"prompt": "Use 3 and 5 to make 8.", "grader": "checker", "id": "c1"},
    ]
    path = write(tmp_path / "sums.jsonl", "\n".join(json.dumps(line) for line in lines) + "\n\n")
    df = prompt_sets.read_prompts(path, grader="numeric")
    assert df["text"].tolist() == ["2 + 2?", "Be brief.\n3 + 3?", "Use 3 and 5 to make 8."]
    assert df["grader"].tolist() == ["numeric", "exact", "checker"]
    assert df["group"].tolist() == ["sums", "chat", "sums"]
    assert df["reference"].tolist()[:2] == ["4", "6"]
    assert df["prompt_id"].tolist() == [tables.prompt_id("2 + 2?"), tables.prompt_id(chat), "c1"]
    assert df["time"][0] == pd.Timestamp("2026-11-24T10:00Z")
    assert df["cluster"].tolist()[0] == "7"
    assert pd.isna(df["cluster"].tolist()[1])
    rows = df.to_dict("records")
    assert prompt_sets.messages_of(rows[0]) == (Message("user", "2 + 2?"),)
    assert prompt_sets.messages_of(rows[1])[0] == Message("system", "Be brief.")


def test_csv_and_parquet_give_the_same_table(tmp_path):
    csv = write(tmp_path / "a.csv", 'prompt,reference,note\n"What is\n2 + 2?",4,x\n3 + 3?,6,\n')
    frame = pd.DataFrame({"prompt": ["What is\n2 + 2?", "3 + 3?"], "reference": ["4", "6"], "note": ["x", None]})
    frame.to_parquet(tmp_path / "a.parquet")
    first = prompt_sets.read_prompts(csv, grader="numeric")
    second = prompt_sets.read_prompts(tmp_path / "a.parquet", grader="numeric")
    pd.testing.assert_frame_equal(first, second)
    assert first["reference"].tolist() == ["4", "6"]


def test_messages_may_stand_in_a_column_of_their_own_as_json(tmp_path):
    chat = json.dumps([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}])
    (tmp_path / "a.csv").write_text("messages,reference\n" + '"' + chat.replace('"', '""') + '",x\n')
    df = prompt_sets.read_prompts(tmp_path / "a.csv", grader="exact")
    assert df["text"].tolist() == ["hello\nhi"]
    assert json.loads(df["messages"][0])[1]["role"] == "assistant"


GOOD = '{"prompt": "2 + 2?", "reference": "4"}\n'
WITH_ID = '{"prompt": "x?", "reference": "4", "id": "i"}\n'


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.jsonl", "", "a.jsonl: the file holds no prompt"),
        ("a.jsonl", GOOD + "{", r"a\.jsonl:2: not JSON"),
        ("a.jsonl", GOOD + "[1]", r"a\.jsonl:2: each line must be a JSON object"),
        ("a.jsonl", '{"promt": "x"}', r":1: field 'prompt' is missing or empty; did you mean 'promt'"),
        ("a.jsonl", '{"prompt": "  "}', r":1: field 'prompt': the prompt is empty"),
        ("a.jsonl", '{"prompt": 7}', r":1: field 'prompt' is 7: give a string or a list"),
        ("a.jsonl", '{"prompt": [{"role": "user"}]}', r":1: field 'prompt': messages\[0\] is"),
        ("a.jsonl", GOOD + '{"prompt": "3 + 3?"}', r":2: field 'reference': grader 'exact' needs one"),
        ("a.jsonl", '{"prompt": "x", "refrence": "4"}', r":1: field 'reference'.*did you mean 'refrence'"),
        ("a.jsonl", '{"prompt": "x", "reference": [4]}', r":1: field 'reference' is \[4\]: give a string"),
        ("a.jsonl", '{"prompt": "x", "grader": "exakt"}', r":1: field 'grader': .*did you mean 'exact'"),
        ("a.jsonl", GOOD + '{"prompt": " 2 +  2?", "reference": "5"}', r":2: the same .* with another reference"),
        ("a.jsonl", WITH_ID + WITH_ID.replace('"i"', '"j"'), r":2: field 'id': the prompt of .*:1 again"),
        ("a.jsonl", WITH_ID + WITH_ID.replace("x?", "y?"), r":2: the same .* with another text"),
        ("a.jsonl", '{"prompt": "x", "reference": "4", "time": "soon"}', "column 'time', row 0: 'soon': not a time"),
        ("a.csv", "prompt,reference\nx,4,5\n", r"a\.csv:2: the line has more cells than the header"),
        ("a.csv", "prompt,reference\n", "holds no prompt"),
        ("a.csv", 'messages,reference\nnope,4\n', r"a\.csv:2: field 'messages' is not JSON"),
        ("a.parquet", "no", "a.parquet: not parquet"),
        ("a.xlsx", "no", r"a\.xlsx: \.xlsx is not a known kind of file"),
    ],
)  # fmt: skip
def test_bad_files_name_the_line_and_the_field(tmp_path, name, text, words):
    with pytest.raises(TableError, match=words):
        prompt_sets.read_prompts(write(tmp_path / name, text), grader="exact")


def test_a_prompt_without_a_grader_and_a_missing_file_are_errors(tmp_path):
    with pytest.raises(TableError, match=r":1: field 'grader' is missing: add it, or give --grader"):
        prompt_sets.read_prompts(write(tmp_path / "a.jsonl", GOOD))
    with pytest.raises(TableError, match="cannot be read"):
        prompt_sets.read_prompts(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "caf\xe9"}')
    with pytest.raises(TableError, match="not UTF-8"):
        prompt_sets.read_prompts(tmp_path / "latin.jsonl")


def test_the_same_prompt_twice_is_kept_once_with_a_note(tmp_path, caplog):
    df = prompt_sets.read_prompts(write(tmp_path / "a.jsonl", GOOD + GOOD.replace("2 + 2", "2  + 2")), grader="exact")
    assert df["text"].tolist() == ["2 + 2?"]
    assert "1 prompts stand there more than once" in caplog.text


def test_generated_problems_are_grouped_by_family_and_level():
    problem = SimpleNamespace(
        family="countdown", level=4, prompt="Use 1 and 2 to make 3.", reference=None, grader="checker"
    )
    df = prompt_sets.from_problems([problem])
    assert df["group"].tolist() == ["countdown-4"]
    assert df["reference"].isna().all()
    with pytest.raises(InputError, match="no problem was given"):
        prompt_sets.from_problems([])
