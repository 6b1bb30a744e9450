"""The one command that measures plans: how it reads published samples, and how it words what was reached."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

from howhard.router.plan import Leg, Menu
from howhard.strategies import ExactCheckSpec
from howhard.training.importers.published import import_published
from howhard.training.plans.trajectories import SampleLog, read_samples

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "plans.py"


@pytest.fixture(scope="module")
def script():
    """benchmarks/plans.py as a module."""
    spec = importlib.util.spec_from_file_location("benchmark_of_plans", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def raw(samples: int = 4) -> pd.DataFrame:
    """Two prompts of `codet`; the first has one right sample, the second none."""
    rows = [
        {
            "dataset": "humaneval_codegen16b", "group": "humaneval", "prompt_id": f"HumanEval/{p}",
            "prompt": f"def f{p}():", "arm": "sample/codegen-16b", "sample_index": i,
            "correct": float(p == 0 and i == 2), "prompt_tokens": 40, "completion_tokens": 50 + i,
            "tokens_estimated": True, "cost": 1e-4, "cost_estimated": True, "answer": f"gen_tests_passed={i}/12",
            "gold": None, "text_len": 9, "source": "made up",
        }
        for p in range(2) for i in range(samples)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def read(script, *, answers: bool, prompt: float = 0.0) -> SampleLog:
    imported = import_published("codet", raw(), group="codet")
    table = script.graded_samples(imported.samples, completion=2.0, prompt=prompt, answers=answers)
    menu = Menu(legs=(Leg(backend="codegen-16b", stages=(1, 2, 4), **script.HOW),), verifier=script.GRADER)
    nothing = pd.DataFrame({"arm": [], "prompt_id": [], "answer": [], "quality": [], "cost": []})
    return read_samples(table, nothing, menu, {script.GRADER: ExactCheckSpec()})


def test_the_grader_proves_the_samples_that_are_right_and_no_others(script):
    (leg,) = read(script, answers=False).legs

    assert leg.draws.proven.tolist() == [[False, False, True, False], [False] * 4]
    assert (leg.draws.proven == (leg.quality == 1)).all()


def test_completions_are_priced_by_the_token_and_the_prompt_by_the_wave(script):
    (leg,) = read(script, answers=False, prompt=0.5).legs

    assert leg.cost.tolist() == [[100.0, 102.0, 104.0, 106.0]] * 2
    assert leg.prompt_cost.tolist() == [20.0, 20.0]
    assert leg.tokens.tolist() == [[50.0, 51.0, 52.0, 53.0]] * 2


def test_what_stands_in_the_column_answer_counts_as_an_answer_only_where_it_is_one(script):
    assert (read(script, answers=False).legs[0].draws.label == -1).all()
    assert (read(script, answers=True).legs[0].draws.label >= 0).all()


@pytest.mark.parametrize(
    ("reached", "harmed", "words"),
    [
        ([True, True], [False, False], "yes"),
        ([True, False], [False, False], "at 1 of 2 values"),
        ([True, False], [False, True], "**no** (behind at 1 of 2 values)"),
        ([False, False], [], "**no**"),
        ([], [], "not measured"),
    ],
)
def test_an_aim_is_reached_everywhere_somewhere_or_nowhere(script, reached, harmed, words):
    assert script.verdict(reached, harmed) == words


def test_every_aim_tells_its_figure_and_the_page_holds_them_all(script):
    interval = {"mean": 0.3, "low": 0.2, "high": 0.4}
    savings = [{"rival": "tuned early-stop cap", "by": "tokens", "value": v, "share": interval} for v in (3.0, 30.0)]
    part = {"name": "codet", "saved": savings, "gap": {"3.0": interval}, "took_s": 1.0, "report": "the report"}

    rows = script.aims({"codet": part})

    assert rows[0][1:] == ("v 3: 30% [20%, 40%]; v 30: 30% [20%, 40%]", "yes")
    page = script.page({"codet": part})
    assert all(aim in page for aim, *_ in rows)
    assert "the report" in page


def test_a_part_that_is_not_there_is_left_out(script):
    assert script.aims({}) == []
