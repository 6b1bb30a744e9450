"""The reward model that all sides ask, over HTTP: howhard's tiny-prm, so that nobody has a better judge.

    python benchmarks/rivals/judge.py PORT            # or PORT sums: the check of sums.py instead, for Qwen

POST /score {prompt, texts, partial} -> {scores, steps, tokens}: `tokens` were read for this call. What was read for a
prompt is remembered for all sides alike, until POST /reset; GET /counters tells {tokens, calls} since then.
"""

import asyncio
import sys

from aiohttp import web
from sums import Sums

from howhard.strategies import Candidate, Prices, Request
from howhard.strategies.verifiers.reward_model import RewardModel


def application(kind: str = "tiny-prm") -> web.Application:
    """The endpoint."""
    model = Sums() if kind == "sums" else RewardModel("tiny-prm", prices=Prices(prompt=1.0, completion=0.0))
    requests: dict[str, Request] = {}
    counted = {"tokens": 0, "calls": 0}

    async def score(call: web.Request) -> web.Response:
        body = await call.json()
        request = requests.setdefault(body["prompt"], Request.of(body["prompt"]))
        verdicts = await model.score(request, [Candidate.of(t) for t in body["texts"]], partial=body["partial"])
        counted["tokens"] += verdicts.usage.verifier_tokens
        counted["calls"] += 1
        scores = [0.0 if score is None else score for score in verdicts.scores]  # None: longer than its context
        steps = [list(own or ()) for own in verdicts.steps or ()]
        return web.json_response({"scores": scores, "steps": steps, "tokens": verdicts.usage.verifier_tokens})

    async def reset(call: web.Request) -> web.Response:
        requests.clear()
        counted.update(tokens=0, calls=0)
        return web.json_response({})

    async def counters(call: web.Request) -> web.Response:
        return web.json_response(counted)

    made = web.Application()
    made.add_routes([web.post("/score", score), web.post("/reset", reset), web.get("/counters", counters)])
    return made


if __name__ == "__main__":
    asyncio.set_event_loop(asyncio.new_event_loop())
    web.run_app(application(*sys.argv[2:]), host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
