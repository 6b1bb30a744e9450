"""Single pass and best-of-N on scripted texts."""

import asyncio
import math

import pytest

from howhard.strategies import (
    BestOfN,
    Budget,
    Prefix,
    Prices,
    Request,
    SamplingParams,
    SinglePass,
    Usage,
    Verdicts,
    Vote,
    as_messages,
)
from howhard.strategies.errors import (
    BackendError,
    BackendTimeout,
    ConfigError,
    InputError,
    PromptTooLong,
    VerifierError,
)
from howhard.strategies.running import most_tokens
from howhard.strategies.testing import FailingOn, ScriptedBackend

PARAMS = SamplingParams(max_tokens=20, seed=0)


class Table:
    """Scores texts by a table; prices say that it reads."""

    sound = False

    def __init__(self, table, *, name="best", prices=None):
        self.table, self.name, self.prices = table, name, prices
        self.asked = []

    async def score(self, request, candidates, *, partial=False):
        texts = [c.text for c in candidates]
        self.asked.append(tuple(texts))
        read = sum(len(request.text) + len(t) for t in texts) if self.prices else 0
        cost = self.prices.cost(prompt=read, completion=0) if self.prices else 0.0
        return Verdicts(tuple(self.table.get(t) for t in texts), Usage(verifier_tokens=read, cost=cost))


def backend(*texts, **kwargs):
    return ScriptedBackend(lambda prompt: texts, **kwargs)


def run(strategy, on, prompt="why?", **kwargs):
    return asyncio.run(strategy.run(Request.of(prompt), on, **kwargs))


def best_of(n, table, **kwargs):
    return BestOfN(n=n, verifier=Table(table, **kwargs), params=PARAMS)


# choosing


def test_the_highest_score_wins():
    result = run(best_of(3, {"a": 0.1, "b": 0.9, "c": 0.5}), backend("a", "b", "c"))
    assert (result.answer, result.text) == ("b", "b")
    assert [c.score for c in result.candidates] == [0.1, 0.9, 0.5]
    assert result.stopped_because == "drew all 3 samples"


def test_ties_go_to_the_sample_that_was_launched_first():
    assert run(best_of(3, {"a": 0.1, "b": 0.5, "c": 0.5}), backend("a", "b", "c")).answer == "b"


def test_samples_that_are_not_judged_come_after_those_that_are():
    assert run(best_of(3, {"c": 0.0}), backend("a", "b", "c")).answer == "c"


def test_a_verifier_that_judges_none_leaves_the_first_complete_sample_and_says_so():
    result = run(best_of(2, {}), backend("a", "b"))
    assert result.answer == "a"
    assert "'best' judged none of them" in result.stopped_because


def test_an_incomplete_sample_never_wins_and_is_not_judged():
    strategy = best_of(3, {"x" * 20: 1.0, "b": 0.1})
    result = run(strategy, backend("x" * 30, "b", "x" * 25))
    assert result.answer == "b"
    assert [c.answer for c in result.candidates] == [None, "b", None]
    assert strategy.verifier.asked == [("b",)]


def test_where_no_sample_is_complete_there_is_text_but_no_answer():
    strategy = best_of(2, {})
    result = run(strategy, backend("x" * 30, "y" * 30))
    assert (result.answer, result.text) == (None, "x" * 20)
    assert "no sample was complete" in result.stopped_because
    assert strategy.verifier.asked == []


def test_a_majority_vote_is_best_of_n_with_a_vote():
    strategy = BestOfN(n=5, verifier=Vote(), params=PARAMS)
    result = run(strategy, backend("Answer: 1", "Answer: 2.0", "no", "Answer: 2", "Answer: 1.0"))
    assert result.answer == "1"  # two votes each: the one launched first
    assert strategy.name == "vote_of_5"
    assert best_of(5, {}).name == "best_of_5"


def test_one_call_draws_all_samples():
    on = backend("a", "b", "c")
    run(best_of(3, {}), on)
    assert [(len(prefixes), n) for prefixes, n, _ in on.calls] == [(1, 3)]


# failing


def test_a_failed_sample_is_shown_and_the_others_are_kept():
    result = run(best_of(3, {"a": 1.0, "b": 0.2, "c": 0.3}), FailingOn(backend("a", "b", "c"), {0}))
    assert result.answer == "c"
    assert result.candidates[0].generation.error == "failed on purpose"
    assert "1 of 3 failed: failed on purpose" in result.stopped_because


@pytest.mark.parametrize("strategy", [SinglePass(PARAMS), best_of(3, {})], ids=["single", "best_of_n"])
def test_where_every_sample_failed_the_first_error_is_raised(strategy):
    with pytest.raises(BackendError, match=r"of 'scripted' failed(; the first)?: failed on purpose"):
        run(strategy, FailingOn(backend("a", "b", "c"), {0, 1, 2}))


def test_the_error_keeps_the_kind_that_the_backend_gave_it():
    cause = BackendTimeout("no answer in 5 s")
    with pytest.raises(BackendTimeout, match="all 3 samples of 'scripted' failed") as caught:
        run(best_of(3, {}), FailingOn(backend("a"), {0, 1, 2}, cause=cause))
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize("score", [math.nan, -1, 2, "1"])
def test_a_score_that_is_none_is_a_verifier_error(score):
    with pytest.raises(VerifierError, match="'best' gave candidate 0 the score"):
        run(best_of(2, {"a": score, "b": 0.5}), backend("a", "b"))


def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_drawn():
    on = backend("a", context=20)
    for strategy in (SinglePass(PARAMS), best_of(2, {})):
        with pytest.raises(PromptTooLong):
            run(strategy, on, "too long")
    assert on.served == Usage()


# the budget


@pytest.mark.parametrize(
    "tokens, drawn, cap, words",
    [
        (1000, 4, 20, "drew all 4 samples"),
        (4 + 4 * 20, 4, 20, "drew all 4 samples"),
        (4 + 4 * 20 - 1, 3, 20, "the budget of 83 tokens holds 3 of 4 samples"),
        (4 + 20, 1, 20, "the budget of 24 tokens holds 1 of 4 samples"),
        (4 + 19, 1, 19, "holds one sample of at most 19 tokens, not judged"),
        (5, 1, 1, "holds one sample of at most 1 tokens, not judged"),
    ],
)
def test_a_token_budget_shrinks_the_call_before_it_is_made(tokens, drawn, cap, words):
    on = backend("a" * 30, "b" * 30, "c" * 30, "d" * 30)
    result = run(best_of(4, {}), on, budget=Budget(tokens=tokens))
    [(_, n, params)] = on.calls
    assert (n, params.max_tokens) == (drawn, cap)
    assert words in result.stopped_because
    assert result.usage.total_tokens <= tokens


def test_what_the_verifier_reads_is_held_back():
    prices = Prices(prompt=1.0, completion=0.0)
    on = backend("aa", "bb", "cc", "dd")
    # the worst case of n samples: the prompt 4, n x 20 drawn, n x (4 + 20 + 2) read
    result = run(best_of(4, {}, prices=prices), on, budget=Budget(tokens=4 + 2 * 20 + 2 * 26))
    assert len(result.candidates) == 2
    assert result.usage.verifier_tokens == 2 * (4 + 2)


def test_a_cost_budget_counts_prompt_completion_and_verifier_at_their_prices():
    on = backend("aa", "bb", prices=Prices(prompt=1.0, completion=2.0))
    strategy = best_of(2, {}, prices=Prices(prompt=0.5, completion=0.0))
    whole = 4 * 1.0 + 2 * 20 * 2.0 + 2 * 26 * 0.5
    assert len(run(strategy, on, budget=Budget(cost=whole)).candidates) == 2
    assert len(run(strategy, on, budget=Budget(cost=whole - 0.1)).candidates) == 1


@pytest.mark.parametrize("strategy", [SinglePass(PARAMS), best_of(3, {})], ids=["single", "best_of_n"])
@pytest.mark.parametrize("budget, words", [(Budget(tokens=4), "4 tokens"), (Budget(cost=5.9), "cost 5.9")])
def test_a_budget_that_holds_no_token_is_refused(strategy, budget, words):
    on = backend("a")
    with pytest.raises(InputError, match=f"the budget of {words} does not hold one token of 'scripted'"):
        run(strategy, on, budget=budget)
    assert on.calls == []


def test_time_runs_out_and_what_has_ended_counts():
    on = backend("a", "b" * 15, "c" * 15)

    async def held_back():
        on.held = asyncio.Event()  # no sample gets beyond its first token
        return await best_of(3, {}).run(Request.of("why?"), on, budget=Budget(seconds=0.5))

    result = asyncio.run(held_back())
    assert [c.generation.finish_reason for c in result.candidates] == ["cancelled"] * 3
    assert (result.answer, result.text) == (None, "a")
    assert result.stopped_because.startswith("the budget of 0.5 s was spent when 0 of 3 samples had ended")
    assert on.running == 0
    assert result.usage.completion_tokens == 3


def test_a_verifier_that_takes_too_long_leaves_the_samples_unjudged():
    class Slow(Table):
        async def score(self, request, candidates, *, partial=False):
            await asyncio.Event().wait()

    strategy = BestOfN(n=2, verifier=Slow({}), params=PARAMS)
    result = run(strategy, backend("a", "b"), budget=Budget(seconds=0.5))
    assert result.answer == "a"
    assert "judged none" in result.stopped_because


def test_a_backend_that_cannot_count_is_bounded_by_bytes():
    on = FailingOn(backend("a"), set())
    assert most_tokens(on, Prefix(as_messages("héé"))) == 64 + 5
    assert most_tokens(on, Prefix(as_messages("héé"), "", (1, 2, 3))) == 3


# single pass and its stream


def test_a_single_pass_says_how_it_ended():
    assert run(SinglePass(PARAMS), backend("a")).stopped_because == "drew 1 sample"
    cut = run(SinglePass(PARAMS), backend("x" * 30))
    assert cut.answer is None
    assert cut.text == "x" * 20
    assert cut.stopped_because == "the sample was cut at 20 tokens; no sample was complete"
    short = run(SinglePass(PARAMS), backend("x" * 30), budget=Budget(tokens=10))
    assert short.stopped_because.startswith("the sample was cut at 6 tokens, all that the budget of 10 tokens holds")


def test_a_stream_yields_the_pieces_and_then_the_result():
    async def read():
        stream = SinglePass(PARAMS).stream(Request.of("why?"), backend("Answer: 7"))
        pieces = [delta.text async for delta in stream]
        return pieces, await stream.result(), await stream.result()

    pieces, result, again = asyncio.run(read())
    assert "".join(pieces) == result.text == "Answer: 7"
    assert result is again
    assert result.answer == "7"
    assert result.usage.completion_tokens == 10


def test_a_result_that_several_wait_for_is_booked_once():
    async def read():
        stream = SinglePass(PARAMS).stream(Request.of("why?"), backend("seven"))
        return await asyncio.gather(stream.result(), stream.result())

    one, other = asyncio.run(read())
    assert one is other
    assert one.usage.completion_tokens == 6


@pytest.mark.parametrize("reading", [True, False])
def test_a_stream_whose_reader_is_cancelled_cancels_its_sample(reading):
    on = backend("seven")

    async def read():
        on.held = asyncio.Event()
        stream = SinglePass(PARAMS).stream(Request.of("why?"), on)

        async def consume():
            async for _ in stream:
                pass

        task = asyncio.ensure_future(consume() if reading else stream.result())
        for _ in range(5):
            await asyncio.sleep(0)
        assert on.running == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(5):
            await asyncio.sleep(0)
        assert on.running == 0

    asyncio.run(read())


def test_a_stream_can_be_cancelled_and_keeps_what_it_drew():
    on = backend("seven")

    async def read():
        on.held = asyncio.Event()
        stream = SinglePass(PARAMS).stream(Request.of("why?"), on)
        async for _ in stream:
            stream.cancel()
        return await stream.result()

    result = asyncio.run(read())
    assert (result.text, result.answer) == ("s", None)
    assert result.stopped_because.startswith("the sample was cancelled")


# settings


def test_settings_are_checked_when_built():
    with pytest.raises(ConfigError, match="n=0"):
        best_of(0, {})
    with pytest.raises(ConfigError, match="the same sample 4 times"):
        BestOfN(n=4, verifier=Vote(), params=SamplingParams(temperature=0))
    assert BestOfN(n=1, verifier=Vote(), params=SamplingParams(temperature=0)).n == 1
    assert repr(SinglePass()).startswith("SinglePass(SamplingParams(")
    assert repr(best_of(2, {})).startswith("BestOfN(n=2, verifier='best'")
    assert SinglePass().on(backend()).name == "scripted/single"
