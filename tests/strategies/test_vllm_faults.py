"""What VLLMBackend and OpenAIBackend do when a server misbehaves, and what VLLMBackend sends.

The server here is a script of answers, for faults only: how a real vLLM behaves is tested against a real one,
in tests/integration/test_vllm.py.
"""

import asyncio
import datetime
import ipaddress
import itertools
import logging
import ssl
import threading
import traceback

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from howhard.strategies.backends.openai import OpenAIBackend
from howhard.strategies.backends.sse import EventDecoder, EventTooLong
from howhard.strategies.backends.vllm import VLLMBackend
from howhard.strategies.base import Backend, Message, Prefix, Prices, SamplingParams, Usage
from howhard.strategies.errors import (
    BackendError,
    BackendTimeout,
    BackendUnreachable,
    ConfigError,
    ModelNotServed,
    PromptTooLong,
)

from .scripted_server import OK, Running, begin, events, hang_up, in_thread, piece, sse, status, total

PROMPT = "What is the secret of my very private prompt, please?"
KEY = "sk-never-to-be-seen"


BOTH = pytest.mark.parametrize("server", [VLLMBackend, OpenAIBackend], ids=["vllm", "openai"], indirect=True)


@pytest.fixture(scope="module")
def running():
    running = Running()
    yield running
    running.stop()


@pytest.fixture
def server(running, request):
    scripted = running.fresh()
    scripted.backend = getattr(request, "param", VLLMBackend)
    return scripted


def backend(server, **settings):
    settings = {
        "url": server.url,
        "model": "m",
        "prices": Prices(prompt=1, completion=10, cached=0.5),
    } | settings
    return server.backend("served", **settings)


def draw(server, *, n=1, prompt=PROMPT, params=None, apart=False, prefixes=None, **settings):
    """Run one generate call in an event loop of its own, without `close`; gives the samples and the usage."""

    async def main():
        prefixes_ = prefixes or [Prefix((Message("user", prompt),))]
        batch = backend(server, **settings).generate(prefixes_, n=n, params=params or SamplingParams(), apart=apart)
        rows = await batch.all()
        return [g for row in rows for g in row], batch.usage

    return asyncio.run(main())


# ── failures before anything came ───────────────────────────────────────────────────────────────────────────


@BOTH
@pytest.mark.parametrize(
    "fault",
    [status(429, **{"Retry-After": "0"}), status(503, "busy"), status(502), hang_up],
    ids=["429", "503", "502", "reset"],
)
def test_a_call_refused_before_any_byte_is_sent_again_and_the_retry_is_counted_and_logged(server, fault, caplog):
    server.script = [fault, OK]
    (sample,), usage = draw(server)
    assert (sample.text, sample.finish_reason) == ("fine", "stop")
    assert usage == Usage(prompt_tokens=3, completion_tokens=1, calls=2, cost=13)
    assert "sending it again" in caplog.text
    assert PROMPT not in caplog.text


@BOTH
def test_a_server_that_stays_busy_ends_the_sample_with_its_own_words(server):
    server.script = [status(503, {"error": {"message": "the queue is full"}}, **{"Retry-After": "0"})]
    (sample,), usage = draw(server, retries=2)
    assert sample.finish_reason == "error"
    assert "answered 503: the queue is full" in sample.error
    assert type(sample.cause) is BackendError
    assert usage == Usage(calls=3)


@BOTH
@pytest.mark.parametrize(("header", "waited"), [("soon", "0.2"), ("nan", "0.2"), ("-1", "0.0"), ("0.01", "0.0")])
def test_the_wait_is_what_the_server_asks_for_where_that_is_a_number_of_seconds(server, header, waited, caplog):
    server.script = [status(429, **{"Retry-After": header}), OK]
    assert draw(server)[0][0].text == "fine"
    assert f"sending it again in {waited} s (1 of 1)" in caplog.text


@BOTH
def test_a_pooled_connection_that_the_server_has_left_costs_no_sample(server):
    async def then_leave(request):
        response = await OK(request)
        await response.write_eof()
        request.transport.abort()
        return response

    server.script = [then_leave]

    async def main():
        served, usage = backend(server), Usage()
        for _ in range(5):
            batch = served.generate([Prefix((Message("user", "x"),))], n=1, params=SamplingParams())
            [[sample]] = await batch.all()
            assert sample.text == "fine"
            usage += batch.usage
        return usage

    usage = asyncio.run(main())
    assert usage.completion_tokens == 5
    assert usage.calls >= len(server.bodies) == 5, "one more for each that was lost before it was read"


@BOTH
def test_a_server_error_is_not_retried(server):
    server.script = [status(500, {"error": {"message": "engine dead", "code": 500}}), OK]
    (sample,), usage = draw(server)
    assert "answered 500: engine dead" in sample.error
    assert usage.calls == 1


@BOTH
def test_an_unreachable_server_fails_each_sample_after_one_shared_try(server):
    port, stop = in_thread(web.Application())
    stop()
    samples, usage = draw(server, url=f"http://127.0.0.1:{port}", n=3, apart=True)
    assert [type(s.cause) for s in samples] == [BackendUnreachable] * 3
    assert len({id(s.cause) for s in samples}) == 1
    assert "is it up?" in samples[0].error
    assert usage == Usage()


def test_a_server_that_comes_back_is_asked_again(server):
    models, server.models = server.models, []

    async def main():
        served = backend(server)
        first = await served.generate([Prefix((Message("user", "x"),))], n=1, params=SamplingParams()).all()
        server.models = models
        second = await served.generate([Prefix((Message("user", "x"),))], n=1, params=SamplingParams()).all()
        return first[0][0], second[0][0]

    first, second = asyncio.run(main())
    assert isinstance(first.cause, ModelNotServed)
    assert second.text == "fine"


@BOTH
def test_the_server_is_asked_about_itself_once(server):
    draw(server, n=5, apart=True)
    assert server.looks == 1


@BOTH
def test_a_model_that_is_not_served_is_named_beside_those_that_are(server):
    with pytest.raises(ModelNotServed, match=r"'big' is not served there; it serves 'm'"):
        asyncio.run(backend(server, model="big").check())


def test_an_address_that_is_no_vllm_server_is_said_to_be_none(server):
    server.models = "none of your business"
    with pytest.raises(BackendError, match="is this a vLLM server"):
        asyncio.run(backend(server).check())


def test_a_path_that_the_server_does_not_know_makes_the_address_doubtful(server):
    with pytest.raises(BackendError, match=r"/v1/models answered 404; is this the address of a vLLM server\?"):
        asyncio.run(backend(server, url=f"{server.url}/v2").check())


@BOTH
def test_a_prompt_that_does_not_fit_keeps_its_type(server):
    message = "This model's maximum context length is 64 tokens. However, your prompt contains 70 input tokens."
    server.script = [status(400, {"error": {"message": message}})]
    (sample,), _ = draw(server)
    assert isinstance(sample.cause, PromptTooLong)
    assert "context of 64 tokens" in sample.error


@BOTH
def test_token_ids_that_do_not_fit_are_refused_before_anything_is_sent(server):
    async def main():
        served = backend(server)
        await served.check()
        with pytest.raises(PromptTooLong, match="prefix 1 has 64 tokens"):
            served.generate([Prefix((), token_ids=(1,)), Prefix((), token_ids=(1,) * 64)], n=1, params=SamplingParams())

    asyncio.run(main())
    assert server.bodies == []


@BOTH
def test_a_redirect_is_not_followed(server):
    server.script = [status(307, Location="/v1/models")]
    (sample,), usage = draw(server)
    assert "not followed" in sample.error
    assert usage.calls == 1


@BOTH
def test_a_web_page_is_not_taken_for_an_answer(server):
    server.script = [status(200, "<html>welcome</html>")]
    (sample,), _ = draw(server)
    assert "instead of an event stream" in sample.error


# ── failures in the middle ──────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_half_a_stream_is_an_error_with_what_was_drawn_and_is_never_sent_again(server):
    server.script = [events(piece(text="half ", tokens=1), piece(text="a", tokens=2), done=False)]
    (sample,), usage = draw(server)
    assert (sample.text, sample.finish_reason, sample.completion_tokens) == ("half a", "error", 2)
    assert "ended before the sample did" in sample.error
    assert usage == Usage(prompt_tokens=3, completion_tokens=2, calls=1, cost=23)


@BOTH
def test_a_connection_that_breaks_off_spares_the_samples_that_had_ended(server):
    async def answer(request):
        response = await begin(request)
        await response.write(sse(piece(0, "whole", tokens=1, finish="stop")) + sse(piece(1, "half", tokens=1)))
        request.transport.abort()
        return response

    server.script = [answer, OK]
    (whole, half), usage = draw(server, n=2)
    assert (whole.text, whole.finish_reason, whole.error) == ("whole", "stop", None)
    assert (half.text, half.finish_reason) == ("half", "error")
    assert "middle of an answer" in half.error
    assert (usage.calls, usage.completion_tokens) == (1, 2)


@BOTH
@pytest.mark.parametrize(
    "garbage", [b"data: {not json}\n\n", b'data: {"choices": 7}\n\n', b"data: \xff\xfe\n\n", b"data: []\n\n"]
)
def test_garbage_in_a_stream_is_an_error_with_what_was_drawn(server, garbage):
    server.script = [events(piece(text="so far"), garbage, piece(text="never", finish="stop"))]
    (sample,), _ = draw(server)
    assert (sample.text, sample.finish_reason) == ("so far", "error")
    assert "not a piece of an answer" in sample.error


@BOTH
def test_an_error_event_in_a_stream_is_told_in_the_servers_words(server):
    server.script = [events(piece(text="so far"), {"error": {"message": "out of blocks", "code": 500}})]
    (sample,), _ = draw(server)
    assert sample.text == "so far"
    assert "out of blocks" in sample.error


@BOTH
def test_fewer_choices_than_asked_for_are_errors_and_the_others_survive(server):
    server.script = [events(piece(0, "x", finish="stop"), piece(2, "y", finish="length"), total(2))]
    samples, usage = draw(server, n=4)
    assert [s.finish_reason for s in samples] == ["stop", "error", "length", "error"]
    assert "2 of the 4 choices" in samples[1].error
    assert usage.completion_tokens == 2


@BOTH
def test_a_choice_that_was_not_asked_for_is_an_error(server):
    server.script = [events(piece(3, finish="stop"))]
    (sample,), _ = draw(server)
    assert "choice 3 of a call with n=1" in sample.error


@BOTH
def test_an_answer_that_the_server_aborted_is_not_taken_for_complete(server):
    server.script = [events(piece(finish="abort"), total(1))]
    (sample,), _ = draw(server)
    assert (sample.finish_reason, sample.text) == ("error", "a")
    assert "'abort'" in sample.error


@BOTH
def test_a_stream_that_stalls_times_out_and_keeps_what_was_drawn(server):
    async def answer(request):
        response = await begin(request)
        await response.write(sse(piece(text="and then")))
        await asyncio.Event().wait()

    server.script = [answer]
    (sample,), usage = draw(server, timeout_s=1)
    assert (sample.text, sample.finish_reason) == ("and then", "error")
    assert isinstance(sample.cause, BackendTimeout)
    assert usage == Usage(prompt_tokens=3, completion_tokens=1, calls=1, cost=13)
    assert server.left.wait(10)


def test_a_slow_answer_is_not_cut_as_long_as_pieces_come(server):
    async def answer(request):
        response = await begin(request)
        for i in range(4):
            await asyncio.sleep(0.9)
            await response.write(sse(piece(tokens=i + 1, finish="stop" if i == 3 else None)))
        return response

    server.script = [answer]
    (sample,), _ = draw(server, timeout_s=3)  # less than the whole takes, far more than a piece
    assert (sample.text, sample.finish_reason) == ("aaaa", "stop")


@BOTH
def test_an_endless_event_is_cut_off(server):
    server.script = [events(*([b"data: " + b"x" * (1 << 20)] * 2))]
    (sample,), _ = draw(server)
    assert "no answer of a language model" in sample.error


# ── stopping ────────────────────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_cancelling_one_sample_of_a_shared_call_leaves_its_sibling(server):
    go_on = threading.Event()

    async def answer(request):
        response = await begin(request)
        await response.write(sse(piece(0, "one ")) + sse(piece(1, "two ")))
        await asyncio.to_thread(go_on.wait)
        await response.write(sse(piece(0, "more", tokens=2)) + sse(piece(1, "more", tokens=2, finish="stop")))
        await response.write(sse(total(4)) + b"data: [DONE]\n\n")
        return response

    server.script = [answer]

    async def main():
        batch = backend(server).generate([Prefix((Message("user", "x"),))], n=2, params=SamplingParams())
        first, second = batch.samples[0]
        pieces = []
        async for delta in first:
            pieces.append(delta.text)
            first.cancel()
            go_on.set()
        return pieces, await first.result(), await second.result(), batch.usage

    pieces, first, second, usage = asyncio.run(main())
    assert pieces == ["one "]
    assert (first.text, first.finish_reason, first.completion_tokens) == ("one ", "cancelled", 1)
    assert (second.text, second.finish_reason) == ("two more", "stop")
    assert usage.completion_tokens == 4, "the server went on drawing the cancelled sample, and that is booked"


@BOTH
def test_cancelling_every_sample_closes_the_connection_and_books_what_was_seen(server):
    async def answer(request):
        response = await begin(request)
        await response.write(sse(piece(0, "one")) + sse(piece(1, "two", finish="stop")))
        await asyncio.Event().wait()

    server.script = [answer]

    async def main():
        batch = backend(server).generate([Prefix((Message("user", "x"),))], n=2, params=SamplingParams())
        first, second = batch.samples[0]
        async for _ in second:
            break
        first.cancel()
        return (
            await first.result(),
            await second.result(),
            batch.usage,
            await asyncio.to_thread(server.left.wait, 10),
        )

    first, second, usage, left = asyncio.run(main())
    assert left
    assert (first.finish_reason, second.finish_reason) == ("cancelled", "stop")
    unseen = backend(server).tokens_per_event // 2  # of the sample that was cut off between two events
    drawn = 2 + unseen
    assert usage == Usage(prompt_tokens=3, completion_tokens=drawn, calls=1, cost=23 + 10 * unseen)


@BOTH
def test_a_call_cancelled_before_it_began_is_never_sent(server):
    async def main():
        batch = backend(server).generate([Prefix((Message("user", "x"),))], n=2, params=SamplingParams())
        batch.cancel()
        return await batch.all(), batch.usage

    rows, usage = asyncio.run(main())
    assert [g.finish_reason for g in rows[0]] == ["cancelled"] * 2
    assert usage == Usage()
    assert server.bodies == []


@BOTH
def test_a_caller_that_is_cancelled_takes_its_call_along(server):
    async def answer(request):
        await (await begin(request)).write(sse(piece()))
        await asyncio.Event().wait()

    server.script = [answer]

    async def main():
        batch = backend(server).generate([Prefix((Message("user", "x"),))], n=1, params=SamplingParams())
        waiting = asyncio.create_task(batch.all())
        async for _ in batch.samples[0][0]:
            break
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return await batch.samples[0][0].result(), await asyncio.to_thread(server.left.wait, 10)

    sample, left = asyncio.run(main())
    assert sample.finish_reason == "cancelled"
    assert left


@BOTH
def test_closing_ends_what_is_under_way_and_refuses_what_comes_later(server):
    async def answer(request):
        await (await begin(request)).write(sse(piece()))
        await asyncio.Event().wait()

    server.script = [answer]

    async def main():
        served = backend(server)
        batch = served.generate([Prefix((Message("user", "x"),))], n=1, params=SamplingParams())
        async for _ in batch.samples[0][0]:
            break
        await served.close()
        with pytest.raises(BackendError, match="was closed"):
            served.generate([Prefix((Message("user", "x"),))], n=1, params=SamplingParams())
        return await batch.samples[0][0].result()

    assert asyncio.run(main()).finish_reason == "cancelled"


@BOTH
def test_one_backend_serves_one_event_loop_after_another_without_being_closed(server):
    served = backend(server)

    async def main():
        rows = await served.generate([Prefix((Message("user", "x"),))], n=1, params=SamplingParams()).all()
        return rows[0][0].text

    assert [asyncio.run(main()) for _ in range(3)] == ["fine"] * 3
    assert server.looks == 1


@BOTH
def test_no_more_calls_are_under_way_than_allowed(server):
    full = asyncio.Event()

    async def answer(request):
        if server.now == 2:
            full.set()
        await full.wait()
        return await OK(request)

    server.script = [answer]
    samples, _ = draw(server, n=6, apart=True, max_concurrency=2)
    assert [s.text for s in samples] == ["fine"] * 6
    assert server.most == 2


# ── what is sent, and what is counted ───────────────────────────────────────────────────────────────────────


def test_samples_share_one_call_unless_they_are_sent_apart_with_a_seed_each(server):
    server.script = [events(piece(0, finish="stop"), piece(1, finish="stop"), total(2))]
    draw(server, n=2, params=SamplingParams(seed=7))
    assert [(b["n"], b["seed"]) for b in server.bodies] == [(2, 7)]
    server.script, server.bodies = [OK], []
    draw(server, n=3, params=SamplingParams(seed=7), apart=True)
    assert sorted((b["n"], b["seed"]) for b in server.bodies) == [(1, 7), (1, 8), (1, 9)]


def test_greedy_samples_go_apart_because_vllm_refuses_them_together(server):
    _, usage = draw(server, n=2, params=SamplingParams(temperature=0))
    assert [b["n"] for b in server.bodies] == [1, 1]
    assert usage.calls == 2


def test_an_answer_is_continued_by_token_ids_where_they_are_known_and_by_the_template_where_not(server):
    user = (Message("user", "x"),)
    params = SamplingParams(stop=("\n",), keep_stop=True)
    draw(server, params=params, prefixes=[Prefix(user, "so", (1, 2))])
    draw(server, params=params, prefixes=[Prefix(user, "so")])
    draw(server, params=params, prefixes=[Prefix(user)])
    by_ids, by_text, fresh = server.bodies
    assert server.paths == ["/v1/completions", "/v1/chat/completions", "/v1/chat/completions"]
    assert by_ids["prompt"] == [1, 2]
    assert by_text["messages"][-1] == {"role": "assistant", "content": "so"}
    assert (by_text["continue_final_message"], by_text["add_generation_prompt"]) == (True, False)
    assert "continue_final_message" not in fresh
    assert all((b["stop"], b["include_stop_str_in_output"]) == (["\n"], True) for b in server.bodies)


def test_extra_fields_go_with_every_request_and_into_the_fingerprint(server):
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    draw(server, extra_body=extra)
    assert server.bodies[0]["chat_template_kwargs"] == extra["chat_template_kwargs"]
    plain, other = backend(server), backend(server, extra_body=extra)
    asyncio.run(plain.check())
    asyncio.run(other.check())
    assert plain.fingerprint != other.fingerprint


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_is_told_apart_from_the_answer_under_either_of_its_names(server, field):
    thought = piece(text=None)
    thought["choices"][0]["delta"][field] = "hm"
    server.script = [events(thought, piece(text="42", tokens=2, finish="stop"), total(2))]

    async def main():
        batch = backend(server).generate([Prefix((Message("user", "x"),))], n=1, params=SamplingParams())
        deltas = [(d.reasoning, d.text) async for d in batch.samples[0][0]]
        return deltas, await batch.samples[0][0].result()

    deltas, sample = asyncio.run(main())
    assert deltas == [("hm", ""), ("", "42")]
    assert (sample.reasoning, sample.text) == ("hm", "42")


def test_a_shared_prompt_is_billed_once_and_its_cached_tokens_at_their_own_price(server):
    server.script = [
        events(
            piece(0, prompt=8, tokens=2, finish="stop", stop="\n"),
            piece(1, prompt=8, tokens=3, finish="length"),
            total(5, prompt=8, cached=6),
        )
    ]
    (first, second), usage = draw(server, n=2)
    assert usage == Usage(prompt_tokens=8, cached_tokens=6, completion_tokens=5, calls=1, cost=2 * 1 + 6 * 0.5 + 5 * 10)
    assert (first.stop_text, first.cached_tokens, first.completion_tokens) == ("\n", 6, 2)
    assert (second.stop_text, second.complete, second.completion_tokens) == (None, False, 3)


@pytest.mark.parametrize(
    ("told", "count"),
    [
        ({"token_ids": [5, 6, 7]}, 3),
        ({"logprobs": {"content": [{"logprob": -1.0}, {"logprob": -2.0}]}}, 2),
        ({}, 1),
    ],
)
def test_a_server_that_counts_nothing_is_counted_by_what_it_lists(server, told, count):
    server.script = [events(piece(usage=False, finish="stop", **told))]
    (sample,), usage = draw(server)
    assert sample.completion_tokens == usage.completion_tokens == count


def listed(own, *top):
    return {"logprob": own, "top_logprobs": [{"logprob": p} for p in (own, *top)]}


def test_confidences_come_for_each_sample_apart_and_with_its_pieces(server):
    # As vLLM lists them: the token drawn comes first, also where it is not among the likeliest.
    server.script = [
        events(
            piece(0, "a", logprobs={"content": [listed(-4.0, -0.5, -1.5)]}),
            piece(1, "b", logprobs={"content": [listed(-1.0, -2.0, -3.0)]}, finish="stop"),
            piece(0, "c", tokens=2, logprobs={"content": [listed(-1.0, -2.0, -3.0)] * 2}, finish="stop"),
            total(4),
        )
    ]

    async def main():
        params = SamplingParams(confidence_of=2)
        [[one, two]] = backend(server).generate([Prefix((Message("user", "x"),))], n=2, params=params).samples
        return [d.confidences async for d in one], await one.result(), await two.result()

    pieces, one, two = asyncio.run(main())
    assert pieces == [(1.0,), (1.5, 1.5)]
    assert (one.confidences, two.confidences) == ((1.0, 1.5, 1.5), (1.5,))
    assert one.logprobs == (-4.0, -1.0, -1.0)
    assert server.bodies[0]["top_logprobs"] == 3, "one more, as the token drawn takes a place"


def test_going_on_by_token_ids_has_confidences_too(server):
    top = [{"token_id:5": -0.5, "token_id:6": -1.5, "token_id:7": -4.0}, {"token_id:5": -1.0, "token_id:6": -2.0}]
    choice = {
        "index": 0,
        "text": "ab",
        "finish_reason": "stop",
        "logprobs": {"token_logprobs": [-4.0, -1.0], "top_logprobs": top},
    }
    server.script = [events({"choices": [choice]}, total(2))]
    prefixes = [Prefix((), "x", (1, 2))]
    (sample,), _ = draw(server, prefixes=prefixes, params=SamplingParams(confidence_of=2))
    assert (sample.confidences, sample.logprobs) == ((1.0, 1.5), (-4.0, -1.0))
    assert (server.bodies[0]["logprobs"], server.bodies[0]["return_tokens_as_token_ids"]) == (2, True)


def test_no_log_probabilities_is_no_confidence_and_a_cap_on_them_is_told_with_its_flag(server):
    (sample,), _ = draw(server, params=SamplingParams(confidence_of=20))
    assert sample.confidences is None
    assert server.bodies[0]["top_logprobs"] == 20, "vLLM's cap"
    refusal = {"error": {"message": "Requested sample logprobs of 50, which is greater than max allowed: 20"}}
    for answer in (status(400, refusal), events(refusal)):
        server.script = [answer]
        (sample,), _ = draw(server, params=SamplingParams(confidence_of=50))
        assert "--max-logprobs" in sample.error


def test_a_cap_on_reasoning_and_an_effort_are_passed_on(server):
    params = SamplingParams(thinking_tokens=64, reasoning_effort="low")
    draw(server, params=params)
    draw(server, params=params, prefixes=[Prefix((), "x", (1, 2))])
    draw(server)
    chat, by_ids, plain = server.bodies
    assert (chat["thinking_token_budget"], chat["reasoning_effort"]) == (64, "low")
    assert by_ids["thinking_token_budget"] == 64
    assert not {"thinking_token_budget", "reasoning_effort"} & plain.keys()


def test_a_text_is_turned_into_token_ids_where_the_server_does_that(server):
    assert asyncio.run(backend(server).encode("</think>")) is None
    server.tokens = [7, 8]
    assert asyncio.run(backend(server).encode("</think>")) == (7, 8)
    assert server.asked == {"model": "m", "prompt": "</think>", "add_special_tokens": False}


# ── what is never told ──────────────────────────────────────────────────────────────────────────────────────


@BOTH
@pytest.mark.parametrize("echo", [f"bad input: {PROMPT}", f"bad key {KEY}", f"cut: {PROMPT[:30]}...", KEY + PROMPT])
def test_neither_key_nor_prompt_is_in_any_message_log_or_repr(server, echo, monkeypatch, caplog):
    monkeypatch.setenv("HOWHARD_TEST_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    server.script = [status(503, echo, **{"Retry-After": "0"}), status(400, {"error": {"message": echo}})]
    served = backend(server, api_key_env="HOWHARD_TEST_KEY")

    async def main():
        batch = served.generate([Prefix((Message("user", PROMPT),))], n=1, params=SamplingParams())
        return (await batch.all())[0][0]

    sample = asyncio.run(main())
    assert server.keys == [f"Bearer {KEY}"] * 2
    shown = "".join(traceback.format_exception(sample.cause))
    for text in (caplog.text, sample.error, shown, repr(sample), repr(sample.cause.__cause__), repr(served)):
        assert KEY not in text
        assert PROMPT[:24] not in text
    assert "left out" in sample.error


@BOTH
def test_a_short_prompt_in_a_servers_message_is_left_out_too(server):
    server.script = [status(400, {"error": {"message": "cannot render '4711'"}})]
    (sample,), _ = draw(server, prompt="4711")
    assert "4711" not in sample.error


@BOTH
def test_a_malformed_answer_does_not_carry_the_key_in_its_cause(server, monkeypatch):
    monkeypatch.setenv("HOWHARD_TEST_KEY", KEY)

    async def answer(request):
        request.transport.write(b"SPAM/7 what\r\n\r\n")
        request.transport.close()
        return web.Response()

    server.script = [answer]
    (sample,), _ = draw(server, api_key_env="HOWHARD_TEST_KEY")
    assert "no valid HTTP" in sample.error
    assert sample.cause.__cause__ is None


@BOTH
@pytest.mark.parametrize("code", [401, 403])
def test_a_refused_key_is_told_by_the_name_of_its_variable(server, code, monkeypatch):
    monkeypatch.setenv("HOWHARD_TEST_KEY", KEY)
    server.script = [status(code, {"error": "Unauthorized"})]
    assert "$HOWHARD_TEST_KEY" in draw(server, api_key_env="HOWHARD_TEST_KEY")[0][0].error
    assert "set api_key_env" in draw(server)[0][0].error


@BOTH
def test_a_certificate_that_nobody_vouches_for_is_refused(server, tmp_path):
    port, stop = in_thread(web.Application(), self_signed(tmp_path))
    try:
        with pytest.raises(BackendUnreachable, match=r"(?i)certificate"):
            asyncio.run(backend(server, url=f"https://127.0.0.1:{port}").check())
    finally:
        stop()


def self_signed(folder):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nobody")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(private + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


# ── settings ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "localhost:8000"}, "must look like http://"),
        ({"url": "http://u:p@host"}, "api_key_env"),
        ({"url": "http://host/v1?key=1"}, "query"),
        ({"model": ""}, "model is empty"),
        ({"api_key_env": "HOWHARD_NOT_SET"}, "HOWHARD_NOT_SET"),
        ({"timeout_s": 0}, "timeout_s=0"),
        ({"timeout_s": float("nan")}, "timeout_s=nan"),
        ({"connect_timeout_s": -1}, "connect_timeout_s=-1"),
        ({"retries": -1}, "retries=-1"),
        ({"max_concurrency": 0}, "max_concurrency=0"),
        ({"extra_body": {"n": 3}}, "extra_body sets 'n'"),
    ],
)
def test_a_wrong_setting_is_refused_when_the_backend_is_made(server, settings, words):
    with pytest.raises(ConfigError, match=words):
        backend(server, **settings)


def test_an_address_is_the_same_with_and_without_its_v1(server):
    urls = ["http://host:1", "http://host:1/", "http://host:1/v1", "http://host:1/v1/"]
    assert {backend(server, url=url).url for url in urls} == {"http://host:1"}


def test_it_is_a_backend_and_a_given_fingerprint_is_kept(server):
    served = backend(server, fingerprint="mine")
    assert isinstance(served, Backend)
    asyncio.run(served.check())
    assert (served.fingerprint, served.context) == ("mine", 64)


def test_the_fingerprint_changes_with_what_the_server_tells(server):
    def look():
        served = backend(server)
        asyncio.run(served.check())
        return served.fingerprint

    first = look()
    assert look() == first
    server.models = [server.models[0] | {"root": "/other"}]
    assert look() != first


def test_a_probe_says_what_a_plain_server_lacks(server):
    capabilities = asyncio.run(backend(server).probe())
    assert (capabilities.reachable, capabilities.model_served, capabilities.context) == (True, True, 64)
    lacking = ("logprobs", "token_ids", "cached_tokens", "metrics")
    assert [getattr(capabilities, what) for what in lacking] == [False] * 4
    assert any("--enable-prompt-tokens-details" in line for line in capabilities.advice)


def test_counters_are_added_over_engines_and_known_by_their_older_names(server):
    server.counters = """\
# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{engine="0",model_name="m"} 5.0
vllm:generation_tokens_total{engine="1",model_name="m"} 7.0
vllm:num_requests_running{engine="0",model_name="m{}"} 2.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.5
process_cpu_seconds_total 8.0
"""
    assert asyncio.run(backend(server).metrics()) == {"completion_tokens": 12, "running": 2, "kv_cache_usage": 0.5}


def test_a_server_without_vllm_counters_is_said_to_have_none(server):
    server.counters = "process_cpu_seconds_total 8.0\n"
    with pytest.raises(BackendError, match="holds no vllm: counters"):
        asyncio.run(backend(server).metrics())


def test_a_probe_of_nothing_raises_nothing(server):
    port, stop = in_thread(web.Application())
    stop()
    capabilities = asyncio.run(backend(server, url=f"http://127.0.0.1:{port}").probe())
    assert not capabilities.reachable
    assert "cannot be reached" in capabilities.error
    assert asyncio.run(backend(server, model="big").probe()).served == ("m",)


# ── the event stream's grammar ──────────────────────────────────────────────────────────────────────────────

LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
FIELDS = st.one_of(
    st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])).map(lambda t: ("data", t)),
    st.sampled_from([("comment", ": ping"), ("other", "event: x"), ("other", "id"), ("other", "retry: 5")]),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(st.tuples(FIELDS, LINE_ENDS), min_size=1), max_size=4), st.data())
def test_events_come_out_whole_however_the_bytes_are_cut(blocks, data):
    stream, expected = b"", []
    for block in blocks:
        lines = [text for (kind, text), _ in block if kind == "data"]
        for (kind, text), line_end in block:
            stream += ((f"data: {text}" if kind == "data" else text).encode()) + line_end
        # The empty line ends as the line before it does: a CR and then an LF would be one line end, not two.
        stream += block[-1][1]
        if lines:
            expected.append("\n".join(lines).encode())
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    borders = [0, *cuts, len(stream)]
    decoder = EventDecoder()
    got = [e for a, b in itertools.pairwise(borders) for e in decoder.feed(stream[a:b])]
    assert got == expected


def test_an_event_cut_off_by_the_end_of_the_stream_is_not_given_out():
    assert EventDecoder().feed(b"data: a\n\ndata: b\n") == [b"a"]


def test_bytes_one_by_one_make_the_same_events():
    stream = 'data: {"é": 1}\r\n\r\n: ping\r\rdata:x\ndata: y\n\n'.encode()
    decoder = EventDecoder()
    assert [e for byte in stream for e in decoder.feed(bytes([byte]))] == ['{"é": 1}'.encode(), b"x\ny"]


def test_an_event_may_not_outgrow_the_cap():
    with pytest.raises(EventTooLong):
        EventDecoder(max_event=10).feed(b"data: 12345678901")
    with pytest.raises(EventTooLong):
        EventDecoder(max_event=10).feed(b"data: 123456\ndata: 123456\n")
    decoder = EventDecoder(max_event=10)
    assert [e for _ in range(5) for e in decoder.feed(b"data: 123\n\n")] == [b"123"] * 5
