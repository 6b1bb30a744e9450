"""its_hub's side: its own classes, as they ship, on the job's server and reward endpoint.

method: {"kind": "bon" | "sc" | "adaptive" | "beta" | "beam" | "pf" | "epf", "budget": N, "beam_width": W}

Three things are added so that it can work at all, none of which it has of its own:
- `temperature` and `max_tokens` go with every request (it sends no temperature by default).
- steps: the server is asked to show its end token (skip_special_tokens false), because its searches notice the end of
  an answer by a stop word in the text only, and would write on after the end.
- votes are cast by the answer, read by the same rule as howhard's, and not by the whole text.
"""

import logging
import re
import warnings

import aiohttp
import job as jobs
import numpy as np

warnings.simplefilter("ignore")
logging.disable(logging.INFO)

from its_hub.api import AbstractOutcomeRewardModel, AbstractProcessRewardModel  # noqa: E402
from its_hub.core.algorithms.adaptive_self_consistency import AdaptiveSelfConsistency  # noqa: E402
from its_hub.core.algorithms.beam_search import BeamSearch  # noqa: E402
from its_hub.core.algorithms.beta_self_consistency import BetaSelfConsistency  # noqa: E402
from its_hub.core.algorithms.bon import BestOfN  # noqa: E402
from its_hub.core.algorithms.particle_gibbs import EntropicParticleFiltering, ParticleFiltering  # noqa: E402
from its_hub.core.algorithms.self_consistency import SelfConsistency  # noqa: E402
from its_hub.core.lms.openai_lm import OpenAICompatibleLanguageModel  # noqa: E402
from its_hub.core.lms.step_generation import StepGeneration  # noqa: E402
from its_hub.core.orchestrator import LMOrchestrator  # noqa: E402

_STATED = re.compile(r"answer(?: is)?\s*:?\s*(.+)", re.IGNORECASE)


def answer_of(text: str) -> str:
    """The last stated answer, else the text."""
    found = _STATED.findall(text)
    return (found[-1] if found else text).strip().rstrip(".")


class StepModel(OpenAICompatibleLanguageModel):
    """Shows the end token, and begins an answer that is continued as the template would."""

    opening = ""

    def _prepare_request_data(self, *args, **kwargs):
        data = super()._prepare_request_data(*args, **kwargs)
        if data["messages"][-1]["role"] == "assistant":
            data["messages"][-1]["content"] = self.opening + data["messages"][-1]["content"]
        return data | {"skip_special_tokens": False, "spaces_between_special_tokens": False}


class Judge(AbstractProcessRewardModel, AbstractOutcomeRewardModel):
    """The reward endpoint that all sides ask."""

    def __init__(self, url: str, step: str) -> None:
        self.url, self.step = url, step
        self.session: aiohttp.ClientSession | None = None

    def score(self, *args, **kwargs):
        raise NotImplementedError

    async def ascore(self, prompt_or_messages, steps=None, **kwargs):
        if steps is None:  # outcome: whole conversations
            conversations = prompt_or_messages
            return await self._ask(conversations[0][0].content, [c[-1].content for c in conversations], partial=False)
        scores = [0.0] * len(steps)
        for partial in (False, True):
            places = [i for i, text in enumerate(steps) if text.endswith(self.step) == partial]
            if places:
                found = await self._ask(prompt_or_messages, [steps[i] for i in places], partial=partial)
                for i, score in zip(places, found, strict=True):
                    scores[i] = score
        return scores

    async def _ask(self, prompt: str, texts: list[str], *, partial: bool) -> list[float]:
        if self.session is None:
            self.session = aiohttp.ClientSession()
        body = {"prompt": prompt, "texts": texts, "partial": partial}
        async with self.session.post(self.url + "/score", json=body) as response:
            return (await response.json())["scores"]


def algorithm(job: dict, judge: Judge):
    """Build what the method names."""
    method, kind = job["method"], job["method"]["kind"]
    steps = StepGeneration(
        max_steps=method.get("max_steps", 32),
        step_token=method.get("step_end", "\n"),
        stop_token=method["end_token"],
        temperature=job["temperature"],
        include_stop_str_in_output=True,
    ) if "end_token" in method else None  # fmt: skip
    orchestrator = LMOrchestrator(
        max_concurrency=-1
    )  # with its default of 32, cancelled votes leave it locked for ever
    votes = {"consistency_space_projection_func": answer_of, "orchestrator": orchestrator}
    made = {
        "bon": lambda: BestOfN(judge, orchestrator=orchestrator),
        "sc": lambda: SelfConsistency(**votes),
        "adaptive": lambda: AdaptiveSelfConsistency(**votes),
        "beta": lambda: BetaSelfConsistency(**votes),
        "beam": lambda: BeamSearch(steps, judge, beam_width=method["beam_width"]),
        "pf": lambda: ParticleFiltering(steps, judge),
        "epf": lambda: EntropicParticleFiltering(steps, judge),
    }
    return made[kind]()


async def main() -> None:
    """Run the job."""
    job = jobs.read()
    np.random.seed(job["seed"])  # noqa: NPY002 - it draws from the global state
    method = job["method"]
    model = (StepModel if "end_token" in method else OpenAICompatibleLanguageModel)(
        endpoint=job["url"], api_key="none", model_name=job["model"],
        temperature=job["temperature"], max_tokens=method.get("step_tokens", job["max_tokens"]),
    )  # fmt: skip
    if isinstance(model, StepModel):
        model.opening = method.get("opening", "")
    judge = Judge(job["judge"], method.get("step_end", "\n"))
    chosen = algorithm(job, judge)

    async def answer(problem: dict) -> dict:
        got = await chosen.ainfer(model, problem["prompt"], method["budget"])
        text = got["content"] if isinstance(got, dict) else str(got)
        end = method.get("end_token")
        return {"text": text.partition(end)[0] if end else text}

    try:
        await jobs.work(job, answer)
    finally:
        await model.close()
        if judge.session is not None:
            await judge.session.close()


if __name__ == "__main__":
    jobs.end_with(main)
