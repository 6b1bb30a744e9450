import pytest

from howhard.strategies.errors import InputError
from howhard.training.graders import MathVerify, Regex, get_grader


def grade(name, answer, reference, prompt="p", text=None):
    grader = get_grader(name)
    try:
        return grader.grade(prompt, text or answer or "", answer, reference)
    finally:
        grader.close()


@pytest.mark.parametrize(
    "name, answer, reference, quality",
    [
        ("exact", "1,000", "1000.0", 1.0),
        ("exact", " Paris. ", "paris", 1.0),
        ("exact", "London", "Paris", 0.0),
        ("exact", None, "Paris", 0.0),
        ("numeric", "42 apples", "42", 1.0),
        ("numeric", "0.3333333", "0.33333333", 1.0),
        ("numeric", "0.33", "0.3333333", 0.0),
        ("numeric", "1e6", "1000000", 1.0),
        ("numeric", "3 or 4", "4", 0.0),
        ("numeric", "forty", "40", 0.0),
        ("numeric", "-7", "7", 0.0),
        ("numeric:0.1", "0.33", "0.3333333", 1.0),
        ("numeric:0", "1.0000001", "1", 0.0),
    ],
)
def test_plain_graders_judge_the_final_answer(name, answer, reference, quality):
    assert grade(name, answer, reference) == quality


def test_mathematics_and_patterns_are_judged_in_one_worker_each():
    with MathVerify() as grader:
        for answer, reference, quality in [
            ("\\frac{1}{2}", "0.5", 1.0),
            ("(x+1)^2", "x^2+2x+1", 1.0),
            ("x^2", "x^3", 0.0),
            ("no idea", "7", 0.0),
            ("", "7", 0.0),
        ]:
            assert grader.grade("p", answer, answer, reference) == quality, answer
        with pytest.raises(InputError, match="reference '': math-verify reads no mathematics"):
            grader.grade("p", "7", "7", "")
    with Regex() as grader:
        assert grader.grade("p", "t", "the year 1987", r"\b19\d\d\b") == 1.0
        assert grader.grade("p", "t", "1887", r"^19\d\d$") == 0.0
        with pytest.raises(InputError, match="not a regular expression"):
            grader.grade("p", "t", "x", "(")


def test_a_judgement_that_hangs_is_killed_counts_as_wrong_and_the_next_one_works():
    with Regex(timeout=0.5) as grader:
        assert grader.grade("p", "t", "a" * 40 + "b", r"^(a+)+$") == 0.0
        assert grader.grade("p", "t", "aaa", r"^(a+)+$") == 1.0


def test_a_worker_that_died_is_replaced():
    with Regex() as grader:
        assert grader.grade("p", "t", "a", "a") == 1.0
        grader._worker._process.kill()
        grader._worker._process.wait()
        assert grader.grade("p", "t", "a", "a") == 0.0
        assert grader.grade("p", "t", "a", "a") == 1.0


def test_the_checker_needs_only_the_prompt():
    prompt = "Use 3, 5 and 7 to make 36."
    assert not get_grader("checker").needs_reference
    assert grade("checker", "36", None, prompt, "5 + 7 = 12\n12 * 3 = 36") == 1.0
    assert grade("checker", "36", None, prompt, "3 * 12 = 36") == 0.0
    with pytest.raises(InputError, match=r"no checker .* reads the prompt 'What is 2"):
        grade("checker", "4", None, "What is 2 + 2?")


def test_a_function_of_ones_own_is_found_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_graders_for_a_test.py").write_text(
        "def half(prompt, text, answer, reference):\n    return 0.5\n"
        "def strict(prompt, text, answer, reference):\n    return answer == reference\n"
        "strict.needs_reference = True\n"
        "def wild(prompt, text, answer, reference):\n    return 7\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert grade("my_graders_for_a_test:half", "x", None) == 0.5
    assert grade("my_graders_for_a_test:half", None, None) == 0.0
    assert get_grader("my_graders_for_a_test:strict").needs_reference
    assert grade("my_graders_for_a_test:strict", "x", "x") == 1.0
    with pytest.raises(InputError, match="needs a reference"):
        grade("my_graders_for_a_test:strict", "x", None)
    with pytest.raises(InputError, match="returned 7: it must return a number in"):
        grade("my_graders_for_a_test:wild", "x", None)
    with pytest.raises(InputError, match="is a int: it must be a function"):
        get_grader("my_graders_for_a_test:number")
    with pytest.raises(InputError, match=r"cannot be imported.*has no attribute 'gone'"):
        get_grader("my_graders_for_a_test:gone")


@pytest.mark.parametrize(
    "name, words",
    [
        ("numerik", "'numerik' is not known; did you mean 'numeric'"),
        ("numeric:lots", "tolerance 'lots' must be a number >= 0"),
        ("numeric:-1", "tolerance '-1' must be"),
        ("no_such_module:f", "cannot be imported: No module named"),
    ],
)
def test_unknown_names_say_what_is_known(name, words):
    with pytest.raises(InputError, match=words):
        get_grader(name)


@pytest.mark.parametrize("name", ["exact", "numeric"])
def test_a_missing_reference_is_an_error_and_so_is_one_that_cannot_be_read(name):
    with pytest.raises(InputError, match="needs a reference, and the prompt 'p' has none"):
        grade(name, "4", None)
    with pytest.raises(InputError, match="reference 'four' is not a number"):
        grade("numeric", "4", "four")
