"""A model as a grader. The models here are scripted, so that what they say is known."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from howhard.strategies import Judge, JudgeSettings
from howhard.strategies.errors import BackendError, ConfigError, InputError, VerifierError
from howhard.strategies.testing import FailingOn, ScriptedBackend
from howhard.training.graders import get_grader
from howhard.training.judge_grader import JudgeGrader


def agrees(prompt):
    """5 where the answer between the marks is the reference, else 1."""
    reference = prompt.partition("Reference answer:\n")[2].partition("\n")[0]
    answer = prompt.partition("<answer-")[2].partition("\n")[2].partition("\n")[0]
    return ["5" if answer == reference else "1"]


def grader(script=agrees, **settings):
    return JudgeGrader(ScriptedBackend(script), JudgeSettings(**{"samples": 2} | settings))


@pytest.fixture(autouse=True)
def no_thread_is_left_behind():
    yield
    assert not [t for t in threading.enumerate() if t.name == "howhard-judge"]


def test_a_judge_grades_by_the_reference_and_books_what_it_took():
    judge = grader()
    try:
        assert judge.needs_reference
        assert judge.grade("1 + 2?", "3", "3", "3") == 1.0
        assert judge.grade("1 + 2?", "4", "4", "3") == 0.0
        assert judge.grade("1 + 2?", "cut off", None, "3") == 0.0
        served = judge._backend.served
        assert judge.usage.verifier_tokens == served.prompt_tokens + served.completion_tokens
        assert (judge.usage.calls, judge.usage.cost) == (2, served.cost)
        with pytest.raises(InputError, match="'judge' needs a reference, and the prompt '1 \\+ 2\\?' has none"):
            judge.grade("1 + 2?", "4", "4", None)
    finally:
        judge.close()


def test_grades_are_scaled_and_calibrated_and_a_template_may_do_without_a_reference():
    judge = grader(lambda prompt: ["4"], template="{question} {answer}", calibration=((0.0, 0.0), (1.0, 0.8)), scale=5)
    try:
        assert not judge.needs_reference
        assert judge.grade("?", "x", "x", None) == pytest.approx(0.75 * 0.8)
    finally:
        judge.close()


def test_it_may_be_called_from_many_threads_and_from_within_an_event_loop():
    judge = grader()
    try:
        with ThreadPoolExecutor(8) as pool:
            answers = [str(i % 3) for i in range(24)]
            assert list(pool.map(lambda a: judge.grade("?", a, a, "1"), answers)) == [float(a == "1") for a in answers]

        async def inside():
            return judge.grade("?", "1", "1", "1")

        assert asyncio.run(inside()) == 1.0
    finally:
        judge.close()
    judge.close()
    assert judge.grade("?", "1", "1", "1") == 1.0  # it starts again
    judge.close()


def test_a_judge_that_is_down_or_says_nothing_is_never_a_wrong_answer():
    for script, places, error, words in [
        (agrees, {0, 1}, BackendError, "down"),
        (lambda prompt: ["I think"], (), VerifierError, "no grade from 1 to 5 in its reply 'I think'"),
    ]:
        judge = JudgeGrader(
            FailingOn(ScriptedBackend(script), places, cause=BackendError("down")), JudgeSettings(samples=2)
        )
        try:
            with pytest.raises(error, match=words):
                judge.grade("?", "1", "1", "1")
        finally:
            judge.close()


def test_a_file_describes_the_grader_and_opens_nothing_yet(tmp_path, monkeypatch):
    (tmp_path / "judge.toml").write_text(
        'scale = 7\ncalibration = [[0.0, 0.1], [1.0, 0.9]]\n[backend]\nkind = "vllm"\nurl = "http://127.0.0.1:9/v1"\n'
        'model = "big"\n'
    )
    monkeypatch.chdir(tmp_path)
    judge = get_grader("judge:judge.toml")
    assert isinstance(judge, JudgeGrader)
    assert (judge.name, judge.needs_reference, judge.settings.scale) == ("judge:judge.toml", True, 7)
    assert judge.settings.calibration == ((0.0, 0.1), (1.0, 0.9))
    judge.close()


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "missing required field `backend`"),
        ('scale = 12\n[backend]\nkind = "local"\nmodel = "x"\n', "scale=12"),
        ('template = "{answer}"\n[backend]\nkind = "local"\nmodel = "x"\n', "template has no slot {question}"),
        ('[backend]\nkind = "telepathy"\n', "Invalid value 'telepathy'"),
        (None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(text, words, tmp_path):
    path = tmp_path / "judge.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match="grader 'judge:") as caught:
        get_grader(f"judge:{path}")
    assert words in str(caught.value)


def test_the_verifier_of_the_same_name_is_never_shown_a_reference():
    with pytest.raises(ConfigError, match="a verifier never sees one"):
        Judge(ScriptedBackend(agrees), JudgeSettings(template="{question} {answer} {reference}"))
    with pytest.raises(ConfigError, match="so it is 'pointwise'"):
        JudgeGrader(ScriptedBackend(agrees), JudgeSettings(mode="pairwise"))
