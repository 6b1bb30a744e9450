import pytest
from hypothesis import given
from hypothesis import strategies as st

from howhard.strategies.answers import EXTRACTOR, canonical, extract, same


@pytest.mark.parametrize(
    "text, answer",
    [
        ("so \\boxed{1} or rather \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{7} and \\boxed{8", "7"),
        ("\\boxed{7}\nAnswer: 8", "7"),
        ("\\boxed{ }\nAnswer: 8", "8"),
        ("3 + 4 = 7\nAnswer: 7.", "7"),
        ("Answer: 1\nno, wait\nAnswer: 2\n", "2"),
        ("Answer: 1\nno, wait\nAnswer:\n", "1"),
        ("**Answer:** 7", "7"),
        ("**Answer: 7**", "7"),
        ("**Final answer:**\n\n$7.5$.", "7.5"),
        ("The final answer is: $12$.", "12"),
        ("I think the answer is blue whales.\nBye", "blue whales"),
        ("An answer is not here", "An answer is not here"),
        ("3 + 4 = 7\n#### 7\n", "7"),
        ("#### 7\nAnswer: 8", "8"),
        ("  3 + 4 = 7\n7 * 2 = 14 \n", "3 + 4 = 7\n7 * 2 = 14"),
        ("Answer: ...", "..."),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_the_first_rule_that_finds_an_answer_wins(text, answer):
    assert extract(text) == answer


@pytest.mark.parametrize(
    "one, other",
    [
        ("1,000", "1000.0"),
        ("1000", "$1,000.00"),
        ("+7", "7."),
        ("-0.0", "0"),
        (".5", "0.50"),
        ("\u22123", "-3"),
        ("- 3", "-3"),
        ("Blue  Whale", "blue whale."),
        ("$x + 1$", "x + 1"),
        ("**A**", "a"),
        ("007", "7"),
    ],
)
def test_answers_that_differ_in_dress_are_the_same(one, other):
    assert same(one, other)
    assert same(other, one)


@pytest.mark.parametrize(
    "one, other",
    [
        ("1,00", "100"),
        ("12", "1.2"),
        ("-3", "3"),
        ("1/2", "0.5"),
        ("ab", "a b"),
        ("", "0"),
        (".", "0"),
        ("nan", "0"),
    ],
)
def test_answers_that_differ_in_meaning_are_not(one, other):
    assert not same(one, other)


@given(st.integers(), st.integers(min_value=0, max_value=5))
def test_a_number_equals_itself_however_it_is_written(value, zeros):
    assert canonical(f"{value:,}") == canonical(f"{value}." + "0" * zeros) == str(value)


@given(st.text(max_size=60))
def test_any_text_has_an_answer_and_a_stable_canonical_form(text):
    answer = extract(text)
    assert answer == answer.strip()
    assert canonical(canonical(text)) == canonical(text)


def test_a_number_of_many_digits_is_compared_exactly():
    digits = "123456789" * 10
    assert same(digits + ".0", digits)
    assert not same(digits + "1", digits + "2")


def test_the_extractor_states_its_version():
    assert EXTRACTOR == "final/1"
