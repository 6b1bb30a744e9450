"""Reading programs and tests out of texts, and judging programs by them."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.strategies import BestOfN, Candidate, Refinement, Request
from howhard.strategies.errors import ConfigError, VerifierError, WorldError
from howhard.strategies.sandbox import Limits, Sandbox, Test, Tests
from howhard.strategies.sandbox.source import program_of, prompt_tests, task_of
from howhard.strategies.spec import Parts, SpecError
from howhard.strategies.testing import ScriptedBackend
from howhard.strategies.verifiers.code import CodeExecution, CodeExecutionSpec

CODE = '''from typing import List


def helper(x):
    return x + 1


def total(xs: List[int]) -> int:
    """Add the numbers up, each taken one larger.

    >>> total([1, 2])
    5
    >>> total([])
    0
    """
'''
CHAT = f"Complete the function.\n\n```python\n{CODE}```\n"
RIGHT = "    return sum(helper(x) for x in xs)\n"
WHOLE = "def total(xs):\n" + RIGHT


@pytest.fixture(scope="module")
def verifier():
    opened = CodeExecution(sandbox=Sandbox(limits=Limits(seconds=5.0)))
    try:
        asyncio.run(opened.sandbox.isolation())
    except ConfigError as exc:
        pytest.skip(str(exc))
    yield opened
    opened.close()


def score(verifier, prompt, *texts, **kwargs):
    return asyncio.run(verifier.score(Request.of(prompt), [Candidate.of(text) for text in texts], **kwargs))


# the program in an answer


@pytest.mark.parametrize("prompt", [CODE, CHAT])
@pytest.mark.parametrize(
    "answer",
    [
        RIGHT,
        RIGHT.lstrip(),
        RIGHT + "\n\nprint(total([1]))\nraise SystemExit",
        f"```python\n{WHOLE}```",
        f"Here it is:\n\n```python\n{WHOLE}```\nUse it so:\n```python\ntotal([1])\n```",
        f"1. So:\n   ```python\n   def total(xs):\n   {RIGHT}   ```",
        f"```python\n{WHOLE}",
        f"```\n{RIGHT}```",
        f"Here it is:\n{WHOLE}\nThis adds the numbers.\nIt's short.",
        f"```python\n{CODE}{RIGHT}```",
    ],
    ids=["completion", "stripped", "goes on", "fenced", "two blocks", "in a list", "cut", "body", "bare", "whole"],
)
def test_the_program_is_found_in_every_form_of_answer(verifier, prompt, answer):
    verdicts = score(verifier, prompt, answer)
    assert verdicts.scores == (1.0,), (verdicts.feedback, program_of(task_of(prompt), answer))
    assert verdicts.feedback == (None,)


def test_the_task_is_the_last_function_of_the_prompt():
    task = task_of(CHAT)
    assert task is not None
    assert task.name == "total"
    assert "def helper" in task.prelude
    assert "def total" not in task.prelude
    assert task_of("What is 2 + 2?") is None
    prose = task_of("Sort what comes\nfrom the list below.\nimport nothing!\n\ndef f(x):\n")
    assert prose is not None
    assert prose.source == "def f(x):\n"
    assert task_of("import math, then tell me") is None


@settings(max_examples=60)
@given(st.text(st.sampled_from("def f(x):\n `'\"[]{}>=#\\assert1,"), max_size=80))
def test_no_prompt_and_no_answer_breaks_the_reader(text):
    for prompt in (text, CODE + text, "def f(x):\n" + text, f"assert {text}"):
        prompt_tests(prompt)
        assert isinstance(program_of(task_of(prompt), text), str)


# the tests in a prompt


@pytest.mark.parametrize(
    "line, test",
    [
        ("f(1) == 2", Test("f(1)", "2")),
        ("f(1, 'a)b') => [1, (2, 3)]", Test("f(1, 'a)b')", "[1, (2, 3)]")),
        ("* f([[1], []]) ➞ True.", Test("f([[1], []])", "True")),
        ("f(-1.5) ==> -2.5e3", Test("f(-1.5)", "-2.5e3")),
        ('f("a") returns "b"', Test('f("a")', '"b"')),
        ("f(1) should return None", Test("f(1)", "None")),
        ("f(15)   # returns 'db'", Test("f(15)", "'db'")),
        ("f(2) -> false", Test("f(2)", "False")),
        ("f(2) = 3", Test("f(2)", "3")),
        ("f([\n        1,\n        2], 1) == [\n  1]", Test("f([ 1, 2], 1)", "[\n  1]")),
    ],
)
def test_examples_are_read_in_the_forms_that_people_write_them(line, test):
    tests = prompt_tests(f'def f(x):\n    """Do it.\n    {line}\n    """\n')
    assert tests is not None
    assert tests.calls == ("f",)
    (found,) = tests.tests
    assert found.source == test.source
    assert eval(found.expected) == eval(test.expected)


@pytest.mark.parametrize(
    "line",
    [
        "f(a) => False",
        "f(1) == 1 + 2",
        "f(1) -> 5 - 3 = 2",
        'f(1) == ""a"',
        "f(1) is nice",
        "g(1) == 2",
        "my_f(1) == 2",
        "f(1 == 2",
        ">>> f(1)\n    Traceback (most recent call last):\n    ValueError: no",
        ">>> f(1)",
        ">>> print(2)\n    2",
    ],
)
def test_what_is_no_example_is_not_taken_for_one(line):
    assert prompt_tests(f'def f(x):\n    """Do it.\n\n    {line}\n    """\n') is None


def test_assert_lines_are_tests_with_or_without_a_signature():
    tests = prompt_tests(
        "Write a function.\nassert both(1, 2) == [1, 2]\nassert abs(both(1, 1)[0] - 1) < 0.1\nassert True"
    )
    assert tests == Tests((Test("both(1, 2)", "[1, 2]"), Test("assert abs(both(1, 1)[0] - 1) < 0.1")), calls=("both",))
    mixed = prompt_tests(f"{CODE}\nIt must hold that\nassert total([5]) == 6\nassert other(1) == 1\n")
    assert mixed is not None
    assert Test("total([5])", "6") in mixed.tests
    assert all("other" not in test.source for test in mixed.tests)


# scores


def test_the_score_is_the_share_of_tests_passed_and_the_feedback_says_which_failed(verifier):
    verdicts = score(verifier, CHAT, "    return 0", "    return 5 if xs else 0", "    return 1 / 0", "    return (")
    assert verdicts.scores == (0.5, 1.0, 0.0, 0.0)
    assert verdicts.feedback is not None
    assert verdicts.feedback[0] == "1 of 2 tests passed\ntest 1 failed: total([1, 2]) returned 0, expected 5"
    assert verdicts.feedback[1] is None
    assert "ZeroDivisionError" in str(verdicts.feedback[2])
    assert str(verdicts.feedback[3]).startswith("no test passed: the program does not load: SyntaxError")
    assert not verdicts.sound
    assert not verifier.sound
    assert verdicts.note.startswith("programs ran in ")
    assert "no network" in verdicts.note


def test_a_prompt_without_tests_and_partial_programs_are_not_judged(verifier):
    verdicts = score(verifier, "What is 2 + 2?", "4", "5")
    assert verdicts.scores == (None, None)
    assert verdicts.note == "the prompt holds no test"
    assert score(verifier, CHAT, RIGHT, partial=True).scores == (None,)


def test_tests_may_be_found_by_a_callable(verifier):
    def find(prompt):
        return Tests((Test("total([10])", "11"),), ("total",))

    own = CodeExecution(sandbox=verifier.sandbox, find_tests=find)
    assert score(own, CHAT, RIGHT, "    return 5 if xs else 0").scores == (1.0, 0.0)


class Counting:
    """Stands for a sandbox, to count programs or to fail."""

    def __init__(self, sandbox, fails=False):
        self.sandbox, self.programs, self.fails = sandbox, [], fails

    async def run(self, program, tests):
        self.programs.append(program)
        if self.fails:
            raise WorldError("no process can be started")
        return await self.sandbox.run(program, tests)


def test_equal_programs_run_once(verifier):
    counting = Counting(verifier.sandbox)
    assert score(CodeExecution(sandbox=counting), CHAT, RIGHT, "    return 0", RIGHT).scores == (1.0, 0.5, 1.0)
    assert len(counting.programs) == 2


def test_programs_that_cannot_be_run_are_an_error_not_a_rank(verifier):
    with pytest.raises(VerifierError, match="'code' could not run a program: no process"):
        score(CodeExecution(sandbox=Counting(verifier.sandbox, fails=True)), CHAT, RIGHT, "    return 0")


def test_best_of_n_keeps_the_program_that_passes(verifier):
    answers = [f"```python\ndef total(xs):\n    {body}\n```" for body in ("return 0", "return len(xs) + sum(xs)", "x")]
    backend = ScriptedBackend(lambda prompt: answers)
    result = asyncio.run(BestOfN(n=3, verifier=verifier).on(backend).run(CHAT))
    assert "len(xs)" in result.text
    assert [c.score for c in result.candidates] == [0.5, 1.0, 0.0]
    assert "expected 5" in str(result.candidates[0].feedback)
    assert "programs ran in " in result.stopped_because


def test_refinement_generates_tests_and_fixes(verifier):
    def write(prompt):
        fixed = "total([1, 2]) returned 3, expected 5" in prompt  # the failure was fed back
        return [f"```python\ndef total(xs):\n    return {'len(xs) + sum(xs)' if fixed else 'sum(xs)'}\n```"]

    result = asyncio.run(Refinement(rounds=2, verifier=verifier).on(ScriptedBackend(write)).run(CHAT))
    assert "len(xs)" in result.text
    assert [c.score for c in result.candidates] == [0.5, 1.0]
    assert "programs ran in " in result.stopped_because


def test_its_spec_opens_it_and_refuses_what_the_sandbox_would():
    opened = CodeExecutionSpec(seconds=2.0, memory_mib=256, allow=("uid",)).open("run", Parts())
    assert opened.name == "run"
    assert opened.sandbox.limits == Limits(seconds=2.0, memory=256 << 20)
    assert opened.sandbox.allow == ("uid",)
    for wrong in ({"seconds": 0.0}, {"memory_mib": 1}, {"allow": ("jail",)}, {"allow": ()}):
        with pytest.raises(SpecError):
            CodeExecutionSpec(**wrong)
