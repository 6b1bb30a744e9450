"""Run methods of several sides on one server and one set of problems, and keep every row.

`measure` is one cell: start the side, wait, read the counters of server and judge before and after with both idle,
grade the texts. Rows go into a JSONL file at once; a run that was killed goes on where it was.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import problems as sets
import server

from howhard.training.problems.problem import Problem

HERE = Path(__file__).parent
RIVALS = Path(os.environ.get("HOWHARD_RIVALS", Path.home() / ".cache/howhard/rivals"))
PYTHONS = {
    "howhard": Path(sys.executable),
    "its_hub": RIVALS / "its/bin/python",
    "treequest": RIVALS / "its/bin/python",
    "optillm": RIVALS / "optillm/bin/python",
}


@dataclass(frozen=True)
class Method:
    """A side's method: `label` names it in tables, `settings` go to the side's program."""

    side: str
    label: str
    settings: dict
    max_tokens: int = 0

    @property
    def name(self) -> str:
        """`side label`."""
        return f"{self.side} {self.label}"


@dataclass(frozen=True)
class Bench:
    """One server, one judge, one set of problems."""

    url: str
    model: str
    judge: str
    cell: str
    problems: list[Problem]
    folder: Path
    rows: Path
    max_tokens: int
    temperature: float = 1.0
    concurrency: int = 16

    def done(self) -> set[tuple[str, str, int]]:
        """(cell, method, seed) of the rows that are there."""
        if not self.rows.exists():
            return set()
        rows = [json.loads(line) for line in self.rows.read_text().splitlines()]
        return {(row["cell"], row["method"], row["seed"]) for row in rows if "error" not in row}

    def measure(self, method: Method, seed: int, *, limit_s: float = 900) -> dict:
        """Run one method with one seed; returns its row (kept, too)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self.cell}.{method.name.replace(' ', '_').replace('/', '_')}.{seed}"
        asked, out = self.folder / f"{self.cell}.problems.jsonl", self.folder / f"{stem}.out.jsonl"
        self.show(asked)
        job = {
            "url": self.url, "model": self.model, "judge": self.judge, "problems": str(asked), "out": str(out),
            "method": method.settings, "max_tokens": method.max_tokens or self.max_tokens,
            "temperature": self.temperature, "seed": seed, "concurrency": self.concurrency,
        }  # fmt: skip
        path = self.folder / f"{stem}.job.json"
        path.write_text(json.dumps(job))
        if self.judge:
            urllib.request.urlopen(urllib.request.Request(self.judge + "/reset", method="POST")).read()
        server.idle(self.url)
        server.forget(self.url)
        before = server.idle(self.url)
        program = HERE / "sides" / f"{method.side}_side.py"
        ours = method.side == "howhard"  # a PYTHONPATH for us must not reach rivals
        env = {k: v for k, v in os.environ.items() if ours or k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
        started = time.perf_counter()
        try:
            ran = subprocess.run(
                [str(PYTHONS[method.side]), str(program), str(path)], capture_output=True, text=True, env=env,
                timeout=limit_s,
            )  # fmt: skip
            output, told = ran.stderr, ran.stdout.strip().splitlines()[-1:]
        except subprocess.TimeoutExpired as late:
            output, told = str(late.stderr or "")[-2000:], ['{"error": "timeout"}']
        seconds = time.perf_counter() - started
        after = server.idle(self.url)
        judged = server.get_json(self.judge + "/counters") if self.judge else {"tokens": 0, "calls": 0}
        (self.folder / f"{stem}.err").write_text(output)
        said = json.loads(told[0]) if told else {"error": output[-500:]}
        rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        n = len(self.problems)
        spent = {name: (after[name] - before[name]) / n for name in after if name not in ("running", "waiting")}
        row = {
            "cell": self.cell, "model": self.model, "method": method.name, "seed": seed, "n": n,
            "concurrency": self.concurrency, **said, "wall_s": round(seconds, 2),
            **{f"{name}_per_problem": round(value, 3) for name, value in spent.items()},
            "judge_tokens_per_problem": judged["tokens"] / n, "judge_calls_per_problem": judged["calls"] / n,
            "marks": self.marks(rows), "when": time.strftime("%Y-%m-%d %H:%M:%S"),
        }  # fmt: skip
        row["accuracy"] = sum(row["marks"]) / n
        with self.rows.open("a") as kept:
            kept.write(json.dumps(row) + "\n")
        return row

    def show(self, path: Path) -> None:
        """Write what sides are shown."""
        sets.write(self.problems, path)

    def marks(self, rows: list[dict]) -> list[float]:
        """Grade what came back."""
        return sets.grade(self.problems, {row["id"]: row["text"] for row in rows})


def words(row: dict) -> str:
    """A row for people."""
    if "error" in row:
        return f"{row['cell']} {row['method']} {row['seed']}: {row['error'][:200]}"
    cpu = 1000 * row["client_cpu_s"] / row["n"]
    return (
        f"{row['cell']:<12} {row['method']:<40} seed {row['seed']}  acc {row['accuracy']:.3f}  "
        f"gen {row['generated_per_problem']:8.1f}  judge {row['judge_tokens_per_problem']:8.1f}  "
        f"prompt {row['prompt_per_problem']:8.1f} ({row['cached_per_problem']:.0f} cached)  "
        f"req {row['requests_per_problem']:6.1f}  cpu {cpu:7.2f} ms  {row['seconds']:6.1f} s  failed {row['failed']}"
    )


def heading(*names: str) -> None:
    """Print the head of a table."""
    print("\n| " + " | ".join(names) + " |\n" + "| --- " * len(names) + "|")
