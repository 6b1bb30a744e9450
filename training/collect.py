"""Record what compute buys: draw samples of each backend once, grade and score them, run what cannot be derived.

`plan` probes a few prompts and says what the whole will take; `collect` does it; `assemble` makes the outcomes table
that training reads. The rows go into a howhard.training.log.Log, which makes all of this safe to kill and to run
again; the arithmetic of derived arms is in howhard.training.derive.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import msgspec
import pandas as pd

from ..strategies import ArmSpec, BestOfNSpec, VerifierSpec, build_arms, open_verifiers
from ..strategies.answers import EXTRACTOR, extract
from ..strategies.base import (
    Arm,
    Backend,
    Generation,
    Prefix,
    Request,
    SamplingParams,
    Usage,
    Verdicts,
    Verifier,
)
from ..strategies.errors import (
    BackendError,
    BackendUnreachable,
    ConfigError,
    InputError,
    ModelNotServed,
    PromptTooLong,
    TableError,
)
from ..strategies.running import candidate, most_tokens, reading_prices
from ..strategies.verifiers.first_of import FirstOf
from ..strategies.verifiers.vote import Vote
from . import tables
from .derive import derive, is_derivable
from .graders import Grader, get_grader
from .log import Log, SampleKey
from .prompt_sets import messages_of

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with the stage ("samples of small", ...), how much of it is safely logged, and how much there is."""

_FLUSH_S = 2.0  # rows wait at most this long before they become a part of the log
_FLUSH_ROWS = 1024
_HOPELESS = 5  # so many prompts in a row without one sample: the backend is gone, not the prompt
_NAMED = 5  # problems that a summary spells out

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What one call of `collect` did; the log holds the rest.

    samples, runs, timed : logged by this call: samples, arm runs, arm runs with their latency.
    failed               : samples that failed (they are tried once more when collecting is resumed).
    failed_runs          : arm runs that failed (they are tried again when collecting is resumed).
    skipped              : prompts that do not fit a backend's context.
    usage                : everything that was spent, failures and warm-ups included.
    stopped_because      : "done", or why it ended before.
    problems             : the first few error messages, each once.
    """

    samples: int = 0
    runs: int = 0
    timed: int = 0
    failed: int = 0
    failed_runs: int = 0
    skipped: int = 0
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    stopped_because: str = "done"
    problems: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether the whole plan is logged, failures aside."""
        return self.stopped_because == "done"


@dataclass(frozen=True, slots=True)
class PlanRow:
    """What one stage will take, judged by the probe; `tokens` are those of prompts, completions and verifiers."""

    stage: str
    units: int
    tokens: float
    cost: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a collection will take beyond the probe, whose rows `probed` holds for `collect` to log.

    spent : what the probe took; `collect` counts it as its own.
    seconds are estimates from small batches: a busy server is usually faster.
    """

    prompts: int
    stages: tuple[PlanRow, ...]
    probed: Mapping[str, Sequence[Row]]
    spent: Usage = field(default_factory=Usage)

    @property
    def tokens(self) -> float:
        """Of all stages."""
        return sum(stage.tokens for stage in self.stages)

    @property
    def cost(self) -> float:
        """Of all stages."""
        return sum(stage.cost for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(stage.seconds for stage in self.stages)

    def __str__(self) -> str:
        total = PlanRow("in all", 0, self.tokens, self.cost, self.seconds)
        lines = [f"{self.prompts} prompts"]
        for row in (*self.stages, total):
            units = f"{row.units:>9,}" if row.units else " " * 9
            took = f"{row.tokens:>14,.0f} tokens{row.cost:>14,.4g} cost{row.seconds:>9,.0f} s"
            lines.append(f"{row.stage:<32}{units}{took}")
        return "\n".join(lines)


async def plan(
    prompts: pd.DataFrame,
    *,
    backends: Mapping[str, Backend],
    verifiers: Mapping[str, VerifierSpec],
    arms: Sequence[ArmSpec],
    n: int,
    params: SamplingParams,
    log: Log,
    opened: Mapping[str, Verifier] | None = None,
    concurrency: int = 64,
    latency_prompts: int = 0,
    probe: int = 4,
) -> Plan:
    """Probe `probe` prompts and say what the rest of the collection will take; writes nothing to the log.

    The arguments are those of `collect`, which takes the plan as `planned` and so draws no sample twice.
    Raises as `collect`.
    """
    work = _Collection(prompts, backends, verifiers, arms, n, params, log, opened, concurrency, latency_prompts)
    try:
        return await work.plan(probe)
    finally:
        work.close()


async def collect(
    prompts: pd.DataFrame,
    *,
    backends: Mapping[str, Backend],
    verifiers: Mapping[str, VerifierSpec],
    arms: Sequence[ArmSpec],
    n: int,
    params: SamplingParams,
    log: Log,
    opened: Mapping[str, Verifier] | None = None,
    planned: Plan | None = None,
    max_cost: float | None = None,
    progress: Progress | None = None,
    concurrency: int = 64,
    latency_prompts: int = 0,
) -> Collected:
    """Draw what the log does not hold yet, and run the arms that cannot be derived.

    prompts   : a prompts table; every prompt has a grader.
    backends  : n samples per prompt are drawn of each, with `params` (a seed makes every prompt's draws its own);
                none of those that judges ask and no arm answers from.
    verifiers : as specs, and `opened` where the caller has opened them: each but votes and first-ofs scores every
                complete sample, so that any arm with them can be derived.
    arms      : those that are not derivable are run once per prompt (source "run").
    max_cost  : most that this call may spend. Samples are not begun when their worst case would pass it; a run
                of an arm may pass it by its own cost.
    latency_prompts : on so many prompts, chosen by a hash of their ids, EVERY arm is run alone at the end and
                its latency logged (source "run"). Prompts that a server has cached make the prompt's part of it
                faster than a stranger's prompt would.
    concurrency : generate calls, or arm runs, in flight at once.
    progress  : called whenever rows are safe.

    Cancelling (Ctrl-C under asyncio.run) cancels what is in flight, logs what had ended, and raises on.
    Raises InputError for arms, prompts and settings that do not fit together, or a backend whose fingerprint is
    not the one in the log; BackendError when a backend only fails (what it failed is not logged then);
    VerifierError when a verifier does. Whatever ended before is in the log all the same.
    """
    work = _Collection(prompts, backends, verifiers, arms, n, params, log, opened, concurrency, latency_prompts)
    try:
        return await work.collect(planned, max_cost, progress or (lambda stage, done, total: None))
    finally:
        work.close()


def assemble(
    log: Log,
    arms: Sequence[ArmSpec] | None = None,
    verifiers: Mapping[str, VerifierSpec] | None = None,
) -> pd.DataFrame:
    """The outcomes table of a log: derived arms and arms that were run or imported.

    arms, verifiers : default to those that the log was collected with; a log without any gives what is in its
        outcomes table.

    Where an arm was both derived and run on a prompt, the row is the derived one (an expectation over many
    samples, not one draw) with the latency that the run measured. This is the one place that decides it.
    Raises TableError when there is nothing, or the samples do not fit the arms.
    """
    notes = log.notes()
    if arms is None:
        arms = msgspec.convert(notes.get("arms", []), list[ArmSpec])
        verifiers = verifiers or msgspec.convert(notes.get("verifiers", {}), dict[str, VerifierSpec])
    logged = log.outcomes()
    if arms:
        wanted = {arm.name for arm in arms}
        logged = logged.iloc[[row for row, arm in enumerate(logged["arm"].tolist()) if arm in wanted]]
    parts = [logged.reset_index(drop=True)]
    derivable = [arm for arm in arms if is_derivable(arm)]
    samples = log.samples() if derivable else pd.DataFrame()
    if not samples.empty:
        derived = derive(samples, log.prompts(), derivable, verifiers or {})
        keys = list(zip(logged["prompt_id"].tolist(), logged["arm"].tolist(), strict=True))
        latency = dict(zip(keys, logged["latency_s"].tolist(), strict=True))
        pairs = list(zip(derived["prompt_id"].tolist(), derived["arm"].tolist(), strict=True))
        derived["latency_s"] = [latency.get(pair) for pair in pairs]
        both = set(pairs)
        parts = [derived, logged.iloc[[row for row, key in enumerate(keys) if key not in both]]]
    kept = [part for part in parts if not part.empty]
    if not kept:
        live = ". What `howhard run` recorded live is not derived from: its draws stopped when they succeeded" * any(
            origin == "live" for origin in log.samples()["origin"]
        )
        raise TableError(f"{log.path}: no outcomes and no samples to derive them from{live}. Collect or import first.")
    missing = [arm.name for arm in arms if not any((part["arm"] == arm.name).any() for part in kept)]
    if missing:
        logger.warning("%s: no outcome of %s: collect again to run them", log.path, ", ".join(missing))
    return tables.validate_outcomes(pd.concat(kept, ignore_index=True))


# ── how it is done ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Unit:
    """One generate call: samples first .. first + count - 1 of a prompt; consecutive, so that seeds never repeat."""

    prompt: Row
    first: int
    count: int


class _Collection:
    """The state of one plan or collection."""

    def __init__(
        self,
        prompts: pd.DataFrame,
        backends: Mapping[str, Backend],
        verifiers: Mapping[str, VerifierSpec],
        arms: Sequence[ArmSpec],
        n: int,
        params: SamplingParams,
        log: Log,
        opened: Mapping[str, Verifier] | None,
        concurrency: int,
        latency_prompts: int,
    ) -> None:
        if n < 1 or concurrency < 1 or latency_prompts < 0:
            raise ConfigError(
                f"n={n}, concurrency={concurrency}, latency_prompts={latency_prompts}: "
                f"the first two must be at least 1, the last at least 0"
            )
        self.prompts = tables.validate_prompts(prompts)
        self.rows: list[Row] = [{str(k): v for k, v in row.items()} for row in self.prompts.to_dict("records")]
        self.backends, self.verifiers, self.arms = dict(backends), dict(verifiers), list(arms)
        self.n, self.params, self.log, self.concurrency = n, params, log, concurrency
        opened = open_verifiers(verifiers, self.backends) if opened is None else opened
        self.scorers = [v for v in opened.values() if not isinstance(v, (Vote, FirstOf))]
        self.built = build_arms(self.arms, self.backends, opened)
        self.run_arms = {arm.name: self.built[arm.name] for arm in self.arms if not is_derivable(arm)}
        answering = {b for arm in self.arms for b in (arm.backend, *arm.strategy.needs_backends)}
        self.judging = {b for spec in verifiers.values() for b in spec.needs_backends} - answering
        self.params_json = tables.params_json(params)
        self._check_arms()
        by_hash = sorted(self.rows, key=lambda row: hashlib.sha256(row["prompt_id"].encode()).digest())
        self.timed = by_hash[:latency_prompts]
        self.graders = self._graders()
        self.done = log.done()
        self.buffer: dict[str, list[Row]] = {"samples": [], "outcomes": []}
        self.last_flush = time.monotonic()
        self.start = time.perf_counter()
        self.usage = Usage()
        self.counts = dict.fromkeys(("samples", "runs", "timed", "failed", "failed_runs", "skipped"), 0)
        self.stopped_because = "done"
        self.problems: dict[str, None] = {}  # in the order in which they came
        self.max_cost: float | None = None
        self.reserved = 0.0  # by what is in flight
        self.dearest: dict[str, float] = {}
        self.warm: set[str] = set()

    def close(self) -> None:
        for grader in self.graders.values():
            grader.close()

    def _check_arms(self) -> None:
        for arm in self.arms:
            if not is_derivable(arm):
                continue
            if arm.strategy.params() != SamplingParams(
                temperature=self.params.temperature, top_p=self.params.top_p, max_tokens=self.params.max_tokens
            ):
                raise InputError(
                    f"arm {arm.name!r} samples with temperature={arm.strategy.temperature}, "
                    f"top_p={arm.strategy.top_p}, max_tokens={arm.strategy.max_tokens}, the collection draws with "
                    f"{self.params.temperature}, {self.params.top_p}, {self.params.max_tokens}: make them agree"
                )
            if isinstance(arm.strategy, BestOfNSpec) and arm.strategy.n > self.n:
                raise InputError(
                    f"arm {arm.name!r} draws {arm.strategy.n} samples, the collection {self.n}: raise n, or use a "
                    f"smaller arm"
                )

    def _graders(self) -> dict[str, Grader]:
        graders: dict[str, Grader] = {}
        for row in self.rows:
            name = row["grader"]
            if not isinstance(name, str):
                raise TableError(f"prompts: prompt {row['prompt_id']!r} has no grader: name one in column 'grader'")
            if name not in graders:
                graders[name] = get_grader(name)
            if graders[name].needs_reference and not isinstance(row["reference"], str):
                raise TableError(
                    f"prompts: column 'reference' of prompt {row['prompt_id']!r}: grader {name!r} needs a reference "
                    f"and there is none"
                )
        return graders

    async def _check_fingerprints(self, *, write: bool) -> None:
        for backend in self.backends.values():
            check = getattr(backend, "check", None)
            if check is not None:  # a server says only when asked whether it is there and what it serves
                await check()
        logged = self.log.notes().get("fingerprints", {})
        for name, backend in self.backends.items():
            if name in logged and logged[name] != backend.fingerprint:
                raise ConfigError(
                    f"backend {name!r} has fingerprint {backend.fingerprint!r}, the log {self.log.path} was "
                    f"collected from {logged[name]!r}: other weights or another template. Collect into another "
                    f"directory."
                )
        if write:
            self.log.note(
                fingerprints=logged | {name: b.fingerprint for name, b in self.backends.items()},
                arms=msgspec.to_builtins(self.arms),
                verifiers=msgspec.to_builtins(self.verifiers),
                params=self.params_json,
                n=self.n,
            )

    # ── what is left to do ──────────────────────────────────────────────────────────────────────────────────

    def _units(self, backend: str) -> list[_Unit]:
        units = []
        for row in self.rows:
            wanted = [
                i for i in range(self.n)
                if self.done.wants(SampleKey(row["prompt_id"], backend, self.params_json, i))
            ]  # fmt: skip
            for i in wanted:
                if units and units[-1].prompt is row and units[-1].first + units[-1].count == i:
                    units[-1] = replace(units[-1], count=units[-1].count + 1)
                else:
                    units.append(_Unit(row, i, 1))
        return units

    def _runs(self, arm: str) -> list[Row]:
        """Prompts on which an arm is to be run; those of the timing pass are run there."""
        timed = {row["prompt_id"] for row in self.timed}
        return [
            row for row in self.rows
            if row["prompt_id"] not in timed and (row["prompt_id"], arm) not in self.done.outcomes
        ]  # fmt: skip

    def _timings(self) -> list[tuple[Row, Arm]]:
        return [
            (row, arm) for row in self.timed for name, arm in self.built.items()
            if (row["prompt_id"], name) not in self.done.outcomes
        ]  # fmt: skip

    # ── planning ────────────────────────────────────────────────────────────────────────────────────────────

    async def plan(self, probe: int) -> Plan:
        await self._check_fingerprints(write=False)
        probed: dict[str, list[Row]] = {"samples": [], "outcomes": []}
        rows: list[PlanRow] = []
        alone: dict[str, tuple[float, float, float]] = {}  # arm or backend -> tokens, cost, seconds of one call
        for stage in self._stages():
            if not stage.units:
                continue
            if stage.name is None:
                rows.append(self._timing_row(stage, alone))
                continue
            chosen = stage.units[:: max(1, len(stage.units) // probe)][:probe]
            # The first call of a process loads and warms what later ones find ready: it is not timed.
            first = [await stage.work(chosen[0])] if len(chosen) > 1 else []
            timed = chosen[len(first) :]
            start = time.perf_counter()
            results = [*first, *await asyncio.gather(*(stage.work(unit) for unit in timed))]
            seconds = time.perf_counter() - start
            drawn = [row for result, _ in results for row in result]
            if not any(row.get("finish_reason") != "error" for row in drawn):
                raise BackendError(f"the probe of {stage.title} came to nothing: {'; '.join(self.problems)}")
            usage = sum((usage for _, usage in results), Usage())
            probed[stage.table] += drawn
            left = sum(map(stage.size, stage.units)) - sum(map(stage.size, chosen))
            share = 1 / sum(map(stage.size, chosen))
            one = (usage.total_tokens * share, usage.cost * share, seconds / sum(map(stage.size, timed)))
            alone[stage.name] = (*one[:2], seconds)
            rows.append(PlanRow(stage.title, left, *(left * each for each in one)))
            self.usage += usage
        return Plan(len(self.rows), tuple(rows), probed, self.usage)

    def _timing_row(self, stage: "_Stage", alone: Mapping[str, tuple[float, float, float]]) -> PlanRow:
        """An estimate from above: an arm alone takes no longer than the whole probe of it took."""
        tokens = cost = seconds = 0.0
        for _, arm in stage.units:
            n = getattr(arm.strategy, "n", 1) if arm.name not in self.run_arms else 1
            one = alone.get(arm.name, alone.get(arm.backend.name, (0.0, 0.0, 0.0)))
            tokens, cost, seconds = tokens + n * one[0], cost + n * one[1], seconds + one[2]
        return PlanRow(stage.title, len(stage.units), tokens, cost, seconds)

    # ── collecting ──────────────────────────────────────────────────────────────────────────────────────────

    def _stages(self) -> "list[_Stage]":
        """All that is left to do, in order: what is worth most first, should the money run out."""
        stages = [
            _Stage(
                title=f"samples of {name}",
                name=name,
                table="samples",
                units=self._units(name),
                work=partial(self._draw, backend),
                reserve=partial(self._worst, backend),
                size=lambda unit: unit.count,
                width=self.concurrency,
            )
            for name, backend in self.backends.items()
            if name not in self.judging
        ]
        stages += [
            _Stage(
                title=f"runs of {name}",
                name=name,
                table="outcomes",
                units=self._runs(name),
                work=partial(self._run, arm),
                reserve=partial(self._usual, arm),
                width=self.concurrency,
            )
            for name, arm in self.run_arms.items()
        ]
        timing = _Stage(
            title="timing every arm alone",
            name=None,
            table="outcomes",
            units=self._timings(),
            work=self._time,
            reserve=lambda unit: self._usual(unit[1], unit[0]),
            width=1,
        )
        return [*stages, timing]

    async def collect(self, planned: Plan | None, max_cost: float | None, progress: Progress) -> Collected:
        self.max_cost = max_cost
        await self._check_fingerprints(write=True)
        self.log.append_prompts(self.prompts)
        if planned is not None:
            for table in ("samples", "outcomes"):
                self.buffer[table] += planned.probed[table]
            self.usage += planned.spent
            self._flush()
            self.done = self.log.done()
        for stage in self._stages():
            if stage.units and not await self._perform(stage, progress):
                self.stopped_because = f"max_cost={max_cost:g} would be passed: {self.usage.cost:.6g} is spent"
                break
        return Collected(
            **self.counts,
            usage=self.usage,
            seconds=time.perf_counter() - self.start,
            stopped_because=self.stopped_because,
            problems=tuple(self.problems)[:_NAMED],
        )

    async def _perform(self, stage: "_Stage", progress: Progress) -> bool:
        """Work a stage off, `width` units at once; False when the money does not reach for the rest of it."""
        total, safe = sum(map(stage.size, stage.units)), 0
        running: dict[asyncio.Task[tuple[list[Row], Usage]], tuple[Any, float]] = {}
        waiting = list(reversed(stage.units))
        failures: list[list[Row]] = []
        succeeded = any(ok and key.backend == stage.name for key, (_, ok) in self.done.samples.items())
        progress(stage.title, 0, total)
        try:
            while waiting or running:
                while waiting and len(running) < stage.width and self._affords(stage, waiting[-1], bool(running)):
                    unit = waiting.pop()
                    reserve = stage.reserve(unit)
                    self.reserved += reserve
                    running[asyncio.ensure_future(stage.work(unit))] = (unit, reserve)
                if not running:
                    return False
                ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    unit, reserve = running.pop(task)
                    self.reserved -= reserve
                    rows, usage = task.result()
                    self.usage += usage
                    safe += stage.size(unit)
                    if _all_failed(rows):
                        failures.append(rows)
                        if len(failures) >= _HOPELESS:
                            raise self._gone(stage)
                        continue
                    succeeded = succeeded or bool(rows)
                    for of_unit in (*failures, rows):
                        self.buffer[stage.table] += of_unit
                    failures.clear()
                if self._due():
                    self._flush()
                    progress(stage.title, safe, total)
            if failures and not succeeded:
                raise self._gone(stage)
            for of_unit in failures:
                self.buffer[stage.table] += of_unit
            return True
        finally:
            for task in running:
                if task.done() and not task.cancelled() and task.exception() is None:
                    rows = task.result()[0]
                    self.buffer[stage.table] += [] if _all_failed(rows) else rows
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            self._flush()
            progress(stage.title, safe, total)

    def _gone(self, stage: "_Stage") -> BackendError:
        return BackendError(
            f"{stage.title}: nothing but failures, so collecting stops here; what had ended is logged. "
            f"{'; '.join(list(self.problems)[:_NAMED])}"
        )

    def _affords(self, stage: "_Stage", unit: Any, others_run: bool) -> bool:
        if self.max_cost is None:
            return True
        if others_run and stage.table == "outcomes" and stage.name not in self.dearest:
            return False  # an arm that never ran goes first alone, to show what it costs
        return self.usage.cost + self.reserved + stage.reserve(unit) <= self.max_cost

    def _worst(self, backend: Backend, unit: _Unit) -> float:
        """Most that drawing a unit, and having it scored, can cost."""
        prompt = most_tokens(backend, Prefix(messages_of(unit.prompt)))
        cost = backend.prices.cost(prompt=prompt, completion=unit.count * self.params.max_tokens)
        read = unit.count * (prompt + self.params.max_tokens + 2)
        for scorer in self.scorers:
            prices = reading_prices(scorer)
            cost += prices.cost(prompt=read, completion=0) if prices is not None else 0.0
        return cost

    def _usual(self, arm: Arm, _: Row) -> float:
        """What a run of this arm costs at most, as far as its runs so far have shown."""
        return 1.5 * self.dearest.get(arm.name, 0.0)

    def _due(self) -> bool:
        waiting = sum(map(len, self.buffer.values()))
        return waiting >= _FLUSH_ROWS or (waiting > 0 and time.monotonic() - self.last_flush > _FLUSH_S)

    def _flush(self) -> None:
        for table, rows in self.buffer.items():
            if rows:
                self.log.append(table, rows)
                if table == "samples":
                    failed = sum(row["finish_reason"] == "error" for row in rows)
                    self.counts["samples"] += len(rows) - failed
                    self.counts["failed"] += failed
                else:
                    timed = sum(row["latency_s"] is not None for row in rows)
                    self.counts["timed"] += timed
                    self.counts["runs"] += len(rows) - timed
                rows.clear()
        self.last_flush = time.monotonic()

    # ── one unit of work ────────────────────────────────────────────────────────────────────────────────────

    async def _draw(self, backend: Backend, unit: _Unit) -> tuple[list[Row], Usage]:
        """Draw, score and grade the samples of one prompt."""
        request = Request(messages_of(unit.prompt))
        try:
            batch = backend.generate([Prefix(request.messages)], n=unit.count, params=self._seeded(unit))
        except PromptTooLong as exc:
            self.counts["skipped"] += 1
            self._note_problem(exc)
            return [], Usage()
        [generations] = await batch.all()
        usage = batch.usage
        complete = [i for i, g in enumerate(generations) if g.complete]
        verdicts: list[list[Row]] = [[] for _ in generations]
        for scorer in self.scorers if complete else ():
            judged = await scorer.score(request, [candidate(generations[i]) for i in complete])
            usage += judged.usage
            for i, verdict in zip(complete, _shared(scorer.name, judged), strict=True):
                verdicts[i].append(verdict)
        answers = [extract(g.text) if g.complete else None for g in generations]
        qualities = await asyncio.to_thread(self._grade_all, unit.prompt, generations, answers)
        for generation in generations:
            if generation.error is not None:
                self._note_problem(generation.error)
        return [
            self._sample(backend, unit, i, generations[i], answers[i], qualities[i], verdicts[i])
            for i in range(len(generations))
        ], usage

    def _seeded(self, unit: _Unit) -> SamplingParams:
        """Give each prompt seeds of its own, so that no two prompts share their luck."""
        if self.params.seed is None:
            return self.params
        digest = hashlib.sha256(f"{self.params.seed}/{unit.prompt['prompt_id']}".encode()).digest()
        return self.params.but(seed=int.from_bytes(digest[:4], "big") // 2 + unit.first)

    def _grade_all(
        self, prompt: Row, generations: Sequence[Generation], answers: Sequence[str | None]
    ) -> list[float | None]:
        return [
            None if g.finish_reason == "error" else self._grade(prompt, g.text, answer)
            for g, answer in zip(generations, answers, strict=True)
        ]

    def _grade(self, prompt: Row, text: str, answer: str | None) -> float:
        reference = prompt["reference"] if isinstance(prompt["reference"], str) else None
        return self.graders[prompt["grader"]].grade(prompt["text"], text, answer, reference)

    def _sample(
        self,
        backend: Backend,
        unit: _Unit,
        index: int,
        generation: Generation,
        answer: str | None,
        quality: float | None,
        verdicts: list[Row],
    ) -> Row:
        return {
            "prompt_id": unit.prompt["prompt_id"],
            "backend": backend.name,
            "fingerprint": backend.fingerprint,
            "params": self.params_json,
            "sample_index": unit.first + index,
            "origin": "collect",
            "text": generation.text,
            "answer": answer,
            "extractor": EXTRACTOR,
            "quality": quality,
            "verdicts": verdicts,
            **tables.drawn_cells(generation, backend.prices),
        }

    async def _run(self, arm: Arm, prompt: Row, *, alone: bool = False) -> tuple[list[Row], Usage]:
        """Run an arm on one prompt; `alone`: nothing else is going on, so that its latency counts."""
        start = time.perf_counter()
        try:
            result = await arm.run(Request(messages_of(prompt)))
        except PromptTooLong as exc:
            self.counts["skipped"] += 1
            self._note_problem(exc)
            return [], Usage()
        except (BackendUnreachable, ModelNotServed):
            raise
        except BackendError as exc:
            self.counts["failed_runs"] += 1
            self._note_problem(exc)
            return [], Usage()
        latency = time.perf_counter() - start
        usage = result.usage
        self.dearest[arm.name] = max(self.dearest.get(arm.name, 0.0), usage.cost)
        quality = await asyncio.to_thread(self._grade, prompt, result.text, result.answer)
        strategy = arm.strategy.name
        row: Row = {
            "prompt_id": prompt["prompt_id"],
            "group": prompt["group"],
            "arm": arm.name,
            "backend": arm.backend.name,
            "strategy": strategy,
            "n": 1 if strategy == "single" else getattr(arm.strategy, "n", None),
            "quality": quality,
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "verifier_tokens": usage.verifier_tokens,
            "calls": usage.calls,
            "cost": usage.cost,
            "latency_s": latency if alone else None,
            "source": "run",
            "answer": result.answer,
        }
        return [row], usage

    async def _time(self, unit: tuple[Row, Arm]) -> tuple[list[Row], Usage]:
        """Run an arm alone; the first run on a backend only warms it up and is thrown away."""
        prompt, arm = unit
        spent = Usage()
        if arm.backend.name not in self.warm:
            self.warm.add(arm.backend.name)
            _, spent = await self._run(arm, prompt, alone=True)
        rows, usage = await self._run(arm, prompt, alone=True)
        return rows, spent + usage

    def _note_problem(self, problem: object) -> None:
        self.problems.setdefault(str(problem))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """Units of one kind of work.

    name    : the backend or arm; None for the timing pass.
    work    : does one unit: the rows for `table`, and what it took.
    reserve : what a unit may cost at most.
    size    : how much of the progress bar a unit is.
    """

    title: str
    name: str | None
    table: str
    units: list[Any]
    work: Callable[[Any], Awaitable[tuple[list[Row], Usage]]]
    reserve: Callable[[Any], float]
    size: Callable[[Any], int] = lambda unit: 1
    width: int


def _all_failed(rows: Sequence[Row]) -> bool:
    return bool(rows) and all(row.get("finish_reason") == "error" for row in rows)


def _shared(name: str, judged: Verdicts) -> list[Row]:
    """A verdict per text; what grew with the texts is split evenly (only its mean is ever used), to the last token."""
    count = len(judged.scores)
    whole, prompt = judged.usage, judged.shared
    each, rest = divmod(whole.verifier_tokens - prompt.verifier_tokens, count)
    return [
        {
            "verifier": name,
            "score": score,
            "tokens": each + (i < rest),
            "cost": (whole.cost - prompt.cost) / count,
            "prompt_tokens": prompt.verifier_tokens,
            "prompt_cost": prompt.cost,
        }
        for i, score in enumerate(judged.scores)
    ]
