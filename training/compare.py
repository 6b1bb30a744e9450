"""Compare strategies on one prompt set: accuracy, tokens, cost and latency per arm, with paired intervals.

Every arm answers every prompt with the same seeds; each result is graded and appended to a log that a second run goes
on with. `howhard compare` prints what `compare` returns (compare_report.py). Which arm is better at EQUAL tokens is
said against the curve of best-of-N, and of votes, over N: interpolated between its points in the logarithm of tokens.
"""

import asyncio
import hashlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from ..strategies import ArmSpec, BestOfNSpec, StrategySpec
from ..strategies.base import Arm, Request
from ..strategies.errors import (
    BackendError,
    ConfigError,
    InputError,
    PromptTooLong,
    TableError,
    VerifierError,
    nearest,
)
from ..strategies.self_consistency import SelfConsistencySpec
from ..strategies.specs import check_prices
from .arm_words import parse_arm, words_of
from .bounded import HOPELESS, Failure, work_off
from .curves import Interval, interval, resampling_weights
from .graders import Grader, get_grader
from .progress import StageProgress, bars
from .prompt_sets import from_problems, messages_of
from .results_file import ResultsFile
from .run_command import prompt_seed
from .workbench import AtHand, Workbench

DRAWS = 2000
"""Bootstrap draws of every interval."""

EVERYWHERE = (
    "single",
    "self-consistency n=4",
    "self-consistency n=16",
    "self-consistency n=16 stop=beta",
)
"""The arms of a comparison that names none. A strategy that a server cannot run is left out, and the table says why."""

WITH_INSTRUCTIONS = ("chain-of-thought", "refinement verifier=")
"""Beside EVERYWHERE for models that follow instructions, which the embedded ones do not."""

WITH_VERIFIER = (
    "best-of-n n=4",
    "best-of-n n=8",
    "best-of-n n=16",
    "best-of-n n=32",
    "best-of-n n=4 selection=weighted",
    "best-of-n n=16 selection=weighted",
    "best-of-n n=32 selection=weighted",
)
"""Where a verifier is named, or a reward model is there."""

WITH_REWARD_MODEL = (
    "beam width=4 branches=4",
    "dvts width=4 branches=4",
    "best-first",
    "rebase n=16",
    "particles n=16",
    "mcts samples=48",
    "ab-mcts samples=48",
)
"""Searches: where the verifier is a reward model, which can score partial solutions. They spend about as much as
best-of-N with N = 8 to 32, so that they can be compared with it."""


# ── what is compared ─────────────────────────────────────────────────────────────────────────────────────────────


CASCADE = "cascade 'stages=self-consistency n=4 if agreement >= 0.75 else {}/single'"
"""Where several backends are compared: from each to the one after it."""

DIALS = ("n", "samples", "thinking_tokens")
"""Settings that buy quality with tokens: arms that differ in one of them alone are points of one curve."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An arm of a comparison. `named` by the user: then it must work; a default one is left out where it does not."""

    label: str
    spec: ArmSpec
    named: bool = True

    @property
    def strategy(self) -> StrategySpec:
        """Without its backend."""
        return self.spec.strategy


def entries(
    at: AtHand, words: Sequence[str] = (), specs: Sequence[ArmSpec] = (), *, verifier: str | None = None
) -> list[Entry]:
    """The arms to compare: those in words, else those of a configuration, else the default ones on every backend.

    verifier : of strategies whose words name none. Default: tiny-prm for the embedded models, "best" elsewhere.
    Raises ConfigError for words that say nothing, and for an arm that stands there twice.
    """
    usual = {**at.usual, "verifier": verifier or at.verifier}
    chosen: list[tuple[ArmSpec, bool]] = []
    if words:
        for text in words:
            backend, strategy = parse_arm(text, usual)
            if backend is not None and backend not in at.backends:
                raise ConfigError(f"arm {text!r}: no backend is called {backend!r}{nearest(backend, at.backends)}")
            named = (backend,) if backend else at.chosen
            chosen += [(ArmSpec(backend=name, strategy=strategy), True) for name in named]
        chosen.sort(key=lambda pair: _place(pair[0].backend, at.chosen))
    elif specs:
        chosen = [(spec, True) for spec in specs]
    else:
        steps = at.scores_steps(str(usual["verifier"]))
        default = (
            *EVERYWHERE,
            *(WITH_INSTRUCTIONS if at.instructed else ()),
            *(WITH_VERIFIER if verifier or steps else ()),
            *(WITH_REWARD_MODEL if steps else ()),
        )
        for name in at.chosen:
            chosen += [(ArmSpec(backend=name, strategy=parse_arm(text, usual)[1]), False) for text in default]
        for name, after in itertools.pairwise(at.chosen):
            chosen.append((ArmSpec(backend=name, strategy=parse_arm(CASCADE.format(after), usual)[1]), False))
        chosen.sort(key=lambda pair: _place(pair[0].backend, at.chosen))
    for name in {verifier for spec, _ in chosen for verifier in spec.strategy.needs_verifiers}:
        if name not in at.verifiers:
            raise ConfigError(f"no verifier is called {name!r}{nearest(name, at.verifiers)}")
    labels = _labels([spec for spec, _ in chosen])
    return [Entry(label, spec, named) for label, (spec, named) in zip(labels, chosen, strict=True)]


def _place(backend: str, chosen: Sequence[str]) -> int:
    return chosen.index(backend) if backend in chosen else len(chosen)


def _labels(specs: Sequence[ArmSpec]) -> list[str]:
    """Arm names; the backend is left out where there is one, and settings are added where two names are the same."""
    one = len({spec.backend for spec in specs}) == 1
    names = [spec.strategy.name if one else spec.name for spec in specs]
    labels = []
    for spec, name in zip(specs, names, strict=True):
        alike = [other for other, its in zip(specs, names, strict=True) if its == name and other is not spec]
        if any(other == spec for other in alike):
            raise ConfigError(f"arm {name!r} ({words_of(spec.strategy)}) is given twice")
        differs = [
            setting
            for setting in spec.strategy.__struct_fields__
            if any(getattr(other.strategy, setting, None) != getattr(spec.strategy, setting) for other in alike)
        ]
        labels.append(" ".join([name, *(f"{s}={getattr(spec.strategy, s)}" for s in differs)]))
    return labels


def fresh_prompts(problems: int, seed: int, families: Sequence[str] = ()) -> pd.DataFrame:
    """Fresh problems of the embedded families (none or "all" = every one). Raises ConfigError for another name."""
    from .problems.families import FAMILIES, fresh_problems

    if problems < 1:
        raise ConfigError(f"problems={problems}: at least 1 is needed")
    chosen = [name for name in families if name != "all"]
    for name in chosen:
        if name not in FAMILIES:
            raise ConfigError(f"no family is called {name!r}{nearest(name, [*FAMILIES, 'all'])}")
    try:
        return from_problems(fresh_problems(problems, seed, None if len(chosen) < len(families) else chosen or None))
    except ValueError as exc:
        raise ConfigError(f"problems={problems}: {exc}") from exc


# ── what comes out ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """An arm's accuracy less that of a curve over N at equal tokens.

    difference : None where nothing can be said: `why` is "beyond" (it spends more than the curve's largest N),
                 "below" (less than its smallest), or "on it".
    """

    curve: str
    difference: Interval | None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One arm. Figures are means per prompt, over all seeds.

    tokens       : what was computed: prompt, completion and verifier tokens without those of the prompt that a cache
                   had; but the prompt itself always counts once, whoever had it read before.
    latency      : 50 % and 95 % quantiles of seconds, each run alone; None = not measured.
    times_single : cost against that of the first single pass; None where there is none.
    over_single  : difference of accuracies to the single pass of the same backend, at whatever cost.
    """

    label: str
    words: str
    backend: str
    accuracy: Interval
    tokens: Interval
    completion_tokens: Interval
    prompt_tokens: float
    cached_tokens: float
    verifier_tokens: float
    cost: Interval
    calls: float
    latency: tuple[float, float] | None
    times_single: float | None
    over_single: Interval | None
    over_best_of_n: Against | None
    over_vote: Against | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A whole comparison.

    curves    : arms that differ in one dial alone: a name, and the labels of its points, fewest tokens first.
    n_prompts : prompts that the figures are of: those that every arm answered with at least one same seed.
    left_out  : label -> why an arm is not in the table.
    incomplete: prompts for which an arm's result is missing.
    """

    title: str
    currency: str
    rows: tuple[Row, ...]
    curves: Mapping[str, tuple[str, ...]]
    n_prompts: int
    n_seeds: int
    n_alone: int
    incomplete: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    ran: int = 0
    seconds: float = 0.0
    log: Path | None = None


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────


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
        analysis = _Analysis(
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


# ── the arithmetic ───────────────────────────────────────────────────────────────────────────────────────────────


def computed_prompts(prompt: np.ndarray, cached: np.ndarray, backends: Sequence[str]) -> np.ndarray:
    """Prompt tokens that no cache had, but the prompt itself at least once: who asked first is chance.

    prompt, cached : float (arms, prompts). Returns the same shape. The prompt's own length is taken to be the least
    that any arm of the backend read of it.
    """
    own = np.empty_like(prompt)
    for backend in set(backends):
        rows = [i for i, b in enumerate(backends) if b == backend]
        own[rows] = prompt[rows].min(axis=0)
    return np.maximum(prompt - cached, own)


def at_equal_tokens(
    tokens: np.ndarray, quality: np.ndarray, curve_tokens: np.ndarray, curve_quality: np.ndarray
) -> np.ndarray:
    """Quality less that of a curve at the same tokens.

        quality - interpolation of the curve's (log tokens, quality) at log tokens

    tokens, quality             : float (draws,).
    curve_tokens, curve_quality : float (draws, points), the points in any order; > 0. Outside of its points the curve
                                  goes on flat, so the caller decides whether there is anything to say there.
    Returns float (draws,).
    """
    order = np.argsort(curve_tokens, axis=1)
    x = np.log(np.take_along_axis(curve_tokens, order, axis=1))
    y = np.take_along_axis(curve_quality, order, axis=1)
    at = [np.interp(np.log(t), own_x, own_y) for t, own_x, own_y in zip(tokens, x, y, strict=True)]
    return quality - np.array(at)


class _Analysis:
    """Figures per arm and prompt to rows; all intervals from one set of bootstrap draws, so that all is paired."""

    def __init__(
        self, arms: Sequence[Entry], figures: Mapping[str, np.ndarray], latencies: Mapping[int, Sequence[float]]
    ) -> None:
        self.arms, self.latencies = arms, latencies
        self.figures = dict(figures)
        read = computed_prompts(
            figures["prompt_tokens"], figures["cached_tokens"], [entry.spec.backend for entry in arms]
        )
        self.figures["tokens"] = read + figures["completion_tokens"] + figures["verifier_tokens"]
        n_prompts = figures["quality"].shape[1]
        weights = resampling_weights(np.arange(n_prompts), draws=DRAWS, seed=0).astype(float)
        self.mean = {name: values.mean(axis=1) for name, values in self.figures.items()}
        self.drawn = {name: weights @ values.T for name, values in self.figures.items()}
        self.singles = {
            backend: next((i for i, e in enumerate(arms) if e.spec.backend == backend and _kind(e) == "single"), None)
            for backend in {e.spec.backend for e in arms}
        }
        self.curves = self._curves()

    def rows(self) -> tuple[Row, ...]:
        return tuple(self._row(i, entry) for i, entry in enumerate(self.arms))

    def named_curves(self) -> dict[str, tuple[str, ...]]:
        return {c.name: tuple(self.arms[i].label for i in c.points) for c in self.curves}

    def _interval(self, name: str, arm: int) -> Interval:
        return interval(self.mean[name][arm], self.drawn[name][:, arm])

    def _row(self, i: int, entry: Entry) -> Row:
        single = self.singles[entry.spec.backend]
        base = next((self.singles[e.spec.backend] for e in self.arms if self.singles[e.spec.backend] is not None), None)
        seconds = self.latencies.get(i) or []
        cost, quality = self.mean["cost"], self.mean["quality"]
        return Row(
            label=entry.label,
            words=words_of(entry.strategy),
            backend=entry.spec.backend,
            accuracy=self._interval("quality", i),
            tokens=self._interval("tokens", i),
            completion_tokens=self._interval("completion_tokens", i),
            prompt_tokens=float(self.mean["prompt_tokens"][i]),
            cached_tokens=float(self.mean["cached_tokens"][i]),
            verifier_tokens=float(self.mean["verifier_tokens"][i]),
            cost=self._interval("cost", i),
            calls=float(self.mean["calls"][i]),
            latency=(float(np.percentile(seconds, 50)), float(np.percentile(seconds, 95))) if seconds else None,
            times_single=float(cost[i] / cost[base]) if base is not None and cost[base] > 0 else None,
            over_single=None
            if single in (None, i)
            else interval(quality[i] - quality[single], self.drawn["quality"][:, i] - self.drawn["quality"][:, single]),
            over_best_of_n=self._against(i, "best-of-N"),
            over_vote=self._against(i, "vote"),
        )

    def _against(self, i: int, sort: str) -> Against | None:
        """Compare with the curve of that sort on the same backend: of the same verifier, else the first.

        Tokens of several models do not add up to anything that could be equal: such an arm is not compared so.
        """
        entry = self.arms[i]
        if entry.strategy.needs_backends:
            return None
        rivals = [c for c in self.curves if c.sort == sort and c.backend == entry.spec.backend]
        if not rivals:
            return None
        own = getattr(entry.strategy, "verifier", None)
        curve = next((c for c in rivals if c.verifier == own), rivals[0])
        points = list(curve.points)
        if i in points:
            return Against(curve=curve.name, difference=None, why="on it")
        tokens, quality = self.mean["tokens"], self.mean["quality"]
        if not min(tokens[points]) <= tokens[i] <= max(tokens[points]):
            return Against(
                curve=curve.name, difference=None, why="beyond" if tokens[i] > max(tokens[points]) else "below"
            )
        found = at_equal_tokens(tokens[[i]], quality[[i]], tokens[points][None], quality[points][None])
        draws = at_equal_tokens(
            self.drawn["tokens"][:, i],
            self.drawn["quality"][:, i],
            self.drawn["tokens"][:, points],
            self.drawn["quality"][:, points],
        )
        return Against(curve=curve.name, difference=interval(found[0], draws))

    def _curves(self) -> list["_Curve"]:
        """Arms that differ in nothing but one dial, two at least; where the dial is N, the single pass is N = 1.

        The chance of a right answer bends down in log N, so a straight line between two points far apart would lie
        below the curve, and flatter what is compared with it.
        """
        families: dict[str, list[int]] = {}
        for dial in DIALS:
            for i, entry in enumerate(self.arms):
                if getattr(entry.strategy, dial, None) is not None:
                    same = {**msgspec.to_builtins(entry.strategy), dial: None}
                    families.setdefault(json.dumps([dial, entry.spec.backend, same]), []).append(i)
        curves = []
        for members in families.values():
            if len(members) < 2:
                continue
            members.sort(key=lambda i: self.mean["tokens"][i])
            first = self.arms[members[0]]
            sort = _sort(first)
            single = self.singles[first.spec.backend] if sort is not None else None
            points = (*(() if single is None else (single,)), *members)
            curves.append(
                _Curve(
                    name=" - ".join((self.arms[points[0]].label, self.arms[points[-1]].label)),
                    sort=sort,
                    backend=first.spec.backend,
                    verifier=getattr(first.strategy, "verifier", None),
                    points=points,
                )
            )
        return curves


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    name: str
    sort: str | None
    backend: str
    verifier: str | None
    points: tuple[int, ...]


def _kind(entry: Entry) -> str:
    return str(type(entry.strategy).__struct_config__.tag)


def _sort(entry: Entry) -> str | None:
    """Which reference curve an arm may be a point of: one that draws all N, and best-of-N proper or a vote."""
    strategy = entry.strategy
    if getattr(strategy, "stop", "none") != "none":
        return None
    if isinstance(strategy, SelfConsistencySpec):
        return None if strategy.online else "vote"
    if isinstance(strategy, BestOfNSpec) and strategy.selection in ("best", "weighted"):
        return "vote" if strategy.selection == "weighted" or strategy.verifier == "vote" else "best-of-N"
    return None
