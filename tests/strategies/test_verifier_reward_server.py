"""RewardServer: what it asks, what it makes of the answers, and what it does when a server misbehaves.

The server here is a script of answers, for faults and for what is sent. The shapes in RECORDED are what a real vLLM
0.32.0 answered about tiny random classifiers (vllm serve --runner pooling); the same scores came of them there.
"""

import asyncio
import json
import math

import pytest
from aiohttp import web

from howhard.strategies import Candidate, Message, Prices, Request, RewardServer, RewardServerSettings, Usage
from howhard.strategies.errors import BackendTimeout, BackendUnreachable, ConfigError, PromptTooLong, VerifierError
from howhard.strategies.spec import Parts, SpecError
from howhard.strategies.verifiers.reward_server import RewardServerSpec

from .scripted_server import in_thread

PROMPT = Request.of("What is the secret of my very private prompt, please?")
KEY = "sk-never-to-be-seen"
PRICES = Prices(prompt=0.5, completion=0.0)


def recorded(path, body):
    """What vLLM 0.32.0 answers, with as many results as texts were sent."""
    usage = {"prompt_tokens": 16, "total_tokens": 16, "completion_tokens": 0, "prompt_tokens_details": None}
    texts = body.get("input") or body.get("text_2") or body.get("documents") or [body["messages"][-1]["content"]]
    scores = [len(text) % 10 / 10 for text in texts]
    if path == "/classify":
        data = [{"index": i, "label": "LABEL_0", "probs": [s], "num_classes": 1} for i, s in enumerate(scores)]
    elif path == "/v1/score":
        data = [{"index": i, "object": "score", "score": s} for i, s in enumerate(scores)]
    elif path == "/pooling":
        data = [{"index": i, "object": "pooling", "data": [s]} for i, s in enumerate(scores)]
    else:
        results = [
            {"index": i, "document": {"text": texts[i], "multi_modal": None}, "relevance_score": scores[i]}
            for i in sorted(range(len(texts)), key=lambda i: -scores[i])
        ]
        return {"id": "score-1", "model": "m", "usage": {"prompt_tokens": 16, "total_tokens": 16}, "results": results}
    return {"id": "x-1", "object": "list", "created": 1, "model": "m", "data": data, "usage": usage}


class Scripted:
    """Answers each call with the next of the script, the last one for ever; None = as vLLM does."""

    def __init__(self):
        self.script = [None]
        self.bodies, self.paths, self.keys = [], [], []
        self.now = self.most = 0

    async def answer(self, request):
        body = await request.json()
        self.bodies.append(body)
        self.paths.append(request.path)
        self.keys.append(request.headers.get("Authorization"))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            made = self.script[min(len(self.bodies), len(self.script)) - 1]
            if made is None:
                return web.json_response(recorded(request.path, body))
            return await made(request) if callable(made) else web.json_response(made)
        finally:
            self.now -= 1


@pytest.fixture
def server():
    scripted = Scripted()
    app = web.Application()
    app.router.add_post("/{path:.*}", scripted.answer)
    port, stop = in_thread(app)
    scripted.url = f"http://127.0.0.1:{port}/v1"
    yield scripted
    stop()


def verifier(server, *, timeout_s=20.0, api_key_env=None, retries=1, **settings):
    return RewardServer(
        server.url,
        "m",
        RewardServerSettings(**settings),
        prices=PRICES,
        timeout_s=timeout_s,
        api_key_env=api_key_env,
        retries=retries,
        name="rm",
    )


def score(verifier, *texts, request=PROMPT, **kwargs):
    return asyncio.run(verifier.score(request, [Candidate.of(t) for t in texts], **kwargs))


def classes(*rows, usage=7):
    data = [{"index": i, "label": None, "probs": row, "num_classes": len(row)} for i, row in enumerate(rows)]
    return {"data": data, "usage": {"prompt_tokens": usage}}


def pooled(*rows):
    return {"data": [{"index": i, "data": row} for i, row in enumerate(rows)], "usage": {"prompt_tokens": 7}}


def status(code, body=None, **headers):
    async def answer(request):
        return web.json_response(body, status=code, headers=headers)

    return answer


# what is sent, and what comes of it


@pytest.mark.parametrize(
    "endpoint, layout", [("classify", "text"), ("score", "chat"), ("rerank", "chat"), ("pooling", "text")]
)
def test_texts_go_in_batches_and_scores_come_back_in_their_order(server, endpoint, layout):
    verdicts = score(verifier(server, endpoint=endpoint, layout=layout, batch=2), "a", "abcd", "a", "ab")
    head = len(PROMPT.text) + 1 if endpoint in ("classify", "pooling") else 0
    assert verdicts.scores == pytest.approx([(head + n) % 10 / 10 for n in (1, 4, 1, 2)])
    assert len(server.bodies) == 2
    assert verdicts.usage == Usage(verifier_tokens=32, calls=2, cost=16.0)
    assert {"classify": "/classify", "score": "/v1/score", "rerank": "/v1/rerank", "pooling": "/pooling"}[
        endpoint
    ] == server.paths[0]


def test_a_dialogue_goes_through_the_servers_template_one_call_per_text(server):
    request = Request((Message("system", "Be brief."), Message("user", "1 + 2?")))
    verdicts = score(verifier(server), "3", "33", request=request)
    assert verdicts.scores == pytest.approx((0.1, 0.2))
    assert sorted(body["messages"][-1]["content"] for body in server.bodies) == ["3", "33"]
    assert server.bodies[0]["messages"][:2] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 2?"},
    ]
    assert "use_activation" not in server.bodies[0]


def test_a_text_fills_the_template_and_is_not_read_for_slots_again(server):
    score(
        verifier(server, layout="text", template="Q: {prompt} A: {answer}"), "{prompt}", request=Request.of("{answer}")
    )
    assert server.bodies[0]["input"] == ["Q: {answer} A: {prompt}"]


@pytest.mark.parametrize(
    "scale, row, expected",
    [
        ("probability", [0.2, 0.8], 0.8),
        ("sigmoid", [-1.0, 2.0], 1 / (1 + math.exp(-2))),
        ("softmax", [-1.0, 2.0], 1 / (1 + math.exp(-3))),
        ("softmax", [1000.0, -1000.0], 0.0),
        ("sigmoid", [0.0, -1000.0], 0.0),
    ],
)
def test_numbers_become_scores_as_the_setting_says(server, scale, row, expected):
    server.script = [classes(row)]
    verdicts = score(verifier(server, good=1, scale=scale), "x")
    assert verdicts.scores == pytest.approx((expected,))
    assert server.bodies[0].get("use_activation") is (None if scale == "probability" else False)


def test_each_step_has_a_tag_and_a_row_and_a_text_cannot_forge_one(server):
    server.script = [pooled([[0.1, 0.9], [0.5, 0.5]])]
    prm = verifier(server, endpoint="pooling", rows="steps", good=1, step_tag="<s>", aggregate="product")
    verdicts = score(prm, "one <s>\n\n two\n", partial=True)
    assert server.bodies[0]["messages"][-1]["content"] == "one<s>two<s>"
    assert verdicts.steps == ((0.9, 0.5),)
    assert verdicts.scores == pytest.approx((0.45,))


def test_of_a_row_per_token_the_last_one_may_count(server):
    server.script = [pooled([[0.1], [0.7]])]
    assert score(verifier(server, endpoint="pooling", rows="last"), "x").scores == (0.7,)


def test_usage_is_what_the_server_reports_and_bounded_where_it_reports_none(server):
    server.script = [{"data": [{"index": 0, "probs": [0.5]}]}]
    rm = verifier(server)
    bound = rm.most_usage(PROMPT, [Candidate.of("x")])
    assert score(rm, "x").usage == bound
    assert bound.verifier_tokens >= len(PROMPT.text) + 1
    assert bound.cost == bound.verifier_tokens * 0.5


def test_the_key_is_sent_and_never_told(server, monkeypatch, caplog):
    monkeypatch.setenv("HOWHARD_TEST_KEY", KEY)
    rm = verifier(server, api_key_env="HOWHARD_TEST_KEY")
    server.script = [
        status(503, {"error": f"bad key {KEY}"}, **{"Retry-After": "0"}),
        status(400, {"error": f"no {KEY}"}),
    ]
    with pytest.raises(VerifierError) as caught:
        score(rm, "x")
    assert server.keys == [f"Bearer {KEY}"] * 2
    assert KEY not in str(caught.value) + caplog.text + repr(rm)
    monkeypatch.delenv("HOWHARD_TEST_KEY")
    with pytest.raises(ConfigError, match="api_key_env='HOWHARD_TEST_KEY': this environment variable is not set"):
        verifier(server, api_key_env="HOWHARD_TEST_KEY")


def test_calls_under_way_at_once_are_limited(server):
    score(verifier(server, connections=3), *map(str, range(20)))
    assert len(server.bodies) == 20
    assert server.most <= 3


# a server that misbehaves


@pytest.mark.parametrize("code", [429, 502, 503])
def test_a_call_refused_for_now_is_sent_again_and_counted(server, code, caplog):
    server.script = [status(code, {"error": "busy"}, **{"Retry-After": "0"}), None]
    assert score(verifier(server), "abc").usage == Usage(verifier_tokens=16, calls=2, cost=8.0)
    assert "sending it again" in caplog.text


def test_a_connection_lost_before_an_answer_is_tried_again(server):
    async def hang_up(request):
        request.transport.abort()
        return web.Response()

    server.script = [hang_up, None]
    assert score(verifier(server), "abc").scores == pytest.approx((0.3,))
    server.script = [hang_up]
    with pytest.raises(VerifierError, match="connection was lost before an answer"):
        score(verifier(server, retries=0), "abc")


async def garbage(request):
    return web.Response(text="<html>busy</html>")


async def half(request):
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"data": [')
    request.transport.close()
    return response


@pytest.mark.parametrize(
    "answer, words",
    [
        (status(500, {"error": {"message": "boom"}}), "answered 500: boom"),
        (status(429, {"error": "busy"}, **{"Retry-After": "0"}), "answered 429: busy"),
        (status(404, {"detail": "Not Found"}), "Not Found; does its model offer this endpoint"),
        (status(404, {"error": {"message": "The model `m` does not exist."}}), "The model `m` does not exist"),
        (status(401, {}), "wants an API key; set api_key_env"),
        (status(302, {}, Location="/other"), "redirects elsewhere"),
        (status(400, {"error": {"message": f"bad: {PROMPT.text}"}}), "repeats the texts and is left out"),
        (garbage, "not JSON"),
        (half, "broke off in the middle"),
        ([], "answered a list of 0 at /classify"),
        ({"results": []}, "answered an object with results at /classify, not an object with a list 'data'"),
        ({"data": []}, "gave 0 results for 1 texts"),
        (classes([0.5], [0.5]), "gave 2 results for 1 texts"),
        ({"data": [{"index": 1, "probs": [0.5]}]}, "index 1, where each of 0 to 0"),
        ({"data": [{"index": True, "probs": [0.5]}]}, "index True"),
        ({"data": [{"index": 0, "score": 0.5}]}, "an object with index, score whose 'probs' is nothing"),
        ({"data": [{"index": 0, "probs": []}]}, "whose 'probs' is a list of 0"),
        ({"data": [{"index": 0, "probs": ["0.5"]}]}, "whose 'probs' is a list of 1"),
        ({"data": [{"index": 0, "probs": [True]}]}, "whose 'probs' is a list of 1"),
        (classes([1.7]), "which is no probability: set scale='sigmoid'"),
        (classes([0.5, 0.5]), "gave 2 classes for text 0: say with `good`"),
    ],
)
def test_what_is_no_score_is_an_error_that_says_what_came(server, answer, words):
    server.script = [answer]
    with pytest.raises(VerifierError, match="verifier 'rm': ") as caught:
        score(verifier(server), "x")
    assert words in str(caught.value)
    assert "private" not in str(caught.value)


def test_an_answer_that_comes_in_pieces_is_read_whole(server):
    async def in_pieces(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in ('{"data": [{"index": 0, ', " " * 200_000, '"probs": [0.5]}]}'):
            await response.write(piece.encode())
            await asyncio.sleep(0)
        return response

    server.script = [in_pieces]
    assert score(verifier(server), "x").scores == (0.5,)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999"])
def test_a_number_that_is_none_is_an_error(server, text):
    async def answer(request):
        body = f'{{"data": [{{"index": 0, "probs": [{text}]}}]}}'
        return web.Response(text=body, content_type="application/json")

    server.script = [answer]
    with pytest.raises(VerifierError, match=r"not JSON|no score"):
        score(verifier(server, scale="sigmoid"), "x")


def test_rows_that_do_not_fit_the_steps_name_the_servers_setting(server):
    server.script = [pooled([[0.5]])]
    with pytest.raises(VerifierError, match=r"gave 1 rows for the 2 steps of text 0: start it with --pooler-config"):
        score(verifier(server, endpoint="pooling", rows="steps"), "a\nb")
    server.script = [pooled([])]
    with pytest.raises(VerifierError, match="gave 0 rows for text 0, not one"):
        score(verifier(server, endpoint="pooling"), "a\nb")


def test_a_stalled_server_is_given_up_and_one_that_is_not_there_is_named(server):
    async def stall(request):
        await asyncio.sleep(30)

    server.script = [stall]
    with pytest.raises(VerifierError, match=r"no whole answer within 0.2 s") as caught:
        score(verifier(server, timeout_s=0.2), "x")
    assert isinstance(caught.value.__cause__, BackendTimeout)
    server.url = "http://127.0.0.1:9"
    with pytest.raises(VerifierError, match="cannot be reached") as caught:
        score(verifier(server), "x")
    assert isinstance(caught.value.__cause__, BackendUnreachable)


LONG = {"error": {"message": "This model's maximum context length is 256 tokens.", "code": 400}}


def test_a_text_too_long_for_the_model_is_not_judged_alone_and_an_error_in_company(server):
    async def by_length(request):
        body = json.loads(await request.text())
        long = len(body["messages"][-1]["content"]) > 5
        return web.json_response(LONG if long else recorded("/classify", body), status=400 if long else 200)

    server.script = [by_length]
    assert score(verifier(server), "abc", "too long").scores == (pytest.approx(0.3), None)
    server.script = [status(400, LONG)]
    assert score(verifier(server), "too long").note == "no text fits the context of the reward model"
    with pytest.raises(VerifierError, match="in a call of 2 texts: set batch=1") as caught:
        score(verifier(server, layout="text"), "abc", "too long")
    assert isinstance(caught.value.__cause__.__cause__, PromptTooLong)


def test_one_instance_serves_several_event_loops_and_many_requests_at_once(server):
    rm = verifier(server)
    score(rm, "a")

    async def many():
        asked = [rm.score(Request.of(f"{i}?"), [Candidate.of("x" * (i % 9 + 1))]) for i in range(40)]
        return await asyncio.gather(*asked)

    assert [v.scores[0] for v in asyncio.run(many())] == pytest.approx([(i % 9 + 1) / 10 for i in range(40)])


# settings


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"endpoint": "clasify"}, "endpoint='clasify'; did you mean 'classify'"),
        ({"scale": "logit"}, "scale='logit'"),
        ({"aggregate": "sum"}, "aggregate='sum'"),
        ({"template": "{answer}"}, "template has no slot {prompt}"),
        ({"good": -1}, "good=-1"),
        ({"endpoint": "score", "good": 1}, "gives one number per text"),
        ({"endpoint": "rerank", "scale": "softmax"}, "gives one number per text"),
        ({"rows": "steps"}, "only endpoint='pooling'"),
        ({"endpoint": "pooling", "rows": "steps", "step_tag": ""}, "needs a step_tag"),
        ({"batch": 0}, "batch=0"),
    ],
)
def test_settings_out_of_range_are_refused_by_class_and_spec(bad, words):
    with pytest.raises(ConfigError) as one:
        RewardServerSettings(**bad)
    with pytest.raises(SpecError) as other:
        RewardServerSpec(url="http://x", model="m", **bad)
    assert words in str(one.value)
    assert words in str(other.value)


def test_a_spec_opens_a_server_without_asking_it():
    rm = RewardServerSpec(url="http://127.0.0.1:9/v1", model="m", endpoint="score").open("best", Parts())
    assert (rm.name, rm.sound, rm.prices.prompt, rm.settings.endpoint) == ("best", False, 1.0, "score")
    with pytest.raises(SpecError, match="url='x'"):
        RewardServerSpec(url="x", model="m")
    with pytest.raises(ConfigError, match="timeout_s=0"):
        RewardServer("http://x", "m", prices=PRICES, timeout_s=0)
