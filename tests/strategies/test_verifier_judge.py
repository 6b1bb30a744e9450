"""A model as a judge. The judges here are scripted, so that what they prefer is known."""

import asyncio
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.strategies import BestOfN, Budget, Candidate, Generation, Prices, Request, SamplingParams, Usage
from howhard.strategies.errors import BackendError, ConfigError, VerifierError
from howhard.strategies.spec import Parts, SpecError
from howhard.strategies.testing import FailingOn, ScriptedBackend
from howhard.strategies.verifiers.judge import (
    Judge,
    JudgeSettings,
    JudgeSpec,
    expected_grade,
    pairs,
    read_choice,
    read_grade,
    read_ranking,
)

PROMPT = Request.of("How many legs has a {answer}?")
TEXTS = ("four", "six", "eight", "two", "none")
SHOWN = re.compile(r"<(answer-\w+)>\n(.*?)\n</\1>", re.DOTALL)


def shown(prompt):
    """The texts that a judge is shown, in order."""
    return [text for _, text in SHOWN.findall(prompt)]


def judge(reply, *, name="judge", prices=None, **settings):
    """A judge whose model replies `reply(texts it is shown)`."""
    backend = ScriptedBackend(
        lambda prompt: answers if isinstance(answers := reply(shown(prompt)), list) else [answers], prices=prices
    )
    return Judge(backend, JudgeSettings(**{"max_tokens": 40} | settings), name=name)


def score(verifier, *texts, **kwargs):
    return asyncio.run(verifier.score(PROMPT, [Candidate.of(t) for t in texts], **kwargs))


def longest(texts):
    return max(texts, key=len)


# what is asked


def test_a_judge_is_shown_question_and_answers_between_marks_that_hang_on_them():
    verifier = judge(lambda texts: "3", samples=1)
    score(verifier, "four", "{question}")
    [(prefixes, n, params)] = verifier.backend.calls
    asked = [p.messages[0].content for p in prefixes]
    assert [shown(a) for a in asked] == [["four"], ["{question}"]]
    assert all("How many legs has a {answer}?" in a and "from 1 (wrong) to 5" in a for a in asked)
    assert (n, params.temperature) == (1, 0.0)
    marks = {SHOWN.search(a)[1] for a in asked}
    score(verifier, "four")
    assert SHOWN.search(verifier.backend.calls[1][0][0].messages[0].content)[1] not in marks


def test_equal_texts_are_judged_once_and_share_their_score():
    verifier = judge(lambda texts: str(len(texts[0])), samples=1)
    verdicts = score(verifier, "ab", "abcd", "ab")
    assert verdicts.scores == (0.25, 0.75, 0.25)
    assert verdicts.usage.verifier_tokens == verifier.backend.served.prompt_tokens + 2 * 2
    assert len(verifier.backend.calls[0][0]) == 2


def test_partial_texts_and_no_texts_are_not_judged_and_cost_nothing():
    verifier = judge(lambda texts: "3")
    assert score(verifier, "a", "b", partial=True).scores == (None, None)
    assert score(verifier).usage == Usage()
    assert verifier.backend.calls == []


# grades


def reply(text, *, logprobs=None, finish="stop"):
    return Generation(text=text, finish_reason=finish, completion_tokens=1, prompt_tokens=1, logprobs=logprobs)


@pytest.mark.parametrize(
    "text, grade",
    [
        *(("4", 4), (" 4.", 4), ("**5**", 5), ("Grade: 3", 3), ("The grade is 2, I think", 2), ("4/5", 4)),
        *(("Score: 4/5", 4), ("12", None), ("6", None), ("0", None), ("4.5", None), ("I saw 3 cats", None), ("", None)),
    ],
)
def test_a_grade_is_read_by_strict_rules(text, grade):
    assert read_grade(reply(text), 5) == grade
    assert read_grade(reply(text, finish="error"), 5) is None


def test_the_expected_grade_weighs_the_distinct_grades_drawn_by_their_own_probability():
    four, five, one = (reply(t, logprobs=(math.log(p),)) for t, p in (("4", 0.5), ("5", 0.4), ("1", 0.1)))
    grade = expected_grade([four, four, five, one, four], 5)
    assert grade.mean == pytest.approx(0.5 * 4 + 0.4 * 5 + 0.1 * 1)
    assert grade.mass == pytest.approx(1)
    assert expected_grade([four, four, five], 5).mean == pytest.approx((0.5 * 4 + 0.4 * 5) / 0.9)


def test_grades_that_hold_little_of_the_probability_or_tell_none_are_averaged_as_drawn():
    rare = [reply(f"{g} because {i}", logprobs=(-20.0 - i,)) for i, g in enumerate([1, 5, 3])]
    assert expected_grade(rare, 5).mean == 3
    assert expected_grade(rare, 5).mass is None
    assert expected_grade([reply("1"), reply("4"), reply("no")], 5).mean == 2.5
    assert expected_grade([reply("no")], 5) is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=5, max_size=5).map(lambda w: [x / sum(w) for x in w]))
def test_with_every_grade_drawn_the_expectation_is_exact(chances):
    replies = [reply(str(g + 1), logprobs=(math.log(p),)) for g, p in enumerate(chances)]
    assert expected_grade(replies, 5).mean == pytest.approx(sum((g + 1) * p for g, p in enumerate(chances)))


def test_a_score_is_the_mean_grade_between_0_and_1_then_calibrated():
    grades = lambda texts: ["1", "2", "3", "4"]  # noqa: E731  # sample i takes the one at that place
    assert score(judge(grades, samples=4, scale=4), "x").scores == pytest.approx((0.5,))
    calibrated = judge(grades, samples=4, scale=4, calibration=((0.0, 0.1), (1.0, 0.3)))
    assert score(calibrated, "x").scores == pytest.approx((0.2,))
    [(_, n, params)] = calibrated.backend.calls
    assert (n, params.temperature) == (4, 1.0)


# pairs


def test_a_tournament_scores_the_share_of_comparisons_won_in_both_orders():
    verifier = judge(lambda texts: "A" if len(texts[0]) > len(texts[1]) else "B", mode="pairwise")
    verdicts = score(verifier, "a", "bb", "ccc")
    assert verdicts.scores == (0.0, 0.5, 1.0)
    assert verdicts.usage.verifier_tokens > 0
    assert len(verifier.backend.calls[0][0]) == 6
    assert verdicts.note == "the two orders disagreed, or tied, in 0 of 3 pairs"


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=2, max_size=6, unique=True),
    st.sampled_from(["A", "B", "tie"]),
    st.integers(0, 4),
)
def test_a_judge_that_looks_at_the_position_alone_gives_everyone_the_same(texts, always, opponents):
    verdicts = score(judge(lambda shown: always, mode="pairwise", opponents=opponents), *texts)
    assert verdicts.scores == (0.5,) * len(texts)
    forward, backward = " > ".join(map(str, range(1, len(texts) + 1))), ", ".join(map(str, range(len(texts), 0, -1)))
    for ranking in (forward, backward):
        assert score(judge(lambda shown, r=ranking: r, mode="listwise"), *texts).scores == (0.5,) * len(texts)


def test_a_biased_judge_still_ranks_by_what_it_sees_in_both_orders():
    """It takes the first one unless the other is longer by two letters."""
    verifier = judge(lambda t: "B" if len(t[1]) >= len(t[0]) + 2 else "A", mode="pairwise")
    verdicts = score(verifier, "a", "bb", "cccc")
    assert verdicts.scores == (0.25, 0.25, 1.0)
    assert verdicts.note.endswith("in 1 of 3 pairs")


@given(st.integers(2, 12), st.integers(0, 12))
def test_every_text_meets_equally_many_others_none_twice(n, opponents):
    found = pairs(n, opponents)
    assert len({frozenset(p) for p in found}) == len(found)
    met = [sum(i in p for p in found) for i in range(n)]
    assert len(set(met)) == 1
    wanted = n - 1 if opponents == 0 else min(n - 1, opponents)
    assert wanted <= met[0] <= wanted + 1


@pytest.mark.parametrize(
    "text, choice",
    [
        ("A", 1.0),
        ("b.", 0.0),
        ("Answer B", 0.0),
        ("The winner is A", 1.0),
        ("Tie", 0.5),
        ("A's fine, but", None),
        ("", None),
    ],
)
def test_a_choice_is_read_by_strict_rules(text, choice):
    assert read_choice(reply(text)) == choice


def test_a_pair_that_was_answered_in_one_order_only_does_not_count():
    verifier = judge(lambda t: "A" if t == ["a", "b"] else "B" if "c" in t else "well", mode="pairwise")
    verdicts = score(verifier, "a", "b", "c")
    assert verdicts.scores == (0.5, 0.5, 0.5)  # each has only its comparison with c, where the position decided


# lists


def test_a_list_is_ranked_in_both_orders():
    def by_length(texts):
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        return "Ranking:\n" + " > ".join(str(i + 1) for i in order)

    verifier = judge(by_length, mode="listwise", max_tokens=60)
    verdicts = score(verifier, "ccc", "a", "bb")
    assert verdicts.scores == (1.0, 0.0, 0.5)
    assert verdicts.note == "the two orders agreed on 3 of 3 pairs"
    assert [shown(p.messages[0].content) for p in verifier.backend.calls[0][0]] == [
        ["ccc", "a", "bb"],
        ["bb", "a", "ccc"],
    ]


@pytest.mark.parametrize(
    "text, ranking",
    [
        ("2 > 1 > 3", [1, 0, 2]),
        ("of 3 answers:\n3, 1, 2", [2, 0, 1]),
        ("1 > 2", None),
        ("1 > 1 > 2", None),
        ("?", None),
    ],
)
def test_a_ranking_must_name_every_answer_once(text, ranking):
    assert read_ranking(reply(text), 3) == ranking


@pytest.mark.parametrize("mode", ["pairwise", "listwise"])
def test_one_distinct_text_cannot_be_compared(mode):
    verifier = judge(lambda t: "A", mode=mode)
    assert score(verifier, "same", "same").scores == (None, None)
    assert verifier.backend.calls == []


# faults


@pytest.mark.parametrize("mode", ["pointwise", "pairwise", "listwise"])
def test_a_judge_that_says_nothing_readable_is_an_error_that_shows_its_reply(mode):
    with pytest.raises(VerifierError, match="judge 'mine' gave no verdict on 2 texts: it replied 'As a model, I"):
        score(judge(lambda t: "As a model, I cannot", mode=mode, name="mine"), "a", "b")


def test_a_text_whose_reply_cannot_be_read_is_not_judged_and_the_others_are():
    verifier = judge(lambda t: "5" if t == ["a"] else "no idea", samples=2)
    assert score(verifier, "a", "b").scores == (1.0, None)


def test_failed_replies_are_left_out_and_where_all_failed_the_error_says_why():
    verifier = judge(lambda t: ["1", "5"], samples=2)
    verifier.backend = FailingOn(verifier.backend, {0})
    assert score(verifier, "a").scores == (1.0,)
    verifier.backend = FailingOn(verifier.backend, {0, 1}, cause=BackendError("down"))
    with pytest.raises(VerifierError, match="gave no verdict on 1 texts: failed on purpose"):
        score(verifier, "a")


def test_a_text_too_long_for_the_judge_is_not_judged():
    verifier = judge(lambda t: "5", samples=1)
    verifier.backend.context = 700
    assert score(verifier, "a", "b" * 700).scores == (1.0, None)
    with pytest.raises(VerifierError, match="no question fits the 700 tokens of 'scripted'"):
        score(verifier, "b" * 700)


def test_a_cancelled_judge_leaves_no_reply_behind():
    verifier = judge(lambda t: "5")

    async def until(holds):
        while not holds():  # noqa: ASYNC110  # the fake has no event for it
            await asyncio.sleep(0)

    async def main():
        verifier.backend.held = asyncio.Event()
        task = asyncio.ensure_future(verifier.score(PROMPT, [Candidate.of("a"), Candidate.of("b")]))
        await until(lambda: verifier.backend.running)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not verifier.backend.running)

    asyncio.run(asyncio.wait_for(main(), 30))


# usage and budgets


@pytest.mark.parametrize("mode", ["pointwise", "pairwise", "listwise"])
def test_what_the_judge_reads_and_writes_is_booked_at_its_prices_within_its_own_bound(mode):
    verifier = judge(lambda t: "A" if len(t) == 2 else "2 > 3 > 1" if len(t) == 3 else "4", mode=mode)
    verdicts = score(verifier, "a", "bb", "ccc")
    served = verifier.backend.served
    assert verdicts.usage == Usage(
        verifier_tokens=served.prompt_tokens + served.completion_tokens, calls=1, cost=served.cost
    )
    bound = verifier.most_usage(PROMPT, [Candidate.of(t) for t in ("a", "bb", "ccc")])
    assert served.prompt_tokens < verdicts.usage.verifier_tokens <= bound.verifier_tokens
    assert verdicts.usage.cost <= bound.cost


def test_a_budget_that_does_not_hold_the_judge_keeps_the_first_sample_and_says_so():
    backend = ScriptedBackend(lambda prompt: ["Answer: 1", "Answer: 22", "Answer: 333"])
    verifier = judge(lambda texts: str(min(5, len(texts[0]) - 8)), name="best")
    strategy = BestOfN(n=3, verifier=verifier, params=SamplingParams(max_tokens=20, seed=0))
    whole = asyncio.run(strategy.run(PROMPT, backend))
    assert whole.answer == "333"
    assert whole.usage.verifier_tokens > 0
    for tokens in range(200, whole.usage.total_tokens + 1500, 60):
        result = asyncio.run(strategy.run(PROMPT, backend, budget=Budget(tokens=tokens)))
        assert result.usage.total_tokens <= tokens
        if len(result.candidates) == 3 and result.usage.verifier_tokens == 0:
            assert result.answer == "1"
            assert f"budget of {tokens} tokens does not hold the" in result.stopped_because
    assert result.answer == "333"


# settings


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"mode": "pairs"}, "mode='pairs'; did you mean 'pairwise'"),
        ({"scale": 10}, "scale=10: grades go from 1"),
        ({"samples": 0}, "samples=0: it must be at least 1"),
        ({"opponents": -1}, "opponents=-1"),
        ({"template": "Grade {answer}"}, "template has no slot {question}, which a pointwise judge needs"),
        ({"mode": "pairwise", "template": "{question} {first}"}, "template has no slot {second}"),
        ({"calibration": ((0.5, 0.5), (0.4, 0.6))}, "scores must rise"),
    ],
)
def test_settings_out_of_range_are_refused_by_class_and_spec(bad, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        JudgeSettings(**bad)
    with pytest.raises(SpecError) as caught:
        JudgeSpec(**{"backend": "big"} | ({"mode": "pointwise"} | bad))
    assert words in str(caught.value)


def test_a_spec_names_the_backend_that_judges():
    backend = ScriptedBackend(lambda prompt: ["4"], prices=Prices(prompt=2, completion=3))
    opened = JudgeSpec(backend="big", samples=1).open("best", Parts(backends={"big": backend}))
    assert (opened.name, opened.prices, opened.sound) == ("best", backend.prices, False)
    assert score(opened, "x").scores == (0.75,)
    with pytest.raises(ConfigError, match="verifier 'best' wants backend 'bug'; did you mean 'big'"):
        JudgeSpec(backend="bug").open("best", Parts(backends={"big": backend}))
