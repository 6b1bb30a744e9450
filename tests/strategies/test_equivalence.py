"""Which answers count as one."""

import asyncio
import importlib.util
import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.strategies.equivalence import Mathematics, SameBy, get_equivalence, numbered, tool_calls
from howhard.strategies.errors import ConfigError, VerifierError


def groups(what, answers, **kwargs):
    return asyncio.run(get_equivalence(what).groups(answers, **kwargs))


@pytest.mark.parametrize(
    "what, answers, expected",
    [
        ("canonical", ["1,000", "1000.0", None, "paris", "Paris."], (0, 0, None, 1, 1)),
        ("canonical", [], ()),
        ("text", ["The  cat.", "the cat", '"The cat!"', "ｔｈｅ cat", "a cat"], (0, 0, 0, 0, 1)),
        ("text", ["-1", "1", "1.5", "15", "..."], (0, 1, 2, 3, 4)),
        ("numeric", ["0.3333333", "0.33333333", "42 apples", "42", "no idea", "No idea."], (0, 0, 1, 1, 2, 2)),
        ("numeric:0.01", ["100", "101", "103", None, "1e2"], (0, 0, 1, None, 0)),
        ("numeric:0.01", ["1", "1.01", "1.02"], (0, 0, 0)),  # linked through the one between them
        ("numeric:0.01", ["1", "1.02", "1.01"], (0, 0, 0)),
        ("numeric:0", ["1", "1.0000001", "1.0"], (0, 1, 0)),
        ("json", ['{"a": 1, "b": [1, 2]}', '{"b":[1.0,2],"a":1e0}', '{"b": [2, 1], "a": 1}'], (0, 0, 1)),
        ("json", ['```json\n{"a": 1}\n```', '{"a": 1}', "1", "true", '"1"', "null"], (0, 0, 1, 2, 3, 4)),
        ("json", ["not json", "Not  JSON", "NaN", "[" * 100_000], (0, 0, 1, 2)),
        ("json", ["0.1", "0.10000000000000001", "1e400", "1e401"], (0, 1, 2, 3)),
    ],
)
def test_answers_are_grouped_by_what_they_mean(what, answers, expected):
    assert groups(what, answers) == expected


def openai(*calls):
    return json.dumps(
        [
            {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(calls)
        ]
    )


def test_calls_of_tools_are_the_same_whatever_their_form_and_the_order_of_keys():
    hermes = 'Let me see.\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
    other_id = openai(("add", '{"a": 1, "b": 2}')).replace("call_0", "xyz")
    answers = [
        hermes,
        openai(("add", '{"b": 2, "a": 1.0}')),
        other_id,
        json.dumps({"role": "assistant", "content": None, "tool_calls": json.loads(other_id)}),
        '{"name": "add", "parameters": {"a": 1, "b": 2}}',
        openai(("add", '{"a": 1, "b": 3}')),
        openai(("sub", '{"a": 1, "b": 2}')),
    ]
    assert groups("tool_calls", answers) == (0, 0, 0, 0, 0, 1, 2)


def test_the_order_of_calls_counts_and_a_text_without_a_call_stands_for_itself():
    one, other = ("f", "{}"), ("g", "{}")
    answers = [
        openai(one, other),
        openai(other, one),
        "I cannot do that.",
        "i cannot do that",
        "<tool_call>x</tool_call>",
    ]
    assert groups("tool_calls", answers) == (0, 1, 2, 2, 3)
    assert tool_calls("<tool_call>{]</tool_call>") is None
    assert tool_calls(openai(("f", "not json"))) == [("f", "not json")]


def test_whole_texts_are_compared_where_an_answer_is_a_structure():
    kinds = ("json", "tool_calls", "canonical", "math")
    assert [get_equivalence(kind).whole_text for kind in kinds] == [True, True, False, False]


def test_a_function_of_ones_own_is_asked_once_per_group():
    asked = []

    def same_length(a, b):
        asked.append((a, b))
        return len(a) == len(b)

    assert groups(same_length, ["aa", "b", "cc", "aa", None, "d", "eee"]) == (0, 1, 0, 0, None, 1, 2)
    assert ("cc", "aa") not in asked  # the string was seen before
    assert all(a in ("aa", "b") for a, _ in asked)  # only the first of each group is compared

    async def never(a, b):
        return False

    assert groups(never, ["x", "y", "x"]) == (0, 1, 0)
    assert get_equivalence(same_length).name == "same_length"
    assert SameBy(lambda a, b: True).name == "lambda"


def test_a_function_that_raises_is_named():
    with pytest.raises(VerifierError, match="equivalence 'broken' raised ZeroDivisionError"):
        groups(SameBy(lambda a, b: 1 / 0, name="broken"), ["x", "y"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | st.sampled_from(["1", "1.0", "2", "x", "X.", "1.0000001"]), max_size=9))
def test_numbers_go_up_by_first_appearance_and_equal_answers_share_one(answers):
    for what in ("canonical", "text", "numeric", "json"):
        found = groups(what, answers)
        assert [g is None for g in found] == [a is None for a in answers]
        seen = [g for g in found if g is not None]
        assert numbered(seen) == tuple(seen)
        for a, g in zip(answers, found, strict=True):
            assert all(g == h for b, h in zip(answers, found, strict=True) if a == b)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=8), st.randoms())
def test_who_is_with_whom_among_numbers_does_not_depend_on_the_order(values, random):
    answers = [str(v / 100) for v in values]
    shuffled = list(answers)
    random.shuffle(shuffled)
    here, there = (
        {frozenset(a for a, h in zip(order, groups("numeric:0.02", order), strict=True) if h == g) for g in range(9)}
        for order in (answers, shuffled)
    )
    assert here == there


# mathematics


@pytest.fixture(scope="module")
def mathematics():
    pytest.importorskip("math_verify")
    return Mathematics(timeout=1.0)


def test_the_same_mathematics_in_other_words_is_one_answer(mathematics):
    answers = ["1/2", r"\frac{1}{2}", "0.5", None, "x=1", "1", "(x+1)^2", "x^2+2x+1", "(1,2)", "[1,2]"]
    assert groups(mathematics, answers) == (0, 0, 0, None, 1, 1, 2, 2, 3, 4)


def test_a_comparison_that_hangs_is_killed_told_and_costs_two_at_most(mathematics):
    hostile, told = "9^{9^{9^{9}}}", []
    assert groups(mathematics, ["3", hostile, "4", "5", "8/2"], tell=told.append) == (0, 1, 2, 3, 2)
    assert 1 <= len(told) <= 2
    assert all("took more than 1 s: taken as not the same" in words for words in told)
    again = []
    assert groups(mathematics, ["3", hostile, "4", "5", "8/2"], tell=again.append) == (0, 1, 2, 3, 2)
    assert again == told  # known by now, and told again


def test_what_hangs_is_logged_where_nobody_listens(mathematics, caplog):
    mathematics._known[("1", "2")] = None
    with caplog.at_level(logging.WARNING):
        assert groups(mathematics, ["1", "2"]) == (0, 1)
    assert "comparing '1' with '2' took more than" in caplog.text
    del mathematics._known[("1", "2")]


def test_requests_at_once_share_the_workers(mathematics):
    async def all_at_once():
        return await asyncio.gather(*(mathematics.groups([f"{i}/2", f"{2 * i}/4", f"{i}/3"]) for i in range(1, 9)))

    assert asyncio.run(all_at_once()) == [(0, 0, 1)] * 8


def test_without_math_verify_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"equivalence 'math' needs math-verify.*pip install 'howhard\[math\]'"):
        groups("math", [])


# names


@pytest.mark.parametrize(
    "name", ["canonical", "text", "numeric", "numeric:0.01", "json", "tool_calls", "math", "math:2"]
)
def test_a_name_is_read_back(name):
    assert get_equivalence(name).name == name
    assert get_equivalence(get_equivalence(name).name).name == name


@pytest.mark.parametrize(
    "what, words",
    [
        ("canonicl", "'canonicl' is not known; did you mean 'canonical'"),
        ("text:3", "'text:3' is not known"),
        ("numeric:lots", "'lots' is no number"),
        ("numeric:2", r"tolerance=2\.0: it must lie in \[0, 1\)"),
        ("numeric:nan", "tolerance=nan"),
        ("math:0", r"timeout=0\.0: it must be a finite number of seconds above 0"),
        (7, "equivalence=7: give a name"),
    ],
)
def test_settings_out_of_range_are_named(what, words):
    with pytest.raises(ConfigError, match=words):
        get_equivalence(what)
