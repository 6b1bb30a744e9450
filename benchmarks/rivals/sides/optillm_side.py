"""optillm's side: its functions, as they ship, called in process (its proxy would add a hop of its own).

method: {"kind": "bon" | "sc" | "majority" | "mcts", "n": N}

They are synchronous; each problem runs in a thread, as in optillm's own server.
"""

import asyncio
import logging
import sys
from concurrent.futures import ThreadPoolExecutor

import job as jobs

logging.disable(logging.CRITICAL)
sys.argv, arguments = sys.argv[:1], sys.argv  # its import reads the command line
from openai import OpenAI  # noqa: E402
from optillm.bon import best_of_n_sampling  # noqa: E402
from optillm.mcts import chat_with_mcts  # noqa: E402
from optillm.plugins import majority_voting_plugin  # noqa: E402
from optillm.self_consistency import AdvancedSelfConsistency  # noqa: E402

sys.argv = arguments


def solve(job: dict, client: OpenAI, prompt: str) -> str:
    """One problem, by the method's own function."""
    method, model = job["method"], job["model"]
    config = {"max_tokens": job["max_tokens"], "temperature": job["temperature"], "k": method.get("n")}
    system = method.get("system", "")
    if method["kind"] == "bon":
        return best_of_n_sampling(system, prompt, client, model, n=method["n"], request_config=config)[0]
    if method["kind"] == "majority":
        return majority_voting_plugin.run(system, prompt, client, model, request_config=config)[0]
    if method["kind"] == "mcts":
        return chat_with_mcts(system, prompt, client, model, num_simulations=method["n"], request_config=config)[0]
    voting = AdvancedSelfConsistency(client, model, num_samples=method["n"], request_config=config)
    clusters = voting.evaluate(system, prompt)["aggregated_result"]["clusters"]
    return clusters[0]["answer"] if clusters else ""


async def main() -> None:
    """Run the job."""
    job = jobs.read()
    client = OpenAI(base_url=job["url"], api_key="none", max_retries=0)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(job["concurrency"]) as threads:

        async def answer(problem: dict) -> dict:
            return {"text": await loop.run_in_executor(threads, solve, job, client, problem["prompt"])}

        await jobs.work(job, answer)


if __name__ == "__main__":
    jobs.end_with(main)
