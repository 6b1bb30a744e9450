"""Reasoning is told from the answer however the text is cut into pieces."""

import doctest
import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from howhard.strategies import reasoning as module
from howhard.strategies.answers import extract
from howhard.strategies.base import Delta
from howhard.strategies.errors import ConfigError
from howhard.strategies.reasoning import Markers, Splitter, split, states_answer

MARKERS = [
    Markers(),
    Markers(opened=True),
    Markers(start="[[", end="]]"),
    Markers(start="aab", end="aaab"),  # borders that overlap themselves
    Markers(start="<|channel|>analysis<|message|>", end="<|end|>"),
]
WORDS = [
    "<think>",
    "</think>",
    "[[",
    "]]",
    "aab",
    "aaab",
    "a",
    "b",
    "<",
    "</",
    "thi",
    "nk>",
    " ",
    "\n",
    "Answer: 7",
    "####",
]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=10).map("".join)


def streamed(pieces, markers, stated, complete):
    splitter = Splitter(markers, stated=stated)
    deltas = [splitter.feed(Delta(piece)) for piece in pieces] + [splitter.end(complete=complete)]
    together = ("".join(d.reasoning for d in deltas), "".join(d.text for d in deltas))
    return together, (splitter.reasoning, splitter.text)


@settings(deadline=None, max_examples=120)
@given(TEXTS, st.sampled_from(MARKERS), st.booleans(), st.booleans(), st.lists(st.integers(0, 60), max_size=8))
@example("<think>a</think>\n\nb", MARKERS[0], False, True, [3, 9, 10, 16, 18])
@example(" \n<think>a", MARKERS[0], False, True, [1, 2, 5])
def test_any_split_of_a_text_gives_the_same_pieces_together_and_the_same_end(text, markers, stated, complete, cuts):
    borders = [0, *sorted(min(c, len(text)) for c in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(borders)]
    whole = split(text, markers, stated=stated, complete=complete)
    for way in (pieces, list(text), [text]):
        together, at_end = streamed(way, markers, stated, complete)
        assert together == at_end == whole


@settings(deadline=None, max_examples=80)
@given(TEXTS, st.sampled_from(MARKERS))
def test_the_split_is_what_a_look_at_the_whole_text_says(text, markers):
    begun = text.lstrip()
    if begun.startswith(markers.start):
        inside, closed, rest = begun[len(markers.start) :].partition(markers.end)
    elif markers.opened:
        inside, closed, rest = text.partition(markers.end)
    else:
        assert split(text, markers) == ("", text)
        return
    assert split(text, markers) == (inside, rest.lstrip() if closed else "")


@settings(deadline=None, max_examples=80)
@given(TEXTS)
def test_a_stated_answer_is_the_one_that_is_read_out_of_the_whole_text(text):
    reasoning, answer = split(text, Markers(start="~~", end="~~~"), stated=True)
    if extract(text) != text.strip():  # a mark with nothing after it states nothing
        assert extract(answer) == extract(text)
    if any(states_answer(line) for line in text.split("\n")):
        assert reasoning + answer == text
        assert not any(states_answer(line) for line in reasoning.split("\n"))
    else:
        assert (reasoning, answer) == (text, text), "it states none, so all of it is both"


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>hm</think>\n\n42", "hm", "42"),
        ("\n<think>\nhm\n</think>42", "\nhm\n", "42"),
        ("<think>hm", "hm", ""),
        ("<think></think>42", "", "42"),
        ("42", "", "42"),
        ("use <think> and </think>", "", "use <think> and </think>"),
        ("<think>a</think>b <think>c</think>", "a", "b <think>c</think>"),
    ],
)
def test_a_block_at_the_beginning_is_reasoning(text, reasoning, answer):
    assert split(text) == (reasoning, answer)


def test_where_the_prompt_opens_the_block_only_its_end_comes():
    opened = Markers(opened=True)
    assert split("hm</think>\n42", opened) == ("hm", "42")
    assert split("<think>hm</think>42", opened) == ("hm", "42"), "some models write the start again"
    assert split("hm, and no end", opened) == ("hm, and no end", "")


@pytest.mark.parametrize(
    "line",
    ["Answer: 7", "**Answer:** 7", "**Answer**: 7", "The final answer is 7.", r"so \boxed{7}", "#### 7", "ANSWER: x"],
)
def test_a_line_that_states_an_answer_is_known(line):
    assert states_answer(line)
    assert split(f"think\n{line}\nmore", stated=True) == ("think\n", f"{line}\nmore")


@pytest.mark.parametrize("line", ["7", "the answers are many", "answering: no", "I can answer that", "#### Step 1"])
def test_a_line_that_only_speaks_of_answers_is_reasoning(line):
    assert not states_answer(line)


def test_a_text_cut_before_it_states_an_answer_has_none():
    assert split("3 + 4\nis", stated=True, complete=False) == ("3 + 4\nis", "")


def test_pieces_that_a_server_told_apart_stay_so_and_keep_their_confidences():
    splitter = Splitter()
    pieces = [
        Delta(reasoning="h", confidences=(1.0,)),
        Delta(reasoning="m </think>"),
        Delta("\n\n"),
        Delta("4", "", (2.0,)),
    ]
    out = [splitter.feed(piece) for piece in [*pieces, Delta("2 <think>")]]
    assert [(d.reasoning, d.text) for d in out] == [
        ("h", ""),
        ("m </think>", ""),
        ("", ""),
        ("", "4"),
        ("", "2 <think>"),
    ]
    assert [d.confidences for d in out] == [(1.0,), (), (), (2.0,), ()]
    assert splitter.answering


def test_text_written_into_reasoning_that_a_server_told_apart_goes_on_in_its_block():
    splitter = Splitter()
    splitter.feed(Delta(reasoning="7?"))
    assert splitter.marked
    assert splitter.write("\nWait") == Delta(reasoning="\nWait")
    assert splitter.feed(Delta(", no: 8")) == Delta(reasoning=", no: 8")
    assert splitter.write("</think>\n\nFinal Answer:") == Delta("Final Answer:")
    assert splitter.feed(Delta(" 8")) == Delta(" 8")


@pytest.mark.parametrize("markers", [{"start": ""}, {"end": " "}, {"end": "</think>\n"}, {"start": "x", "end": "x"}])
def test_markers_that_could_not_be_found_are_refused(markers):
    with pytest.raises(ConfigError):
        Markers(**markers)


def test_the_examples_of_the_docstrings_hold():
    assert doctest.testmod(module).failed == 0
