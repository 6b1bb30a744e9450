import asyncio
import itertools
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from howhard.strategies import (
    BestOfN,
    Budget,
    Generation,
    Prices,
    Request,
    SamplingParams,
    SinglePass,
    TreeSearch,
    Usage,
    Verdicts,
    Vote,
)
from howhard.strategies.acceptance import Agreement, MeanLogprob, VerifierScore, get_acceptance
from howhard.strategies.cascade import Cascade, CascadeSpec, Stage, StageSpec
from howhard.strategies.catalogue import StrategySpec
from howhard.strategies.errors import BackendError, BackendTimeout, ConfigError, InputError, VerifierError
from howhard.strategies.hedging import Hedge
from howhard.strategies.spec import Parts
from howhard.strategies.testing import CONTRACT, FailingOn, ScriptedBackend, Subject

PARAMS = SamplingParams(max_tokens=40, seed=0)


class Digits:
    """Scores a text by its last digit, and says that it read a token per character."""

    sound, prices = False, Prices(prompt=0.5, completion=0.0)

    def __init__(self, name="best", fails=False):
        self.name, self.fails = name, fails

    async def score(self, request, candidates, *, partial=False):
        if self.fails:
            raise ValueError("oh")
        read = sum(len(c.text) for c in candidates)
        usage = Usage(verifier_tokens=read, calls=1, cost=0.5 * read)
        return Verdicts(tuple(int(c.text.strip()[-1]) / 10 for c in candidates), usage)


def backend(*texts, name="small", **options):
    return ScriptedBackend(lambda prompt: texts, name=name, **options)


def votes(n=4, params=PARAMS):
    return BestOfN(n=n, verifier=Vote(), params=params)


SINGLE = SinglePass(PARAMS)


def run(cascade, on, prompt="2 + 2", **options):
    return asyncio.run(cascade.run(Request.of(prompt), on, **options))


async def until(holds):
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  # a scripted backend's state: there is no event to wait for
            await asyncio.sleep(0)


def traced(cascade, on, **options):
    events = []
    result = run(cascade, on, trace=lambda event, fields: events.append((event, dict(fields))), **options)
    return result, events


# ── the rules ───────────────────────────────────────────────────────────────────────────────────────────────


def test_samples_that_agree_are_accepted_and_the_large_backend_is_never_asked():
    small, large = backend("4", "4", "4", "5"), backend("6", name="large")
    result = run(Cascade([Stage(votes(), accept="agreement >= 0.75"), Stage(SINGLE, large)]), small)
    assert (result.answer, len(result.candidates)) == ("4", 4)
    assert result.stopped_because == "stage 1 (vote_of_4) was accepted: 3 of 4 agree, not below 0.75"
    assert not large.calls


def test_samples_that_disagree_go_to_the_next_stage_on_its_own_backend():
    small, large = backend("4", "4", "3", "5"), backend("6", name="large")
    result, events = traced(Cascade([Stage(votes(), accept="agreement >= 0.75"), Stage(SINGLE, large)]), small)
    assert (result.answer, len(result.candidates)) == ("6", 5)
    assert "stage 1 (vote_of_4) was not accepted: 2 of 4 agree, below 0.75" in result.stopped_because
    assert "stage 2 (single_on_large) is the last: drew 1 sample" in result.stopped_because
    served = small.served.completion_tokens + large.served.completion_tokens
    assert result.usage.completion_tokens == served
    samples = [fields for event, fields in events if event == "sample"]
    assert [s["backend"] for s in samples] == ["small"] * 4 + ["large"]
    assert [s["stage"] for s in samples] == [0] * 4 + [1]
    assert [s["index"] for s in samples] == [0, 1, 2, 3, 4]
    assert [s["wave"] for s in samples] == [0] * 4 + [1]
    assert [s["chosen"] for s in samples] == [False] * 4 + [True]
    assert samples[0]["stopped_because"] == "drew all 4 samples"


def test_agreement_goes_by_the_equivalence_that_it_is_given():
    small, large = backend("4", "4.001", "3.999", "4.0"), backend("6", name="large")
    stages = [Stage(votes(), accept=Agreement(1.0, equivalence="numeric:0.01")), Stage(SINGLE, large)]
    assert run(Cascade(stages), small).answer == "4"
    strict = [Stage(votes(), accept="agreement >= 1"), Stage(SINGLE, large)]
    assert run(Cascade(strict), small).answer == "6"


def test_failed_samples_count_among_those_that_disagree():
    flawed = FailingOn(backend("4"), {0})
    large = backend("6", name="large")
    result = run(Cascade([Stage(votes(), accept="agreement >= 0.9"), Stage(SINGLE, large)]), flawed)
    assert result.answer == "6"
    assert "3 of 4 agree" in result.stopped_because
    assert "1 of 5 failed: failed on purpose" in result.stopped_because


@pytest.mark.parametrize(("bar", "answer"), [(0.7, "7"), (0.71, "6")])
def test_the_score_of_the_stages_own_verifier_decides(bar, answer):
    small, large = backend("3", "7", "5"), backend("6", name="large")
    first = BestOfN(n=3, verifier=Digits(), params=PARAMS)
    assert run(Cascade([Stage(first, accept=f"score >= {bar}"), Stage(SINGLE, large)]), small).answer == answer


def test_a_verifier_of_the_rules_own_judges_what_a_single_pass_said_and_is_billed():
    small, large = backend("3"), backend("6", name="large")
    stages = [Stage(SINGLE, accept=VerifierScore(0.5, verifier=Digits("prm"))), Stage(SINGLE, large)]
    result, events = traced(Cascade(stages), small)
    assert result.answer == "6"
    assert result.usage.verifier_tokens == 1
    first = next(fields for event, fields in events if event == "sample")
    assert (first["candidate"].score, first["verifier"], first["verifier_tokens"]) == (0.3, "prm", 1)


@pytest.mark.parametrize("first, score", [(SINGLE, 1.0), (votes(), 0.75)], ids=["unscored", "scored"])
def test_an_answer_that_a_rules_sound_verifier_proves_is_proven_whoever_scored_it(first, score):
    class Exact(Digits):
        sound = True

        async def score(self, request, candidates, *, partial=False):
            return Verdicts(tuple(float(c.text == "4") for c in candidates))

    stages = [Stage(first, accept=VerifierScore(1.0, verifier=Exact("check"))), Stage(SINGLE)]
    result, events = traced(Cascade(stages), backend("4", "4", "4", "5"))
    [chosen] = [fields["candidate"] for event, fields in events if event == "sample" and fields["chosen"]]
    assert (result.answer, chosen.score, chosen.proven) == ("4", score, True)
    assert sum(c.proven for c in result.candidates) == 1


def test_where_the_budget_does_not_hold_the_rules_verifier_the_answer_is_not_accepted():
    class Dear(Digits):
        prices = Prices(prompt=1e6, completion=0.0)

    stages = [Stage(SINGLE, accept=VerifierScore(0.1, verifier=Dear("prm"))), Stage(SINGLE)]
    result = run(Cascade(stages), backend("3"), budget=Budget(cost=1000.0))
    assert result.usage.verifier_tokens == 0
    assert "does not hold 'prm''s reading it" in result.stopped_because


class Unsure(ScriptedBackend):
    """Sends a log-probability of -0.5 for every token."""

    def _generation(self, prefix, text, reason, stop=None, error=None):
        drawn = super()._generation(prefix, text, reason, stop, error)
        return Generation(
            text=drawn.text, finish_reason=drawn.finish_reason, completion_tokens=drawn.completion_tokens,
            prompt_tokens=drawn.prompt_tokens, logprobs=(-0.5,) * drawn.completion_tokens,
        )  # fmt: skip


@pytest.mark.parametrize(("bar", "answer"), [(-0.5, "3"), (-0.4, "6")])
def test_the_mean_log_probability_decides(bar, answer):
    small, large = Unsure(lambda prompt: ["3"]), backend("6", name="large")
    assert run(Cascade([Stage(SINGLE, accept=MeanLogprob(bar)), Stage(SINGLE, large)]), small).answer == answer


def test_a_backend_without_log_probabilities_is_named():
    stages = [Stage(SINGLE, accept="logprob >= -0.3"), Stage(SINGLE)]
    with pytest.raises(ConfigError, match="backend 'small' sent none: accept by agreement or score"):
        run(Cascade(stages), backend("3"))


@given(st.sampled_from(["agreement", "agreement of text", "score", "logprob"]), st.integers(1, 100))
def test_a_rule_says_in_its_name_what_its_words_said(kind, percent):
    bar = percent / 100 if kind != "logprob" else -percent / 100
    assert get_acceptance(f"{kind} >= {bar:g}").name == f"{kind.replace(' ', '_')}_{bar:g}"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("agreement > 0.8", "write 'agreement >= 0.8'"),
        ("luck >= 0.8", "write 'agreement >= 0.8'"),
        ("agreement >= 80%", "'80%' is no number"),
        ("agreement >= 1.2", r"lies in \(0, 1\]"),
        ("agreement of mathh >= 0.8", "did you mean 'math'"),
        ("score >= 0", r"lies in \(0, 1\]"),
        ("score of prm >= 0.5", "names a verifier"),
        ("logprob >= 0.1", "finite number <= 0"),
        ("logprob of prm >= -1", "of nothing but the answer"),
    ],
)
def test_words_that_name_no_rule_are_refused(words, complaint):
    with pytest.raises(ConfigError, match=complaint):
        get_acceptance(words)


# ── failures ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_stage_whose_backend_is_down_falls_to_the_next_and_what_it_took_is_billed():
    small = FailingOn(backend("4"), {0, 1, 2, 3}, cause=BackendTimeout("too late"))
    large = backend("6", name="large")
    result = run(Cascade([Stage(votes(), accept="agreement >= 0.5"), Stage(SINGLE, large)]), small)
    assert result.answer == "6"
    assert "stage 1 (vote_of_4) failed: all 4 samples of 'small' failed" in result.stopped_because
    assert [c.generation.finish_reason for c in result.candidates] == ["error"] * 4 + ["stop"]
    assert result.usage.completion_tokens == small.backend.served.completion_tokens + large.served.completion_tokens


def test_a_prompt_too_long_for_the_small_backend_goes_to_the_large_one():
    small, large = backend("4", context=10), backend("6", name="large")
    result = run(Cascade([Stage(votes(), accept="agreement >= 0.5"), Stage(SINGLE, large)]), small)
    assert result.answer == "6"
    assert "stage 1 (vote_of_4) failed: small holds 10 tokens" in result.stopped_because


def test_where_the_last_stage_fails_the_earlier_answer_is_returned():
    large = backend("6", name="large", fails=lambda prefix, i: True)
    result = run(
        Cascade([Stage(votes(), accept="agreement >= 0.9"), Stage(SINGLE, large)]), backend("3", "4", "4", "5")
    )
    assert result.answer == "4"
    assert "stage 2 (single_on_large) failed" in result.stopped_because


def test_where_every_stage_fails_the_first_error_is_raised():
    small = FailingOn(backend("4"), {0, 1, 2, 3}, cause=BackendTimeout("too late"))
    large = backend("6", name="large", fails=lambda prefix, i: True)
    with pytest.raises(BackendTimeout, match="all 4 samples of 'small' failed"):
        run(Cascade([Stage(votes(), accept="agreement >= 0.9"), Stage(SINGLE, large)]), small)


def test_a_stage_without_a_complete_answer_falls_to_the_next():
    cut = SinglePass(SamplingParams(max_tokens=2))
    result = run(Cascade([Stage(cut, accept=MeanLogprob(0.0)), Stage(SINGLE)]), backend("12345"))
    assert result.answer == "12345"
    assert "stage 1 (single) has no complete answer: the sample was cut at 2 tokens" in result.stopped_because


def test_a_broken_verifier_is_raised_and_nothing_is_ranked_by_it():
    first = BestOfN(n=3, verifier=Digits(fails=True), params=PARAMS)
    with pytest.raises(VerifierError, match="'best' raised ValueError"):
        run(Cascade([Stage(first, accept="score >= 0.5"), Stage(SINGLE)]), backend("3", "7", "5"))


def test_the_next_stage_gets_what_the_budget_still_holds():
    stages = [Stage(votes(), accept="agreement >= 0.9"), Stage(SinglePass(SamplingParams(max_tokens=400)))]
    small = backend("3", "4", "4", "5" * 200)
    for tokens in (30, 80, 200):
        result = run(Cascade(stages), small, budget=Budget(tokens=tokens))
        assert result.usage.total_tokens <= tokens
    with pytest.raises(InputError, match="the budget of 3 tokens does not hold one token"):
        run(Cascade(stages), small, budget=Budget(tokens=3))


def test_a_budget_that_does_not_reach_the_next_stage_returns_the_earlier_answer():
    exact = run(votes(), backend("3", "4", "4", "5")).usage.total_tokens
    params = SamplingParams(max_tokens=1, seed=0)
    stages = [Stage(BestOfN(n=4, verifier=Vote(), params=params), accept="agreement >= 0.9"), Stage(SINGLE)]
    small = ScriptedBackend(lambda prompt: ["3", "4", "4", "5"], name="small")
    for tokens in (exact, exact + 1):
        result = run(Cascade(stages), small, budget=Budget(tokens=tokens))
        assert result.usage.total_tokens <= tokens
        assert f"the budget of {tokens} tokens" in result.stopped_because


# ── hedged ──────────────────────────────────────────────────────────────────────────────────────────────────


def held(*texts, name="small"):
    """A backend that writes one token and then waits for ever."""
    slow = backend(*texts, name=name)
    slow.held = asyncio.Event()
    return slow


def test_a_first_stage_that_takes_long_is_overtaken_stopped_and_billed():
    large = backend("6", name="large")

    async def go():
        small = held("444")
        cascade = Cascade([Stage(votes(), accept="agreement >= 0.5"), Stage(SINGLE, large)], hedge=0.0)
        events = []
        request = Request.of("2 + 2")
        result = await cascade.run(request, small, trace=lambda event, fields: events.append((event, dict(fields))))
        return small, result, [fields for event, fields in events if event == "sample"]

    small, result, samples = asyncio.run(go())
    assert result.answer == "6"
    assert [c.generation.finish_reason for c in result.candidates] == ["cancelled"] * 4 + ["stop"]
    assert [s["chosen"] for s in samples] == [False] * 4 + [True]
    assert small.served.completion_tokens > 0
    assert result.usage.completion_tokens == small.served.completion_tokens + large.served.completion_tokens
    assert small.running == 0
    assert "stage 2 (single_on_large) was started beside it after" in result.stopped_because
    assert "stage 1 (vote_of_4) was stopped after" in result.stopped_because


def test_a_first_stage_that_is_accepted_first_stops_the_second():
    async def go():
        large = held("6", name="large")
        small = backend("4")
        cascade = Cascade([Stage(votes(), accept="agreement >= 0.5"), Stage(SINGLE, large)], hedge=0.0)
        return large, await cascade.run(Request.of("2 + 2"), small)

    large, result = asyncio.run(go())
    assert result.answer == "4"
    assert [c.generation.finish_reason for c in result.candidates] == ["stop"] * 4 + ["cancelled"]
    assert large.running == 0


def test_a_hedged_second_stage_goes_on_where_the_first_is_not_accepted():
    async def go():
        large = held("6", name="large")
        cascade = Cascade([Stage(votes(), accept="agreement >= 0.9"), Stage(SINGLE, large)], hedge=0.0)
        task = asyncio.ensure_future(cascade.run(Request.of("2 + 2"), backend("3", "4", "4", "5")))
        await until(lambda: large.running)
        for _ in range(50):
            await asyncio.sleep(0)
        large.held.set()
        return await task

    result = asyncio.run(go())
    assert result.answer == "6"
    assert "was not accepted: 2 of 4 agree" in result.stopped_because


def test_cancelling_the_caller_cancels_both_stages():
    async def go():
        small, large = held("4"), held("6", name="large")
        cascade = Cascade([Stage(votes(), accept="agreement >= 0.5"), Stage(SINGLE, large)], hedge=0.0)
        task = asyncio.ensure_future(cascade.run(Request.of("2 + 2"), small))
        await until(lambda: small.running and large.running)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(5):
            await asyncio.sleep(0)
        assert small.running == large.running == 0

    asyncio.run(go())


def test_the_money_for_two_stages_at_once_is_never_promised():
    small, large = backend("4"), backend("6", name="large")
    cascade = Cascade([Stage(votes(), accept="agreement >= 0.5"), Stage(SINGLE, large)], hedge=0.0)
    result = run(cascade, small, budget=Budget(tokens=1000))
    assert result.answer == "4"
    assert "not hedged, as two runs at once could not both keep the budget of 1000 tokens" in result.stopped_because
    assert not large.calls


def test_a_verifier_under_way_in_a_stage_that_lost_is_called_off():
    class Stuck(Digits):
        async def score(self, request, candidates, *, partial=False):
            await asyncio.Event().wait()

    first = BestOfN(n=2, verifier=Stuck("stuck"), params=PARAMS)
    cascade = Cascade([Stage(first, accept="score >= 0.5"), Stage(SINGLE, backend("6", name="large"))], hedge=0.0)
    result = run(cascade, backend("4"))
    assert (result.answer, [c.text for c in result.candidates]) == ("6", ["4", "4", "6"])


def test_the_quantile_of_the_seconds_seen_so_far_is_when_to_hedge():
    hedge = Hedge(quantile=0.9, warmup=10, window=10)
    for seconds in range(9):
        assert hedge.seconds() is None
        hedge.saw(float(seconds))
    hedge.saw(9.0)
    assert hedge.seconds() == 8.0  # nine of ten took no longer
    for _ in range(10):
        hedge.saw(1.0)
    assert hedge.seconds() == 1.0  # only the latest count
    assert Hedge(2.0, quantile=0.9).seconds() == 2.0


def test_a_hedge_learns_how_long_first_stages_take():
    cascade = Cascade([Stage(votes(), accept="agreement >= 0.5"), Stage(SINGLE)], hedge=Hedge(quantile=0.5, warmup=3))
    for _ in range(3):
        run(cascade, backend("4"))
    assert cascade.hedge.seconds() > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "needs after_s, or quantile"),
        ({"after_s": -1.0}, "after_s=-1"),
        ({"after_s": float("inf")}, "after_s=inf"),
        ({"quantile": 1.0}, "quantile=1"),
        ({"quantile": 0.5, "warmup": 0}, "warmup=0"),
    ],
)
def test_a_hedge_that_makes_no_sense_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        Hedge(**settings)


# ── settings, nesting and data ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([Stage(SINGLE)], "1 given; a cascade has two or more"),
        ([Stage(SINGLE), Stage(SINGLE)], r"stages\[0\]\.accept is missing"),
        (
            [Stage(votes(), accept="agreement >= 0.5"), Stage(SINGLE, accept="logprob >= -1")],
            r"stages\[1\]\.accept='lo",
        ),
        ([Stage(SINGLE, accept="agreement >= 0.5"), Stage(SINGLE)], r"stages\[0\]: accept by agreement needs several"),
        ([Stage(SINGLE, accept="score >= 0.5"), Stage(SINGLE)], r"stages\[0\]: accept by score needs a verifier"),
        ([Stage(SinglePass(PARAMS.but(logprobs=False)), accept="logprob >= -1"), Stage(SINGLE)], "ask for logprobs"),
    ],
)
def test_stages_that_make_no_sense_are_refused_by_place(stages, words):
    with pytest.raises(ConfigError, match=words):
        Cascade(stages)


def test_a_cascade_may_be_a_stage_and_its_searches_number_their_nodes_apart():
    texts = [f"{i}{i + 1}\n{i % 3}\nAnswer: {i}" for i in range(6)]
    search = TreeSearch(width=2, branches=2, verifier=Digits(), params=PARAMS, step_tokens=12, max_steps=4)
    inner = Cascade([Stage(search, accept="score >= 1"), Stage(search)])
    outer = Cascade([Stage(inner, accept="score >= 1"), Stage(search)])
    result, events = traced(outer, backend(*texts))
    nodes = [fields["node"] for event, fields in events if event == "node"]
    assert len(set(nodes)) == len(nodes) > 10
    assert {fields["stage"] for event, fields in events if event == "node"} == {0, 1}
    assert sum(event == "begin" for event, _ in events) == 1
    assert sum(bool(fields["chosen"]) for event, fields in events if event == "sample") == 1
    assert result.usage.calls > 6


def test_stopping_a_cascade_stops_the_stage_that_runs():
    async def go():
        small = held("4")
        cascade = Cascade([Stage(votes(), accept="agreement >= 0.5"), Stage(SINGLE)])
        begun = []
        task = asyncio.ensure_future(
            cascade.run(Request.of("2 + 2"), small, trace=lambda event, fields: begun.append(fields.get("run")))
        )
        await until(lambda: small.served.completion_tokens)
        begun[0].stop()
        return await task

    result = asyncio.run(go())
    assert result.answer is None
    assert {c.generation.finish_reason for c in result.candidates} == {"cancelled"}


def test_its_spec_survives_a_trip_through_json_and_names_what_it_needs():
    table = {
        "kind": "cascade",
        "max_tokens": 64,
        "hedge_quantile": 0.95,
        "stages": [
            {"strategy": {"kind": "best_of_n", "n": 5, "verifier": "vote"}, "accept": "agreement >= 0.8"},
            {"strategy": {"kind": "single", "max_tokens": 99}, "accept": "score of prm >= 0.5"},
            {"strategy": {"kind": "best_of_n"}, "backend": "large"},
        ],
    }
    spec = msgspec.convert(table, StrategySpec)
    assert spec == msgspec.json.decode(json.dumps(msgspec.to_builtins(spec)), type=StrategySpec)
    assert hash(spec) == hash(msgspec.convert(table, StrategySpec))
    assert spec.needs_verifiers == ("vote", "prm", "best")
    assert spec.needs_backends == ("large",)
    assert [s.strategy.max_tokens for s in spec.stages] == [64, 99, 64]
    assert (
        spec.name == "vote_of_5_if_agreement_0.8_else_single_if_score_of_prm_0.5_else_best_of_8_on_large_hedged_q0.95"
    )


def test_stages_take_the_verifier_of_the_cascade_where_they_name_none():
    spec = CascadeSpec(verifier="prm")
    assert spec.needs_verifiers == ("prm",)
    assert spec.name == "sc_5_if_agreement_0.8_else_prm_of_8"


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({"strategy": {"kind": "singel"}}, r"stages\[0\]\.strategy\.kind='singel'.*did you mean 'single'"),
        ({"strategy": {"n": 3}}, r"stages\[0\]\.strategy=.*give a table with a 'kind'"),
        ({"strategy": {"kind": "single", "top_p": "all"}}, r"stages\[0\]\.strategy: Expected .float."),
        (
            {"strategy": {"kind": "best_of_n", "nn": 3}},
            r"stages\[0\].strategy: 'best_of_n' has no 'nn'; did you mean 'n'",
        ),
        ({"strategy": {"kind": "best_of_n", "n": 0}}, r"stages\[0\]\.strategy: n=0"),
        ({"strategy": "single"}, r"stages\[0\]\.strategy='single': give a table"),
        ({"strategy": {"kind": "single"}, "accept": "luck >= 1"}, r"stages\[0\]: accept='luck >= 1'"),
    ],
)
def test_a_bad_stage_in_a_spec_is_named_by_its_place(stage, words):
    with pytest.raises(ValueError, match=words):
        msgspec.convert({"kind": "cascade", "stages": [stage, {"strategy": {"kind": "single"}}]}, StrategySpec)


def test_two_stages_on_one_backend_do_not_draw_the_same_samples_again():
    votes = {"kind": "best_of_n", "n": 3, "verifier": "vote"}
    spec = CascadeSpec(stages=(StageSpec(strategy=votes, accept="agreement >= 1"), StageSpec(strategy=votes)))
    cascade = spec.build(Parts({"vote": Vote()}, seed=7))
    small = backend("1", "2", "3", "4", "5", "6", "7")
    run(cascade, small)
    first, second = (params.seed for _, _, params in small.calls)
    assert first == 7
    assert second - first > 1000


def test_a_stage_is_not_accepted_by_a_verifier_that_compares_answers_with_each_other():
    with pytest.raises(ConfigError, match="judged alone, but verifier 'vote' scores texts by comparing them"):
        VerifierScore(0.5, verifier=Vote())


def test_stages_of_a_cascade_within_a_cascade_have_seeds_of_their_own():
    votes = {"kind": "self_consistency", "n": 3}
    inner = {"kind": "cascade", "stages": [{"strategy": votes, "accept": "agreement >= 1"}, {"strategy": votes}]}
    spec = CascadeSpec(
        stages=(
            StageSpec(strategy=inner, accept="agreement >= 1"),
            StageSpec(strategy=votes, accept="agreement >= 1"),
            StageSpec(strategy=votes),
        )
    )
    on = backend(*(f"Answer: {i}" for i in range(97)))
    run(spec.build(Parts(seed=7)), on)
    seeds = [params.seed for _, _, params in on.calls]
    assert len(seeds) == 4
    assert min(abs(a - b) for a, b in itertools.combinations(seeds, 2)) > 1000


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("hedge", [None, 0.0, 60.0], ids=["in sequence", "hedged at once", "hedged late"])
def test_it_keeps_the_contract(check, hedge):
    scripted = ScriptedBackend(lambda prompt: [f"{prompt}\n{i}{i + 1}\nAnswer: {i % 3}" for i in range(7)])
    one, two, three = (PARAMS.but(seed=seed) for seed in (0, 100, 200))
    cascade = Cascade(
        [
            Stage(BestOfN(n=3, verifier=Digits(), params=one), accept="score >= 1"),
            Stage(votes(params=two), accept="agreement >= 1"),
            Stage(BestOfN(n=3, verifier=Digits(), params=three)),
        ],
        hedge=hedge,
    )

    async def served():
        return scripted.served.completion_tokens

    async def running():
        return scripted.running

    def pause():
        scripted.held = asyncio.Event()

    prompts = tuple(f"{i} + {i + 1}" for i in range(8))
    asyncio.run(check(Subject(
        strategy=cascade, backend=scripted, prompts=prompts, served=served, running=running,
        pause=pause, resume=lambda: scripted.held.set(),
    )))  # fmt: skip


def test_where_nothing_has_an_answer_what_there_is_is_returned():
    cut = SinglePass(SamplingParams(max_tokens=2))
    result = run(Cascade([Stage(cut, accept=MeanLogprob(0.0)), Stage(cut)]), backend("12345"))
    assert (result.answer, result.text) == (None, "12")
    assert "no sample was complete" in result.stopped_because


def test_a_backend_error_names_the_stage_only_in_the_reason():
    small = backend("4", fails=lambda prefix, i: True)
    with pytest.raises(BackendError, match="the only sample of 'small' failed"):
        run(Cascade([Stage(SINGLE, accept=MeanLogprob(0.0)), Stage(SINGLE)]), small)
