import numpy as np
import pandas as pd
import pytest

from howhard.strategies.errors import TableError
from howhard.training.matrix import REFERENCE_UNIT, OutcomeMatrix, best_fixed

PROMPTS = pd.DataFrame({"prompt_id": ["a", "b"], "text": ["one", "two"], "group": ["g-1", None]})


def outcomes(**changes):
    table = {
        "prompt_id": ["a", "a", "b", "b"],
        "arm": ["x", "y", "x", "y"],
        "quality": [1.0, 0.0, 0.5, 1.0],
        "cost": [1.0, 2.0, 3.0, 4.0],
        "completion_tokens": [10, 20, 30, 40],
        "verifier_tokens": [0, 5, 0, 5],
    }
    return pd.DataFrame(table | changes)


def test_a_long_table_becomes_arrays_of_prompts_by_arms():
    m = OutcomeMatrix.of(outcomes(), PROMPTS)
    assert (m.prompt_ids, m.texts, m.groups, m.families, m.arms) == (
        ("a", "b"),
        ("one", "two"),
        ("g-1", ""),
        ("g", ""),
        ("x", "y"),
    )
    assert m.quality.tolist() == [[1.0, 0.0], [0.5, 1.0]]
    assert m.cost.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert m.tokens.tolist() == [[10, 25], [30, 45]]
    assert np.isnan(m.latency).all()


def test_repeated_runs_of_an_arm_are_averaged():
    twice = pd.concat([outcomes(), outcomes(quality=[0.0, 0.0, 0.5, 1.0])])
    assert OutcomeMatrix.of(twice, PROMPTS).quality[0, 0] == 0.5


def test_an_arm_that_was_not_run_on_a_prompt_is_nan_and_complete_leaves_the_prompt_out():
    m = OutcomeMatrix.of(outcomes().iloc[:3], PROMPTS)
    assert np.isnan(m.quality[1, 1])
    assert m.complete().prompt_ids == ("a",)
    assert m.arm_quality.tolist() == [0.75, 0.0]


def test_no_prompt_with_all_arms_is_an_error_that_names_the_arm_with_the_most_gaps():
    m = OutcomeMatrix.of(outcomes().iloc[[0, 3]], PROMPTS)
    with pytest.raises(TableError, match=r"all 2 arms; 'x' is missing on 1 of 2"):
        m.complete()


def test_without_any_price_cost_is_tokens_and_the_unit_says_so():
    m = OutcomeMatrix.of(outcomes(cost=[np.nan] * 4), PROMPTS)
    assert m.unit == REFERENCE_UNIT
    assert m.cost.tolist() == m.tokens.tolist()


def test_an_arm_without_a_price_beside_priced_ones_is_an_error_by_name():
    with pytest.raises(TableError, match=r"arm 'y' cannot be priced: cost is null in 1 of its 2 rows"):
        OutcomeMatrix.of(outcomes(cost=[1.0, 2.0, 3.0, np.nan]), PROMPTS)


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("quality", [1.5, 0, 0, 0], r"quality=1.5 for prompt 'a', arm 'x' \(1 such rows\): it must be in \[0, 1\]"),
        ("quality", [0, np.nan, 0, 0], r"quality=nan for prompt 'a', arm 'y'"),
        ("cost", [1.0, -2.0, -3.0, 4.0], r"cost=-2 for prompt 'a', arm 'y' \(2 such rows\)"),
        ("completion_tokens", [1, -2, 3, 4], r"completion_tokens=-2"),
        ("verifier_tokens", [1, -2, 3, 4], r"verifier_tokens=-2"),
        ("latency_s", [1, 2, np.inf, 4], r"latency_s=inf for prompt 'b', arm 'x'"),
    ],
)
def test_an_impossible_figure_is_an_error_that_shows_the_row(column, values, words):
    with pytest.raises(TableError, match=words):
        OutcomeMatrix.of(outcomes(**{column: values}), PROMPTS)


def test_unknown_arms_missing_columns_and_prompts_without_text_are_errors():
    with pytest.raises(TableError, match="no outcome of arm 'xx' in the table; did you mean 'x'"):
        OutcomeMatrix.of(outcomes(), PROMPTS, arms=["xx"])
    with pytest.raises(TableError, match="the outcomes table has no column 'quality'"):
        OutcomeMatrix.of(outcomes().drop(columns="quality"), PROMPTS)
    with pytest.raises(TableError, match="1 prompts of the outcomes table have no text, the first is 'b'"):
        OutcomeMatrix.of(outcomes(), PROMPTS.iloc[:1])
    with pytest.raises(TableError, match="no outcome of arm 'z'"):
        OutcomeMatrix.of(outcomes(), PROMPTS).columns(["z"])


def test_rows_and_columns_keep_names_and_figures_together():
    m = OutcomeMatrix.of(outcomes(), PROMPTS).rows([1]).columns(["y", "x"])
    assert (m.prompt_ids, m.arms, m.quality.tolist(), m.cost.tolist()) == (
        ("b",),
        ("y", "x"),
        [[1.0, 0.5]],
        [[4.0, 3.0]],
    )


def test_families_come_from_a_mapping_where_one_is_given():
    m = OutcomeMatrix.of(outcomes(), PROMPTS, families={"g-1": "other"})
    assert m.families == ("other", "")


def test_clusters_and_times_come_from_the_prompts_and_stay_with_their_rows():
    prompts = pd.DataFrame(
        {
            "prompt_id": ["a", "b", "c"],
            "text": ["add 1 and 2", "Add  1 and 2", "add 1 and 2 in Rust"],
            "group": ["py", "py", "rs"],
            "cluster": [None, "sum", "sum"],
            "time": [None, pd.Timestamp("2026-01-02T03:00+02:00"), pd.Timestamp("2026-01-03", tz="UTC")],
        }
    )
    rows = pd.DataFrame({"prompt_id": ["a", "b", "c"], "arm": "x", "quality": 1.0, "cost": 1.0})
    m = OutcomeMatrix.of(rows, prompts)
    assert m.clusters == ("a", "a", "a")
    assert m.families == ("py", "py", "rs")
    assert np.isnat(m.times).tolist() == [True, False, False]
    assert m.rows([1]).times.tolist() == [pd.Timestamp("2026-01-02T01:00").to_pydatetime()]


def test_without_a_word_on_them_every_prompt_is_its_own_cluster_and_no_time_is_known():
    m = OutcomeMatrix.of(outcomes(), PROMPTS)
    assert m.clusters == m.prompt_ids
    assert np.isnat(m.times).all()


def test_of_equally_good_arms_the_cheaper_is_the_best_fixed_one():
    assert best_fixed(np.array([0.5, 0.5, 0.2]), np.array([2.0, 1.0, 0.1])) == 1
    assert best_fixed(np.array([0.5, 0.5, 0.2]), np.array([2.0, 1.0, 0.1]), value=1.0) == 2


def test_the_error_of_mean_differences_is_that_over_families():
    quality = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    families = ("a", "a", "b", "b", "c", "c")
    outcomes = pd.DataFrame(
        [
            {"prompt_id": str(i), "arm": arm, "quality": q, "cost": 1.0}
            for i, row in enumerate(quality)
            for arm, q in zip("xy", row, strict=True)
        ]
    )
    prompts = pd.DataFrame({"prompt_id": list("012345"), "text": [f"p {i}" for i in range(6)], "group": list(families)})
    se = OutcomeMatrix.of(outcomes, prompts).quality_se
    means = np.array([1.0, -0.5, -0.5])  # of x - y in each family of two prompts; 0 over all
    assert se[0, 1] == se[1, 0] == pytest.approx(np.sqrt(((means / 3) ** 2).sum() * 3 / 2))
    assert se[0, 0] == 0
    one = OutcomeMatrix.of(outcomes, prompts.assign(group="a"))
    assert (one.quality_se == 0).all()
