"""ChainOfThought: prompted and reasoning models, caps that force an answer, and reasoning that is made to go on.

The streams in streams/ are written after the documented formats of vLLM, DeepSeek and servers without a reasoning
parser: no reasoning model was at hand, and no figure of one is claimed. The other texts are scripted.
"""

import asyncio
import pathlib
import threading

import msgspec
import pytest

from howhard.strategies import (
    Budget,
    ChainOfThought,
    ChainOfThoughtSpec,
    Markers,
    Message,
    Prices,
    Request,
    SamplingParams,
    SinglePass,
    StrategySpec,
)
from howhard.strategies.backends.openai import OpenAIBackend
from howhard.strategies.backends.vllm import VLLMBackend
from howhard.strategies.base import Delta
from howhard.strategies.errors import BackendError, ConfigError, InputError
from howhard.strategies.testing import CONTRACT, FailingOn, ScriptedBackend, Subject

from .scripted_server import Running, begin

STREAMS = pathlib.Path(__file__).parent / "streams"
THINK = {"template": None}


def run(strategy, backend, prompt="3 + 4?", **how):
    return asyncio.run(strategy.run(Request.of(prompt), backend, **how))


def scripted(*solutions, **how):
    return ScriptedBackend(lambda prompt: solutions, **how)


def streamed(strategy, backend, prompt="3 + 4?", **how):
    async def main():
        stream = strategy.stream(Request.of(prompt), backend, **how)
        deltas = [delta async for delta in stream]
        return deltas, await stream.result()

    return asyncio.run(main())


def together(deltas):
    return "".join(d.reasoning for d in deltas), "".join(d.text for d in deltas)


# the contract


STRATEGIES = [
    ChainOfThought(template="{prompt}", params=SamplingParams(max_tokens=40, seed=3)),
    ChainOfThought(template="{prompt}", thinking_tokens=12, params=SamplingParams(max_tokens=40, seed=3)),
    ChainOfThought(**THINK, thinking_tokens=12, waits=1, params=SamplingParams(max_tokens=40, seed=3)),
    ChainOfThought(
        **THINK, thinking_tokens=12, markers=Markers(opened=True), params=SamplingParams(max_tokens=40, seed=3)
    ),
]


def script(prompt):
    return [f"{prompt}\n{i}{i + 1}\nAnswer: {i % 3}" for i in range(7)]


@pytest.fixture(params=["scripted", "local"])
def backend(request):
    return ScriptedBackend(script) if request.param == "scripted" else request.getfixturevalue("local")


def subject(strategy, backend):
    async def served():
        return backend.served.completion_tokens

    async def running():
        return backend.running

    if isinstance(backend, ScriptedBackend):

        def pause():
            backend.held = asyncio.Event()

        def resume():
            backend.held.set()
    else:
        step, going = backend._model.step, threading.Event()
        going.set()
        backend._model.step = lambda state, ids: going.wait(30) and step(state, ids)
        pause, resume = going.clear, going.set
    prompts = tuple(f"{i} + {i + 1}" for i in range(8))
    return Subject(
        strategy=strategy,
        backend=backend,
        prompts=prompts,
        served=served,
        running=running,
        pause=pause,
        resume=resume,
    )


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=["cot", "cot capped", "wait", "opened"])
def test_capped_and_waiting_chains_keep_the_contract(check, strategy, backend):
    asyncio.run(check(subject(strategy, backend)))


# prompted


def test_the_instruction_goes_around_the_last_message_of_the_user():
    backend = scripted("3 + 4 is 7.\nAnswer: 7")
    messages = [Message("system", "Be brief."), Message("user", "{x} 3 + 4?"), Message("assistant", "So")]
    result = run(ChainOfThought(template="Q: {prompt} Think."), backend, Request.of(messages).messages)
    [((prefix,), _, _)] = backend.calls
    assert [m.content for m in prefix.messages] == ["Be brief.", "Q: {x} 3 + 4? Think.", "So"]
    assert (result.reasoning, result.text, result.answer) == ("3 + 4 is 7.\n", "Answer: 7", "7")
    assert result.stopped_because == "drew 1 sample"


def test_a_chain_that_states_no_answer_is_reasoning_and_answer_in_one():
    deltas, result = streamed(ChainOfThought(), scripted("3 + 4\nis 7"))
    assert together(deltas) == (result.reasoning, result.text) == ("3 + 4\nis 7", "3 + 4\nis 7")
    assert result.answer == "3 + 4\nis 7"


def test_a_chain_cut_before_its_answer_has_none():
    result = run(ChainOfThought(params=SamplingParams(max_tokens=4)), scripted("3 + 4\nAnswer: 7"))
    assert (result.reasoning, result.text, result.answer) == ("3 + ", "", None)
    assert "cut at 4 tokens" in result.stopped_because


# models that reason by themselves


def test_a_block_is_reasoning_and_what_follows_the_answer():
    result = run(ChainOfThought(**THINK), scripted("<think>3 + 4 is 7</think>\n\n7"))
    assert (result.reasoning, result.text, result.answer) == ("3 + 4 is 7", "7", "7")


@pytest.mark.parametrize("shown", [True, False])
def test_pieces_of_reasoning_are_shown_or_hidden(shown):
    backend = scripted("<think>3 + 4 is 7</think>\n\nIt is 7")
    deltas, result = streamed(ChainOfThought(**THINK), backend, reasoning=shown)
    assert together(deltas) == ("3 + 4 is 7" if shown else "", "It is 7")
    assert len([d for d in deltas if d.text]) == 7, "as they came, not at the end"
    assert (result.reasoning, result.text) == ("3 + 4 is 7", "It is 7")


def test_a_cap_ends_the_reasoning_and_draws_the_answer():
    backend = scripted("<think>long and longer</think>\n\n7", "<think>long</think>\n\nFinal Answer: 8")
    strategy = ChainOfThought(**THINK, thinking_tokens=11, params=SamplingParams(max_tokens=30))
    deltas, result = streamed(strategy, backend)
    assert together(deltas) == (result.reasoning, result.text) == ("long", "Final Answer: 8")
    assert result.answer == "8"
    (first, _, thinking), (second, _, answering) = backend.calls
    assert (thinking.max_tokens, answering.max_tokens) == (11, 30 - 11)
    assert second[0].answer == "<think>long</think>\n\nFinal Answer:"
    assert result.usage.completion_tokens == backend.served.completion_tokens == 11 + 3
    assert result.usage.prompt_tokens == backend.count_tokens(first[0]) + backend.count_tokens(second[0])
    assert result.usage.calls == 2
    assert result.candidates[0].generation.completion_tokens == 14
    assert "reasoning was ended after 11 tokens" in result.stopped_because
    assert run(strategy, backend).text == result.text, "streamed or not"


def test_a_cap_in_the_middle_of_the_end_marker_completes_it():
    backend = scripted("<think>3</think>7", "<think>3</think>\n\nFinal Answer: 8")
    strategy = ChainOfThought(**THINK, thinking_tokens=12, params=SamplingParams(max_tokens=30))
    result = run(strategy, backend)
    assert backend.calls[1][0][0].answer == "<think>3</think>\n\nFinal Answer:"
    assert (result.reasoning, result.text) == ("3", "Final Answer: 8")


def test_a_cap_that_cuts_the_answer_only_is_no_cap_on_it():
    backend = scripted("<think>3</think>seven and no more")
    result = run(ChainOfThought(**THINK, thinking_tokens=20, params=SamplingParams(max_tokens=60)), backend)
    assert (result.reasoning, result.text) == ("3", "seven and no more")
    assert result.usage.calls == 2
    assert len(backend.calls[1][0][0].answer) == 20


def test_reasoning_that_ends_within_its_cap_takes_one_call():
    result = run(
        ChainOfThought(**THINK, thinking_tokens=20, params=SamplingParams(max_tokens=30)), scripted("<think>3</think>7")
    )
    assert (result.reasoning, result.text, result.usage.calls) == ("3", "7", 1)


def test_reasoning_that_stops_without_an_end_is_given_one_where_it_is_capped():
    backend = scripted("<think>3", "<think>3</think>\n\nFinal Answer: 7")
    strategy = ChainOfThought(**THINK, thinking_tokens=20, params=SamplingParams(max_tokens=30))
    assert run(strategy, backend).answer == "7"
    assert run(ChainOfThought(**THINK), backend).text == ""


def test_a_prompted_chain_is_capped_too():
    backend = scripted("3 and 4 and", "3 and 4\n\nFinal Answer: 7")
    strategy = ChainOfThought(thinking_tokens=7, params=SamplingParams(max_tokens=30))
    result = run(strategy, backend)
    assert (result.reasoning, result.text, result.answer) == ("3 and 4\n\n", "Final Answer: 7", "7")


def test_an_end_is_replaced_by_wait_as_often_as_asked():
    backend = scripted(
        "<think>7?</think>7", "<think>7?\nWait, no</think>", "<think>7?\nWait, no\nWait: 8</think>\n\n8",
    )  # fmt: skip
    strategy = ChainOfThought(**THINK, waits=2, params=SamplingParams(max_tokens=60))
    result = run(strategy, backend)
    assert (result.reasoning, result.text) == ("7?\nWait, no\nWait: 8", "8")
    assert [params.stop for _, _, params in backend.calls] == [("</think>",)] * 3 + [()]
    assert result.usage.completion_tokens == backend.served.completion_tokens
    assert "went on 2 of 2 times" in result.stopped_because
    assert result.candidates[0].generation.complete


def test_waits_end_at_the_cap_where_the_answer_is_forced():
    backend = scripted(
        "<think>7?</think>7", "<think>7?\nWait, and so on", "<think>7?\nWait, and so</think>\n\nFinal Answer: 9"
    )
    params = SamplingParams(max_tokens=60)
    result = run(ChainOfThought(**THINK, waits=5, thinking_tokens=17, params=params), backend)
    assert (result.reasoning, result.answer) == ("7?\nWait, and so", "9")
    assert "went on 1 of 5 times, reasoning was ended after 17 tokens" in result.stopped_because


def test_a_budget_shortens_the_reasoning_so_that_an_answer_can_be_forced():
    backend = scripted("<think>" + "m" * 200, *(f"<think>{'m' * k}</think>\n\nFinal Answer: 7" for k in range(200)))
    strategy = ChainOfThought(**THINK, thinking_tokens=200, params=SamplingParams(max_tokens=300))
    result = run(strategy, backend, budget=Budget(tokens=250))
    assert result.answer == "7"
    assert result.usage.total_tokens <= 250


def test_a_budget_that_holds_no_answer_gives_the_reasoning_and_says_so():
    result = run(
        ChainOfThought(**THINK, thinking_tokens=20, params=SamplingParams(max_tokens=40)),
        scripted("<think>3 and on"),
        budget=Budget(tokens=14),
    )
    assert result.answer is None
    assert result.reasoning
    assert "the budget of 14 tokens was spent" in result.stopped_because
    with pytest.raises(InputError, match="does not hold one token"):
        run(ChainOfThought(**THINK), scripted("7"), budget=Budget(tokens=3))


def test_a_full_context_ends_the_chain_and_is_named():
    backend = scripted("<think>3 and on and on", context=30)
    result = run(ChainOfThought(**THINK, thinking_tokens=14, params=SamplingParams(max_tokens=20)), backend)
    assert (result.answer, result.usage.calls) == (None, 1)
    assert "the context of 30 tokens is full" in result.stopped_because


def test_a_part_that_fails_fails_the_sample():
    backend = FailingOn(scripted("<think>3 and on and on"), {0})
    with pytest.raises(BackendError, match="failed on purpose"):
        run(ChainOfThought(**THINK, thinking_tokens=9, params=SamplingParams(max_tokens=20)), backend)


def test_a_stream_that_is_cancelled_draws_no_further_part():
    backend = scripted("<think>3 and on and on")

    async def main():
        strategy = ChainOfThought(**THINK, thinking_tokens=14, params=SamplingParams(max_tokens=40))
        stream = strategy.stream(Request.of("x"), backend)
        async for _ in stream:
            stream.cancel()
        return await stream.result()

    result = asyncio.run(main())
    assert (result.answer, len(backend.calls)) == (None, 1)
    assert "cancelled" in result.stopped_because
    assert backend.running == 0


@pytest.mark.parametrize("reads", [True, False], ids=["while it reads", "while it waits"])
def test_a_caller_that_is_cancelled_takes_its_stream_along(reads):
    backend = scripted("<think>3 and on and on")

    async def main():
        backend.held = asyncio.Event()
        stream = ChainOfThought(**THINK).stream(Request.of("x"), backend)

        async def caller():
            if reads:
                return [delta async for delta in stream]
            return await stream.result()

        task = asyncio.create_task(caller())
        while not backend.served.completion_tokens:  # noqa: ASYNC110  # the backend has no event for it
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while backend.running:  # noqa: ASYNC110
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(main(), 30))
    assert backend.served.completion_tokens == 1


@pytest.mark.parametrize("strategy", [ChainOfThought(), SinglePass()], ids=lambda s: s.name)
def test_a_stream_that_is_not_read_to_its_end_is_drawn_to_its_end(strategy):
    async def main():
        stream = strategy.stream(Request.of("x"), scripted("3 + 4 is 7\nAnswer: 7"))
        async for _ in stream:
            break
        return await stream.result()

    assert asyncio.run(asyncio.wait_for(main(), 30)).answer == "7"


def test_a_stream_whose_caller_is_cancelled_before_it_began_draws_nothing():
    backend = scripted("<think>3 and on and on")

    async def main():
        backend.held = asyncio.Event()
        stream = ChainOfThought(**THINK).stream(Request.of("x"), backend)
        task = asyncio.create_task(stream.result())
        stream._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(9):
            await asyncio.sleep(0)
        return backend.running

    assert asyncio.run(asyncio.wait_for(main(), 30)) == 0


def test_what_a_stream_could_not_draw_is_told_by_its_result():
    async def main():
        backend = scripted("<think>3 and on", fails=lambda prefix, i: True)
        stream = ChainOfThought(**THINK).stream(Request.of("x"), backend)
        pieces = [delta async for delta in stream]
        with pytest.raises(BackendError, match="scripted failure"):
            await stream.result()
        return pieces + [delta async for delta in stream]

    assert asyncio.run(asyncio.wait_for(main(), 30)) == [Delta("<")], "what was drawn before is shown, and once"


def test_an_embedded_model_goes_on_by_token_ids(local):
    strategy = ChainOfThought(
        template="{prompt}", thinking_tokens=5, forced_text="Answer:", params=SamplingParams(max_tokens=20, seed=2)
    )
    calls, generate = [], local.generate
    [[sample]] = asyncio.run(draw_all(local, strategy))
    assert sample.completion_tokens > 5, "the seed is of a sample that the cap cuts"
    local.generate = lambda prefixes, **how: calls.append(prefixes[0]) or generate(prefixes, **how)
    result = run(strategy, local, "1 + 2")
    first, second = calls
    ids = local._encode(first)
    assert first.token_ids is None
    assert second.token_ids[: len(ids)] == ids
    assert second.token_ids[len(ids) + 5 :] == local._encode(type(first)(first.messages, "\n\nAnswer:"))[len(ids) :]
    assert result.text.startswith("Answer:")
    assert (result.candidates[0].generation.token_ids, len(result.candidates[0].generation.logprobs)) == (
        None,
        result.usage.completion_tokens,
    )


async def draw_all(backend, strategy):
    prefix = strategy.prefix(Request.of("1 + 2"))
    return await backend.generate([prefix], n=1, params=strategy.params).all()


# servers


@pytest.fixture(scope="module")
def running():
    running = Running()
    yield running
    running.stop()


@pytest.fixture
def server(running):
    return running.fresh()


def replay(name):
    async def answer(request):
        response = await begin(request)
        await response.write((STREAMS / f"{name}.sse").read_bytes())
        return response

    return answer


def served(kind, server, **settings):
    return kind("served", url=server.url, model="m", prices=Prices(prompt=1, completion=2), **settings)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("vllm_reasoning", VLLMBackend), ("deepseek_reasoning_content", OpenAIBackend), ("inline_think", OpenAIBackend)],
)
def test_recorded_streams_of_known_servers_are_told_apart(server, name, kind):
    server.script = [replay(name)]
    deltas, result = streamed(ChainOfThought(**THINK), served(kind, server))
    assert together(deltas) == (result.reasoning, result.text) == ("3 plus 4 is 7.", "Answer: 7")
    assert result.answer == "7"
    assert (result.usage.prompt_tokens, result.usage.completion_tokens, result.usage.calls) == (14, 11, 1)


def test_reasoning_that_a_server_tells_apart_is_ended_by_token_ids(server):
    server.script = [replay("vllm_reasoning_cut"), replay("vllm_completion")]
    server.tokens = [151668, 271, 19357, 21806, 25]
    strategy = ChainOfThought(**THINK, thinking_tokens=5, params=SamplingParams(max_tokens=64))
    deltas, result = streamed(strategy, served(VLLMBackend, server))
    assert together(deltas) == (result.reasoning, result.text) == ("3 plus 4", "Final Answer: 7")
    chat, completion = server.bodies
    assert server.paths == ["/v1/chat/completions", "/v1/completions"]
    assert server.asked["prompt"] == "</think>\n\nFinal Answer:"
    prompt = [151644, 872, 198, 3838, 374, 220, 18, 488, 220, 19, 30, 151645, 198, 151644]
    assert completion["prompt"] == [*prompt, 151667, 18, 5519, 220, 19, *server.tokens]
    assert (chat["max_tokens"], completion["max_tokens"]) == (5, 64 - 24), "what the context of 64 tokens has left"
    assert "thinking_token_budget" not in chat
    assert (result.usage.prompt_tokens, result.usage.completion_tokens, result.usage.calls) == (38, 7, 2)


@pytest.mark.parametrize(("settings", "cap_by"), [({"thinking_budget": True}, "auto"), ({}, "server")])
def test_a_server_that_caps_reasoning_itself_is_asked_to(server, settings, cap_by):
    server.script = [replay("vllm_reasoning")]
    params = SamplingParams(max_tokens=64, reasoning_effort="low")
    strategy = ChainOfThought(**THINK, thinking_tokens=32, cap_by=cap_by, params=params)
    result = run(strategy, served(VLLMBackend, server, **settings))
    [body] = server.bodies
    assert (body["thinking_token_budget"], body["reasoning_effort"], body["max_tokens"]) == (32, "low", 64)
    assert (result.answer, result.usage.calls) == ("7", 1)


def test_a_server_that_tells_reasoning_apart_and_no_token_ids_cannot_be_gone_on_from(server):
    server.script = [replay("vllm_reasoning_cut")]
    strategy = ChainOfThought(**THINK, thinking_tokens=5, params=SamplingParams(max_tokens=64))
    with pytest.raises(ConfigError, match=r"think_5 can't go on from the reasoning of 'served'.*reasoning_effort"):
        run(strategy, served(VLLMBackend, server))


@pytest.mark.parametrize("settings", [{"thinking_tokens": 5}, {"waits": 1}])
def test_a_plain_server_is_not_asked_for_what_it_cannot_do(server, settings):
    with pytest.raises(ConfigError, match="'served' can't: set its `continues`"):
        run(ChainOfThought(**THINK, **settings), served(OpenAIBackend, server))
    assert server.bodies == []


def test_a_plain_server_that_goes_on_from_a_last_message_is_capped_by_text(server):
    server.script = [replay("inline_think")]
    strategy = ChainOfThought(**THINK, waits=1, params=SamplingParams(max_tokens=64))
    deltas, result = streamed(strategy, served(OpenAIBackend, server, continues="last_message"))
    begun = [body["messages"][-1]["content"] for body in server.bodies[1:]]
    thought = "<think>3 plus 4 is 7.\nWait<think>3 plus 4 is 7."  # the server only has one thing to say
    assert begun == ["<think>3 plus 4 is 7.\nWait", f"{thought}</think>\n\n"]
    assert together(deltas) == (result.reasoning, result.text)
    assert result.reasoning == thought.removeprefix("<think>")
    assert result.candidates[0].generation.complete


# settings


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "cot"),
        ({"thinking_tokens": 99}, "cot_99"),
        ({"template": None}, "think"),
        ({"template": None, "thinking_tokens": 2048, "max_tokens": 4096}, "think_2048"),
        ({"template": None, "thinking_tokens": 99, "waits": 2}, "think_99_wait_2"),
        ({"template": None, "reasoning_effort": "low"}, "think_low"),
        ({"template": ""}, "think"),
    ],
)
def test_a_spec_names_the_dials_and_is_read_back(settings, name):
    spec = msgspec.convert({"kind": "chain_of_thought", **settings}, StrategySpec)
    assert isinstance(spec, ChainOfThoughtSpec)
    assert spec.name == name
    assert msgspec.json.decode(msgspec.json.encode(spec), type=StrategySpec) == spec


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"template": "Think!"}, "has no slot {prompt}"),
        ({"thinking_tokens": 0}, "thinking_tokens=0"),
        ({"thinking_tokens": 256}, "below max_tokens=256"),
        ({"waits": -1, "template": None}, "waits=-1"),
        ({"waits": 1}, "leave template empty"),
        ({"cap_by": "server"}, "it needs thinking_tokens"),
        ({"cap_by": "me"}, "cap_by='me'|Invalid enum"),
        ({"wait_text": " "}, "wait_text=' '"),
        ({"forced_text": ""}, "forced_text=''"),
        ({"start": "x", "end": "x"}, "must differ"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_remedy(settings, words):
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert({"kind": "chain_of_thought", **settings}, StrategySpec)


def test_a_cap_is_given_in_one_place():
    with pytest.raises(ConfigError, match="give the cap as"):
        ChainOfThought(params=SamplingParams(thinking_tokens=9))
