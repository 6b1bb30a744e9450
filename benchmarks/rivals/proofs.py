"""Five quick proofs of what others get wrong, each on this machine in seconds.

1. its_hub's votes of 16 are 16 requests; howhard's are one.
2. its_hub's Beta votes draw most of what fixed votes draw; howhard's waves do not (the engine's own tokens).
3. stopped halfway: how much of what the engine drew is in the books (its_hub's Beta rule; howhard's time budget).
4. the seventh POST, and every later one than the sixteenth, is answered 500: how many of 16 votes survive.
5. optillm's self-consistency merges two answers that differ in one digit.

    python benchmarks/rivals/proofs.py --out proofs | tail -1 | jq .
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import problems as sets
import run
import server
from aiohttp import ClientSession, web
from run import Bench, Method

from howhard.strategies import BestOfN, Budget, Prices, Request, SamplingParams, Vote
from howhard.strategies.backends.local import model_directory
from howhard.strategies.backends.vllm import VLLMBackend
from howhard.strategies.errors import HowhardError

ITS_HUB_BOOKS = """
import asyncio, json, sys, logging
logging.disable(logging.CRITICAL)
from its_hub.core.algorithms.beta_self_consistency import BetaSelfConsistency
from its_hub.core.algorithms.self_consistency import SelfConsistency
from its_hub.core.lms.openai_lm import OpenAICompatibleLanguageModel
url, model, kind, n, prompts = json.loads(sys.argv[1])
async def main():
    lm = OpenAICompatibleLanguageModel(url, "none", model, temperature=1.0, max_tokens=160)
    chosen = BetaSelfConsistency if kind == "beta" else SelfConsistency
    votes = chosen(consistency_space_projection_func=lambda text: text.split()[-1])
    booked, survived = 0, []
    for prompt in prompts:
        try:
            got = await votes.ainfer(lm, prompt, n, return_response_only=False)
            booked += got.usage.completion_tokens
            survived.append(len(got.responses))
        except Exception as exc:
            survived.append(f"{type(exc).__name__}: {exc}"[:160])
    await lm.close()
    print(json.dumps({"booked": booked, "survived": survived}))
asyncio.run(main())
"""

ONE_DIGIT = """
import json, sys, logging
sys.argv = sys.argv[:1]
logging.disable(logging.CRITICAL)
from optillm.self_consistency import AdvancedSelfConsistency
texts = ["40 + 1 = 41\\nAnswer: 41"] + ["40 + 7 = 47\\nAnswer: 47"] * 4
found = AdvancedSelfConsistency(None, "none").aggregate_results(texts)
found = {"clusters": found["num_unique_clusters"], "answer": found["clusters"][0]["answer"]}
print(json.dumps({"votes": {"41": 1, "47": 4}} | found))
"""


def in_its_hub(url: str, kind: str, n: int, prompts: list[str]) -> dict:
    """Run its_hub's votes in its environment."""
    asked = json.dumps([url, "tiny-large", kind, n, prompts])
    command = [str(run.PYTHONS["its_hub"]), "-c", ITS_HUB_BOOKS, asked]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


async def stopped_halfway(url: str, prompts: list[str]) -> dict[str, float]:
    """Votes of 32 by howhard, with half the time that they need."""
    backend = VLLMBackend("large", url=url, model="tiny-large", prices=Prices(prompt=0.0, completion=1.0))
    strategy = BestOfN(n=32, verifier=Vote(), params=SamplingParams(max_tokens=160))
    try:
        whole = (await strategy.run(Request.of(prompts[0]), backend)).seconds
        before = server.idle(url)["generated"]
        booked = 0
        for prompt in prompts:
            got = await strategy.run(Request.of(prompt), backend, budget=Budget(seconds=whole / 2))
            booked += got.usage.completion_tokens
        return {"booked": booked, "counted": server.idle(url)["generated"] - before}
    finally:
        await backend.close()


async def survivors(url: str, prompt: str) -> dict[str, object]:
    """Put a proxy before the server that answers the 7th POST, and those after the 16th, with 500."""
    seen = 0

    async def forward(call: web.Request) -> web.StreamResponse:
        nonlocal seen
        if call.method == "POST":
            seen += 1
            if seen == 7 or seen > 16:
                return web.json_response({"error": {"message": "injected", "code": 500}}, status=500)
        body = await call.read()
        async with ClientSession() as session, session.request(
            call.method, url.removesuffix("/v1") + call.path_qs, data=body, headers={"Content-Type": "application/json"}
        ) as answer:  # fmt: skip
            response = web.StreamResponse(
                status=answer.status, headers={"Content-Type": answer.headers["Content-Type"]}
            )
            await response.prepare(call)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app)
    await runner.setup()
    port = server.free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    proxy = f"http://127.0.0.1:{port}/v1"
    found: dict[str, object] = {
        "its_hub SC-16": (await asyncio.to_thread(in_its_hub, proxy, "sc", 16, [prompt]))["survived"]
    }
    backend = VLLMBackend("large", url=proxy, model="tiny-large", prices=Prices(prompt=0.0, completion=1.0))
    try:
        await backend.check()
        for name, first, apart in (
            ("howhard, 16 calls of one sample", 0, True),
            ("howhard, one call, met by the 500", 6, False),
        ):
            seen = first
            batch = backend.generate([run_prefix(prompt)], n=16, params=SamplingParams(max_tokens=160), apart=apart)
            [samples] = await batch.all()
            found[name] = sum(sample.complete for sample in samples)
        seen = 3  # the 7th POST is the fourth wave of four
        from howhard.strategies import SelfConsistency

        try:
            votes = SelfConsistency(16, stop="exact", params=SamplingParams(max_tokens=160))
            got = await votes.run(Request.of(prompt), backend)
            found["howhard, waves of 4 (exact rule)"] = [sum(c.generation.complete for c in got.candidates), got.answer]
        except HowhardError as error:
            found["howhard, waves of 4 (exact rule)"] = str(error)[:160]
    finally:
        await backend.close()
        await runner.cleanup()
    return found


def run_prefix(prompt: str):
    """The prefix of a prompt."""
    from howhard.strategies import Prefix, as_messages

    return Prefix(as_messages(prompt))


def main() -> None:
    """Run the five and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("proofs"))
    folder = parser.parse_args().out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, object] = {"benchmark": "rivals/proofs"}
    with server.serve(model_directory("tiny-large"), "tiny-large", folder / "server.log") as url:
        problems = sets.make("chain-12", 12)
        prompts = [problem.prompt for problem in problems]
        bench = Bench(url, "tiny-large", "", "chain-12", problems, folder / "sides", folder / "rows.jsonl",
                      max_tokens=160, concurrency=4)  # fmt: skip
        ours = {name: {"kind": "self_consistency", "n": 16, "stop": stop}
                for name, stop in (("fixed", "none"), ("waves", "beta:0.95"))}  # fmt: skip
        rows = {
            "howhard SC-16": Method("howhard", "sc_16", {"spec": ours["fixed"]}),
            "howhard Beta": Method("howhard", "sc_16_beta", {"spec": ours["waves"]}),
            "its_hub SC-16": Method("its_hub", "sc_16", {"kind": "sc", "budget": 16}),
            "its_hub Beta": Method("its_hub", "beta_16", {"kind": "beta", "budget": 16}),
        }  # fmt: skip
        got = {name: bench.measure(method, 0) for name, method in rows.items()}
        found["1_requests"] = {name: got[name]["requests_per_problem"] for name in got if "SC" in name}
        fixed = got["howhard SC-16"]["generated_per_problem"]
        found["2_engine_tokens_of_fixed"] = {
            name: round(row["generated_per_problem"] / fixed, 3) for name, row in got.items()
        }
        before = server.idle(url)["generated"]
        theirs = in_its_hub(url, "beta", 16, prompts)["booked"]
        found["3_booked_when_stopped"] = {
            "its_hub Beta": {"booked": theirs, "counted": server.idle(url)["generated"] - before},
            "howhard, half the time": asyncio.run(stopped_halfway(url, prompts)),
        }
        found["4_survivors_of_a_500"] = asyncio.run(survivors(url, prompts[0]))
    command = [str(run.PYTHONS["optillm"]), "-c", ONE_DIGIT]
    told = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    found["5_optillm_one_digit"] = (
        json.loads(told.stdout.splitlines()[-1]) if told.returncode == 0 else told.stderr[-300:]
    )
    for name, value in found.items():
        print(f"{name}: {value}", file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
