"""The local backend against its own model, run the slow way."""

import asyncio
import dataclasses
import shutil
import threading

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from howhard.strategies import Prefix, Prices, SamplingParams, as_messages
from howhard.strategies.errors import BackendError, ConfigError, InputError, PromptTooLong
from howhard.strategies.running import gives_confidence, gives_logprobs

torch = pytest.importorskip("torch")

from howhard.strategies.backends import local as module  # noqa: E402
from howhard.strategies.backends.local import LocalBackend, choose, confidences  # noqa: E402

PRICES = Prices(prompt=1.0, completion=2.0)
ONE, TWO = (Prefix(as_messages(text)) for text in ("1 + 2", "34 - 5 = 6"))


def generate(backend, prefixes, n=1, **params):
    """All samples of one call."""

    async def run():
        return await backend.generate(prefixes, n=n, params=SamplingParams(**params)).all()

    return asyncio.run(run())


def logits_of(backend, ids):
    """(tokens, vocabulary): what the model says after each token, by one full forward pass."""
    return backend._model(torch.tensor([ids]))[0].double()


# choosing a token


@given(
    arrays.arrays(np.float32, (3, 7), elements=st.floats(-20, 20, width=32)),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3),
    st.floats(0.1, 3),
    st.floats(0.05, 1),
)
@settings(max_examples=60)
def test_a_token_is_the_first_whose_cumulative_probability_exceeds_the_uniform(logits, uniform, temperature, top_p):
    ids, logprobs = choose(logits, np.full(3, temperature), np.full(3, top_p), np.array(uniform))
    for row in range(3):
        x = logits[row].astype(float)
        p = np.exp((x - x.max()) / temperature)
        order = np.argsort(-p, kind="stable")
        kept, reached = [], 0.0
        for token in order:
            assume(abs(reached - top_p * p.sum()) > 1e-9)  # there, rounding decides whether the next one is kept
            if reached >= top_p * p.sum():
                break
            kept.append(token)
            reached += p[token]
        p = np.where(np.isin(np.arange(7), kept), p, 0)
        before = p[: ids[row]].sum() / p.sum()
        assert p[ids[row]] > 0
        assert before - 1e-9 <= uniform[row] <= before + p[ids[row]] / p.sum() + 1e-9
        assert logprobs[row] == pytest.approx(x[ids[row]] - np.logaddexp.reduce(x))


def test_rows_draw_by_their_own_settings():
    logits = np.tile(np.log([0.1, 0.6, 0.3]), (4, 1)).astype(np.float32)
    last = 1 - 2**-53
    ids, _ = choose(
        logits, np.array([0.0, 1.0, 1.0, 1.0]), np.array([1.0, 1.0, 0.5, 1.0]), np.array([0, last, last, 0.1001])
    )
    assert ids.tolist() == [1, 2, 1, 1]


def test_logits_that_are_not_finite_choose_nothing():
    logits = np.zeros((2, 3), dtype=np.float32)
    logits[1, 2] = np.nan
    ids, _ = choose(logits, np.ones(2), np.ones(2), np.full(2, 0.5))
    assert ids.tolist() == [1, -1]


@given(
    arrays.arrays(np.float32, (4, 6), elements=st.floats(-20, 20, width=32)),
    st.lists(st.integers(0, 8), min_size=4, max_size=4),
)
@settings(max_examples=60)
def test_a_confidence_is_minus_the_mean_of_the_k_largest_log_probabilities(logits, of):
    found = confidences(logits, np.array(of))
    for row, k in enumerate(of):
        logprobs = logits[row].astype(float) - np.logaddexp.reduce(logits[row].astype(float))
        if k == 0:
            assert np.isnan(found[row])
        else:
            assert found[row] == pytest.approx(-np.sort(logprobs)[::-1][:k].mean(), abs=1e-9)
        if k >= 6:  # Kang et al. 2025, 2502.18581: -(1/V) sum log(V p), the uniform distribution's distance from p
            self_certainty = -np.log(6 * np.exp(logprobs)).mean()
            assert found[row] - np.log(6) == pytest.approx(self_certainty, abs=1e-9)


# what is drawn


def test_greedy_tokens_and_log_probabilities_are_those_of_a_full_forward_pass(local):
    [[one], [two]] = generate(local, [ONE, TWO], temperature=0, max_tokens=20)
    for sample in (one, two):
        ids = [*sample.prompt_token_ids, *sample.token_ids]
        logits = logits_of(local, ids)[len(sample.prompt_token_ids) - 1 : -1]
        assert logits.argmax(-1).tolist() == list(sample.token_ids)
        own = torch.log_softmax(logits, -1)[range(len(sample.token_ids)), list(sample.token_ids)]
        assert sample.logprobs == pytest.approx(own.tolist(), abs=1e-4)


def test_confidences_are_those_of_a_full_forward_pass_for_the_samples_that_asked(local):
    async def main():
        params = SamplingParams(max_tokens=20, seed=4)
        asked = [local.generate([ONE], n=2, params=params.but(confidence_of=k)) for k in (0, 5, 999)]
        return [sample for batch in asked for sample in (await batch.all())[0]]

    plain, _, few, other, whole, _ = asyncio.run(main())
    assert plain.confidences is None
    assert few.token_ids == whole.token_ids != other.token_ids
    ids = [*few.prompt_token_ids, *few.token_ids]
    logprobs = torch.log_softmax(logits_of(local, ids)[len(few.prompt_token_ids) - 1 : -1], -1)
    assert few.confidences == pytest.approx((-logprobs.topk(5).values.mean(-1)).tolist(), abs=1e-4)
    assert whole.confidences == pytest.approx((-logprobs.mean(-1)).tolist(), abs=1e-4)


def test_the_confidences_of_a_stream_s_pieces_are_those_of_its_tokens(local):
    async def main():
        params = SamplingParams(max_tokens=60, seed=4, confidence_of=3, stop=("9 1",))
        sample = local.generate([ONE], n=1, params=params).samples[0][0]
        return [delta async for delta in sample], await sample.result()

    pieces, whole = asyncio.run(main())
    assert sum((delta.confidences for delta in pieces), ()) == whole.confidences
    assert "".join(delta.text for delta in pieces) == whole.text
    assert len(whole.confidences) == whole.completion_tokens


@pytest.mark.parametrize("setting", [{"thinking_tokens": 5}, {"reasoning_effort": "low"}])
def test_a_setting_of_reasoning_models_is_refused(local, setting):
    with pytest.raises(ConfigError, match=r"is an embedded model.*cap_by='here'"):
        generate(local, [ONE], max_tokens=5, **setting)


def test_samples_follow_the_model_s_distribution(local):
    [row] = generate(local, [ONE], n=4000, max_tokens=1, seed=0)
    ids = row[0].prompt_token_ids
    p = torch.softmax(logits_of(local, list(ids))[-1], -1).numpy()
    seen = np.bincount([sample.token_ids[0] for sample in row], minlength=len(p))
    chi2 = ((seen - 4000 * p) ** 2 / (4000 * p)).sum()
    assert chi2 < 2.5 * len(p)  # 18 degrees of freedom: 45 has a chance below .001, and the seed is fixed


def test_a_seeded_sample_does_not_depend_on_the_batch(local, tiny_model):
    [alone] = generate(local, [ONE], n=2, seed=5, max_tokens=30)
    small = LocalBackend("small", tiny_model, prices=PRICES, max_batch=3)
    for backend in (local, small):
        both = generate(backend, [TWO, ONE], n=7, seed=5, max_tokens=30)
        assert [s.token_ids for s in both[1][:2]] == [s.token_ids for s in alone]
        assert [s.text for s in both[0]] != [s.text for s in both[1]]
    asyncio.run(small.close())


def test_unseeded_samples_differ(local):
    first, second = (generate(local, [ONE], n=8, max_tokens=30) for _ in range(2))
    assert [s.text for s in first[0]] != [s.text for s in second[0]]


def test_going_on_by_token_ids_continues_the_very_text(local):
    [[whole]] = generate(local, [TWO], temperature=0, max_tokens=24)
    [[head]] = generate(local, [TWO], temperature=0, max_tokens=5)
    assert head.finish_reason == "length"
    prefix = TWO.extended(head)
    [[tail]] = generate(local, [prefix], temperature=0, max_tokens=19)
    assert head.token_ids + tail.token_ids == whole.token_ids
    assert head.text + tail.text == whole.text
    assert tail.prompt_tokens == head.prompt_tokens + 5


def go_on(backend, *, steps=4, n=3, seed=5):
    """Samples of several levels, each level drawn from all of the level before, and the usage of all calls."""

    async def run():
        prefixes, found, usages = [ONE, TWO], [], []
        for step in range(steps):
            params = SamplingParams(max_tokens=4, seed=seed + step)
            batch = backend.generate(prefixes, n=n if step == 0 else 1, params=params)
            rows = await batch.all()
            found += [(g.token_ids, g.prompt_token_ids, g.finish_reason) for row in rows for g in row]
            usages.append((batch.usage, [g.cached_tokens for row in rows for g in row]))
            prefixes = [p.extended(g) for p, row in zip(prefixes, rows, strict=True) for g in row if g.token_ids]
        return found, usages

    return asyncio.run(run())


def test_what_was_read_before_is_told_as_cached_and_changes_no_token(local, tiny_model):
    plain = LocalBackend("plain", tiny_model, prices=PRICES, prefix_cache_mb=0)
    cheap = LocalBackend("cheap", tiny_model, prices=Prices(prompt=1.0, completion=2.0, cached=0.25))
    samples, usages = go_on(local)
    assert go_on(plain) == (samples, [(dataclasses.replace(u, cached_tokens=0), [0] * len(c)) for u, c in usages])
    first, second, *_ = (usage for usage, _ in usages)
    assert first.cached_tokens == 0
    assert second.cached_tokens == 3 * first.prompt_tokens, "each of three goes on from its prompt"
    assert [sum(cached) for _, cached in usages[1:]] == [usage.cached_tokens for usage, _ in usages[1:]]
    _, priced = go_on(cheap)
    for usage, _ in priced:
        assert usage.cost == cheap.prices.cost(
            prompt=usage.prompt_tokens, cached=usage.cached_tokens, completion=usage.completion_tokens
        )
    assert priced[1][0].cost < second.cost
    for backend in (plain, cheap):
        asyncio.run(backend.close())


def test_a_prefix_that_was_read_whole_is_read_again_from_its_last_token(local):
    params = {"n": 2, "seed": 1, "max_tokens": 10}
    [first] = generate(local, [ONE], **params)
    [again] = generate(local, [ONE], **params)
    assert [g.token_ids for g in again] == [g.token_ids for g in first]
    assert [g.cached_tokens for g in again] == [again[0].prompt_tokens - 1] * 2


def test_the_memory_for_what_was_read_is_bounded_and_the_least_useful_goes_first():
    readings = module._Readings(4 * 1000)
    parts = {key: torch.full((1, 2, 1, len(key), 50), float(key[0])) for key in [(1, 2), (1, 2, 3), (4, 5), (6,)]}
    for key in [(1, 2), (1, 2, 3), (4, 5)]:  # 200, 300 and 200 numbers of 4 bytes
        readings.keep(key, lambda key=key: parts[key])
    assert readings.find((1, 2, 3, 9)).shape[-2] == 3
    assert readings.find((1, 2, 3)).shape[-2] == 2
    assert readings.find((1, 2, 9)).shape[-2] == 2
    assert readings.find((7, 8)) is None
    readings.keep((6,), lambda: torch.zeros((1, 2, 1, 1, 250)))
    assert readings.find((4, 5, 6)) is None, "it was of no use longest"
    assert readings.find((1, 2, 9)).shape[-2] == 2
    nothing = module._Readings(0)
    nothing.keep((1, 2), lambda: pytest.fail("it keeps nothing, so nothing is copied"))
    assert nothing.find((1, 2, 3)) is None


def test_going_on_from_text_reads_the_answer_so_far(local):
    [[sample]] = generate(local, [Prefix(ONE.messages, "3 + 4\n")], max_tokens=2)
    assert sample.prompt_token_ids == (*local._tokenizer.encode("1 + 2\n3 + 4\n").ids,)


@pytest.mark.parametrize("keep", [True, False])
def test_a_stop_string_ends_a_sample_where_it_first_occurs(local, keep):
    [free] = generate(local, [ONE], n=40, seed=1, max_tokens=60)
    stop = ("\n", "9 1")
    [row] = generate(local, [ONE], n=40, seed=1, max_tokens=60, stop=stop, keep_stop=keep)
    stopped = 0
    for sample, whole in zip(row, free, strict=True):
        places = {s: whole.text.find(s) for s in stop if s in whole.text}
        if not places:
            assert sample.text == whole.text
            continue
        first = min(places, key=places.get)
        stopped += 1
        assert sample.finish_reason == "stop"
        assert sample.stop_text == first
        assert sample.text == whole.text[: places[first] + (len(first) if keep else 0)]
        assert sample.token_ids == whole.token_ids[: sample.completion_tokens]
    assert stopped > 10


def test_the_end_token_is_counted_and_is_not_text(local):
    [row] = generate(local, [ONE], n=30, seed=1, max_tokens=60)
    ended = [s for s in row if s.finish_reason == "stop"]
    assert ended
    for sample in ended:
        assert sample.token_ids[-1] == 1
        assert sample.completion_tokens == len(sample.token_ids) == len(sample.logprobs)
        assert "</s>" not in sample.text
        assert sample.seconds > 0


def test_it_says_that_it_gives_log_probabilities_and_confidences(local):
    assert gives_logprobs(local)
    assert gives_confidence(local)


def test_log_probabilities_are_left_out_where_nobody_asked(local):
    [[sample]] = generate(local, [ONE], max_tokens=3, logprobs=False)
    assert sample.logprobs is None


# streaming


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("model", ["tiny_model", "byte_model"])
def test_streamed_pieces_add_up_to_the_text(model, keep, request, monkeypatch):
    monkeypatch.setattr(module, "_FLUSH_S", -1.0)  # every token is a flush
    backend = LocalBackend("streamed", request.getfixturevalue(model), prices=PRICES)

    async def run():
        params = SamplingParams(max_tokens=60, seed=2, stop=("9 1", "A"), keep_stop=keep)
        batch = backend.generate([ONE], n=20, params=params)

        async def pieces(sample):
            return [delta.text async for delta in sample]

        streamed = await asyncio.gather(*(pieces(sample) for sample in batch.samples[0]))
        [row] = await batch.all()
        await backend.close()
        return streamed, row

    streamed, row = asyncio.run(run())
    assert ["".join(pieces) for pieces in streamed] == [sample.text for sample in row]
    assert max(len(pieces) for pieces in streamed) > 5
    assert all(piece for pieces in streamed for piece in pieces)


# accounts


def test_a_prompt_is_counted_once_for_all_its_samples(local):
    async def run():
        batch = local.generate([ONE, TWO], n=5, params=SamplingParams(max_tokens=8, seed=0))
        return await batch.all(), batch.usage

    rows, usage = asyncio.run(run())
    assert usage.prompt_tokens == sum(row[0].prompt_tokens for row in rows)
    assert usage.prompt_tokens == local.count_tokens(ONE) + local.count_tokens(TWO)
    assert usage.completion_tokens == sum(s.completion_tokens for row in rows for s in row)
    assert usage.cost == usage.prompt_tokens + 2 * usage.completion_tokens
    assert local.served == usage
    for _ in range(70):
        generate(local, [ONE], max_tokens=1)
    assert local.served.calls == 71
    assert local.running == 0


# cancelling and failing


@pytest.fixture
def gate(local, monkeypatch):
    """Hold the model before its second token until the gate is opened."""
    opened, reached = threading.Event(), threading.Event()
    step = local._model.step

    def held(state, ids):
        reached.set()
        opened.wait(30)
        return step(state, ids)

    monkeypatch.setattr(local._model, "step", held)
    yield opened, reached
    opened.set()


def test_one_sample_is_cancelled_alone_between_two_tokens(local, gate):
    opened, reached = gate

    async def run():
        batch = local.generate([ONE], n=6, params=SamplingParams(max_tokens=30, seed=1))
        await asyncio.to_thread(reached.wait, 30)
        batch.samples[0][2].cancel()
        opened.set()
        return (await batch.all())[0]

    row = asyncio.run(run())
    opened.set()
    [whole] = generate(local, [ONE], n=6, seed=1, max_tokens=30)
    assert row[2].finish_reason == "cancelled"
    assert row[2].token_ids == whole[2].token_ids[:1]
    assert [s.token_ids for i, s in enumerate(row) if i != 2] == [s.token_ids for i, s in enumerate(whole) if i != 2]


def test_waiting_calls_are_merged_and_can_be_cancelled_before_they_start(local, gate):
    opened, reached = gate

    async def run():
        first = local.generate([ONE], n=1, params=SamplingParams(max_tokens=30, seed=1))
        await asyncio.to_thread(reached.wait, 30)
        second = local.generate([TWO], n=2, params=SamplingParams(max_tokens=5, seed=1))
        third = local.generate([ONE], n=2, params=SamplingParams(max_tokens=5, seed=1))
        assert local.running == 5
        second.cancel()
        cancelled = await second.all()  # while the engine is still held
        opened.set()
        await first.all()
        return cancelled, second.usage, await third.all()

    cancelled, usage, third = asyncio.run(run())
    assert [s.finish_reason for s in cancelled[0]] == ["cancelled"] * 2
    assert [s.text for s in cancelled[0]] == ["", ""]
    assert (usage.prompt_tokens, usage.completion_tokens) == (0, 0)
    assert [s.token_ids for s in third[0]] == [
        s.token_ids for s in generate(local, [ONE], n=2, seed=1, max_tokens=5)[0]
    ]


def test_a_call_does_not_wait_for_the_longest_sample_of_another(local, monkeypatch):
    [row] = generate(local, [ONE], n=40, seed=1, max_tokens=100)
    long = next(i for i, sample in enumerate(row) if sample.completion_tokens >= 20)
    step, widths = local._model.step, []
    reached, opened = threading.Event(), threading.Event()

    def watched(state, ids):
        reached.set()
        opened.wait(30)
        widths.append(len(state))
        return step(state, ids)

    monkeypatch.setattr(local._model, "step", watched)

    async def run():
        first = local.generate([ONE], n=1, params=SamplingParams(seed=1 + long, max_tokens=100))
        await asyncio.to_thread(reached.wait, 30)
        second = local.generate([TWO], n=2, params=SamplingParams(temperature=0, max_tokens=4))
        opened.set()
        return (await first.all())[0], (await second.all())[0]

    [one], two = asyncio.run(run())
    assert widths[2:6] == [1, 2, 1, 2]  # the second call's two samples are drawn in turn with the first's
    assert one.token_ids == row[long].token_ids
    assert [sample.completion_tokens for sample in two] == [two[0].completion_tokens] * 2


def test_no_more_rows_are_drawn_together_than_max_batch(tiny_model, monkeypatch):
    backend = LocalBackend("small", tiny_model, prices=PRICES, max_batch=4)
    step, widths = backend._model.step, []
    monkeypatch.setattr(backend._model, "step", lambda state, ids: (widths.append(len(state)), step(state, ids))[1])
    [row] = generate(backend, [ONE], n=30, seed=1, max_tokens=20)
    assert len(row) == 30
    assert max(widths) == 4
    asyncio.run(backend.close())


def test_a_seat_whose_row_has_ended_never_outgrows_the_context(local, monkeypatch):
    endless = dataclasses.replace(local._model.config, eos_token_id=-1)
    monkeypatch.setattr(local._model, "config", endless)
    long = Prefix(as_messages("1 " * 150))

    async def run():
        with local._engine._condition:  # so that both calls start in one group
            full = local.generate([long], n=2, params=SamplingParams(max_tokens=9))
            others = local.generate([ONE], n=40, params=SamplingParams(max_tokens=100))
        return [*(await full.all())[0], *(await others.all())[0]]

    samples = asyncio.run(run())
    assert [s.finish_reason for s in samples] == ["length"] * 42
    assert [s.completion_tokens for s in samples] == [9] * 2 + [100] * 40


def test_a_model_that_breaks_fails_its_batch_and_no_other(local, monkeypatch):
    def broken(state, ids):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(local._model, "step", broken)
        [row] = generate(local, [ONE], n=40, seed=1, max_tokens=30)
    failed = [s for s in row if s.finish_reason == "error"]
    assert 0 < len(failed) < 40
    assert {s.finish_reason for s in row} == {"error", "stop"}  # those that ended at their first token are kept
    assert all("RuntimeError: out of memory" in s.error for s in failed)
    assert all(s.completion_tokens == 1 for s in failed)
    assert local.running == 0
    [row] = generate(local, [ONE], n=3, seed=1, max_tokens=30)
    assert "error" not in [s.finish_reason for s in row]


def test_tokens_that_make_no_text_fail_their_sample_instead_of_hanging_it(local, monkeypatch):
    text = local._decoder.text

    def odd(ids, before=()):
        if len(ids) >= 3:
            raise ValueError("no text")
        return text(ids, before)

    monkeypatch.setattr(local._decoder, "text", odd)
    [row] = generate(local, [ONE], n=20, seed=1, max_tokens=20)
    assert {s.finish_reason for s in row} == {"stop", "error"}
    assert all(s.error == "ValueError: no text" for s in row if s.finish_reason == "error")


def test_closing_cancels_what_runs_and_refuses_more(tiny_model, monkeypatch):
    backend = LocalBackend("closing", tiny_model, prices=PRICES)
    step, reached = backend._model.step, threading.Event()

    def slow(state, ids):
        reached.set()
        with backend._engine._condition:
            backend._engine._condition.wait_for(lambda: backend._engine.closed, 30)
        return step(state, ids)

    async def run():
        monkeypatch.setattr(backend._model, "step", slow)
        batch = backend.generate([ONE], n=4, params=SamplingParams(max_tokens=100, seed=3))
        await asyncio.to_thread(reached.wait, 30)
        await backend.close()
        [row] = await batch.all()
        with pytest.raises(BackendError, match="closed"):
            backend.generate([ONE], n=1, params=SamplingParams(max_tokens=1))
        return row

    assert "cancelled" in [s.finish_reason for s in asyncio.run(run())]
    asyncio.run(backend.close())


def test_samples_whose_event_loop_is_gone_do_not_hold_the_engine_up(local):
    async def leave():
        local.generate([ONE], n=50, params=SamplingParams(max_tokens=100))

    asyncio.run(leave())
    [[sample]] = generate(local, [ONE], max_tokens=2)
    assert sample.completion_tokens > 0


# bad input


def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_drawn(local):
    long = Prefix(as_messages("1 " * 150))
    with pytest.raises(PromptTooLong, match=r"holds 160 tokens, but the prompt has 151 .* lower max_tokens to 9"):
        generate(local, [ONE, long], max_tokens=10)
    with pytest.raises(PromptTooLong, match="shorten the prompt"):
        generate(local, [Prefix(as_messages("1 " * 200))], max_tokens=1)
    assert local.served.total_tokens == 0
    [[sample]] = generate(local, [long], max_tokens=9)
    assert sample.completion_tokens <= 9


@pytest.mark.parametrize(
    "prefixes, n", [([], 1), ([ONE], 0), ([Prefix(ONE.messages, "", (99,))], 1), ([Prefix(ONE.messages, "", ())], 1)]
)
def test_impossible_calls_are_refused(local, prefixes, n):
    with pytest.raises(InputError):
        generate(local, prefixes, n=n)


def test_a_model_that_is_not_there_is_named_with_those_that_ship(tmp_path):
    with pytest.raises(ConfigError, match=r"no directory there holds a config.json.*shipped: "):
        LocalBackend("x", tmp_path / "nothing", prices=PRICES)
    with pytest.raises(ConfigError, match="max_batch=0"):
        LocalBackend("x", tmp_path, prices=PRICES, max_batch=0)


def test_the_fingerprint_is_of_weights_and_tokenizer_not_of_names(tiny_model, tmp_path, local):
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    (copy / "README.md").write_text("a card")
    assert module.fingerprint_of(copy) == local.fingerprint
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert module.fingerprint_of(copy) != local.fingerprint
