"""treequest's side: its AB-MCTS-A (or standard MCTS), as it ships, over steps of a partial solution.

method: {"kind": "abmcts" | "mcts", "budget": engine calls, "batch": asked at once (1 = its own `step`),
"opening": what the model's template puts before an answer and loses where one is continued}

treequest brings the tree and no model: a node is a partial solution, its generate function draws one more step at the
server (from the parent's text, by the chat route, as a user of it would) and has the reward endpoint score it. A
finished solution has no next step: asked for one, it is given back with its score, at no cost. The best finished
solution is the answer; where none has finished, the best partial one is written to its end greedily.
"""

import asyncio

import aiohttp
import job as jobs
import numpy as np
from treequest import ABMCTSA, StandardMCTS


class Writer:
    """Draws steps and scores."""

    def __init__(self, job: dict, session: aiohttp.ClientSession) -> None:
        self.job, self.session = job, session
        self.step = job["method"].get("step_end", "\n")

    async def go_on(self, prompt: str, text: str, *, whole: bool = False) -> tuple[str, bool]:
        """One more step, or all that is left; returns the text so far and whether it has ended."""
        job = self.job
        messages = [{"role": "user", "content": prompt}]
        body: dict = {"model": job["model"], "messages": messages, "temperature": 0.0 if whole else job["temperature"]}
        body["max_tokens"] = job["max_tokens"] if whole else job["method"].get("step_tokens", 64)
        if not whole:
            body |= {"stop": [self.step], "include_stop_str_in_output": True}
        if text:
            messages.append({"role": "assistant", "content": job["method"].get("opening", "") + text})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        async with self.session.post(job["url"] + "/chat/completions", json=body) as response:
            choice = (await response.json())["choices"][0]
        ended = choice["finish_reason"] == "stop" and choice.get("stop_reason") != self.step
        return text + (choice["message"]["content"] or ""), ended

    async def score(self, prompt: str, text: str, *, partial: bool) -> float:
        body = {"prompt": prompt, "texts": [text], "partial": partial}
        async with self.session.post(self.job["judge"] + "/score", json=body) as response:
            return (await response.json())["scores"][0]


async def search(job: dict, writer: Writer, prompt: str) -> dict:
    """Ask and tell until the engine calls are spent."""
    method = job["method"]
    algorithm = ABMCTSA() if method["kind"] == "abmcts" else StandardMCTS()
    state, calls, asked = algorithm.init_tree(), 0, 0

    async def grow(parent) -> tuple[tuple[str, bool], float]:
        nonlocal calls
        text, ended, score = parent if parent is not None else ("", False, 0.0)
        if ended:
            return (text, True, score), score
        calls += 1
        text, ended = await writer.go_on(prompt, text)
        score = await writer.score(prompt, text, partial=not ended)
        return (text, ended, score), score

    while calls < method["budget"] and asked < 4 * method["budget"]:
        state, trials = algorithm.ask_batch(state, method.get("batch", 1), ["step"])
        asked += len(trials)
        grown = await asyncio.gather(*(grow(trial.parent_state) for trial in trials))
        for trial, result in zip(trials, grown, strict=True):
            state = algorithm.tell(state, trial.trial_id, result)
    ranked = sorted((pair[0] for pair in algorithm.get_state_score_pairs(state)), key=lambda s: -s[2])
    finished = [s for s in ranked if s[1]]
    if finished:
        return {"text": finished[0][0], "calls": calls, "finished": len(finished)}
    text, _ = await writer.go_on(prompt, ranked[0][0], whole=True)
    return {"text": text, "calls": calls + 1, "finished": 0}


async def main() -> None:
    """Run the job."""
    job = jobs.read()
    np.random.seed(job["seed"])  # noqa: NPY002 - it draws from the global state
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        writer = Writer(job, session)
        await jobs.work(job, lambda problem: search(job, writer, problem["prompt"]))


if __name__ == "__main__":
    jobs.end_with(main)
