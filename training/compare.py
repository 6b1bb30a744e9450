"""Compare strategies on one prompt set: run every arm on every prompt with the same seeds, and grade what comes.

Each result is appended to a log that a second run goes on with. Which arms there are is said in compare_arms.py, what
the results come to in compare_figures.py, and `howhard compare` prints that (compare_report.py).
"""

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from ..strategies.base import Arm, Request
from ..strategies.errors import (
    BackendError,
    ConfigError,
    InputError,
    PromptTooLong,
    TableError,
    VerifierError,
)
from ..strategies.specs import check_prices
from .arm_words import words_of
from .bounded import HOPELESS, Failure, work_off
from .compare_arms import Entry
from .compare_figures import Analysis, Comparison
from .graders import Grader, get_grader
from .progress import StageProgress, bars
from .prompt_sets import messages_of
from .results_file import ResultsFile
from .run_command import prompt_seed
from .workbench import AtHand, Workbench


def compare(
    prompts: pd.DataFrame,
    at: AtHand,
    arms: Sequence[Entry],
    log: Path,
    *,
    title: str,
    seeds: int = 3,
    seed: int = 0,
    concurrency: int = 16,
    latency_prompts: int = 16,
    quiet: bool = False,
) -> Comparison:
    """Run every arm on every prompt with every seed, those on the log's record excepted, and say how they compare.

    log   : a directory; what ended is in its results.jsonl, whatever happens.
    seeds : how often each arm answers each prompt, with seeds made of `seed`, the prompt's id and 0, 1, ...; all arms
            take the same, so that sample i of one is sample i of another where the backend keeps its seeds.
    latency_prompts : every arm is run once more, alone, on so many prompts, one at a time; only this is its latency.

    Raises ConfigError for settings out of range, and an arm that the user named and that cannot be run; TableError
    where a prompt cannot be graded; what a server's faults raise (see bounded.work_off).
    """
    if seeds < 1 or concurrency < 1 or latency_prompts < 0:
        raise ConfigError(
            f"seeds={seeds}, concurrency={concurrency}, latency_prompts={latency_prompts}: the first two must be at "
            "least 1, the last at least 0"
        )
    if not arms:
        raise ConfigError("no arm is to be compared: give at least one")
    with ResultsFile(log / "results.jsonl") as results, bars(quiet=quiet) as progress:
        work = _Comparing(prompts, at, arms, results, seeds, seed, latency_prompts)
        started = time.perf_counter()
        try:
            asyncio.run(work.run(concurrency, progress))
        finally:
            work.close()
        return work.compared(title, time.perf_counter() - started, log)


@dataclass(frozen=True, slots=True)
class _Unit:
    """One run: an arm on a prompt with the seed of that number; `alone` for its latency."""

    arm: int
    prompt: int
    seed: int
    alone: bool = False


class _Comparing:
    """The state of one comparison."""

    def __init__(
        self,
        prompts: pd.DataFrame,
        at: AtHand,
        arms: Sequence[Entry],
        results: ResultsFile,
        seeds: int,
        seed: int,
        latency_prompts: int,
    ) -> None:
        self.rows: list[dict[str, Any]] = [{str(k): v for k, v in r.items()} for r in prompts.to_dict("records")]
        self.at, self.arms, self.results = at, list(arms), results
        self.seeds, self.seed = seeds, seed
        self.graders = _graders(self.rows)
        self.prompt_keys = [_prompt_key(row) for row in self.rows]
        by_hash = sorted(range(len(self.rows)), key=lambda i: hashlib.sha256(self.prompt_keys[i].encode()).digest())
        self.alone = by_hash[:latency_prompts]
        self.identities: dict[int, str] = {}
        self.left_out: dict[int, str] = {}
        self.failures: list[Failure[_Unit]] = []
        self.in_a_row: Counter[int] = Counter()
        self.ran = 0

    def close(self) -> None:
        for grader in self.graders.values():
            grader.close()

    async def run(self, concurrency: int, progress: StageProgress) -> None:
        drawn_from = {name for e in self.arms for name in (e.spec.backend, *e.strategy.needs_backends)}
        check_prices({name: self.at.backends[name] for name in drawn_from if name in self.at.backends})
        async with Workbench(self.at) as bench:
            for index, entry in enumerate(self.arms):
                with self._excusing(index):
                    bench.arm(entry.spec)
            await bench.check()
            self.identities = {i: bench.identity(e.spec) for i, e in enumerate(self.arms) if i not in self.left_out}

            async def perform(title: str, units: list[_Unit], width: int) -> None:
                def moved(ended: int) -> None:
                    progress(title, ended, len(units))

                self.failures += await work_off(
                    units, lambda unit: self._counted(bench, unit), width=width, moved=moved, hopeless=None
                )
                if len(self.left_out) == len(self.arms):
                    raise self.failures[-1].error if self.failures else ConfigError("; ".join(self.left_out.values()))

            await perform("runs", self._units(), concurrency)
            alone = self._units_alone()
            first = list({unit.arm: unit for unit in alone}.values())
            await work_off(first, lambda unit: self._warm_up(bench, unit), width=1, hopeless=None)
            await perform("each alone, for its latency", alone, 1)

    def _units(self) -> list[_Unit]:
        """What is missing, all arms of a prompt together: whenever it is stopped, arms have the same prompts."""
        units = (
            _Unit(arm, prompt, seed)
            for seed in range(self.seeds)
            for prompt in range(len(self.rows))
            for arm in self.identities
        )
        return [unit for unit in units if self._key(unit) not in self.results]

    def _units_alone(self) -> list[_Unit]:
        units = (_Unit(arm, prompt, 0, alone=True) for prompt in self.alone for arm in self.identities)
        return [unit for unit in units if self._key(unit) not in self.results and unit.arm not in self.left_out]

    def _key(self, unit: _Unit) -> str:
        own = f"{self.seed}.{unit.seed}" + (".alone" if unit.alone else "")
        return f"{self.prompt_keys[unit.prompt]}/{self.identities[unit.arm]}/{own}"

    def _arm(self, bench: Workbench, unit: _Unit) -> Arm:
        own = prompt_seed(self.seed + unit.seed, self.rows[unit.prompt]["prompt_id"])
        return bench.arm(self.arms[unit.arm].spec, seed=own)

    def _request(self, unit: _Unit) -> Request:
        row = self.rows[unit.prompt]
        return Request(messages_of(row), id=row["prompt_id"])

    async def _counted(self, bench: Workbench, unit: _Unit) -> None:
        """Run a unit; an arm whose runs fail again and again leaves the table, and costs the others nothing."""
        try:
            await self._run(bench, unit)
        except (BackendError, VerifierError) as exc:
            self.in_a_row[unit.arm] += 1
            if self.in_a_row[unit.arm] >= HOPELESS:
                self.left_out.setdefault(unit.arm, f"{HOPELESS} runs in a row failed; the last: {exc}")
            raise
        self.in_a_row[unit.arm] = 0

    async def _run(self, bench: Workbench, unit: _Unit) -> None:
        if unit.arm in self.left_out:
            return
        with self._excusing(unit.arm):
            arm, started = self._arm(bench, unit), time.perf_counter()
            result = await arm.run(self._request(unit))
            seconds = time.perf_counter() - started
            row = self.rows[unit.prompt]
            quality = await asyncio.to_thread(self._grade, row, result.text, result.answer)
            told = {
                "arm": self.arms[unit.arm].label,
                "backend": self.arms[unit.arm].spec.backend,
                "strategy": words_of(self.arms[unit.arm].strategy),
                "prompt_id": row["prompt_id"],
                "group": row["group"],
                "seed": unit.seed,
                "alone": unit.alone,
                "quality": float(quality),
                "answer": result.answer,
                "usage": msgspec.to_builtins(result.usage),
                "seconds": seconds,
                "stopped_because": result.stopped_because,
            }
            self.results.append(self._key(unit), told)
            self.ran += 1

    async def _warm_up(self, bench: Workbench, unit: _Unit) -> None:
        """Run an arm once and throw the result away: a first run loads what later ones find ready."""
        if unit.arm not in self.left_out:
            with self._excusing(unit.arm):
                await self._arm(bench, unit).run(self._request(unit))

    def _grade(self, row: Mapping[str, Any], text: str, answer: str | None) -> float:
        reference = row["reference"] if isinstance(row["reference"], str) else None
        return self.graders[row["grader"]].grade(row["text"], text, answer, reference)

    def _excusing(self, arm: int) -> "_Excusing":
        return _Excusing(self.arms[arm], lambda why: self.left_out.setdefault(arm, why))

    # ── what it comes to ────────────────────────────────────────────────────────────────────────────────────

    def compared(self, title: str, seconds: float, log: Path) -> Comparison:
        kept = self._kept()
        names = ("quality", "prompt_tokens", "cached_tokens", "completion_tokens", "verifier_tokens", "calls", "cost")
        cube = np.full((len(names), len(kept), len(self.rows), self.seeds), np.nan)
        for a, arm in enumerate(kept):
            for prompt in range(len(self.rows)):
                for seed in range(self.seeds):
                    row = self.results.rows.get(self._key(_Unit(arm, prompt, seed)))
                    if row is not None:
                        cube[:, a, prompt, seed] = [row["quality"], *(row["usage"][name] for name in names[1:])]
        whole = np.isfinite(cube[0]).all(axis=0)  # (prompts, seeds) that every arm has
        shown = whole.any(axis=1)
        if not shown.any():
            raise TableError("no prompt was answered by every arm: nothing can be compared yet")
        with np.errstate(invalid="ignore"):
            figures = np.nanmean(np.where(whole, cube, np.nan)[:, :, shown], axis=3)  # (names, arms, prompts)
        analysis = Analysis(
            [self.arms[i] for i in kept],
            {name: figures[i] for i, name in enumerate(names)},
            {a: self._latencies(arm) for a, arm in enumerate(kept)},
        )
        return Comparison(
            title=title,
            currency=self.at.currency,
            rows=analysis.rows(),
            curves=analysis.named_curves(),
            n_prompts=int(shown.sum()),
            n_seeds=self.seeds,
            n_alone=len(self.alone),
            incomplete=int((~whole).any(axis=1).sum()),
            left_out={self.arms[i].label: why for i, why in self.left_out.items()},
            problems=tuple(dict.fromkeys(str(f.error) for f in self.failures))[:5],
            ran=self.ran,
            seconds=seconds,
            log=log,
        )

    def _kept(self) -> list[int]:
        """Arms with results; one that only failed is left out with its first failure."""
        kept = []
        for arm in range(len(self.arms)):
            if arm in self.left_out:
                continue
            if any(
                self._key(_Unit(arm, prompt, seed)) in self.results
                for prompt in range(len(self.rows))
                for seed in range(self.seeds)
            ):
                kept.append(arm)
                continue
            self.left_out[arm] = next((str(f.error) for f in self.failures if f.unit.arm == arm), "it was not run")
        return kept

    def _latencies(self, arm: int) -> list[float]:
        rows = (self.results.rows.get(self._key(_Unit(arm, prompt, 0, alone=True))) for prompt in self.alone)
        return [row["seconds"] for row in rows if row is not None]


class _Excusing:
    """Lets a default arm that cannot be run here leave the table with a reason; a named one raises, by its name."""

    def __init__(self, entry: Entry, leave_out: Callable[[str], object]) -> None:
        self._entry, self._leave_out = entry, leave_out

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, InputError) or isinstance(error, PromptTooLong):
            return False
        if self._entry.named:
            raise ConfigError(f"arm {self._entry.label!r}: {error}") from error
        self._leave_out(str(error))
        return True


def _graders(rows: Iterable[Mapping[str, Any]]) -> dict[str, Grader]:
    graders: dict[str, Grader] = {}
    for row in rows:
        name = row["grader"]
        if not isinstance(name, str):
            raise TableError(f"prompt {row['prompt_id']!r} has no grader: name one, such as numeric or exact")
        grader = graders.setdefault(name, graders.get(name) or get_grader(name))
        if grader.needs_reference and not isinstance(row["reference"], str):
            raise TableError(f"prompt {row['prompt_id']!r} has no reference, and grader {name!r} needs one")
    return graders


def _prompt_key(row: Mapping[str, Any]) -> str:
    """16 hex digits of a prompt and of how its answer is graded."""
    told = json.dumps([row["prompt_id"], row["text"], str(row["reference"]), row["grader"]])
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:16]
