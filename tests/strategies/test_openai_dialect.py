"""OpenAIBackend: what it sends and never sends, what it fills in itself, and what it says that a server lacks.

Faults of servers are in test_vllm_faults.py, for both dialects. The servers here are scripts of answers.
"""

import asyncio

import msgspec
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.strategies import BackendSpec, Message, OpenAISpec, Prefix, Prices, SamplingParams, open_backend
from howhard.strategies.backends.openai import OpenAIBackend
from howhard.strategies.backends.vllm import VLLMBackend, _Drawn
from howhard.strategies.errors import BackendError, ConfigError, ModelNotServed
from howhard.strategies.running import gives_confidence, gives_logprobs

from .scripted_server import Running, begin, events, hang_up, piece, sse, status, total

USER = (Message("user", "What is 3 + 4?"),)
STANDARD = {
    *(
        "model",
        "messages",
        "temperature",
        "top_p",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "seed",
        "stop",
        "stream",
    ),
    *("stream_options", "logprobs", "top_logprobs", "reasoning_effort", "prompt"),
}
CHATML = {"user": "<|user|>{content}<|end|>", "answer": "<|assistant|>"}


@pytest.fixture(scope="module")
def running():
    running = Running()
    yield running
    running.stop()


@pytest.fixture
def server(running):
    """A strict one: a field that the protocol doesn't have is refused, as some servers do."""
    server = running.fresh()
    server.models = [{"id": "m"}]
    server.answer = [events(piece(text="7", usage=False, finish="stop"), total(1))]

    async def strict(request):
        unknown = server.bodies[-1].keys() - STANDARD
        if unknown:
            return web.json_response({"error": {"message": f"unknown field {min(unknown)!r}"}}, status=400)
        return await server.answer[min(len(server.bodies), len(server.answer)) - 1](request)

    server.script = [strict]
    return server


def backend(server, **settings):
    prices = Prices(prompt=1, completion=10)
    return OpenAIBackend("served", url=server.url, model="m", prices=prices, **settings)


def draw(server, *, n=1, prefix=None, apart=False, params=None, **settings):
    async def main():
        served = backend(server, **settings)
        batch = served.generate(
            [prefix or Prefix(USER)], n=n, params=params or SamplingParams(max_tokens=9), apart=apart
        )
        [row] = await batch.all()
        return row, batch.usage

    return asyncio.run(main())


# what is sent


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(seed=3, logprobs=False, top_p=0.9, temperature=0.5),
        SamplingParams(confidence_of=5, reasoning_effort="low", stop=("\n",), keep_stop=True),
    ],
)
def test_a_server_that_refuses_unknown_fields_refuses_nothing(server, params):
    (sample,), usage = draw(server, params=params)
    assert (sample.text, sample.error) == ("7", None)
    assert usage.calls == 1


def test_only_what_was_asked_for_is_sent(server):
    draw(server, params=SamplingParams(logprobs=False, max_tokens=9))
    draw(
        server,
        params=SamplingParams(confidence_of=3, max_tokens=9, seed=2),
        max_tokens_field="max_completion_tokens",
        usage_told=False,
    )
    plain, asked = server.bodies
    assert not {"logprobs", "top_logprobs", "n", "seed", "stop", "reasoning_effort"} & plain.keys()
    assert (plain["max_tokens"], plain["stream_options"]) == (9, {"include_usage": True})
    assert (asked["max_completion_tokens"], asked["logprobs"], asked["top_logprobs"], asked["seed"]) == (9, True, 3, 2)
    assert not {"max_tokens", "stream_options"} & asked.keys()


def test_a_server_without_n_is_asked_as_often_as_it_takes_with_the_seeds_of_one_call(server):
    row, usage = draw(server, n=3, params=SamplingParams(seed=7), n_per_call=1)
    assert sorted(b["seed"] for b in server.bodies) == [7, 8, 9]
    assert all("n" not in b for b in server.bodies)
    assert ([g.text for g in row], usage.calls) == (["7"] * 3, 3)


def test_five_samples_at_two_a_call_are_three_calls(server):
    answer = events(*[piece(i, "7", usage=False, finish="stop") for i in range(2)], total(2))
    single = events(piece(0, "7", usage=False, finish="stop"), total(1))

    async def by_n(request):
        return await (answer if server.bodies[-1].get("n") == 2 else single)(request)

    server.answer = [by_n]
    row, usage = draw(server, n=5, params=SamplingParams(seed=1), n_per_call=2, max_concurrency=1)
    assert [(b.get("n"), b["seed"]) for b in server.bodies] == [(2, 1), (2, 3), (None, 5)]
    assert (len(row), usage.calls, usage.completion_tokens) == (5, 3, 5)


def test_a_refused_n_is_not_bought_again_but_told_with_the_setting_that_mends_it(server):
    server.answer = [status(400, {"error": {"message": "n is not supported"}})]
    row, usage = draw(server, n=2)
    assert [g.finish_reason for g in row] == ["error", "error"]
    assert "n_per_call = 1" in row[0].error
    assert usage.calls == 1


def test_an_old_name_of_max_tokens_is_told_with_the_new_one(server):
    message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    server.answer = [status(400, {"error": {"message": message}})]
    (sample,), _ = draw(server)
    assert "max_tokens_field = 'max_completion_tokens'" in sample.error


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://host:1", "http://host:1/v1"),
        ("http://host:1/v1/", "http://host:1/v1"),
        ("https://host/api/beta", "https://host/api/beta"),
    ],
)
def test_an_address_is_the_root_that_clients_of_the_protocol_know(url, root):
    served = OpenAIBackend("served", url=url, model="m", prices=Prices(prompt=0, completion=0))
    assert served.url == root


# going on


def test_a_server_that_is_not_known_to_go_on_is_never_asked_to(server):
    with pytest.raises(ConfigError, match=r"'served' can't go on from a begun answer.*continues='final_message'"):
        draw(server, prefix=Prefix(USER, "3 + 4"))
    with pytest.raises(ConfigError, match="takes no token ids"):
        draw(server, prefix=Prefix(USER, token_ids=(1, 2)))
    assert server.bodies == []


def test_each_way_to_go_on_is_sent_as_its_servers_know_it(server):
    server.script = server.answer  # with fields of their own
    begun = Prefix(USER, "3 + 4")
    for way in ("final_message", "prefix", "last_message"):
        draw(server, prefix=begun, continues=way)
    by_field, marked, plain = server.bodies
    assert (by_field["continue_final_message"], by_field["add_generation_prompt"]) == (True, False)
    assert marked["messages"][-1] == {"role": "assistant", "content": "3 + 4", "prefix": True}
    assert plain["messages"][-1] == {"role": "assistant", "content": "3 + 4"}
    assert "continue_final_message" not in marked.keys() | plain.keys()


def test_a_template_writes_prompt_and_begun_answer_for_completions(server):
    completion = {"choices": [{"index": 0, "text": " = 7", "finish_reason": "stop"}]}
    server.answer = [events(completion, total(3, prompt=9))]
    (sample,), usage = draw(server, prefix=Prefix(USER, "3 + 4"), template=CHATML)
    assert server.paths == ["/v1/completions"]
    assert server.bodies[0]["prompt"] == "<|user|>What is 3 + 4?<|end|><|assistant|>3 + 4"
    assert (sample.text, usage.prompt_tokens, usage.completion_tokens) == (" = 7", 9, 3)
    with pytest.raises(ConfigError, match="no entry for the role 'system'"):
        draw(server, prefix=Prefix((Message("system", "x"), *USER)), template=CHATML)


# stop strings, looked for here


async def slow(*texts, request, server):
    response = await begin(request)
    for text in texts:
        await response.write(sse(piece(text=text, usage=False)))
    await asyncio.Event().wait()


@pytest.mark.parametrize(("keep", "text"), [(True, "one\n\n"), (False, "one")])
def test_a_stop_string_over_two_pieces_ends_the_sample_and_closes_its_call(server, keep, text):
    server.answer = [lambda request: slow("on", "e\n", "\ntwo", request=request, server=server)]
    params = SamplingParams(stop=("\n\n",), keep_stop=keep, max_tokens=50)
    (sample,), usage = draw(server, params=params)
    assert (sample.text, sample.stop_text, sample.finish_reason) == (text, "\n\n", "stop")
    assert server.left.wait(10), "the connection was closed, although the server had more to say"
    assert "stop" not in server.bodies[0]
    assert usage.completion_tokens == sample.completion_tokens > 0
    assert usage.prompt_tokens == 4, "14 bytes, guessed at 4 each, as the server never came to count"


def test_an_answer_that_ends_without_a_stop_string_loses_nothing(server):
    server.answer = [events(piece(text="one\n", usage=False), piece(text="", usage=False, finish="stop"), total(2))]
    (sample,), _ = draw(server, params=SamplingParams(stop=("\n\n",)))
    assert (sample.text, sample.stop_text, sample.finish_reason) == ("one\n", None, "stop")


def test_a_stream_that_breaks_in_half_a_stop_string_keeps_its_text(server):
    server.answer = [events(piece(text="one\n", usage=False), done=False)]
    (sample,), _ = draw(server, params=SamplingParams(stop=("\n\n",)))
    assert (sample.text, sample.finish_reason) == ("one\n", "error")


@pytest.mark.parametrize("field", ["stop_reason", "matched_stop"])
def test_a_server_that_tells_its_stop_string_is_sent_them(server, field):
    server.answer = [events(piece(text="one", usage=False, finish="stop", **{field: "\n"}), total(2))]
    (sample,), _ = draw(server, params=SamplingParams(stop=("\n",), keep_stop=True), stop_told=True)
    assert server.bodies[0]["stop"] == ["\n"]
    assert (sample.text, sample.stop_text) == ("one\n", "\n")


STOPS = st.lists(st.text("ab\n", min_size=1, max_size=3), min_size=1, max_size=3)


@settings(deadline=None, max_examples=80)
@given(st.lists(st.text("ab\n", max_size=4), max_size=6), STOPS, st.booleans())
def test_where_a_sample_is_cut_does_not_hang_on_how_it_came(pieces, stops, keep):
    def cut(pieces):
        drawn, shown = _Drawn(), ""
        for text in pieces:
            if drawn.finish is None:
                shown += drawn.until_stop(text, stops, keep)
        return shown + drawn.held, drawn.stop_text

    whole = "".join(pieces)
    assert cut(pieces) == cut(list(whole))
    ends = [whole.find(s) + len(s) for s in stops if s in whole]
    text, stop = cut(pieces)
    if not ends:
        assert (text, stop) == (whole, None)
    else:
        assert text == whole[: min(ends)].removesuffix("" if keep else stop)
        assert whole[: min(ends)].endswith(stop)


# what it gives


def test_confidences_are_means_over_the_likeliest_tokens_and_come_while_streaming(server):
    def token(own, *top):
        return {"logprob": own, "top_logprobs": [{"logprob": p} for p in top]}

    first = {"content": [token(-3.0, -0.5, -1.5, -3.0)]}
    second = {"content": [token(-1.0, -1.0, -2.0, -4.0)]}
    server.answer = [
        events(
            piece(text="a", usage=False, logprobs=first), piece(text="b", usage=False, logprobs=second, finish="stop")
        )
    ]

    async def main():
        params = SamplingParams(confidence_of=2, logprobs=False)
        [[sample]] = backend(server).generate([Prefix(USER)], n=1, params=params).samples
        return [d.confidences async for d in sample], await sample.result()

    pieces, whole = asyncio.run(main())
    assert pieces == [(1.0,), (1.5,)]
    assert (whole.confidences, whole.logprobs) == ((1.0, 1.5), None)


def test_fewer_alternatives_than_asked_for_are_no_confidence(server):
    logprobs = {"content": [{"logprob": -1.0, "top_logprobs": [{"logprob": -1.0}]}]}
    server.answer = [events(piece(usage=False, logprobs=logprobs, finish="stop"), total(1))]
    (sample,), _ = draw(server, params=SamplingParams(confidence_of=2))
    assert (sample.confidences, sample.logprobs) == (None, (-1.0,))


@pytest.mark.parametrize(
    ("params", "settings", "words"),
    [
        ({"confidence_of": 5}, {"logprobs": False}, "gives no log-probabilities"),
        ({"confidence_of": 21}, {}, "lists 20 alternatives per token"),
        ({"thinking_tokens": 9}, {}, "no cap on reasoning.*thinking_field"),
        ({"reasoning_effort": "low"}, {"template": CHATML}, "by a template"),
    ],
)
def test_what_a_server_lacks_is_said_before_anything_is_sent(server, params, settings, words):
    with pytest.raises(ConfigError, match=words):
        draw(server, params=SamplingParams(**params), **settings)
    assert server.bodies == []


def test_a_servers_own_cap_on_reasoning_goes_under_its_own_name(server):
    server.script = server.answer
    draw(server, params=SamplingParams(thinking_tokens=64), thinking_field="thinking_budget")
    assert server.bodies[0]["thinking_budget"] == 64


@pytest.mark.parametrize("beside", [True, False], ids=["beside the last choice", "after it"])
def test_the_total_counts_wherever_it_comes(server, beside):
    last = piece(1, "7", usage=False, finish="stop")
    chunks = [piece(0, "6", usage=False, finish="stop"), *([last | total(9) | last] if beside else [last, total(9)])]
    server.answer = [events(*chunks)]
    row, usage = draw(server, n=2)
    assert [g.text for g in row] == ["6", "7"]
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 9)


# what is asked of the server itself


@pytest.mark.parametrize("models", [[], "nonsense"])
def test_a_server_that_lists_no_models_is_taken_at_its_word(server, models):
    server.models = models
    (sample,), _ = draw(server)
    assert sample.text == "7"


def test_a_model_that_is_not_listed_is_named_beside_those_that_are(server):
    server.models = [{"id": "gpt"}]
    with pytest.raises(ModelNotServed, match="it serves 'gpt'"):
        asyncio.run(backend(server).check())


def test_a_probe_says_what_works_and_how_searches_could(server):
    found = asyncio.run(backend(server).probe())
    assert (found.reachable, found.model_served, found.error, found.usage) == (True, True, None, True)
    assert (found.logprobs, found.token_ids, found.metrics) == (False, False, False)
    assert any("continues='final_message'" in line for line in found.advice)
    assert not any("vllm" in line.lower() and "--" in line for line in found.advice)


def test_a_probe_of_a_server_that_hangs_up_raises_nothing(server):
    server.answer = [hang_up]
    found = asyncio.run(backend(server, retries=0).probe())
    assert found.reachable
    assert found.error is not None


# settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_tokens_field": "max"}, "max_tokens_field='max'"),
        ({"n_per_call": 0}, "n_per_call=0"),
        ({"max_logprobs": -1}, "max_logprobs=-1"),
        ({"continues": "somehow"}, "continues='somehow'"),
        ({"template": {"user": "{content}"}}, "'user' and 'answer'"),
        ({"template": {"user": "hello", "answer": ""}}, "has no slot {content}"),
        ({"template": CHATML, "continues": "prefix"}, "two ways"),
        ({"extra_body": {"max_completion_tokens": 3}}, "extra_body sets 'max_completion_tokens'"),
        ({"timeout_s": 0}, "timeout_s=0"),
    ],
)
def test_a_wrong_setting_is_refused_when_the_backend_is_made(server, settings, words):
    with pytest.raises(ConfigError, match=words):
        backend(server, **settings)


def test_a_spec_opens_it_with_every_setting():
    data = {
        "kind": "openai",
        "url": "https://host/v1",
        "model": "m",
        "n_per_call": 1,
        "continues": "prefix",
        "thinking_field": "thinking_budget",
        "extra_body": {"top_k": 5},
    }
    spec = msgspec.convert(data, BackendSpec)
    assert isinstance(spec, OpenAISpec)
    assert msgspec.json.decode(msgspec.json.encode(spec), type=BackendSpec) == spec
    served = open_backend("api", spec)
    assert isinstance(served, OpenAIBackend)
    assert (served.n_per_call, served.continues, served.thinking_budget) == (1, "prefix", True)
    assert served.extra_body == {"top_k": 5}


@pytest.mark.parametrize(
    "more", [{"n_per_call": 0}, {"max_logprobs": -1}, {"url": "host"}, {"continues": "prefix", "template": CHATML}]
)
def test_a_spec_refuses_what_the_backend_would(more):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"kind": "openai", "url": "http://x", "model": "m"} | more, BackendSpec)


@pytest.mark.parametrize(
    "settings, logprobs, confidence",
    [
        ({}, True, True),
        ({"max_logprobs": 1}, True, True),
        ({"max_logprobs": 0}, True, False),
        ({"logprobs": False}, False, False),
    ],
)
def test_its_settings_say_what_it_gives_before_anything_is_sent(server, settings, logprobs, confidence):
    served = backend(server, **settings)
    assert (gives_logprobs(served), gives_confidence(served)) == (logprobs, confidence)
    assert server.bodies == []


def test_a_vllm_server_gives_both():
    served = VLLMBackend("large", url="http://host", model="m", prices=Prices(prompt=1, completion=10))
    assert gives_logprobs(served)
    assert gives_confidence(served)


def test_a_vllm_spec_hands_its_settings_on():
    data = {"kind": "vllm", "url": "http://host", "model": "m", "extra_body": {"top_k": 5}, "thinking_budget": True}
    served = open_backend("large", msgspec.convert(data, BackendSpec))
    assert type(served) is VLLMBackend
    assert (served.extra_body, served.thinking_budget) == ({"top_k": 5}, True)
    with pytest.raises(ConfigError, match="extra_body sets 'seed'"):
        open_backend("large", msgspec.convert(data | {"extra_body": {"seed": 1}}, BackendSpec))


def test_an_error_of_a_closed_backend_is_ours(server):
    async def main():
        served = backend(server)
        await served.close()
        with pytest.raises(BackendError, match="was closed"):
            served.generate([Prefix(USER)], n=1, params=SamplingParams())

    asyncio.run(main())
