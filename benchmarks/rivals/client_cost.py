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
            howhard("mcts_24", kind="mcts", samples=24),
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
    parser.add_argument("--report", action="store_true", help="only read the rows that are there")
    options = parser.parse_args()
    folder = options.out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    groups = shared(int(options.cell.rpartition("-")[2]) + 1)
    if not options.report:
        measure(options, folder, groups)
    print(json.dumps(report(folder / "rows.jsonl", groups, options)))


def measure(options: argparse.Namespace, folder: Path, groups: dict[str, list[Method]]) -> None:
    """Round by round, the methods in turn; rows are added to those that are there."""
    port = server.free_port()
    with (
        server.serve(model_directory("tiny-small"), "tiny-small", folder / "server.log") as url,
        server.running(
            [sys.executable, str(run.HERE / "judge.py"), str(port)], folder / "judge.log", dict(os.environ)
        ) as process,
    ):
        judge = f"http://127.0.0.1:{port}"
        server.wait(judge + "/counters", process, folder / "judge.log")
        bench = Bench(
            url, "tiny-small", judge, options.cell, sets.make(options.cell, options.problems), folder / "sides",
            folder / "rows.jsonl", max_tokens=160, concurrency=options.concurrency,
        )  # fmt: skip
        for _ in range(options.rounds):
            for method in (method for methods in groups.values() for method in methods):
                print(run.words(bench.measure(method, 0)), file=sys.stderr, flush=True)


def report(path: Path, groups: dict[str, list[Method]], options: argparse.Namespace) -> dict:
    """Print the table, and return the JSON."""
    rows = [row for row in map(json.loads, path.read_text().splitlines()) if "error" not in row]
    found: dict[str, dict] = {}
    run.heading("strategy", "side", "requests", "client CPU, ms (range)", "engine tokens", "judge tokens", "rounds")
    for group, methods in groups.items():
        for method in methods:
            own = [row for row in rows if row["method"] == method.name]
            if not own:
                continue
            cpu = sorted(1000 * row["client_cpu_s"] / row["n"] for row in own)
            median = {
                name: round(statistics.median(row[f"{name}_per_problem"] for row in own), 1)
                for name in ("requests", "generated", "judge_tokens")
            }
            found.setdefault(group, {})[method.name] = median | {
                "client_cpu_ms": round(statistics.median(cpu), 2), "range": [round(cpu[0], 2), round(cpu[-1], 2)],
            }  # fmt: skip
            print(
                f"| {group} | {method.name} | {median['requests']} | {statistics.median(cpu):.2f} "
                f"({cpu[0]:.2f}-{cpu[-1]:.2f}) | {median['generated']:.0f} | {median['judge_tokens']:.0f} | "
                f"{len(own)} |"
            )
    asked = {"cell": options.cell, "problems": options.problems, "concurrency": options.concurrency}
    return {"benchmark": "rivals/client_cost"} | asked | {"costs": found}


if __name__ == "__main__":
    main()
