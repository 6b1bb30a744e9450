"""Single pass and best-of-N on scripted texts."""

import asyncio
import dataclasses
import math

import pytest

from howhard.strategies import (
    BestOfN,
    BestOfNSpec,
    Budget,
    FirstOf,
    PastTheOptimum,
    Prefix,
    Prices,
    Request,
    SamplingParams,
    SinglePass,
    Usage,
    Verdicts,
    VerifierErrors,
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
from howhard.strategies.stopping import Accepted
from howhard.strategies.testing import CONTRACT, FailingOn, ScriptedBackend, Subject
from howhard.strategies.verifiers.certainty import SelfCertainty
from howhard.strategies.verifiers.judge import Judge, JudgeSettings

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


# choosing by scores and votes together


SCORES = {"Answer: 1": 0.9, "Answer: 2": 0.5, "Answer: 2.0": 0.6, "Answer: 3": 0.7}


def choosing(selection, n=4, **kwargs):
    return BestOfN(n=n, verifier=Table(SCORES), selection=selection, params=PARAMS, **kwargs)


def test_scores_of_equivalent_answers_add_up():
    on = backend("Answer: 1", "Answer: 2", "Answer: 2.0", "Answer: 3")
    assert run(choosing("best"), on).answer == "1"
    result = run(choosing("weighted"), on)
    assert (result.answer, result.text) == ("2.0", "Answer: 2.0")
    assert [c.score for c in result.candidates] == [0.9, 0.5, 0.6, 0.7]
    assert run(choosing("weighted", equivalence=lambda a, b: False), on).answer == "1"


def test_best_of_majority_takes_the_highest_score_among_frequent_answers():
    on = backend("Answer: 1", "Answer: 2", "Answer: 2.0", "Answer: 3", "Answer: 3")
    assert run(choosing("majority", 5, frequent=0.4), on).answer == "3"
    assert run(choosing("majority", 5), on).answer == "1"  # a fifth of the answers is more than the usual tenth


# stopping early


def stopping(n, table, stop="accept:0.8", **kwargs):
    return BestOfN(n=n, verifier=Table(table, **kwargs), stop=stop, params=PARAMS)


def test_drawing_stops_after_the_wave_with_a_candidate_that_is_good_enough():
    on = backend(*"abcdefghij")
    strategy = stopping(16, {"b": 0.7, "f": 0.8, "g": 0.9})
    result = run(strategy, on)
    assert [n for _, n, _ in on.calls] == [4, 4]
    assert strategy.verifier.asked == [tuple("abcd"), tuple("efgh")]  # nobody is judged twice
    assert result.answer == "g"
    assert result.stopped_because == "until_0.8 stopped it after 8 of 16 samples"
    assert result.usage.prompt_tokens == 2 * len("why?")


def test_without_a_candidate_that_is_good_enough_all_are_drawn():
    result = run(stopping(6, {"b": 0.7}), backend(*"abcdefghij"))
    assert len(result.candidates) == 6
    assert result.answer == "b"
    assert result.stopped_because == "drew all 6 samples"


def test_an_incomplete_candidate_is_never_accepted():
    result = run(stopping(8, {"x" * 20: 1.0}), backend("x" * 30))
    assert len(result.candidates) == 8


def test_rules_that_count_votes_stop_best_of_n_too():
    on = backend("Answer: 2", "Answer: 2.0", "Answer: 2", "Answer: 2")
    result = run(BestOfN(n=16, verifier=Table(SCORES), stop="beta", params=PARAMS), on)
    assert len(result.candidates) == 4
    assert result.answer == "2.0"


def test_a_budget_ends_the_waves_and_what_was_judged_counts():
    prices = Prices(prompt=1.0, completion=0.0)
    # at most 4 + k x (20 drawn + 26 read) for a wave of k, really 4 + k x (2 + 5): each wave has what is left
    result = run(stopping(16, {"b": 0.7}, prices=prices), backend(*"abcd"), budget=Budget(tokens=150))
    assert result.answer == "b"
    assert 4 < len(result.candidates) < 16
    assert result.usage.total_tokens <= 150
    assert f"holds {len(result.candidates)} of 16 samples" in result.stopped_because


def test_scores_that_compare_only_within_a_call_cannot_stop_waves():
    tournament = Judge(backend("A"), JudgeSettings(mode="pairwise"))
    for verifier in (Vote(), FirstOf("best", [Table({}), Vote()]), tournament, SelfCertainty(power=1.0)):
        with pytest.raises(ConfigError, match="by comparing them with each other: take stop='none'"):
            BestOfN(n=8, verifier=verifier, stop="accept:0.5", params=PARAMS)


def test_scores_that_stand_for_themselves_can():
    for verifier in (Judge(backend("A")), SelfCertainty(), FirstOf("best", [Table({})])):
        assert BestOfN(n=8, verifier=verifier, stop="accept:0.5", params=PARAMS).stop.name == "until_0.5"


def test_a_verifier_that_reads_confidences_has_them_asked_for():
    class Sure(Table):
        confidence_of = 7

    on = backend("a", "b")
    run(BestOfN(n=2, verifier=Sure({}), params=PARAMS), on)
    assert on.calls[0][2].confidence_of == 7


# a verifier of known error rates


def test_an_n_past_the_optimum_is_warned_of_and_told():
    errors = VerifierErrors(false_positive=0.1, p=(0.9, 0.02), loss=3.0)
    with pytest.warns(
        PastTheOptimum, match="n=8 is past the optimum of n=1 for a verifier that accepts 1 of the right"
    ):
        strategy = BestOfN(n=8, verifier=Table({}), errors=errors, params=PARAMS)
    assert "past the optimum of n=1" in run(strategy, backend("a")).stopped_because
    assert BestOfN(n=1, verifier=Table({}), errors=errors).past_optimum is None
    sound = VerifierErrors(p=(0.9, 0.02))
    assert BestOfN(n=64, verifier=Table({}), errors=sound, params=PARAMS).past_optimum is None


# the contract of all strategies


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "settings",
    [{"selection": "weighted"}, {"stop": "accept:0.95,wave=2"}, {"selection": "majority", "stop": "exact"}],
    ids=str,
)
def test_the_contract_holds(check, settings):
    on = backend_of_sums()

    class Digits(Table):
        async def score(self, request, candidates, *, partial=False):
            return Verdicts(tuple((sum(map(int, filter(str.isdigit, c.text))) % 11) / 10 for c in candidates))

    def pause():
        on.held = asyncio.Event()

    async def served():
        return on.served.completion_tokens

    async def running():
        return on.running

    strategy = BestOfN(n=6, verifier=Digits({}), params=SamplingParams(max_tokens=40, seed=3), **settings)
    prompts = tuple(f"{i} + {i + 1}" for i in range(8))
    asyncio.run(
        check(
            Subject(
                strategy=strategy,
                backend=on,
                prompts=prompts,
                served=served,
                running=running,
                pause=pause,
                resume=lambda: on.held.set(),
            )
        )
    )


def backend_of_sums():
    return ScriptedBackend(lambda prompt: [f"{prompt}\n{i}{i + 1}\nAnswer: {i % 3}" for i in range(7)])


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
    assert [n for _, n, _ in on.calls] == [2, 1, 1]  # what those left holds one more, twice
    assert result.usage.verifier_tokens == 4 * (4 + 2)
    assert result.stopped_because.startswith("drew all 4 samples")


def test_a_cost_budget_counts_prompt_completion_and_verifier_at_their_prices():
    on = backend("aa", "bb", prices=Prices(prompt=1.0, completion=2.0))
    strategy = best_of(2, {}, prices=Prices(prompt=0.5, completion=0.0))
    whole = 4 * 1.0 + 2 * 20 * 2.0 + 2 * 26 * 0.5
    run(strategy, on, budget=Budget(cost=whole))
    assert on.calls.pop()[1] == 2
    run(strategy, on, budget=Budget(cost=whole - 0.1))
    assert on.calls[0][1] == 1


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


@pytest.mark.parametrize(
    "sound, by_call, proven",
    [(True, False, [True, False, False]), (False, True, [True, False, False]), (False, False, [False] * 3)],
    ids=["verifier", "verdicts", "neither"],
)
def test_a_candidate_is_proven_by_a_1_of_a_verifier_or_of_verdicts_that_are_sound(sound, by_call, proven):
    class Told(Table):
        async def score(self, request, candidates, *, partial=False):
            return dataclasses.replace(await super().score(request, candidates), sound=by_call)

    verifier = Told({"Answer: 1": 1.0, "Answer: 2": 0.999})
    verifier.sound = sound
    result = run(BestOfN(n=3, verifier=verifier, params=PARAMS), backend("Answer: 1", "Answer: 2", "Answer: 3"))
    assert [c.proven for c in result.candidates] == proven


def test_a_vote_of_all_for_one_answer_proves_nothing():
    result = run(BestOfN(n=2, verifier=Vote(), params=PARAMS), backend("Answer: 1"))
    assert [(c.score, c.proven) for c in result.candidates] == [(1.0, False)] * 2


@pytest.mark.parametrize("selection", ["best", "weighted", "majority"])
def test_what_is_proved_right_wins_whatever_the_selection(selection):
    on = backend("Answer: 1", "Answer: 2", "Answer: 2", "Answer: 2")
    proof = Table({"Answer: 1": 1.0, "Answer: 2": 0.9})
    proof.sound = True
    assert run(BestOfN(n=4, verifier=proof, selection=selection, frequent=0.5, params=PARAMS), on).answer == "1"
    proof.sound = False
    by_many = run(BestOfN(n=4, verifier=proof, selection=selection, frequent=0.5, params=PARAMS), on).answer
    assert by_many == ("1" if selection == "best" else "2")


@pytest.mark.parametrize(
    "settings, name",
    [
        ({}, "best_of_8"),
        ({"verifier": "vote"}, "vote_of_8"),
        ({"selection": "weighted"}, "best_of_8_weighted"),
        ({"selection": "majority"}, "best_of_8_majority"),
        ({"selection": "majority", "frequent": 0.25}, "best_of_8_majority_0.25"),
        ({"n": 16, "stop": "accept:1.0"}, "best_of_16_until_1.0"),
        ({"selection": "weighted", "equivalence": "numeric:0.1"}, "best_of_8_weighted_numeric_0.1"),
        ({"equivalence": "numeric"}, "best_of_8"),  # changes nothing here
        ({"n": 32, "verifier": "prm", "stop": "beta,wave=8"}, "prm_of_32_beta_w8"),
    ],
)
def test_the_name_tells_what_changes_the_choice_and_the_spec_builds_the_same(settings, name):
    spec = BestOfNSpec(**settings)
    assert spec.name == name
    built = BestOfN(**{"n": 8} | settings | {"verifier": Table({}, name=settings.get("verifier", "best"))})
    assert built.name == name


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"selection": "weight"}, "selection='weight' is not known; did you mean 'weighted'"),
        ({"frequent": 1.5}, r"frequent=1\.5: a share"),
        ({"stop": "acept"}, "did you mean 'accept'"),
        ({"equivalence": "jason"}, "did you mean 'json'"),
    ],
)
def test_new_settings_are_checked_when_built(settings, words):
    with pytest.raises(ConfigError, match=words):
        BestOfN(n=8, verifier=Table({}), **settings)
    with pytest.raises(ConfigError, match=words):
        BestOfNSpec(**settings)


def test_a_rule_is_taken_where_a_name_is():
    assert BestOfN(n=8, verifier=Table({}), stop=Accepted(0.5)).name == "best_of_8_until_0.5"


def test_settings_are_checked_when_built():
    with pytest.raises(ConfigError, match="n=0"):
        best_of(0, {})
    with pytest.raises(ConfigError, match="the same sample 4 times"):
        BestOfN(n=4, verifier=Vote(), params=SamplingParams(temperature=0))
    assert BestOfN(n=1, verifier=Vote(), params=SamplingParams(temperature=0)).n == 1
    assert repr(SinglePass()).startswith("SinglePass(SamplingParams(")
    assert repr(best_of(2, {})).startswith("BestOfN(n=2, verifier='best'")
    assert SinglePass().on(backend()).name == "scripted/single"
