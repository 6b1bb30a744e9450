"""A real instruct model, Qwen2.5-Coder-0.5B: prefix cache, HumanEval with public tests, searches beside best-of-N.

Weights: Qwen/Qwen2.5-Coder-0.5B-Instruct in Hugging Face format; --weights names the directory. (The figures in
README.md are of the official Q4_K_M file of its GGUF release, turned back to bf16 by transformers.) Parts, each
resumable, each with its JSON:

humaneval  8 samples of each problem, logged once; single pass, best-of-N by the prompt's own examples, N = 1..8, in
           closed form from the log; hidden tests grade. The public tests never see a hidden one.
sums       12 samples of each of 30 chains of sums (see sums.py), logged once: best-of-N from the log; searches of all
           sides live, one seed, guided by the same check; and what share of their prompt tokens hits the server's
           prefix cache (emptied before each of them): howhard goes on by token ids, the others by text.

    python benchmarks/rivals/qwen.py --weights DIR --parts sums humaneval --minutes 25 --out qwen
"""

import argparse
import asyncio
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import grid
import numpy as np
import run
import server
import sums
from run import Bench, Method

from howhard.strategies import Candidate, Prefix, Prices, Request, SamplingParams
from howhard.strategies.backends.vllm import VLLMBackend
from howhard.strategies.base import as_messages

NAME = "qwen2.5-coder-0.5b"
MORE = {"end_token": "<|im_end|>", "step_tokens": 48}
PRICES = Prices(prompt=0.0, completion=1.0)


def howhard(label: str, **spec: object) -> Method:
    """A strategy of ours."""
    return Method("howhard", label, {"spec": spec})


SEARCHES = [
    howhard("particles_8", kind="particles", n=8, step_tokens=48),
    Method("its_hub", "pf_8", {"kind": "pf", "budget": 8, "max_steps": 12} | MORE),
    howhard("beam_2x4", kind="tree_search", width=2, branches=4, step_tokens=48),
    Method("its_hub", "beam_8_w2", {"kind": "beam", "budget": 8, "beam_width": 2, "max_steps": 12} | MORE),
    howhard("mcts_72", kind="mcts", samples=72, step_tokens=48),
    Method("treequest", "abmcts_72", {"kind": "abmcts", "budget": 72} | MORE),
    howhard("ab_mcts_72", kind="ab_mcts", samples=72, step_tokens=48),
    howhard("rebase_8", kind="rebase", n=8, step_tokens=48),
    howhard("dvts_2x4", kind="dvts", width=2, branches=4, step_tokens=48),
    howhard("best_of_8", kind="best_of_n", n=8),
    Method("its_hub", "bon_8", {"kind": "bon", "budget": 8}),
    Method("its_hub", "sc_8", {"kind": "sc", "budget": 8}),
]


@dataclass(frozen=True)
class Chains(Bench):
    """A bench of chains of sums."""

    def show(self, path: Path) -> None:
        """The prompts."""
        shown = [json.dumps({"id": i, "prompt": p.prompt}) for i, p in enumerate(self.problems)]
        path.write_text("\n".join(shown) + "\n")

    def marks(self, rows: list[dict]) -> list[float]:
        """By the stated answer."""
        texts = {row["id"]: row["text"] for row in rows}
        return [sums.grade(problem, texts.get(i, "")) for i, problem in enumerate(self.problems)]


# ── logged once ─────────────────────────────────────────────────────────────────────────────────────────────


def _logged(path: Path) -> set[str]:
    return {json.loads(line)["id"] for line in path.read_text().splitlines()} if path.exists() else set()


async def log_samples(
    url: str, prompts: dict[str, str], n: int, path: Path, *, max_tokens: int, until: float, at_once: int = 6
) -> None:
    """Draw n samples of every prompt that is not in the log yet, and append them."""
    there = _logged(path)
    backend = VLLMBackend("qwen", url=url, model=NAME, prices=PRICES, timeout_s=600)
    places = asyncio.Semaphore(at_once)

    async def one(name: str, prompt: str) -> None:
        async with places:
            if time.monotonic() > until:
                return
            seed = 100_000 + 1000 * list(prompts).index(name)
            params = SamplingParams(temperature=0.8, top_p=0.95, max_tokens=max_tokens, seed=seed, logprobs=True)
            [samples] = await backend.generate([Prefix(as_messages(prompt))], n=n, params=params).all()
            kept = [[s.text, s.finish_reason, s.completion_tokens, s.mean_logprob] for s in samples]
            with path.open("a") as out:
                out.write(json.dumps({"id": name, "samples": kept}) + "\n")

    try:
        await asyncio.gather(*(one(name, prompt) for name, prompt in prompts.items() if name not in there))
    finally:
        await backend.close()


# ── HumanEval ───────────────────────────────────────────────────────────────────────────────────────────────


def human_eval(url: str | None, folder: Path, until: float, limit: int) -> dict:
    """Log, run public and hidden tests, derive best-of-N."""
    from howhard.strategies.verifiers.code import CodeExecution
    from howhard.training.code_problems import human_eval as read
    from howhard.training.graders import get_grader

    problems = [problem for problem in read() if problem.public is not None]
    rng = np.random.default_rng(5)
    problems = [problems[i] for i in rng.permutation(len(problems))[:limit]]
    path, judged_path = folder / "humaneval.samples.jsonl", folder / "humaneval.judged.jsonl"
    started, before = time.monotonic(), server.idle(url) if url else {}
    if url:
        prompts = {problem.id: problem.prompt() for problem in problems}
        asyncio.run(log_samples(url, prompts, 8, path, max_tokens=384, until=until))
        drawn = server.idle(url)["generated"] - before["generated"]
        print(f"humaneval: {drawn:.0f} tokens in {time.monotonic() - started:.0f} s", file=sys.stderr)
    logged = {row["id"]: row["samples"] for row in map(json.loads, path.read_text().splitlines())}
    judged = {}
    if judged_path.exists():
        judged = {row["id"]: row for row in map(json.loads, judged_path.read_text().splitlines())}
    public, hidden = CodeExecution(), get_grader("hidden-tests")

    async def judge() -> None:
        for problem in problems:
            if problem.id not in logged or problem.id in judged:
                continue
            samples = logged[problem.id]
            complete = [i for i, sample in enumerate(samples) if sample[1] == "stop"]
            texts = [Candidate.of(samples[i][0]) for i in complete]
            verdicts = await public.score(Request.of(problem.prompt()), texts)
            marks = [
                hidden.grade(problem.prompt(), samples[i][0], samples[i][0], problem.hidden.to_json()) for i in complete
            ]
            scores, right = [None] * len(samples), [0.0] * len(samples)
            for place, i in enumerate(complete):
                scores[i], right[i] = verdicts.scores[place], marks[place]
            row = {"id": problem.id, "public": scores, "hidden": right, "note": verdicts.note}
            judged[problem.id] = row
            with judged_path.open("a") as out:
                out.write(json.dumps(row) + "\n")

    try:
        asyncio.run(judge())
    finally:
        public.close()
        hidden.close()
    rows = [judged[problem.id] for problem in problems if problem.id in judged]
    curve = {n: np.array([grid.best_of(row["public"], row["hidden"], n) for row in rows]) for n in (1, 2, 4, 8)}
    oracle = [1 - _choose(8 - round(sum(r["hidden"])), 8) for r in rows]
    tokens = float(np.mean([sum(s[2] for s in logged[row["id"]]) / 8 for row in rows]))
    gain = grid.interval(curve[8] - curve[1])
    print(f"\nHumanEval, {len(rows)} problems, {tokens:.0f} tokens a sample")
    run.heading("N", "pass rate")
    for n, values in curve.items():
        print(f"| {n} | {values.mean():.3f} |")
    print(f"| one of 8 right | {np.mean(oracle):.3f} |\n\nbest-of-8 minus single pass: {grid.signed(gain)}")
    return {
        "part": "humaneval", "problems": len(rows), "tokens_per_sample": round(tokens, 1),
        "best_of_n": {n: round(float(values.mean()), 4) for n, values in curve.items()},
        "one_of_8": round(float(np.mean(oracle)), 4), "best_of_8_minus_single": gain,
        "isolation": rows[0]["note"] if rows else "",
    }  # fmt: skip


def _choose(wrong: int, n: int) -> float:
    return 1.0 if wrong >= n else 0.0


# ── sums ───────────────────────────────────────────────────────────────────────────────────────────────


def chains(url: str, judge: str, folder: Path, until: float, n: int) -> dict:
    """Searches live, best-of-N and votes from the log."""
    problems = sums.make(n, 8, seed=1)
    path = folder / "sums.samples.jsonl"
    prompts = {str(i): problem.prompt for i, problem in enumerate(problems)}
    if url:
        asyncio.run(log_samples(url, prompts, 12, path, max_tokens=160, until=until))
        bench = Chains(
            url, NAME, judge, "sums-8", problems, folder / "sides", folder / "sums.rows.jsonl", max_tokens=160,
            temperature=0.8, concurrency=8,
        )  # fmt: skip
        done = bench.done()
        for method in SEARCHES:
            if ("sums-8", method.name, 0) not in done and time.monotonic() < until:
                print(run.words(bench.measure(method, 0)), file=sys.stderr, flush=True)
    kept_rows = sorted(map(json.loads, path.read_text().splitlines()), key=lambda row: int(row["id"]))
    logged, places = [row["samples"] for row in kept_rows], [int(row["id"]) for row in kept_rows]
    kept = [problems[place] for place in places]
    marks = [[sums.grade(p, s[0]) for s in samples] for p, samples in zip(kept, logged, strict=True)]
    checks = [[sums.worth(s[0], partial=False) for s in samples] for samples in logged]
    tokens = float(np.mean([s[2] for samples in logged for s in samples]))
    least = min(len(samples) for samples in logged)
    bon = {
        k: np.array([grid.best_of(c, m, k) for c, m in zip(checks, marks, strict=True)])
        for k in (1, 2, 4, 8, 16)
        if k <= least
    }
    rows = {}
    if (folder / "sums.rows.jsonl").exists():
        for line in (folder / "sums.rows.jsonl").read_text().splitlines():
            row = json.loads(line)
            if "error" not in row:
                rows[row["method"]] = row
    print(f"\nChains of 8 sums, {len(kept)} problems, {tokens:.1f} tokens a sample")
    run.heading(
        "method",
        "accuracy",
        "tokens drawn",
        "best-of-N there (from the log)",
        "difference",
        "requests",
        "prompt tokens",
        "cached",
    )
    for k, values in bon.items():
        print(f"| best-of-{k} by the check (log) | {values.mean():.3f} | {k * tokens:.0f} | | | | | |")
    table = {}
    for name, row in rows.items():
        own, spent = np.array(row["marks"]), row["generated_per_problem"]
        k = min(max(spent / tokens, 1), max(bon))
        low = max(v for v in bon if v <= k)
        high = min((v for v in bon if v >= k), default=max(bon))
        share = 0.0 if low == high else math.log(k / low) / math.log(high / low)
        there = (1 - share) * bon[low] + share * bon[high]
        found = grid.interval(own[places] - there)
        table[name] = {"accuracy": round(row["accuracy"], 4), "tokens": spent, "minus_best_of_n": found,
                       "requests": row["requests_per_problem"], "prompt_tokens": row["prompt_per_problem"],
                       "cached": round(row["cached_per_problem"] / row["prompt_per_problem"], 4)}  # fmt: skip
        print(
            f"| {name} | {row['accuracy']:.3f} | {spent:.0f} | {there.mean():.3f} | {grid.signed(found)} | "
            f"{row['requests_per_problem']:.1f} | {row['prompt_per_problem']:.0f} | {table[name]['cached']:.1%} |"
        )
    return {"part": "sums", "problems": len(kept), "tokens_per_sample": round(tokens, 1),
            "best_of_n": {k: round(float(v.mean()), 4) for k, v in bon.items()}, "live": table}  # fmt: skip


def main() -> None:
    """Serve, run the parts, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path.home() / ".cache/howhard/qwen/Qwen2.5-Coder-0.5B-Instruct")
    parser.add_argument("--parts", nargs="*", default=["sums", "humaneval"])
    parser.add_argument("--minutes", type=float, default=60, help="of each part")
    parser.add_argument("--problems", type=int, default=100, help="of HumanEval")
    parser.add_argument("--sums", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("qwen"))
    options = parser.parse_args()
    folder, port = options.out.absolute(), server.free_port()
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, object] = {"benchmark": "rivals/qwen"}
    with (
        server.serve(
            options.weights, NAME, folder / "server.log", flags=server.LARGE, threads=2, kv_gb=4, seqs=64
        ) as url,
        server.running(
            [sys.executable, str(run.HERE / "judge.py"), str(port), "sums"], folder / "judge.log", dict(os.environ)
        ) as p,
    ):
        judge = f"http://127.0.0.1:{port}"
        server.wait(judge + "/counters", p, folder / "judge.log")
        for part in options.parts:
            until = time.monotonic() + 60 * options.minutes
            if part == "humaneval":
                found[part] = human_eval(url, folder, until, options.problems)
            else:
                found[part] = chains(url, judge, folder, until, options.sums)
            print(json.dumps(found[part]), flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
