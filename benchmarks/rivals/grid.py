"""Which strategies give the most accuracy for their tokens: howhard's, its_hub's, or treequest's?

The same problems, server, reward model, temperature and limits for all; three seeds. Tokens are what the server's
counters say was generated, plus what the reward model read (a text begun before is read on from there, for all
sides alike). A rival at its tokens is compared with howhard's strategy of that kind, and with howhard's best-of-N,
at the same tokens: between two budgets of a ladder, accuracy is taken linear in the logarithm of the tokens.
Intervals: bootstrap over problems, paired, seeds averaged.

    python benchmarks/rivals/grid.py --model tiny-small --cell chain-14 --problems 100 --seeds 3 | tail -1 | jq .

Rows are kept in `--out` as they come; a run that was killed goes on. `--report` only reads them.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import problems as sets
import run
import server
from run import Bench, Method

from howhard.strategies.answers import canonical, extract
from howhard.strategies.backends.local import model_directory
from howhard.strategies.selection import elect
from howhard.strategies.stopping import Tally

MORE = {"end_token": "</s>", "step_tokens": 64, "opening": ""}
"""What rivals are told of the embedded models: their end token, and what the template puts before an answer."""


def howhard(label: str, **spec: object) -> Method:
    """A strategy of ours, as a configuration gives it."""
    return Method("howhard", label, {"spec": spec})


def ladders(depth: int) -> dict[str, list[Method]]:
    """Our strategies by kind, each with its budgets; `depth` = steps of a solution, for searches that count samples."""
    return {
        "best_of_n": [LOGGED],
        "beam": [
            howhard(f"beam_{w}x{b}", kind="tree_search", width=w, branches=b)
            for w, b in ((1, 2), (1, 4), (2, 4), (4, 4))
        ],
        "beam_drawn": [
            howhard(f"beam_{w}x{b}_drawn", kind="tree_search", width=w, branches=b, places="drawn")
            for w, b in ((2, 4), (4, 4))
        ],
        "dvts": [howhard(f"dvts_{w}x{b}", kind="dvts", width=w, branches=b) for w, b in ((2, 4), (4, 4))],
        "rebase": [howhard(f"rebase_{n}", kind="rebase", n=n) for n in (8, 16)],
        "particles": [howhard(f"particles_{n}", kind="particles", n=n) for n in (4, 8, 16)],
        "mcts": [howhard(f"mcts_{n}", kind="mcts", samples=n) for n in (4 * depth, 12 * depth)],
        "ab_mcts": [howhard(f"ab_mcts_{n}", kind="ab_mcts", samples=n) for n in (4 * depth, 12 * depth)],
        "best_first": [howhard("best_first", kind="best_first", expansions=4 * depth, branches=4)],
    }  # fmt: skip


LOGGED = Method("howhard", "best_of_16", {"spec": {"kind": "best_of_n", "n": 16}, "keep": True})
"""Drawn and judged once per seed; from all its samples follow best-of-N, weighted and plain votes at every N."""


def rivals(depth: int) -> dict[str, list[Method]]:
    """Rivals' methods, by the kind of ours that they are set against."""
    return {
        "best_of_n": [Method("its_hub", f"bon_{n}", {"kind": "bon", "budget": n}) for n in (8,)],
        "vote": [Method("its_hub", f"sc_{n}", {"kind": "sc", "budget": n}) for n in (16,)],
        "beam_drawn": [  # its beam holds copies, too
            Method("its_hub", f"beam_{n}_w{w}", {"kind": "beam", "budget": n, "beam_width": w} | MORE)
            for n, w in ((4, 2), (16, 4))
        ],
        "particles": [Method("its_hub", f"pf_{n}", {"kind": "pf", "budget": n} | MORE) for n in (4, 16)],
        "ab_mcts": [
            Method("treequest", f"abmcts_{n}", {"kind": "abmcts", "budget": n} | MORE)
            for n in (12 * depth,)
        ],
    }  # fmt: skip


def depth_of(cell: str) -> int:
    """Steps of a solution of the cell."""
    family, _, level = cell.rpartition("-")
    return {"chain": int(level) + 1, "countdown": int(level) - 1}.get(family, int(level))


# ── statistics ──────────────────────────────────────────────────────────────────────────────────────────────


class Point:
    """One method over all seeds: marks of each problem, tokens per problem, and further columns."""

    def __init__(self, marks: np.ndarray, tokens: float, rows: Sequence[dict] = ()) -> None:
        self.marks, self.tokens, self.rows = marks, tokens, rows

    @classmethod
    def of(cls, rows: Sequence[dict]) -> "Point":
        """From a method's rows, one per seed."""
        spent = [row["generated_per_problem"] + row["judge_tokens_per_problem"] for row in rows]
        return cls(np.array([row["marks"] for row in rows]).mean(axis=0), float(np.mean(spent)), rows)

    def mean(self, name: str) -> float:
        """Mean of a column over the seeds."""
        return float(np.mean([row[name] for row in self.rows]))


def best_of(scores: Sequence[float | None], marks: Sequence[float], n: int) -> float:
    """Expected mark of best-of-n, drawn without replacement from a log; exact, with launch order taken as random.

    Ranked by score, the winner of n stands at rank r with probability C(N - r - 1, n - 1) / C(N, n); equal scores share
    their mean mark. A sample without a score comes last.
    """
    ranked = [-1.0 if score is None else score for score in scores]
    order = sorted(range(len(ranked)), key=lambda i: -ranked[i])
    means = {value: np.mean([marks[i] for i in order if ranked[i] == value]) for value in set(ranked)}
    ways = math.comb(len(ranked), n)
    found = (math.comb(len(ranked) - r - 1, n - 1) / ways * means[ranked[i]] for r, i in enumerate(order))
    return float(sum(found))


def derived(logged: list[list[list]], marks: list[list[float]], rows: Sequence[dict]) -> dict[str, list[Point]]:
    """Ladders of best-of-N, weighted vote and plain vote from the samples of all seeds.

    logged : per problem, [text, tokens, mean log-probability, score] of each sample.
    rows   : of the runs that drew them.

    The judge reads the prompt once and each sample once, as the runs' counters say.
    """
    rng = np.random.default_rng(3)
    drawn = float(np.mean([row["generated_per_problem"] for row in rows])) / 16
    judged = float(np.mean([row["judge_tokens_per_problem"] for row in rows]))
    prompt = judged - 16 * drawn
    ladders: dict[str, list[Point]] = {"best_of_n": [], "weighted": [], "vote": []}
    answers = [[canonical(extract(s[0])) for s in samples] for samples in logged]
    most = min(len(samples) for samples in logged)
    for n in (n for n in (1, 2, 4, 8, 16, 32) if n <= most):
        exact = [best_of([s[3] for s in ss], mm, n) for ss, mm in zip(logged, marks, strict=True)]
        ladders["best_of_n"].append(Point(np.array(exact), n * 2 * drawn + prompt))
        for kind in ("weighted", "vote"):
            own = [
                np.mean([elected(kind, aa, ss, mm, rng.permutation(len(mm))[:n]) for _ in range(64)])
                for aa, ss, mm in zip(answers, logged, marks, strict=True)
            ]
            ladders[kind].append(Point(np.array(own), n * drawn if kind == "vote" else n * 2 * drawn + prompt))
    return ladders


def elected(kind: str, answers: Sequence[str], samples: list[list], marks: Sequence[float], order: np.ndarray) -> float:
    """Mark of the answer that wins among the samples drawn, as selection.py settles it."""
    names = {answer: i for i, answer in enumerate(dict.fromkeys(answers[i] for i in order))}
    groups = [names[answers[i]] for i in order]
    if kind == "vote":
        winner = elect(groups, [1.0] * len(groups), [samples[i][2] for i in order])
        return marks[order[groups.index(winner)]]
    scores = [samples[i][3] or 0.0 for i in order]
    winner = Tally.of(groups, scores).leader
    return marks[order[max((k for k, group in enumerate(groups) if group == winner), key=lambda k: scores[k])]]


def between(ladder: Sequence[Point], tokens: float) -> np.ndarray | None:
    """Marks of each problem at `tokens`, between a ladder's budgets; None below the least.

    Above the most, the most is taken: what more tokens would bring is not known, so that errs on the other's side.
    """
    ladder = sorted(ladder, key=lambda point: point.tokens)
    if not ladder or tokens < ladder[0].tokens * 0.999:
        return None
    if tokens >= ladder[-1].tokens:
        return ladder[-1].marks
    upper = next(i for i, point in enumerate(ladder) if point.tokens > tokens)
    low, high = ladder[upper - 1], ladder[upper]
    share = math.log(tokens / low.tokens) / math.log(high.tokens / low.tokens)
    return (1 - share) * low.marks + share * high.marks


def interval(differences: np.ndarray, rounds: int = 4000) -> tuple[float, float, float]:
    """Mean, and the 95 % bootstrap interval over problems."""
    rng = np.random.default_rng(0)
    means = differences[rng.integers(0, len(differences), (rounds, len(differences)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return round(float(differences.mean()), 4), round(float(low), 4), round(float(high), 4)


# ── the report ──────────────────────────────────────────────────────────────────────────────────────────────


def read(path: Path) -> dict[str, Point]:
    """The rows by method; a method's failed runs are left out, the latest of a seed counts."""
    seeds: dict[tuple[str, int], dict] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if "error" not in row:
            seeds[row["method"], row["seed"]] = row
    names = dict.fromkeys(name for name, _ in seeds)
    return {name: Point.of([row for (own, _), row in sorted(seeds.items()) if own == name]) for name in names}


def report(path: Path, cell: str, model: str) -> dict:
    """Print the table, and return the JSON of what the aims ask."""
    points, depth = read(path), depth_of(cell)
    own = {kind: [points[m.name] for m in ms if m.name in points] for kind, ms in ladders(depth).items()}
    own |= from_log(path.parent / f"sides.{model}", cell, points[LOGGED.name])
    for kind, ladder in own.items():
        if kind in ("best_of_n", "weighted", "vote"):
            print(f"{kind} from the log:", ", ".join(f"{p.marks.mean():.3f} at {p.tokens:.0f}" for p in ladder))
    bon = own["best_of_n"]
    print(f"\n{cell} on {model}: {len(next(iter(points.values())).marks)} problems\n")
    run.heading(
        "method", "seeds", "accuracy", "tokens (drawn + judge)", "engine prompt (cached)", "requests",
        "against best-of-N at equal tokens", "against the weighted vote",
    )  # fmt: skip
    for name, point in sorted(points.items(), key=lambda item: (item[0].split()[0] != "howhard", item[1].tokens)):
        against = [difference(point, ladder) for ladder in (bon, own["weighted"])]
        print(
            f"| {name} | {len(point.rows)} | {point.marks.mean():.3f} | {point.tokens:.0f} "
            f"({point.mean('generated_per_problem'):.0f} + {point.mean('judge_tokens_per_problem'):.0f}) | "
            f"{point.mean('prompt_per_problem'):.0f} ({point.mean('cached_per_problem'):.0f}) | "
            f"{point.mean('requests_per_problem'):.1f} | {signed(against[0])} | {signed(against[1])} |"
        )
    against_rivals, searches = {}, {}
    run.heading("rival", "accuracy (tokens)", "ours of that kind, at its tokens", "our best-of-N, at its tokens")
    for kind, methods in rivals(depth).items():
        for method in methods:
            if method.name not in points:
                continue
            point = points[method.name]
            same, best = difference(point, own[kind], minus=True), difference(point, bon, minus=True)
            against_rivals[method.name] = {"same_kind": same, "best_of_n": best}
            print(
                f"| {method.name} | {point.marks.mean():.3f} ({point.tokens:.0f}) | {signed(same)} | {signed(best)} |"
            )
    for kind, methods in ladders(depth).items():
        for method in methods:
            if kind not in ("best_of_n", "weighted", "vote") and method.name in points:
                searches[method.label] = difference(points[method.name], bon)
    return {
        "benchmark": "rivals/grid", "model": model, "cell": cell,
        "problems": len(next(iter(points.values())).marks), "seeds": max(len(p.rows) for p in points.values()),
        "ours_minus_rival": against_rivals, "search_minus_best_of_n": searches,
        "best_search": max(((v[0], k, v) for k, v in searches.items() if v), default=None),
    }  # fmt: skip


def from_log(folder: Path, cell: str, point: Point) -> dict[str, list[Point]]:
    """The ladders that follow from the logged samples of all seeds."""
    problems = sets.make(cell, len(point.marks))
    logged: list[list[list]] = [[] for _ in problems]
    for row in point.rows:
        for line in (
            (folder / f"{cell}.{LOGGED.name.replace(' ', '_')}.{row['seed']}.out.jsonl").read_text().splitlines()
        ):
            kept = json.loads(line)
            logged[kept["id"]] += kept["samples"]
    marks = [
        sets.grade([p] * len(ss), {i: s[0] for i, s in enumerate(ss)}) for p, ss in zip(problems, logged, strict=True)
    ]
    return derived(logged, marks, point.rows)


def difference(point: Point, ladder: Sequence[Point], *, minus: bool = False) -> tuple[float, float, float] | None:
    """`point` minus the ladder at its tokens (`minus`: the other way round)."""
    there = between(ladder, point.tokens)
    if there is None:
        return None
    return interval(there - point.marks if minus else point.marks - there)


def signed(found: tuple[float, float, float] | None) -> str:
    """For people."""
    return "-" if found is None else f"{found[0]:+.3f} [{found[1]:+.3f}, {found[2]:+.3f}]"


# ── the run ─────────────────────────────────────────────────────────────────────────────────────────────────


def chosen(methods: Iterable[Method], only: Sequence[str]) -> list[Method]:
    """Those whose name holds one of the words."""
    return [m for m in methods if not only or any(word in m.name for word in only)]


def main() -> None:
    """Measure, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-small")
    parser.add_argument("--cell", default="chain-14")
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=48, help="problems under way at once")
    parser.add_argument("--minutes", type=float, default=60, help="begin nothing new after so many")
    parser.add_argument("--only", nargs="*", default=[], help="methods whose name holds one of these words")
    parser.add_argument("--out", type=Path, default=Path("grid"))
    parser.add_argument("--report", action="store_true", help="only read the rows that are there")
    options = parser.parse_args()
    folder = options.out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / f"{options.model}.{options.cell}.jsonl"
    if not options.report:
        measure(options, folder, rows)
    print(json.dumps(report(rows, options.cell, options.model)))


def measure(options: argparse.Namespace, folder: Path, rows: Path) -> None:
    """Run what is missing, seed by seed, so that a run cut short has every method."""
    depth, until, port = depth_of(options.cell), time.monotonic() + 60 * options.minutes, server.free_port()
    theirs, ours = rivals(depth), ladders(depth)
    methods = chosen([m for ms in (*ours.values(), *theirs.values()) for m in ms], options.only)
    with (
        server.serve(model_directory(options.model), options.model, folder / "server.log") as url,
        server.running(
            [sys.executable, str(run.HERE / "judge.py"), str(port)],
            folder / "judge.log",
            os.environ | {"OMP_NUM_THREADS": "1"},
        ) as process,
    ):
        judge = f"http://127.0.0.1:{port}"
        server.wait(judge + "/counters", process, folder / "judge.log")
        bench = Bench(
            url, options.model, judge, options.cell, sets.make(options.cell, options.problems),
            folder / f"sides.{options.model}", rows,
            max_tokens=160, concurrency=options.concurrency,
        )  # fmt: skip
        done = bench.done()
        for seed in range(options.seeds):
            for method in methods:
                if (options.cell, method.name, 1000 * seed) in done:
                    continue
                if time.monotonic() > until:
                    print("out of time", file=sys.stderr)
                    return
                print(run.words(bench.measure(method, 1000 * seed)), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
