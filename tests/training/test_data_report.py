import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.training.commands import data
from howhard.training.data_report import data_report, wins
from howhard.training.log import Log
from howhard.training.matrix import OutcomeMatrix


def reported(rows, *, text="prompt {}", **prompts):
    """Of rows (prompt, arm, quality, cost)."""
    outcomes = pd.DataFrame(rows, columns=["prompt_id", "arm", "quality", "cost"])
    ids = sorted(set(outcomes["prompt_id"]))
    frame = pd.DataFrame({"prompt_id": ids, "text": [text.format(i) for i in ids], **prompts})
    return data_report("t", OutcomeMatrix.of(outcomes, frame), outcomes)


def pair(n=2, small=(1.0, 1.0), large=(1.0, 5.0)):
    return [(f"p{i}", arm, *figures) for i in range(n) for arm, figures in (("small", small), ("large", large))]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), min_size=1, max_size=5))
def test_an_arm_wins_exactly_where_some_value_makes_it_the_best(arms):
    quality = np.array([[q / 4 if run else np.nan for q, _, run in arms]])
    cost = np.array([[float(c) if run else np.nan for _, c, run in arms]])
    values = np.concatenate([np.linspace(0, 20, 161), [1e6]])
    utility = values[:, None] * quality - cost
    best = np.array([u >= np.nanmax(u) - 1e-9 if (~np.isnan(u)).any() else np.zeros(len(u), bool) for u in utility])
    assert wins(quality, cost)[0].tolist() == best.any(axis=0).tolist()


def test_what_a_table_holds_is_counted():
    rows = [*pair(3, (0.0, 1.0)), ("p3", "small", 0.0, 1.0)]
    report = reported(rows, group=["a-1", "a-2", "b", "b"], time=["2026-01-01", "2026-02-01", None, None])
    assert (report.prompts, report.outcomes, report.clusters, report.untimed) == (4, 7, 4, 2)
    assert report.missing == pytest.approx(1 / 8)
    assert report.families == {"a": 2, "b": 2}
    assert report.groups_of["a"] == ("a-1", "a-2")
    assert report.arms_per_prompt == {1: 1, 2: 3}
    assert report.span == ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z")
    large, small = report.arms
    assert (large.name, large.outcomes, large.quality, large.cost, large.timed) == ("large", 3, 1.0, 5.0, 0)
    assert (small.outcomes, small.wins, large.wins) == (4, 1.0, 1.0)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["arms"][0]["latency"] is None
    text = report.text()
    assert "Arms per prompt: 1 on 1, 2 on 3." in text
    assert "a 2 (2 groups), b 2" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_unit_of_cost_is_named_where_it_is_known_only():
    assert "cost (cost)" not in reported(pair()).text()


def test_an_arm_that_is_never_the_best_at_any_value_is_named():
    warnings = " ".join(reported(pair()).warnings)
    assert "never the best on any prompt, at any value of a correct answer: large. Leave them out" in warnings


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("a", "x", 1.0, 1.0), ("b", "x", 0.0, 1.0)], "'x' is the only arm: there is nothing to choose"),
        (pair(), "every outcome has the quality 1.000"),
        (pair(), "no latency of any arm was measured"),
        (pair(), "1 family of prompts: too few"),
        ([*pair(120, (0, 1)), ("p0", "rare", 1.0, 9.0)], r"few outcomes of rare \(1\)"),
        ([("a", "x", 1.0, 1.0), ("b", "y", 0.0, 1.0)], "no two arms stand side by side"),
        ([("a", "x", 1.0, 1.0), ("b", "y", 0.0, 1.0)], "nothing says with what chance it was chosen"),
    ],
)
def test_what_is_amiss_is_said_with_a_remedy(rows, words):
    assert any(pd.Series([w]).str.contains(words)[0] for w in reported(rows).warnings)


def test_twins_long_prompts_and_a_family_that_outweighs_all_are_said():
    report = reported(pair(4), text="The Same", group=["a", "a", "a", "b"])
    assert (report.clusters, report.clustered) == (1, 4)
    assert any("4 prompts are 1 different ones" in w for w in report.warnings)
    assert any("family 'a' holds 75%" in w for w in report.warnings)
    assert any(
        "2 prompts have more than 100,000 characters" in w for w in reported(pair(), text="x" * 200_000).warnings
    )


def test_without_a_price_tokens_stand_for_cost_and_it_is_said():
    outcomes = pd.DataFrame({"prompt_id": ["a"], "arm": ["x"], "quality": [1.0], "completion_tokens": [3.0]})
    matrix = OutcomeMatrix.of(outcomes, pd.DataFrame({"prompt_id": ["a"], "text": ["one"]}))
    assert any("no cost was logged" in w for w in data_report("t", matrix, outcomes).warnings)


def log_with_samples(path):
    sample = {
        "prompt_id": "a", "backend": "small", "fingerprint": "", "params": "{}", "text": "", "answer": None,
        "extractor": "final/1", "quality": 0.0, "finish_reason": "length", "prompt_tokens": 2, "completion_tokens": 3,
    }  # fmt: skip
    with Log(path) as log:
        log.append_prompts([{"prompt_id": i, "text": t, "group": g} for i, t, g in PROMPTS])
        log.append_outcomes(
            [
                {
                    "prompt_id": i,
                    "group": g,
                    "arm": arm,
                    "quality": q,
                    "cost": 1.0 + q,
                    "source": "run",
                    "propensity": 0.5,
                }
                for i, _, g in PROMPTS
                for arm, q in (("x", 0.0), ("y", 1.0))
            ]
        )
        log.append_samples([sample | {"sample_index": i} for i in range(3)])
        live = {"sample_index": 0, "origin": "live", "parent": "r"}
        log.append_samples([sample | {"finish_reason": "stop", "answer": "1"} | live])


SORT = "Sort the following words alphabetically, from a to z, and answer with the sorted list alone: "
PROMPTS = [
    ("a", f"{SORT}pear apple", "sorting"),
    ("b", f"{SORT}fig plum", "ordering"),
    ("c", "Is this sentence plausible? The goalkeeper dunked the puck.", "sports"),
]


def test_of_a_log_samples_that_were_cut_off_or_drawn_live_are_counted(tmp_path):
    log_with_samples(tmp_path / "log")
    report = data(tmp_path / "log")
    assert report.samples is not None
    assert (report.samples.samples, report.samples.truncated, report.samples.live) == (4, 3, 1)
    assert report.samples.per_prompt == (3, 3)
    assert report.propensities == 6
    assert any("75% of the samples were cut off by the token limit" in w for w in report.warnings)
    assert any("1 samples were drawn live and are not learned from" in w for w in report.warnings)
    assert "6 outcomes say with what chance their arm was chosen." in report.text()


def test_families_that_read_alike_are_named_and_a_file_to_check_is_written(tmp_path):
    log_with_samples(tmp_path / "log")
    report = data(tmp_path / "log", write_families=tmp_path / "families.csv")
    assert [(a.one, a.other) for a in report.alike] == [("ordering", "sorting")]
    assert any("families that read alike: ordering and sorting" in w for w in report.warnings)
    assert (tmp_path / "families.csv").read_text().splitlines()[1:] == [
        "ordering,ordering",
        "sorting,ordering",
        "sports,sports",
    ]
    merged = data(tmp_path / "log", families=tmp_path / "families.csv")
    assert merged.families == {"ordering": 2, "sports": 1}
    assert merged.alike == ()
