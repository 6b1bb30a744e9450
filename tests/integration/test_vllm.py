"""VLLMBackend against a real vLLM server: what it draws, what it stops, and whether the books agree with the server's.

No fakes here; faults are in tests/strategies/test_vllm_faults.py. The server and its settings: conftest.py.
"""

import asyncio
import dataclasses
import random

import msgspec
import pytest

from howhard.strategies import (
    MCTS,
    BestOfN,
    Cascade,
    ChainOfThought,
    ExactCheck,
    Hedge,
    Judge,
    JudgeSettings,
    Message,
    Prefix,
    Prices,
    Request,
    SamplingParams,
    SelfConsistency,
    SinglePass,
    Stage,
    TreeSearch,
    Usage,
    Verdicts,
    Vote,
    catalogue,
    testing,
)
from howhard.strategies.backends.openai import OpenAIBackend
from howhard.strategies.backends.vllm import VLLMBackend
from howhard.strategies.errors import BackendError, ModelNotServed, PromptTooLong
from howhard.strategies.spec import Parts
from howhard.strategies.testing import CONTRACT, Subject
from howhard.training.problems.families import FAMILIES

pytestmark = pytest.mark.vllm

PRICES = Prices(prompt=1.0, completion=10.0, cached=0.25)
PROMPTS = [FAMILIES["chain"].generate(4, random.Random(seed)).prompt for seed in range(8)]
LONG = SamplingParams(max_tokens=400, seed=1)


def backend_on(server, **settings):
    settings = {"url": server.url, "model": server.model, "prices": PRICES, "api_key_env": server.key_env} | settings
    return VLLMBackend("large", **settings, timeout_s=300)


@pytest.fixture(scope="module")
def served(vllm_server):
    """One backend for all tests: every asyncio.run has its own event loop, and nobody closes in between."""
    backend = backend_on(vllm_server)
    yield backend
    asyncio.run(backend.close())


@pytest.fixture(scope="module")
def endless(vllm_server):
    """One whose samples go on past the end token: they can be stopped in the middle."""
    backend = backend_on(vllm_server, extra_body={"ignore_eos": True})
    yield backend
    asyncio.run(backend.close())


def prefix(prompt=PROMPTS[0]):
    return Prefix((Message("user", prompt),))


async def idle(backend):
    """Wait until the server draws nothing; gives its counters."""
    async with asyncio.timeout(60):
        while (counters := await backend.metrics())["running"] + counters["waiting"]:  # noqa: ASYNC110  # in another process
            await asyncio.sleep(0.01)
    return counters


async def draw(backend, prompts=PROMPTS[:1], *, n=1, apart=False, **params):
    batch = backend.generate([prefix(p) for p in prompts], n=n, params=SamplingParams(**params), apart=apart)
    return await batch.all(), batch.usage


# ── drawing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_sample_comes_with_its_tokens_their_logprobs_and_its_own_end(served):
    rows, usage = asyncio.run(draw(served, PROMPTS[:3], n=4, seed=0))
    assert [len(row) for row in rows] == [4] * 3
    for row in rows:
        for g in row:
            assert g.error is None
            assert g.finish_reason in ("stop", "length")
            assert g.completion_tokens == len(g.token_ids) == len(g.logprobs) > 0
            assert all(value <= 0 for value in g.logprobs)
            assert g.prompt_tokens == len(g.prompt_token_ids)
            assert g.seconds > 0
        assert len({g.prompt_token_ids for g in row}) == 1
    assert usage.prompt_tokens == sum(row[0].prompt_tokens for row in rows)
    assert usage.completion_tokens == sum(g.completion_tokens for row in rows for g in row)
    assert usage.calls == 3
    assert usage.cost == PRICES.cost(
        prompt=usage.prompt_tokens, completion=usage.completion_tokens, cached=usage.cached_tokens
    )


def test_the_pieces_of_a_stream_are_the_text(served):
    async def main():
        sample = served.generate([prefix()], n=1, params=SamplingParams(seed=0)).samples[0][0]
        return [delta.text async for delta in sample], await sample.result()

    pieces, whole = asyncio.run(main())
    assert "".join(pieces) == whole.text
    assert len(pieces) > 1


@pytest.mark.parametrize("keep", [True, False])
def test_a_stop_string_ends_the_sample_and_is_kept_where_asked(served, keep):
    stop = {"stop": ("\n",), "keep_stop": keep, "temperature": 0}
    [[line]], _ = asyncio.run(draw(served, **stop))
    [[whole]], _ = asyncio.run(draw(served, temperature=0))
    first = whole.text.split("\n")[0]
    assert line.text == (first + "\n" if keep else first)
    assert (line.stop_text, line.finish_reason) == ("\n", "stop")
    assert whole.stop_text is None


def test_log_probabilities_are_left_out_where_they_are_not_asked_for(served):
    [[sample]], _ = asyncio.run(draw(served, logprobs=False))
    assert sample.logprobs is None
    assert sample.mean_logprob is None


def test_a_seed_repeats_its_samples_and_sample_i_draws_with_seed_plus_i(endless):
    hot = {"n": 4, "temperature": 2.0, "max_tokens": 60}  # far enough from certain that two seeds hardly agree
    (once,), _ = asyncio.run(draw(endless, seed=11, **hot))
    (again,), _ = asyncio.run(draw(endless, seed=11, **hot))
    (apart,), _ = asyncio.run(draw(endless, seed=11, apart=True, **hot))
    (other,), _ = asyncio.run(draw(endless, seed=500, **hot))
    assert [g.token_ids for g in once] == [g.token_ids for g in again] == [g.token_ids for g in apart]
    assert len({g.token_ids for g in once + other}) == 8


def test_greedy_samples_are_all_the_same_although_vllm_refuses_n_for_them(served):
    (row,), usage = asyncio.run(draw(served, n=3, temperature=0))
    assert len({g.token_ids for g in row}) == 1
    assert usage.calls == 3


# ── going on ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_answer_continued_by_token_ids_is_the_answer_in_one_go(served):
    async def main():
        [[whole]], _ = await draw(served, temperature=0)
        state, steps = prefix(), []
        while len(steps) < 64 and (not steps or steps[-1].stop_text or steps[-1].finish_reason == "length"):
            params = SamplingParams(temperature=0, max_tokens=7, stop=("\n",), keep_stop=True)
            [[step]] = await served.generate([state], n=1, params=params).all()
            steps.append(step)
            state = state.extended(step)
        return whole, steps, state

    whole, steps, state = asyncio.run(main())
    assert whole.complete
    assert len(steps) > 2
    assert state.answer == whole.text
    assert state.token_ids == whole.prompt_token_ids + whole.token_ids
    assert [s.prompt_token_ids for s in steps[1:]] == [s.prompt_token_ids + s.token_ids for s in steps[:-1]], (
        "what is read next is what was drawn"
    )


def test_an_answer_continued_by_its_text_goes_through_the_servers_template(served):
    async def main():
        params = SamplingParams(temperature=0, stop=("\n",), keep_stop=False)
        [[first]] = await served.generate([prefix()], n=1, params=params).all()
        by_text = dataclasses.replace(prefix().extended(first), token_ids=None)
        [[second]] = await served.generate([by_text], n=1, params=params).all()
        return first, second

    first, second = asyncio.run(main())
    assert second.error is None
    drawn = first.token_ids[:-1]  # without the line break, which was not kept
    assert second.prompt_token_ids[-len(drawn) :] == drawn, (
        "the answer so far ends the prompt, with no end token after it"
    )


def test_a_prompt_read_before_is_cached_told_and_priced_as_cached(served, vllm_server):
    # Fresh words, so that no other test has read them; long enough for whole blocks.
    words = " ".join(str(random.Random(99).randrange(200)) for _ in range(150))

    async def main():
        before = await idle(served)
        _, cold = await draw(served, [words], max_tokens=2)
        _, warm = await draw(served, [words], max_tokens=2)
        return cold, warm, before, await idle(served)

    cold, warm, before, after = asyncio.run(main())
    assert after["prefix_cache_hits"] - before["prefix_cache_hits"] > 0
    assert warm.prompt_tokens == cold.prompt_tokens
    if vllm_server.own:  # it runs with --enable-prompt-tokens-details
        assert (cold.cached_tokens, warm.cached_tokens) == (0, after["cached_tokens"] - before["cached_tokens"])
        assert warm.cached_tokens >= 32
        assert cold.cost - warm.cost >= 0.75 * 32


# ── confidence and reasoning ─────────────────────────────────────────────────────────────────────────────────────


def test_confidences_of_a_continued_answer_are_those_of_the_answer_in_one_go(served):
    async def main():
        params = {"temperature": 0, "confidence_of": 5}
        [[whole]], _ = await draw(served, max_tokens=20, **params)
        [[head]], _ = await draw(served, max_tokens=8, **params)
        rest = SamplingParams(max_tokens=12, **params)
        [[tail]] = await served.generate([prefix().extended(head)], n=1, params=rest).all()
        return whole, head, tail

    whole, head, tail = asyncio.run(main())
    assert len(whole.confidences) == len(whole.token_ids)
    assert head.token_ids + tail.token_ids == whole.token_ids
    assert head.confidences + tail.confidences == pytest.approx(whole.confidences, abs=2e-3)


def test_confidences_are_those_of_the_model_itself_and_come_while_streaming_for_each_sample(served, vllm_server):
    if vllm_server.weights is None:
        pytest.skip("the weights behind HOWHARD_VLLM_URL are not on this machine")
    import torch

    from howhard.strategies.backends.llama import load

    model, _ = load(vllm_server.weights)

    async def main():
        params = SamplingParams(confidence_of=5, seed=3, max_tokens=24)
        [row] = served.generate([prefix()], n=3, params=params).samples

        async def pieces(sample):
            return [c async for delta in sample for c in delta.confidences]

        return await asyncio.gather(*map(pieces, row)), [await sample.result() for sample in row]

    streamed, samples = asyncio.run(main())
    assert [tuple(s) for s in streamed] == [sample.confidences for sample in samples]
    for sample in samples:
        ids = torch.tensor([[*sample.prompt_token_ids, *sample.token_ids]])
        logprobs = torch.log_softmax(model(ids)[0, len(sample.prompt_token_ids) - 1 : -1].double(), -1)
        assert sample.confidences == pytest.approx((-logprobs.topk(5).values.mean(-1)).tolist(), abs=5e-3)


def test_more_alternatives_than_the_server_lists_are_refused_with_the_flag_that_raises_them(served, vllm_server):
    if not vllm_server.own:
        pytest.skip("the server behind HOWHARD_VLLM_URL may list more")
    [[sample]], _ = asyncio.run(draw(served, confidence_of=50))
    assert "--max-logprobs" in sample.error


def test_a_cap_on_reasoning_that_the_server_does_not_keep_is_an_error_and_not_passed_over(served, vllm_server):
    if not vllm_server.own:
        pytest.skip("the server behind HOWHARD_VLLM_URL may have a reasoning parser")
    [[sample]], usage = asyncio.run(draw(served, thinking_tokens=16))
    assert "reasoning" in sample.error
    assert usage.completion_tokens == 0


def test_reasoning_is_ended_at_its_cap_and_the_answer_drawn_from_the_very_tokens(served):
    strategy = ChainOfThought(
        template="{prompt}",
        thinking_tokens=6,
        forced_text="Answer:",
        params=SamplingParams(max_tokens=24, temperature=0),
    )

    async def main():
        before = await idle(served)
        [[whole]], _ = await draw(served, temperature=0, max_tokens=24)
        told = await served.encode("\n\nAnswer:")
        forced = whole.prompt_token_ids + whole.token_ids[:6] + told
        params = SamplingParams(temperature=0, max_tokens=18)
        [[answer]] = await served.generate([Prefix((), token_ids=forced)], n=1, params=params).all()
        middle = await idle(served)
        result = await strategy.run(Request.of(PROMPTS[0]), served)
        after = await idle(served)
        return whole, answer, result, after["completion_tokens"] - middle["completion_tokens"], before

    whole, answer, result, drawn, _ = asyncio.run(main())
    assert whole.completion_tokens > 6
    assert result.text == "Answer:" + answer.text
    assert result.usage.completion_tokens == drawn == 6 + answer.completion_tokens
    assert result.usage.calls == 2


# ── stopping ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cancelling_samples_sent_apart_stops_them_on_the_server_and_leaves_the_others(endless):
    async def main():
        before = await idle(endless)
        batch = endless.generate([prefix()], n=16, params=LONG, apart=True)
        *stopped, last = batch.samples[0]
        async for _ in stopped[0]:
            for sample in stopped:
                sample.cancel()
        return [await s.result() for s in stopped], await last.result(), batch.usage, before, await idle(endless)

    stopped, last, usage, before, after = asyncio.run(main())
    assert {g.finish_reason for g in stopped} == {"cancelled"}
    assert 0 < stopped[0].completion_tokens < LONG.max_tokens
    assert (last.finish_reason, last.completion_tokens) == ("length", LONG.max_tokens)
    assert usage.completion_tokens == sum(g.completion_tokens for g in [*stopped, last])
    drawn = after["completion_tokens"] - before["completion_tokens"]
    # What was on its way when the connections closed is not booked; the server stopped long before the end.
    assert usage.completion_tokens <= drawn < 0.8 * 16 * LONG.max_tokens


def test_cancelling_a_whole_call_leaves_the_server_idle_long_before_its_end(endless):
    async def main():
        before = await idle(endless)
        batch = endless.generate([prefix()], n=8, params=LONG)
        async for _ in batch.samples[0][7]:
            break
        batch.cancel()
        rows = await batch.all()
        return rows[0], batch.usage, before, await idle(endless)

    row, usage, before, after = asyncio.run(main())
    assert {g.finish_reason for g in row} == {"cancelled"}
    assert usage.prompt_tokens == row[0].prompt_tokens > 0
    drawn = after["completion_tokens"] - before["completion_tokens"]
    seen = sum(g.completion_tokens for g in row)
    assert 0 < seen <= drawn < 8 * LONG.max_tokens
    # Half an event of each sample is booked beyond what was seen, for what was on its way.
    assert seen <= usage.completion_tokens <= seen + 8 * endless.tokens_per_event // 2


def test_what_is_booked_is_what_the_server_counted(served):
    async def main():
        before = await idle(served)
        booked, read = Usage(), 0
        for n, apart, stop in ((1, False, ()), (5, False, ("\n",)), (5, True, ("\n",)), (8, False, ())):
            rows, usage = await draw(served, PROMPTS[:4], n=n, apart=apart, stop=stop, keep_stop=True, seed=n)
            booked += usage
            read += sum(g.prompt_tokens for row in rows for g in row)
        return booked, read, before, await idle(served)

    booked, read, before, after = asyncio.run(main())
    assert booked.completion_tokens == after["completion_tokens"] - before["completion_tokens"]
    assert read == after["prompt_tokens"] - before["prompt_tokens"], "the counter has a shared prompt once per sample"
    assert booked.calls == 4 + 4 + 20 + 4


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_that_is_not_served_is_named_beside_those_that_are(vllm_server):
    async def main():
        backend = backend_on(vllm_server, model="gpt-nothing")
        with pytest.raises(ModelNotServed, match=vllm_server.model):
            await backend.check()
        [[sample]], usage = await draw(backend)
        await backend.close()
        return sample, usage

    sample, usage = asyncio.run(main())
    assert isinstance(sample.cause, ModelNotServed)
    assert usage == Usage()


def test_a_missing_key_is_told_with_the_setting_that_mends_it(vllm_server):
    if vllm_server.key_env is None:
        pytest.skip("the server given by HOWHARD_VLLM_URL wants no key")
    backend = backend_on(vllm_server, api_key_env=None)
    with pytest.raises(BackendError, match="set api_key_env"):
        asyncio.run(backend.check())


def test_a_prompt_longer_than_the_context_is_refused_whether_as_text_or_as_token_ids(served):
    async def main():
        await served.check()
        [[sample]], usage = await draw(served, ["12 " * (served.context + 1)])
        with pytest.raises(PromptTooLong):
            served.generate([Prefix((), token_ids=(5,) * served.context)], n=1, params=SamplingParams())
        return sample, usage

    sample, usage = asyncio.run(main())
    assert isinstance(sample.cause, PromptTooLong)
    assert (usage.prompt_tokens, usage.completion_tokens) == (0, 0)


# ── what the server tells about itself ───────────────────────────────────────────────────────────────────────────


def test_a_probe_finds_everything_that_this_server_offers(served, vllm_server):
    found = asyncio.run(served.probe())
    assert (found.reachable, found.model_served, found.error) == (True, True, None)
    assert (found.logprobs, found.token_ids, found.usage, found.metrics) == (True,) * 4
    assert found.context == served.context > 0
    assert found.version
    assert len(found.fingerprint) == 64
    if vllm_server.own:
        assert found.cached_tokens
        assert found.advice == ()


# ── strategies on it ─────────────────────────────────────────────────────────────────────────────────────────────


class Digits:
    """Scores any text by its digits, so that it always has a preference."""

    name, sound, prices = "best", False, None

    async def score(self, request, candidates, *, partial=False):
        texts = [c.text for c in candidates]
        return Verdicts(tuple((sum(map(int, filter(str.isdigit, t))) % 11) / 10 for t in texts))


PARAMS = SamplingParams(max_tokens=48, seed=3)
STRATEGIES = [
    SinglePass(PARAMS),
    BestOfN(n=4, verifier=Vote(), params=PARAMS),
    TreeSearch(width=2, branches=2, verifier=Digits(), params=PARAMS, step_tokens=12, max_steps=4),
]


SEARCH = {"step_tokens": 12, "max_steps": 4}
TWO_STAGES = [
    {"strategy": {"kind": "self_consistency", "n": 2}, "accept": "agreement >= 1"},
    {"strategy": {"kind": "best_of_n", "n": 2}},
]
SMALL = {
    "ab_mcts": {"samples": 8, "batch": 4, **SEARCH},
    "best_first": {"expansions": 4, "branches": 2, **SEARCH},
    "cascade": {"stages": TWO_STAGES},
    "chain_of_thought": {"template": None, "thinking_tokens": 6, "forced_text": "Answer:"},
    "dvts": {"width": 2, "branches": 2, **SEARCH},
    "mcts": {"samples": 8, "batch": 4, **SEARCH},
    "particles": {"n": 3, **SEARCH},
    "rebase": {"n": 3, **SEARCH},
    "refinement": {"rounds": 1},
    "self_consistency": {"n": 6, "stop": "beta:0.95", "weights": "confidence"},
}
"""The kinds of the catalogue that are not in STRATEGIES, each as small as shows what it does."""


def others():
    for kind in catalogue.STRATEGIES:
        settings = SMALL.get(kind.__struct_config__.tag)
        if settings is not None:
            spec = msgspec.convert({"kind": kind.__struct_config__.tag, "max_tokens": 40, **settings}, kind)
            yield spec.build(Parts({"best": Digits()}, seed=3))


OTHERS = list(others())
MAIN_CHECKS = (
    testing.usage_is_what_the_backend_served,
    testing.a_token_budget_holds,
    testing.the_same_seed_gives_the_same_result,
    testing.a_cancelled_run_leaves_no_sample_behind,
    testing.a_failed_sample_is_visible_and_loses_no_other,
)
"""What a server can break and a scripted backend cannot; the whole contract takes a minute more."""


def test_every_kind_of_the_catalogue_meets_the_server():
    shown = {type(strategy) for strategy in (*STRATEGIES, *OTHERS)}
    parts = Parts({"best": Digits()})
    assert shown == {type(kind().build(parts)) for kind in catalogue.STRATEGIES}


def on_the_server(strategy, backend, served):
    """A subject of which the server itself says what it drew, and whether it still draws."""

    async def tokens():
        return int((await idle(served))["completion_tokens"])

    async def running():
        counters = await served.metrics()
        return backend.running + int(counters["running"] + counters["waiting"])

    # What else is in a batch changes the last bits of the logits, and so, rarely, a text (vllm #17524).
    return Subject(
        strategy=strategy, backend=backend, prompts=PROMPTS, served=tokens, running=running, independent=False
    )


@pytest.mark.parametrize(
    "strategy, check",
    [
        *((strategy, check) for strategy in STRATEGIES for check in CONTRACT),
        *((strategy, check) for strategy in OTHERS for check in MAIN_CHECKS),
    ],
    ids=lambda value: getattr(value, "name", None) or value.__name__,
)
def test_every_strategy_keeps_the_contract_on_a_real_server(served, strategy, check):
    asyncio.run(check(on_the_server(strategy, served, served)))


def test_streams_of_low_confidence_are_stopped_on_the_server_itself(served):
    """DeepConf: what the later streams would have drawn past the bar is not drawn."""
    settings = {
        "n": 16,
        "weights": "confidence,keep=0.3,window=8",
        "params": SamplingParams(temperature=1.8, max_tokens=200, seed=3),
    }
    long = FAMILIES["chain"].generate(FAMILIES["chain"].levels[-1], random.Random(1)).prompt

    async def drawn(strategy):
        before = await idle(served)
        result = await strategy.run(Request.of(long), served)
        after = await idle(served)
        return result, after["completion_tokens"] - before["completion_tokens"]

    async def main():
        return await drawn(SelfConsistency(online=True, warmup=6, **settings)), await drawn(SelfConsistency(**settings))

    (online, fewer), (offline, all_of_them) = asyncio.run(main())
    stopped = [c for c in online.candidates if c.generation.finish_reason == "cancelled"]
    assert stopped
    assert all(c.answer is None for c in stopped)
    assert offline.usage.completion_tokens == all_of_them
    assert online.usage.completion_tokens <= fewer < all_of_them


def test_a_search_reads_most_of_its_prompts_from_the_servers_cache(served, vllm_server):
    if not vllm_server.own:
        pytest.skip("the server behind HOWHARD_VLLM_URL may cache larger blocks")
    chain = FAMILIES["chain"]
    prompt = chain.generate(chain.levels[-1], random.Random(7)).prompt
    search = MCTS(samples=24, batch=4, verifier=Digits(), params=SamplingParams(max_tokens=160, seed=3))

    async def main():
        before = await idle(served)
        result = await search.run(Request.of(prompt), served)
        after = await idle(served)
        return result, {name: after[name] - before[name] for name in after}

    result, counted = asyncio.run(main())
    assert counted["prefix_cache_hits"] >= 0.5 * counted["prefix_cache_queries"]
    assert result.usage.cached_tokens >= 0.5 * result.usage.prompt_tokens
    assert result.usage.completion_tokens == counted["completion_tokens"]


def test_a_hedged_cascade_stops_the_loser_on_the_server(endless):
    from howhard.strategies.backends.local import LocalBackend

    local = LocalBackend("small", "tiny-small", prices=Prices(prompt=1.0, completion=1.0))
    quick = Stage(SinglePass(SamplingParams(max_tokens=160, seed=1)), local)
    slow = Stage(BestOfN(n=4, verifier=Vote(), params=LONG), accept="score >= 0.5")
    hedged = Cascade([slow, quick], hedge=Hedge(after_s=0.0))

    async def main():
        await quick.strategy.run(Request.of(PROMPTS[1]), local)  # loads what is loaded once
        before = await idle(endless)
        result = await hedged.run(Request.of(PROMPTS[0]), endless)
        after = await idle(endless)
        await local.close()
        return result, after["completion_tokens"] - before["completion_tokens"]

    result, drawn = asyncio.run(main())
    assert "stage 2 (single_on_small) is the last" in result.stopped_because
    assert drawn < 0.8 * 4 * LONG.max_tokens
    assert endless.running == 0


def test_what_a_judge_takes_is_what_the_server_counted(served, vllm_server):
    if not vllm_server.own:
        pytest.skip("the server behind HOWHARD_VLLM_URL may not constrain its replies")
    # The model has never seen a grade: the server lets it write nothing else.
    grader = backend_on(vllm_server, extra_body={"structured_outputs": {"choice": list("12345")}})
    judged = BestOfN(n=4, verifier=Judge(grader, JudgeSettings(samples=4)), params=PARAMS)

    async def main():
        before = await idle(served)
        result = await judged.run(Request.of(PROMPTS[0]), served)
        after = await idle(served)
        await grader.close()
        return result, {name: after[name] - before[name] for name in after}

    result, counted = asyncio.run(main())
    usage = result.usage
    assert all(0 <= c.score <= 1 for c in result.candidates)
    graded = counted["completion_tokens"] - usage.completion_tokens
    assert graded > 0
    # The counter has the prompt of a call once per sample, bills and budgets have it once.
    questions = (counted["prompt_tokens"] - 4 * usage.prompt_tokens) / 4
    assert usage.verifier_tokens == graded + questions


def test_more_samples_solve_more_of_real_problems(served, vllm_server):
    if not vllm_server.own:
        pytest.skip("the model behind HOWHARD_VLLM_URL is not known to solve our problems")
    check = ExactCheck()
    family = FAMILIES["countdown"]
    levels = [family.levels[i % len(family.levels)] for i in range(24)]  # from nearly certain to nearly hopeless
    prompts = [family.generate(level, random.Random(i)).prompt for i, level in enumerate(levels)]

    async def solved(strategy):
        results = await asyncio.gather(*(strategy.on(served).run(prompt) for prompt in prompts))
        return sum(max(c.score or 0.0 for c in r.candidates) == 1.0 for r in results)

    params = SamplingParams(max_tokens=60, seed=5)

    async def main():
        one = await solved(BestOfN(n=1, verifier=check, params=params))
        return one, await solved(BestOfN(n=8, verifier=check, params=params))

    one, eight = asyncio.run(main())
    assert 0 < one < eight


def test_the_embedded_model_writes_the_same_in_this_process_and_on_vllm(served, vllm_server):
    if vllm_server.weights is None:
        pytest.skip("the weights behind HOWHARD_VLLM_URL are not on this machine")
    from howhard.strategies.backends.local import LocalBackend

    local = LocalBackend("local", vllm_server.weights, prices=PRICES)

    async def main():
        here, _ = await draw(local, temperature=0, prompts=PROMPTS)
        there, _ = await draw(served, temperature=0, prompts=PROMPTS)
        await local.close()
        return [row[0] for row in here], [row[0] for row in there]

    here, there = asyncio.run(main())
    assert [g.prompt_token_ids for g in here] == [g.prompt_token_ids for g in there]
    same = [(a.text, a.token_ids) == (b.text, b.token_ids) for a, b in zip(here, there, strict=True)]
    assert sum(same) >= len(same) - 1, "one near tie may fall to the other side"
    for a, b, alike in zip(here, there, same, strict=True):
        if alike:
            assert a.logprobs == pytest.approx(b.logprobs, abs=2e-3)


# ── the same server, spoken to as any OpenAI-compatible one ──────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def plain(vllm_server):
    """It is sent standard fields only, but for what its settings say."""
    backend = OpenAIBackend(
        "plain",
        url=vllm_server.url,
        model=vllm_server.model,
        prices=PRICES,
        api_key_env=vllm_server.key_env,
        timeout_s=300,
        continues="final_message",
        stop_told=True,
    )
    yield backend
    asyncio.run(backend.close())


@pytest.mark.parametrize(
    "strategy, check",
    [
        *((strategy, check) for strategy in STRATEGIES for check in CONTRACT),
        *((strategy, testing.usage_is_what_the_backend_served) for strategy in OTHERS),
    ],
    ids=lambda value: getattr(value, "name", None) or value.__name__,
)
def test_every_strategy_keeps_the_contract_on_an_openai_compatible_server(plain, served, strategy, check):
    # Without ids and counts while streaming, a cancelled call is booked by its pieces.
    asyncio.run(check(on_the_server(strategy, plain, served)))


def test_a_stop_string_that_is_looked_for_here_ends_a_sample_where_the_server_would(served, vllm_server):
    backend = OpenAIBackend(
        "plain", url=vllm_server.url, model=vllm_server.model, prices=PRICES, api_key_env=vllm_server.key_env
    )

    async def main():
        stop = {"temperature": 0, "stop": ("\n",), "keep_stop": True}
        [[there]], _ = await draw(served, **stop)
        [[here]], usage = await draw(backend, **stop)
        await backend.close()
        return there, here, usage

    there, here, usage = asyncio.run(main())
    assert (here.text, here.stop_text, here.finish_reason) == (there.text, "\n", "stop")
    assert 0 < usage.completion_tokens <= there.completion_tokens + 8
    assert usage.prompt_tokens > 0
