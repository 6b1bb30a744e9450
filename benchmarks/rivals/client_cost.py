"""How many requests does each side send for one prompt, and how much processor time does its client take?

Strategies that a rival shares with howhard, at the same budget, on the same server, problems and reward endpoint;
nobody sends seeds. Client time is the process's own (user and system) from the moment when everything is imported and
built, divided by prompts; requests are what the server counted. Several rounds, taken in turn; median and range.

    python benchmarks/rivals/client_cost.py --out client_cost | tail -1 | jq .
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import problems as sets
import run
import server
from grid import MORE
from run import Bench, Method

from howhard.strategies.backends.local import model_directory


def howhard(label: str, **spec: object) -> Method:
    """A strategy of ours, without seeds."""
    return Method("howhard", label, {"spec": spec, "seeded": False})


def shared(depth: int) -> dict[str, list[Method]]:
    """What two or more sides can do."""
    samples = 12 * depth
    return {
        "best-of-8": [
            howhard("best_of_8", kind="best_of_n", n=8),
            Method("its_hub", "bon_8", {"kind": "bon", "budget": 8}),
            Method("optillm", "bon_8 (judges by itself)", {"kind": "bon", "n": 8}),
        ],
        "votes of 16": [
            howhard("sc_16", kind="self_consistency", n=16),
            Method("its_hub", "sc_16", {"kind": "sc", "budget": 16}),
            Method("optillm", "majority_16", {"kind": "majority", "n": 16}),
            Method("optillm", "self_consistency_16", {"kind": "sc", "n": 16}),
        ],
        "votes of 16, Beta": [
            howhard("sc_16_beta", kind="self_consistency", n=16, stop="beta:0.95"),
            Method("its_hub", "beta_16", {"kind": "beta", "budget": 16}),
        ],
        "beam, 16 candidates": [
            howhard("beam_4x4", kind="tree_search", width=4, branches=4),
            Method("its_hub", "beam_16_w4", {"kind": "beam", "budget": 16, "beam_width": 4} | MORE),
        ],
        "16 particles": [
            howhard("particles_16", kind="particles", n=16),
            Method("its_hub", "pf_16", {"kind": "pf", "budget": 16} | MORE),
        ],
        "AB-MCTS": [
            howhard(f"ab_mcts_{samples}", kind="ab_mcts", samples=samples),
            Method("treequest", f"abmcts_{samples}", {"kind": "abmcts", "budget": samples} | MORE),
        ],
        "MCTS": [
            howhard(f"mcts_{samples}", kind="mcts", samples=samples),
            Method("treequest", f"mcts_{samples}", {"kind": "mcts", "budget": samples} | MORE),
        ],
        "MCTS, at optillm's tokens": [
            howhard("mcts_48", kind="mcts", samples=48),
            Method("optillm", "mcts_2 (as it ships)", {"kind": "mcts", "n": 2}),
        ],
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", default="chain-8")
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("client_cost"))
    options = parser.parse_args()
    folder, port = options.out.absolute(), server.free_port()
    folder.mkdir(parents=True, exist_ok=True)
    groups = shared(int(options.cell.rpartition("-")[2]) + 1)
    costs: dict[str, dict[str, list[dict]]] = {}
    with (
        server.serve(model_directory("tiny-small"), "tiny-small", folder / "server.log") as url,
        server.running(
            [sys.executable, str(run.HERE / "judge.py"), str(port)], folder / "judge.log", dict(os.environ)
        ) as p,
    ):
        judge = f"http://127.0.0.1:{port}"
        server.wait(judge + "/counters", p, folder / "judge.log")
        stamp = time.strftime("%H%M%S")
        bench = Bench(
            url, "tiny-small", judge, options.cell, sets.make(options.cell, options.problems), folder / "sides",
            folder / f"rows.{stamp}.jsonl", max_tokens=160, concurrency=options.concurrency,
        )  # fmt: skip
        for _ in range(options.rounds):
            for group, methods in groups.items():
                for method in methods:
                    row = bench.measure(method, 0)
                    print(run.words(row), file=sys.stderr, flush=True)
                    if "error" not in row:
                        costs.setdefault(group, {}).setdefault(method.name, []).append(row)
    found: dict[str, dict] = {}
    run.heading("strategy", "side", "requests", "client CPU, ms (range)", "seconds for all", "engine tokens")
    for group, methods in costs.items():
        for name, rows in methods.items():
            cpu = sorted(1000 * row["client_cpu_s"] / row["n"] for row in rows)
            requests = statistics.median(row["requests_per_problem"] for row in rows)
            seconds = statistics.median(row["seconds"] for row in rows)
            tokens = statistics.median(row["generated_per_problem"] for row in rows)
            found.setdefault(group, {})[name] = {
                "requests": requests, "client_cpu_ms": round(statistics.median(cpu), 2),
                "range": [round(cpu[0], 2), round(cpu[-1], 2)], "seconds": seconds, "engine_tokens": tokens,
            }  # fmt: skip
            print(f"| {group} | {name} | {requests:.1f} | {statistics.median(cpu):.2f} ({cpu[0]:.2f}-{cpu[-1]:.2f}) | "
                  f"{seconds:.1f} | {tokens:.0f} |")  # fmt: skip
    print(json.dumps({"benchmark": "rivals/client_cost", "cell": options.cell, "problems": options.problems,
                      "rounds": options.rounds, "concurrency": options.concurrency, "costs": found}))  # fmt: skip


if __name__ == "__main__":
    main()
