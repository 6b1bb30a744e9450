"""What do stop rules save of 32 votes, in the engine's own tokens, and what do they lose?

Fixed votes of 32 against howhard's rules (waves, decided in launch order), its_hub's Beta rule as it ships (all sent
at once, decided in the order of completion) and its doubling rule, on problems where votes help. Engine tokens are
the server's generation counter, with the server idle before and after. howhard's rules see the first of the very
samples that the fixed vote draws (same seeds), so their loss is paired sample by sample; its_hub's are not.

`replay` draws the 32 out of all logged samples of a problem without replacement, many times: tight figures for the
rules that decide in launch order; its tokens are those of the samples that a rule draws.

    python benchmarks/rivals/stopping.py --out stopping | tail -1 | jq .
"""

import argparse
import json
import sys
import time
from pathlib import Path

import grid
import numpy as np
import problems as sets
import run
import server
from run import Bench, Method

from howhard.strategies import Candidate, Request
from howhard.strategies.answers import canonical, extract
from howhard.strategies.backends.local import model_directory
from howhard.strategies.selection import elect
from howhard.strategies.stopping import Seen, get_stop_rule

N = 32
CELLS = ("chain-8", "chain-10", "chain-12", "chain-14", "remainder-5", "remainder-6", "remainder-7")
"""Every level of the families with an answer to vote on at which a single pass of tiny-large is below 1.00."""
RULES = (
    "none", "beta:0.95", "beta:0.95,doubling", "beta:0.9", "beta:0.99", "beta:0.95,scattered=8", "consensus:0.95",
    "esc:5", "esc:4,wave=4", "exact",
)  # fmt: skip
LIVE = ("none", "beta:0.95", "esc:5")


def ours(rule: str) -> Method:
    """Votes of 32 with a rule of ours."""
    spec = {"kind": "self_consistency", "n": N, "stop": rule}
    return Method("howhard", f"sc_{N} {rule}", {"spec": spec, "keep": True})


THEIRS = (Method("its_hub", f"beta_{N}", {"kind": "beta", "budget": N}),
          Method("its_hub", f"adaptive_{N}", {"kind": "adaptive", "budget": N}))  # fmt: skip


# ── replay ──────────────────────────────────────────────────────────────────────────────────────────────────


class Logged:
    """All samples of one problem: answers as group numbers, tokens, mean log-probabilities, marks."""

    def __init__(self, texts: list[str], tokens: list[int], logprobs: list[float], right: list[float]) -> None:
        answers = [canonical(extract(text)) for text in texts]
        number = {answer: i for i, answer in enumerate(dict.fromkeys(answers))}
        self.groups = np.array([number[answer] for answer in answers])
        self.tokens, self.logprobs, self.right = np.array(tokens), np.array(logprobs), np.array(right)

    def vote(self, rule: object, order: np.ndarray, request: Request, blank: Candidate) -> tuple[float, int, int]:
        """Draw in that order until the rule stops; returns mark, tokens, samples."""
        drawn = 0
        while True:
            first = dict.fromkeys(self.groups[order[:drawn]].tolist())
            names = {group: i for i, group in enumerate(first)}
            groups = tuple(names[g] for g in self.groups[order[:drawn]].tolist())
            seen = Seen(
                request=request, candidates=(blank,) * drawn, groups=groups, weights=(1.0,) * drawn, planned=len(order)
            )
            more = rule.more(seen)
            if more == 0:
                break
            drawn += more
        winner = elect(groups, (1.0,) * drawn, self.logprobs[order[:drawn]].tolist())
        first = groups.index(winner)
        return float(self.right[order[first]]), int(self.tokens[order[:drawn]].sum()), drawn


def replay(logged: list[Logged], rules: tuple[str, ...], rounds: int = 40) -> dict[str, dict]:
    """Accuracy and tokens of each rule over permutations, paired with the fixed vote on the same order."""
    rng = np.random.default_rng(7)
    request, blank = Request.of("x"), Candidate.of("x")
    orders = [[rng.permutation(len(log.groups))[:N] for _ in range(rounds)] for log in logged]
    found = {}
    for name in rules:
        rule = get_stop_rule(name)
        table = np.array(
            [[log.vote(rule, order, request, blank) for order in own] for log, own in zip(logged, orders, strict=True)]
        ).mean(axis=1)
        found[name] = table
    fixed = found["none"]
    return {
        name: {
            "accuracy": round(float(table[:, 0].mean()), 4),
            "loss_points": [round(-100 * value, 2) + 0.0 for value in grid.interval(table[:, 0] - fixed[:, 0])],
            "tokens_share": round(float(table[:, 1].sum() / fixed[:, 1].sum()), 4),
            "samples": round(float(table[:, 2].mean()), 2),
        }
        for name, table in found.items()
    }


def logs(bench_folder: Path, cell: str, problems: list, seeds: list[int]) -> list[Logged]:
    """Collect the samples of the fixed vote's runs."""
    texts: list[list[str]] = [[] for _ in problems]
    tokens: list[list[int]] = [[] for _ in problems]
    logprobs: list[list[float]] = [[] for _ in problems]
    for seed in seeds:
        path = bench_folder / f"{cell}.{ours('none').name.replace(' ', '_')}.{seed}.out.jsonl"
        for line in path.read_text().splitlines():
            row = json.loads(line)
            for text, n, logprob, _ in row.get("samples", ()):
                texts[row["id"]].append(text)
                tokens[row["id"]].append(n)
                logprobs[row["id"]].append(logprob)
    marks = [
        sets.grade([problem] * len(own), dict(enumerate(own))) for problem, own in zip(problems, texts, strict=True)
    ]
    return [Logged(*columns) for columns in zip(texts, tokens, logprobs, marks, strict=True)]


# ── the run ─────────────────────────────────────────────────────────────────────────────────────────────────


def main() -> None:
    """Measure, replay, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-large")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--problems", type=int, default=30, help="of each cell")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--out", type=Path, default=Path("stopping"))
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    folder = options.out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    cells = {cell: sets.make(cell, options.problems) for cell in CELLS}
    if not options.report:
        measure(options, folder, cells)
    print(json.dumps(report(folder, cells, options.model)))


def measure(options: argparse.Namespace, folder: Path, cells: dict) -> None:
    """Live runs, seed by seed."""
    until = time.monotonic() + 60 * options.minutes
    with server.serve(model_directory(options.model), options.model, folder / "server.log") as url:
        for seed in range(options.seeds):
            for method in (*(ours(rule) for rule in LIVE), *THEIRS):
                for cell, problems in cells.items():
                    bench = Bench(
                        url, options.model, "", cell, problems, folder / "sides", folder / "rows.jsonl", max_tokens=160
                    )
                    if (cell, method.name, 1000 * seed) in bench.done():
                        continue
                    if time.monotonic() > until:
                        print("out of time", file=sys.stderr)
                        return
                    print(run.words(bench.measure(method, 1000 * seed)), file=sys.stderr, flush=True)


def report(folder: Path, cells: dict, model: str) -> dict:
    """Print the tables, and return the JSON."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    kept = {(row["method"], row["cell"], row["seed"]): row for row in rows if "error" not in row}
    names = list(dict.fromkeys(method for method, _, _ in kept))
    fixed_name, live = ours("none").name, {}
    run.heading("live, by the server's counter", "accuracy", "loss in points", "engine tokens of fixed")
    for name in names:
        pairs = [(kept[key], kept.get((fixed_name, *key[1:]))) for key in kept if key[0] == name]
        pairs = [(own, fixed) for own, fixed in pairs if fixed is not None]
        cell_marks: dict[str, list[np.ndarray]] = {}
        for own, fixed in pairs:
            cell_marks.setdefault(own["cell"], []).append(np.array(own["marks"]) - np.array(fixed["marks"]))
        differences = np.concatenate([np.mean(found, axis=0) for found in cell_marks.values()])
        share = sum(o["generated_per_problem"] * o["n"] for o, _ in pairs) / sum(
            f["generated_per_problem"] * f["n"] for _, f in pairs
        )
        loss = [round(-100 * v, 2) + 0.0 for v in grid.interval(differences)]
        accuracy = float(np.mean(np.concatenate([own["marks"] for own, _ in pairs])))
        live[name] = {"accuracy": round(accuracy, 4), "loss_points": loss, "tokens_share": round(share, 4)}
        print(f"| {name} | {accuracy:.4f} | {loss[0]:.2f} [{loss[2]:.2f}, {loss[1]:.2f}] | {share:.1%} |")
    seeds = {cell: sorted({s for m, c, s in kept if m == fixed_name and c == cell}) for cell in cells}
    logged = [log for cell, ps in cells.items() if seeds[cell] for log in logs(folder / "sides", cell, ps, seeds[cell])]
    replayed = replay(logged, RULES)
    run.heading("replayed on the logged samples", "accuracy", "loss in points", "tokens of fixed", "samples")
    for name, got in replayed.items():
        loss = got["loss_points"]
        print(f"| {name} | {got['accuracy']:.4f} | {loss[0]:.2f} [{loss[2]:.2f}, {loss[1]:.2f}] | "
              f"{got['tokens_share']:.1%} | {got['samples']:.1f} |")  # fmt: skip
    return {"benchmark": "rivals/stopping", "model": model, "n": N, "live": live, "replayed": replayed,
            "problems": {cell: len(ps) for cell, ps in cells.items()}}  # fmt: skip


if __name__ == "__main__":
    main()
