import pandas as pd
import pytest

from howhard.training.importers.published import RECIPES, is_published
from howhard.training.importing import read_table
from howhard.training.matrix import OutcomeMatrix


def table(rows):
    frame = pd.DataFrame(rows, columns=["dataset", "group", "prompt_id", "prompt", "arm", "sample_index", "correct"])
    return frame.assign(
        prompt_tokens=5, completion_tokens=7, tokens_estimated=True, cost=0.1, cost_estimated=True, source="them"
    )


def code():
    rows = []
    for language in ("py", "rs"):
        for i in range(3):
            of = (f"agents_humaneval_{language}", f"humaneval_{language}", f"humaneval_{language}:HumanEval/{i}")
            text = f"problem {i} in {language}"
            rows += [(*of, text, "single/gpt-4", 0, 1.0), (*of, text, "reflexion/gpt-4", 0, i % 2)]
            if language == "py":
                rows += [(*of, text, "single/gpt-3.5-turbo", 0, 0.0), (*of, text, "single_run2/gpt-4", 0, 1.0)]
    return table(rows)


def test_arms_not_to_trust_are_left_out_with_the_reason_and_a_problem_in_two_languages_is_one(tmp_path):
    code().to_parquet(tmp_path / "t.parquet")
    got = read_table(tmp_path / "t.parquet", average_samples=True)
    matrix = OutcomeMatrix.of(got.outcomes, got.prompts, families=got.families)
    assert matrix.arms == ("reflexion/gpt-4", "single/gpt-4")
    assert len(matrix) == 6
    assert len(set(matrix.clusters)) == 3
    assert set(matrix.families) == {"humaneval"}
    assert any("single/gpt-3.5-turbo of agents_humaneval_py is left out (3 rows): its 25.6" in n for n in got.notes)
    assert any("single_run2/gpt-4" in note for note in got.notes)


def sampled():
    rows = []
    for i in range(2):
        of = ("game24", "game24", f"game24-{i}", f"4 {i} 6 8")
        rows += [(*of, "sample/io", j, j % 2) for j in range(10)]
        rows += [(*of, "single/io", 0, 0.5), (*of, "single_s0/io", 0, 0.0), (*of, "best_of_5/io", 0, 0.9)]
        rows += [(*of, "tree_search_b5/gpt-4", 0, 1.0)]
    return table(rows)


def test_means_say_how_many_draws_stand_behind_them_and_samples_are_not_counted_twice(tmp_path):
    sampled().to_parquet(tmp_path / "t.parquet")
    got = read_table(tmp_path / "t.parquet", average_samples=True)
    assert got.samples is None
    draws = got.outcomes.groupby("arm")["draws"].first()
    assert draws.index.tolist() == ["best_of_5/io", "single/io", "tree_search_b5/gpt-4"]
    assert draws["single/io"] == 10
    assert draws["best_of_5/io"] == 2
    assert pd.isna(draws["tree_search_b5/gpt-4"])


def test_raw_samples_are_kept_where_they_are_not_averaged(tmp_path):
    sampled().to_parquet(tmp_path / "t.parquet")
    got = read_table(tmp_path / "t.parquet")
    assert len(got.samples) == 20
    assert set(got.samples["backend"]) == {"io"}
    assert "single_s0/io" not in got.outcomes["arm"].tolist()


def test_only_tables_of_known_data_sets_have_a_recipe(tmp_path):
    assert is_published(code())
    assert not is_published(code().assign(dataset="mine"))
    assert not is_published(code().drop(columns="source"))
    code().assign(dataset="mine").to_parquet(tmp_path / "t.parquet")
    assert "single/gpt-3.5-turbo" in read_table(tmp_path / "t.parquet").outcomes["arm"].tolist()


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_reason_is_a_sentence(name):
    assert all(reason and not reason.endswith(".") for reason in RECIPES[name].left_out.values())
