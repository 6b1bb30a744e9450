"""Votes over scripted texts, and under the contract of all strategies."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.strategies import Budget, Prices, Request, SamplingParams, SelfConsistency, SelfConsistencySpec, SinglePass
from howhard.strategies.confidence import ByConfidence
from howhard.strategies.equivalence import Canonical
from howhard.strategies.errors import BackendError, ConfigError, InputError
from howhard.strategies.stopping import Beta, Exact
from howhard.strategies.testing import (
    CONTRACT,
    FailingOn,
    ScriptedBackend,
    Subject,
    a_token_budget_holds,
    the_trace_tells_every_candidate,
    usage_is_what_the_backend_served,
)

PARAMS = SamplingParams(max_tokens=60, seed=0)


def backend(*texts, **kwargs):
    return ScriptedBackend(lambda prompt: texts, **kwargs)


def votes(*answers):
    return [f"Answer: {a}" for a in answers]


def run(strategy, on, prompt="why?", **kwargs):
    return asyncio.run(strategy.run(Request.of(prompt), on, **kwargs))


def sc(n, **kwargs):
    return SelfConsistency(n, params=PARAMS, **kwargs)


# voting


def test_the_most_frequent_answer_wins_and_scores_are_shares_of_the_vote():
    result = run(sc(5), backend(*votes("7", "8", "7.0", "9", "8"), *votes("1")))
    assert (result.answer, result.text) == ("7", "Answer: 7")  # two votes each for 7 and 8: launched first
    assert [c.score for c in result.candidates] == pytest.approx([0.4, 0.4, 0.4, 0.2, 0.4])
    assert result.stopped_because == "drew all 5 samples; the leading answer has 2 of 5 votes"


def test_what_counts_as_one_answer_is_a_setting():
    on = backend(*votes("0.5", "1/2", "3", "3"))
    assert run(sc(4), on).answer == "3"
    assert run(sc(4, equivalence=lambda a, b: {a, b} == {"0.5", "1/2"}), on).answer == "0.5"
    on = backend(*votes("100", "100.4", "3", "100.2", "3"))
    assert run(sc(5, equivalence="numeric:0.01"), on).answer == "100"


def test_structures_are_compared_and_answered_whole():
    one, same = '{"answer": "is: 7", "n": 1}', '{"n": 1.0, "answer": "is: 7"}\n'
    result = run(sc(3, equivalence="json"), backend('{"n": 2}', one, same))
    assert result.answer == one


def test_mathematics_is_voted_on_as_mathematics():
    pytest.importorskip("math_verify")
    on = backend(*votes("3", r"\frac{1}{2}", "3", "0.5", "1/2"))
    result = run(sc(5, equivalence="math"), on)
    assert result.answer == r"\frac{1}{2}"


def test_samples_that_are_cut_off_or_failed_abstain():
    on = FailingOn(backend("x" * 100, *votes("1"), "y" * 100, *votes("2")), {3})
    result = run(sc(4), on)
    assert result.answer == "1"
    assert [c.score for c in result.candidates] == [None, 1.0, None, None]
    assert "1 of 4 failed: failed on purpose" in result.stopped_because


def test_without_any_answer_there_is_a_text_all_the_same():
    result = run(sc(2), backend("x" * 100, "y" * 100))
    assert (result.answer, result.text) == (None, "x" * 60)


# waves


def test_a_stop_rule_saves_the_rest_and_every_wave_reads_the_prompt_again():
    on = backend(*votes(*"77777777"))
    result = run(sc(8, stop="beta"), on)
    assert [n for _, n, _ in on.calls] == [4]
    assert result.stopped_because == "beta stopped it after 4 of 8 samples; the leading answer has 4 of 4 votes"
    on = backend(*votes(*"71727777"))
    result = run(sc(8, stop="beta"), on)
    assert [n for _, n, _ in on.calls] == [4, 4]
    assert result.usage.prompt_tokens == 2 * len("why?")
    assert result.usage.calls == 2


def test_waves_draw_what_one_seeded_call_would_have_drawn():
    texts = votes(*range(8))
    together = run(sc(8), backend(*texts))
    apart = run(sc(8, stop="exact,wave=3"), backend(*texts))
    assert [c.text for c in apart.candidates] == [c.text for c in together.candidates]
    assert apart.answer == together.answer == "0"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["1", "2", "3", "x" * 100]), min_size=9, max_size=9), st.integers(1, 4))
def test_the_exact_rule_changes_no_winner(answers, wave):
    texts = [a if a.startswith("x") else f"Answer: {a}" for a in answers]
    whole = run(sc(9), backend(*texts))
    early = run(sc(9, stop=Exact(wave=wave)), backend(*texts))
    assert early.answer == whole.answer


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)))
def test_the_order_in_which_samples_end_never_matters(lengths):
    """The texts of equal votes differ in length, and so in when they end."""
    texts = ["." * (5 * length) + f"Answer: {place % 3}" for place, length in enumerate(lengths)]
    result = run(sc(6, stop="beta,wave=6"), backend(*texts))
    assert result.answer == "0"
    assert [c.answer for c in result.candidates] == ["0", "1", "2"] * 2


def test_after_a_wave_that_failed_whole_no_more_is_bought():
    on = FailingOn(backend("a"), {0, 1, 2, 3})
    with pytest.raises(BackendError, match="all 4 samples of 'scripted' failed"):
        run(sc(32, stop="beta"), on)
    assert len(on.backend.calls) == 1

    class Later(FailingOn):
        """Fails from its second call on."""

        def generate(self, prefixes, *, n, params, apart=False):
            self.places = {0, 1, 2, 3} if self.backend.calls else set()
            return super().generate(prefixes, n=n, params=params, apart=apart)

    result = run(sc(32, stop="beta"), Later(backend(*votes(*"12345678")), set()))
    assert result.answer == "1"
    assert "gave up after 8 of 32 samples: a whole wave failed" in result.stopped_because


# budgets


def test_a_budget_ends_the_vote_between_waves_and_in_one():
    texts = votes(*"1234") * 2  # 10 tokens each with the end token
    tokens = 4 + 4 * 60  # a whole wave at its longest, of which 4 x 10 are drawn; then as many as the rest holds
    on = backend(*texts)
    result = run(sc(8, stop="beta"), on, budget=Budget(tokens=tokens))
    assert result.usage.total_tokens <= tokens
    assert [n for _, n, _ in on.calls] == [4, 3, 1]
    on = backend(*texts)
    result = run(sc(8), on, budget=Budget(tokens=4 + 3 * 60))
    assert [n for _, n, _ in on.calls] == [3, 2, 2, 1]
    assert result.stopped_because.startswith("drew all 8 samples")
    result = run(sc(8), on, budget=Budget(tokens=4 + 59))
    assert result.stopped_because.startswith("the budget of 63 tokens holds one sample of at most 59 tokens;")


def test_time_that_runs_out_while_answers_are_compared_falls_back_to_canonical_forms():
    async def never(a, b):
        await asyncio.Event().wait()

    result = run(sc(3, equivalence=never), backend(*votes("1", "2", "2.0")), budget=Budget(seconds=0.3))
    assert result.answer == "2"
    assert "was spent while answers were compared" in result.stopped_because
    assert "compared by their canonical forms" in result.stopped_because


# weights


def test_a_vote_weighted_by_log_probability_goes_to_the_surer_answer():
    on = backend(*votes("1", "1", "2"), logprob=lambda text: -0.1 if "2" in text else -3.0)
    assert run(sc(3), on).answer == "1"
    result = run(sc(3, weights="logprob"), on)
    assert result.answer == "2"


def test_a_vote_by_confidence_keeps_the_surest_samples():
    sure = {"Answer: 1": 2.0, "Answer: 2": 3.0, "Answer: 3": 9.0}
    on = backend(*votes("1", "1", "2", "3"), confidences=lambda text: [sure[text]])
    assert run(sc(4), on).answer == "1"
    result = run(sc(4, weights="confidence,keep=0.25"), on)
    assert result.answer == "3"
    assert "the leading answer has 1 of 1 votes" in result.stopped_because
    assert run(sc(4, weights="self_certainty:3"), on).answer == "3"


@pytest.mark.parametrize("weights", ["logprob", "confidence", "self_certainty"])
def test_a_backend_that_lacks_what_the_weights_need_is_told_so(weights):
    with pytest.raises(ConfigError, match="of each token, and sample 0 came without: this backend does not offer it"):
        run(sc(3, weights=weights), backend(*votes("1")))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from("1234"), min_size=1, max_size=8))
def test_equal_weights_are_a_plain_vote(answers):
    on = backend(*votes(*answers), logprob=lambda text: -0.5)
    plain, weighted = (run(sc(len(answers), weights=w), on) for w in (None, "logprob"))
    assert plain.answer == weighted.answer
    assert [c.score for c in weighted.candidates] == pytest.approx([c.score for c in plain.candidates])


# DeepConf online


def sinking(text):
    """Texts with a "?" lose confidence after it."""
    sure = 5.0 if "2" in text else 9.0
    return [1.0 if "?" in text[:i] else sure for i in range(len(text) + 1)]


ONLINE = {"weights": "confidence,keep=0.5,window=4", "online": True, "warmup": 4}


def test_a_stream_whose_confidence_falls_below_the_bar_is_stopped_and_billed():
    warm_up = votes("1", "2", "1", "2")
    later = ["so?" + "." * 50 + "Answer: 2", "Answer: 1", "hm?" + "." * 50 + "Answer: 2"]
    on = backend(*warm_up, *later, confidences=sinking)
    result = run(sc(7, **ONLINE), on)
    assert [n for _, n, _ in on.calls] == [4, 3]
    assert [c.generation.finish_reason for c in result.candidates] == ["stop"] * 4 + ["cancelled", "stop", "cancelled"]
    assert result.answer == "1"
    assert "2 of 3 streams fell below the bar of 9 and were stopped" in result.stopped_because
    stopped = result.candidates[4].generation
    assert 0 < stopped.completion_tokens < 20
    assert result.usage.completion_tokens == on.served.completion_tokens
    assert [c.score is None for c in result.candidates] == [False] * 4 + [True, False, True]


def test_a_stream_that_ended_before_its_first_group_does_not_vote_below_the_bar_either():
    on = backend(*votes("1", "1", "2", "2"), *votes("2") * 4, confidences=sinking)
    result = run(sc(8, **ONLINE | {"weights": "confidence,keep=0.5,window=50"}), on)
    assert all(c.generation.complete for c in result.candidates)
    assert result.answer == "1"
    assert result.candidates[7].score == 0.0


def test_confidences_that_come_only_at_the_end_stop_nothing_and_this_is_told():
    class Late(ScriptedBackend):
        """Delivers confidences with the whole sample only, as some servers do."""

        def generate(self, prefixes, *, n, params, apart=False):
            batch = super().generate(prefixes, n=n, params=params, apart=apart)
            for sample in batch.samples[0]:
                feed = sample.feed
                sample.feed = lambda delta, feed=feed: feed(type(delta)(delta.text))
            return batch

    on = Late(lambda prompt: [*votes("1", "2", "1", "2"), "so?" + "." * 50], confidences=sinking)
    result = run(sc(5, **ONLINE), on)
    assert result.candidates[4].generation.complete
    assert "0 of 1 streams fell below the bar" in result.stopped_because
    assert "1 told no confidence while they ran" in result.stopped_because
    assert result.candidates[4].score == 0.0


def test_without_a_complete_warm_up_there_is_no_bar():
    on = backend(*["x" * 100] * 4, *votes("1"), confidences=sinking)
    result = run(sc(5, **ONLINE), on)
    assert result.answer == "1"
    assert "no bar was set" in result.stopped_because


def test_a_cancelled_caller_leaves_no_stream_behind():
    on = backend(*votes("1", "2", "1", "2"), *votes("3") * 4, confidences=sinking)

    async def go():
        task = asyncio.ensure_future(sc(8, **ONLINE).run(Request.of("why?"), on))
        while len(on.calls) < 2 or not on.running:  # noqa: ASYNC110  # the backend has no event to wait for
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(5):
            await asyncio.sleep(0)
        assert on.running == 0
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(go())


# the contract of all strategies


def strategies():
    return [
        sc(5),
        sc(9, stop="beta,wave=2"),
        sc(9, stop="esc:3", equivalence="numeric"),
        sc(8, stop="exact,doubling", weights="logprob"),
        sc(9, weights="confidence:tail,keep=0.9"),
        sc(8, **ONLINE),
    ]


def script(prompt):
    return [f"{prompt}\n{i}{i + 1}\nAnswer: {i % 3}" for i in range(7)]


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("place", range(6), ids=[s.name for s in strategies()])
def test_the_contract_holds(check, place):
    on = ScriptedBackend(script, confidences=lambda text: [5.0, 3.0], logprob=lambda text: -0.5)

    def pause():
        on.held = asyncio.Event()

    asyncio.run(check(subject(strategies()[place], on, pause=pause, resume=lambda: on.held.set())))


def subject(strategy, on, **kwargs):
    async def served():
        return on.served.completion_tokens

    async def running():
        return on.running

    prompts = tuple(f"{i} + {i + 1}" for i in range(8))
    return Subject(strategy=strategy, backend=on, prompts=prompts, served=served, running=running, **kwargs)


@pytest.mark.parametrize(
    "check", [usage_is_what_the_backend_served, a_token_budget_holds, the_trace_tells_every_candidate]
)
def test_the_online_stop_keeps_the_books_on_an_embedded_model(check, local):
    strategy = SelfConsistency(8, params=PARAMS.but(max_tokens=40), **ONLINE)
    asyncio.run(check(subject(strategy, local)))


@pytest.mark.parametrize("weights", ["logprob", "self_certainty:2", "confidence:bottom,keep=0.9"])
def test_an_embedded_model_offers_what_every_weighting_needs(weights, local):
    result = run(SelfConsistency(6, weights=weights, params=PARAMS.but(max_tokens=40)), local, "1 + 2")
    assert result.answer is not None
    assert sum(c.score is not None for c in result.candidates) >= 1


# settings


@pytest.mark.parametrize(
    "settings, name",
    [
        ({}, "sc_16"),
        ({"n": 32, "stop": "beta"}, "sc_32_beta"),
        ({"n": 8, "equivalence": "numeric:0.01", "stop": "esc:3"}, "sc_8_numeric_0.01_esc_3"),
        ({"n": 8, "weights": "logprob"}, "sc_8_logprob"),
        ({"n": 32, "weights": "confidence,keep=0.1", "online": True}, "sc_32_confidence_keep_0.1_online"),
        (
            {"n": 32, "weights": "confidence,keep=0.1", "online": True, "warmup": 8, "stop": "beta"},
            "sc_32_confidence_keep_0.1_online_8_beta",
        ),
    ],
)
def test_the_name_tells_the_settings_and_the_spec_builds_the_same(settings, name):
    spec = SelfConsistencySpec(**settings)
    assert spec.name == name
    assert spec.needs_verifiers == ()
    assert SelfConsistency(**settings).name == name
    assert name in repr(SelfConsistency(**settings))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"n": 0}, "n=0: self-consistency draws at least 1 sample"),
        ({"params": SamplingParams(temperature=0)}, "the same sample 16 times"),
        ({"stop": "accept"}, "a vote has none: take best-of-N"),
        ({"stop": "exact", "weights": "confidence"}, "the most that a vote can weigh, and weights='confidence'"),
        ({"stop": Exact(largest=0.5)}, r"largest=0\.5, but a vote may weigh 1"),
        ({"online": True}, "online=True with weights=None"),
        ({"online": True, "weights": "confidence"}, "keep=0.1"),
        ({"online": True, "weights": "confidence:tail,keep=0.1"}, "stopped by their lowest group"),
        ({"online": True, "weights": "confidence,keep=0.1"}, "warmup=16: at least 2 samples set the bar, and fewer"),
        ({"weights": "logprobs"}, "did you mean 'logprob'"),
        ({"equivalence": "maths"}, "did you mean 'math'"),
        ({"stop": "bet"}, "did you mean 'beta'"),
    ],
)
def test_settings_are_checked_when_built(settings, words):
    with pytest.raises(ConfigError, match=words):
        SelfConsistency(**settings)


def test_objects_are_taken_where_names_are():
    strategy = SelfConsistency(8, equivalence=Canonical(), stop=Beta(0.9), weights=ByConfidence(keep=0.5))
    assert strategy.name == "sc_8_confidence_keep_0.5_beta_0.9"


def test_one_sample_is_a_single_pass():
    on = backend(*votes("7"), prices=Prices(prompt=1, completion=1))
    one, single = run(sc(1), on), run(SinglePass(PARAMS), on)
    assert (one.text, one.answer, one.usage) == (single.text, single.answer, single.usage)
    assert one.stopped_because == "drew 1 sample"


def test_a_budget_without_a_token_is_refused():
    with pytest.raises(InputError, match="the budget of 4 tokens does not hold one token"):
        run(sc(4, stop="beta"), backend("a"), budget=Budget(tokens=4))
