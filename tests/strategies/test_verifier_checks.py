"""Checks of form: JSON schema, regular expression, a function of the user's, the prompt's own constraints."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.strategies import Candidate, Request
from howhard.strategies.errors import ConfigError, VerifierError
from howhard.strategies.spec import Parts, SpecError
from howhard.strategies.verifiers.function import FunctionCheck, FunctionCheckSpec
from howhard.strategies.verifiers.json_schema import JsonSchemaCheck, JsonSchemaCheckSpec, read_json
from howhard.strategies.verifiers.prompt_constraints import PromptConstraints, constraints_of
from howhard.strategies.verifiers.regex import RegexCheck, RegexCheckSpec


def score(verifier, prompt, *texts, **kwargs):
    return asyncio.run(verifier.score(Request.of(prompt), [Candidate.of(t) for t in texts], **kwargs))


# JSON schema

PERSON = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


def test_json_is_the_whole_text_or_its_one_fenced_block():
    assert read_json(' {"a": [1]} ') == {"a": [1]}
    assert read_json('Here:\n```json\n{"a": 1}\n```\nDone.') == {"a": 1}
    for text, words in [
        ("```\n1\n```\n```\n2\n```", "2 fenced blocks"),
        ("NaN", "NaN is no JSON"),
        ("so: 1", "Expecting value"),
        ("[" * 100_000, "nested too deeply"),
    ]:
        with pytest.raises(ValueError, match=words):
            read_json(text)


def test_a_schema_scores_what_fits_and_says_what_does_not():
    pytest.importorskip("jsonschema", reason="needs the extra `json`")
    check = JsonSchemaCheck(PERSON)
    verdicts = score(check, "Who?", '{"age": 7}', '{"age": "seven"}', "seven", '```json\n{"age": 7}\n```')
    assert verdicts.scores == (1.0, 0.0, 0.0, 1.0)
    assert not verdicts.sound
    assert verdicts.feedback[0] is None
    assert verdicts.feedback[1] == "at $.age: 'seven' is not of type 'integer'"
    assert verdicts.feedback[2].startswith("not JSON")
    assert score(check, "Who?", '{"age"', partial=True).scores == (None,)


def test_a_schema_is_sound_only_where_the_user_says_so_and_is_checked_when_opened():
    pytest.importorskip("jsonschema", reason="needs the extra `json`")
    check = JsonSchemaCheckSpec(schema='{"type": "integer"}', sound=True).open("number", Parts())
    assert check.sound
    assert check.name == "number"
    assert score(check, "?", "7").sound
    with pytest.raises(ConfigError, match="is no JSON schema: at"):
        JsonSchemaCheck({"type": "whole number"})
    with pytest.raises(ConfigError, match="schema is not JSON"):
        JsonSchemaCheck("{")


def test_a_schema_fetches_no_other_document():
    pytest.importorskip("jsonschema", reason="needs the extra `json`")
    check = JsonSchemaCheck({"$ref": "http://127.0.0.1:9/elsewhere.json"})
    with pytest.raises(VerifierError, match=r"refers to 'http://127.0.0.1:9/elsewhere.json', which it does not hold"):
        score(check, "?", "7")


# regular expression


def test_a_pattern_is_searched_in_the_answer_or_in_the_text():
    texts = ("I think 12.\nAnswer: 7", "Answer: 12")
    assert score(RegexCheck(r"^\d$"), "?", *texts).scores == (1.0, 0.0)
    assert score(RegexCheck(r"12", reads="text"), "?", *texts).scores == (1.0, 1.0)
    assert score(RegexCheck(r"12"), "?", *texts).feedback == ("it does not match '12'", None)
    assert score(RegexCheck(r"\d"), "?", *texts, partial=True).scores == (None, None)


def test_a_pattern_that_cannot_be_read_is_refused_by_the_spec_and_by_the_class():
    with pytest.raises(ConfigError, match="is not a regular expression"):
        RegexCheck("(")
    with pytest.raises(SpecError, match="pattern is empty"):
        RegexCheckSpec(pattern="")
    with pytest.raises(ConfigError, match="reads='txt'; did you mean 'text'"):
        RegexCheck("x", reads="txt")


# a function


def test_a_function_sees_prompt_and_text_and_says_how_right_it_is():
    check = FunctionCheck(lambda prompt, text: {"yes": True, "half": 0.5, "no": False}.get(text))
    assert score(check, "?", "yes", "half", "no", "what").scores == (1.0, 0.5, 0.0, None)
    assert score(check, "?", "yes", partial=True).scores == (None,)

    async def shorter(prompt, text):
        return len(text) < len(prompt)

    check = FunctionCheck(shorter, sound=True, partial=True)
    assert score(check, "four", "one", "fifteen").scores == (1.0, 0.0)
    assert score(check, "four", "one").sound
    assert score(check, "four", "one", partial=True).scores == (1.0,)


@pytest.mark.parametrize("value", [2, -0.1, float("nan"), "yes", [1]])
def test_what_a_function_returns_is_checked(value):
    with pytest.raises(VerifierError, match=r"returned .* for candidate 0: it must return a bool, a number"):
        score(FunctionCheck(lambda prompt, text: value), "?", "x")


def test_a_function_that_raises_is_a_verifier_error():
    with pytest.raises(VerifierError, match="'mine': the function raised ZeroDivisionError"):
        score(FunctionCheck(lambda prompt, text: 1 / 0, name="mine"), "?", "x")


def test_a_function_is_named_in_a_spec_and_imported_when_opened(tmp_path, monkeypatch):
    (tmp_path / "my_checks_for_a_test.py").write_text(
        "def short(prompt, text):\n    return len(text) < 3\nnumber = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    check = FunctionCheckSpec(function="my_checks_for_a_test:short").open("short", Parts())
    assert score(check, "?", "12", "123").scores == (1.0, 0.0)
    with pytest.raises(SpecError, match=r"name it 'package\.module:function'"):
        FunctionCheckSpec(function="short")
    with pytest.raises(ConfigError, match="has no attribute 'gone'"):
        FunctionCheckSpec(function="my_checks_for_a_test:gone").open("x", Parts())
    with pytest.raises(ConfigError, match="is a int: it must be a function"):
        FunctionCheckSpec(function="my_checks_for_a_test:number").open("x", Parts())


# the prompt's own constraints


@pytest.mark.parametrize(
    "prompt, words, good, bad",
    [
        ("Explain rain. Use at most five words.", "at most 5 words", "Water falls out of clouds", "a b c d e f"),
        ("Answer in exactly 3 words.", "exactly 3 words", "one two three", "one two"),
        ("Your answer should be under 20 characters", "fewer than 20 characters", "short", "x" * 20),
        ("Summarize the text in 2 sentences.", "exactly 2 sentences", "One, e.g. this. Two!", "One. Two. Three."),
        ("Keep your answer to no more than one line", "at most 1 line", "a\n", "a\nb"),
        ("Write a poem of at least 2 paragraphs.", "at least 2 paragraphs", "a\n\nb", "a\nb"),
        ("Tell me in 3 words or fewer", "at most 3 words", "a b", "a b c d"),
        ("Is it? Answer yes or no.", "answer yes or no", "So: it is.\nAnswer: Yes.", "maybe"),
        ('Is it? Reply with only "yes" or "no".', "answer yes or no", "no", "yes and no"),
        ("Return valid JSON.", "JSON", "[1]", "[1"),
        ('Start your answer with "Dear X".', "start with 'Dear X'", "Dear X, hello", "Hello"),
        ('Your reply must end with the word "over"', "end with 'over'", "roger, over", "over and out"),
        ('Your answer must include "sun".', "contain 'sun'", "The Sun.", "Sunday"),
        ('Use the word "sun" or "moon".', "contain 'sun' or 'moon'", "a moon", "a star"),
        ("Don't use the word 'sun'.", "not contain 'sun'", "Sunday", "the sun"),
        ("Answer in lower case.", "lower case", "abc 1", "Abc"),
        ("Write everything in all upper case", "upper case", "ABC 1", "Abc"),
        ("Do not use any commas.", "no commas", "a b", "a, b"),
    ],
)
def test_what_a_prompt_asks_of_the_form_is_read_and_checked(prompt, words, good, bad):
    [constraint] = constraints_of(prompt)
    assert constraint.words == words
    assert constraint.holds(good)
    assert not constraint.holds(bad)


@pytest.mark.parametrize(
    "prompt",
    [
        "Why is the sky blue?",
        "A haiku has at most 17 words. Why?",
        'Translate into French: "Answer in at most 5 words"',
        "What does this print?\n```\nprint('Answer yes or no')\n```",
        "Do not answer in JSON.",
        "Explain why he answered in fewer than 10 words.",
        "Write a function that reads JSON and returns the words it contains.",
        "Answer in about 20 words.",
    ],
)
def test_wording_that_leaves_a_doubt_is_passed_over(prompt):
    assert constraints_of(prompt) == ()
    assert score(PromptConstraints(), prompt, "x").scores == (None,)


def test_a_text_scores_the_share_of_the_constraints_that_it_meets():
    prompt = 'Answer in at most 3 words. Do not use any commas. Your answer must contain "sun".'
    verdicts = score(PromptConstraints(), prompt, "the sun", "the sun, well", "the big, old moon")
    assert verdicts.scores == pytest.approx((1, 2 / 3, 0))
    assert verdicts.feedback == (None, "it breaks: no commas", "it breaks: at most 3 words; no commas; contain 'sun'")
    assert not verdicts.sound
    assert not PromptConstraints.sound
    assert score(PromptConstraints(), prompt, "the sun", partial=True).scores == (None,)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_prompt_and_any_text_can_be_read(prompt, text):
    for asked in (prompt, f"Answer in {prompt} words", f"{prompt} Your answer must contain {text}"):
        for constraint in constraints_of(asked):
            assert constraint.holds(text) in (True, False)
