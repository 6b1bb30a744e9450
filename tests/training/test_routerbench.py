import pandas as pd
import pytest

from howhard.strategies.errors import TableError
from howhard.training.importers.routerbench import is_wide, models_of
from howhard.training.importing import read_table
from howhard.training.matrix import OutcomeMatrix


def wide(**columns):
    return pd.DataFrame(
        {
            "sample_id": ["mmlu.1", "gsm.7", "mt.3"],
            "prompt": ["['Which is least?\\nA) one']", "2 + 2?", "['Write a poem.', 'Now rhyme it.']"],
            "eval_name": ["mmlu-law", "grade-school-math", "mtbench"],
            "gpt-4": [1.0, 1.0, 0.9],
            "mistral/7b": [0.0, None, 0.4],
            "gpt-4|model_response": ["A", "4", "..."],
            "mistral/7b|model_response": ["B", None, "..."],
            "gpt-4|total_cost": [0.02, 0.01, 0.05],
            "mistral/7b|total_cost": [0.0001, None, 0.0003],
            "oracle_model_to_route_to": ["gpt-4", "gpt-4", "gpt-4"],
        }
    ).assign(**columns)


def test_a_wide_table_becomes_an_outcome_per_model_that_was_run(tmp_path):
    wide().to_parquet(tmp_path / "rb.parquet")
    got = read_table(tmp_path / "rb.parquet")
    matrix = OutcomeMatrix.of(got.outcomes, got.prompts)
    assert matrix.arms == ("gpt-4", "mistral/7b")
    assert matrix.prompt_ids == ("gsm.7", "mmlu.1", "mt.3")
    assert matrix.groups == ("grade-school-math", "mmlu-law", "mtbench")
    assert matrix.quality[0].tolist()[0] == 1.0
    assert pd.isna(matrix.quality).tolist() == [[False, True], [False, False], [False, False]]
    assert matrix.cost[2].tolist() == [0.05, 0.0003]
    assert got.outcomes["answer"].tolist()[:2] == ["A", "4"]


def test_turns_that_are_written_as_a_list_become_text_and_it_is_said(tmp_path):
    wide().to_parquet(tmp_path / "rb.parquet")
    got = read_table(tmp_path / "rb.parquet")
    assert got.prompts["text"].tolist() == ["Which is least?\nA) one", "2 + 2?", "Write a poem.\nNow rhyme it."]
    assert "2 prompts were lists of turns" in got.notes[0]


@pytest.mark.parametrize("prompt", ["[1, 2]", "[open", "['a', 3]", "[]", "[x for x in y]"])
def test_prompts_that_only_look_like_lists_stay_as_they_are(tmp_path, prompt):
    wide(prompt=[prompt, "b", "c"]).to_parquet(tmp_path / "rb.parquet")
    assert read_table(tmp_path / "rb.parquet").prompts["text"].tolist()[0] == prompt


@pytest.mark.parametrize(
    "change, words",
    [
        ({"gpt-4": [1.0, 5.0, 1.0]}, r"'gpt-4', row 1: 5.0: a quality lies in \[0, 1\]"),
        ({"gpt-4|total_cost": [1.0, 1.0, -2.0]}, r"'gpt-4\|total_cost', row 2: -2.0: not a finite number >= 0"),
        ({"gpt-4": ["yes", "1", "1"]}, "'gpt-4', row 0: 'yes': a number is needed"),
        ({"sample_id": ["a", "a", "b"]}, "the same prompt, arm and sample"),
        ({"prompt": ["a", " ", "b"]}, "'prompt', row 1: ' ': no prompt"),
    ],
)
def test_bad_cells_are_refused_by_column_row_and_value(tmp_path, change, words):
    wide(**change).to_parquet(tmp_path / "rb.parquet")
    with pytest.raises(TableError, match=words):
        read_table(tmp_path / "rb.parquet")


def test_a_model_without_costs_cant_be_priced_and_is_named(tmp_path):
    wide().drop(columns="mistral/7b|total_cost").to_parquet(tmp_path / "rb.parquet")
    with pytest.raises(TableError, match=r"model 'mistral/7b' has no column .*can't be priced"):
        read_table(tmp_path / "rb.parquet")


def test_models_are_the_columns_that_have_a_cost_beside_them():
    assert models_of(list(wide().columns)) == ["gpt-4", "mistral/7b"]
    assert not is_wide(["prompt", "arm", "quality", "cost"])
