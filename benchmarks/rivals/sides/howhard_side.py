"""howhard's side: a strategy as a configuration names it, on VLLMBackend, judged by the same reward endpoint.

method: {"spec": the strategy's spec, as it stands in a TOML file}; the verifier "best" is the endpoint, every other
kind of verifier is there under its kind's name. `"prm": "in-process"` has "best" read by howhard itself. Every problem
draws with a seed of its own, as rivals' do (they send none); `"seeded": false` sends none either.
"""

import aiohttp
import job as jobs
import msgspec

from howhard.strategies import Prices, Request, StrategySpec, Usage, Verdicts, VLLMSpec, build_strategy, open_backend
from howhard.strategies.specs import open_verifiers
from howhard.strategies.verifiers.reward_model import RewardModelSpec
from howhard.strategies.verifiers.vote import VoteSpec


class Judge:
    """The reward endpoint that all sides ask, as a verifier."""

    name, sound = "best", False
    prices = Prices(prompt=1.0, completion=0.0)

    def __init__(self, url: str) -> None:
        self.url = url
        self.session: aiohttp.ClientSession | None = None

    async def score(self, request: Request, candidates, *, partial: bool = False) -> Verdicts:
        """Ask for all candidates at once."""
        if self.session is None:
            self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        body = {"prompt": request.text, "texts": [c.text for c in candidates], "partial": partial}
        async with self.session.post(self.url + "/score", json=body) as response:
            told = await response.json()
        steps = tuple(tuple(own) for own in told["steps"]) or None
        usage = Usage(verifier_tokens=told["tokens"], calls=1, cost=float(told["tokens"]))
        return Verdicts(tuple(told["scores"]), usage, steps)


async def main() -> None:
    """Run the job."""
    job = jobs.read()
    method = job["method"]
    spec = msgspec.convert(
        {"temperature": job["temperature"], "max_tokens": job["max_tokens"]} | method["spec"], type=StrategySpec
    )
    backend = open_backend("served", VLLMSpec(url=job["url"], model=job["model"]))
    judge = Judge(job["judge"])
    verifiers = {"best": judge} | open_verifiers({"vote": VoteSpec()})
    if method.get("prm") == "in-process":
        verifiers |= open_verifiers({"best": RewardModelSpec()})
    unseeded = build_strategy(spec, verifiers) if method.get("seeded") is False else None

    async def answer(problem: dict) -> dict:
        seed = job["seed"] + 100_000 * (problem["id"] + 1)
        strategy = unseeded or build_strategy(spec, verifiers, seed=seed)
        got = await strategy.run(Request.of(problem["prompt"]), backend)
        u = got.usage
        booked = [u.prompt_tokens, u.cached_tokens, u.completion_tokens, u.verifier_tokens, u.calls]
        told = {"text": got.text, "answer": got.answer, "booked": booked, "drawn": len(got.candidates)}
        if method.get("keep"):
            told["samples"] = [
                [c.text, c.generation.completion_tokens, c.generation.mean_logprob, c.score] for c in got.candidates
            ]
        return told | {"why": got.stopped_because}

    try:
        await jobs.work(job, answer)
    finally:
        await backend.close()
        if judge.session is not None:
            await judge.session.close()


if __name__ == "__main__":
    jobs.end_with(main)
