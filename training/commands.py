"""What the doors of the command line open onto: each command's work from its arguments to a report.

A report has `text()` for people and `to_dict()` for programs. The parts are elsewhere (collect, fit, evaluate,
tracking, router); here they are only joined, so that `howhard` and a script of yours do the same.
"""

import asyncio
import shutil
import textwrap
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from ..router.artifact import BackendFacts
from ..router.decision import Decision
from ..router.objective import Objective
from ..router.policy import Policy
from ..router.router import RoutedResult, Router, threshold_policy
from ..strategies import ArmSpec, VerifierSpec, open_backends, open_verifiers
from ..strategies.base import SamplingParams
from ..strategies.errors import ConfigError, InputError, TableError
from . import champions, registry, tracking
from . import collect as collecting
from .against import check_picks, read_picks
from .config import Config
from .data_report import DataReport, data_report
from .dial import dialled, samples_per_prompt
from .diff import Diff
from .diff import diff as compared
from .evaluate import Evaluation, Skipped, evaluate_router, evaluate_split, families_left_out
from .families import families_from, families_to, merged_by_likeness
from .fit import FitSettings, fit, write_router
from .fit_success import SuccessScores, success_scores
from .folds import SPLITS
from .guard import GuardReport
from .halves import halves
from .importing import import_source as read_source
from .importing import read_table
from .judge import LAMBDAS, plain
from .learning_curve import LearningCurve
from .learning_curve import learning_curve as curve_of
from .log import Log
from .matrix import OutcomeMatrix
from .plans.menus import PlanOptions
from .plans.train_plans import PlanLog, PlansReport, learn_plans, read_plan_log, report_plans
from .printing import WIDTH
from .progress import StageProgress, bars
from .prompt_sets import read_prompts
from .report import Report, summary_text
from .tuning import Tuned
from .tuning import tune as search_settings
from .worth import Line, summary

Confirm = Callable[[str], bool]


# ── collect ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What a collection did, and where it lies."""

    collected: collecting.Collected
    log: Path
    run_id: str | None
    tracking_uri: str

    def text(self) -> str:
        """For people."""
        c = self.collected
        lines = [
            f"{self.log}: {c.samples:,} samples, {c.runs:,} runs, {c.timed:,} timed runs in {c.seconds:.0f} s; "
            f"cost {c.usage.cost:,.6g}, {c.usage.completion_tokens:,} completion tokens",
        ]
        if c.failed or c.failed_runs or c.skipped:
            lines.append(f"failed: {c.failed} samples, {c.failed_runs} runs; {c.skipped} prompts did not fit a context")
            lines += [f"  {problem}" for problem in c.problems]
        if not c.done:
            lines.append(f"stopped: {c.stopped_because}. The same command goes on from there.")
        if self.run_id:
            lines.append(f"MLflow run {self.run_id} in {self.tracking_uri}")
        lines.append(f"next: howhard train {self.log}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "log": str(self.log),
            "run_id": self.run_id,
            "tracking_uri": self.tracking_uri,
            **msgspec.to_builtins(self.collected),
        }


def collect(
    config: Config,
    prompts: pd.DataFrame | Path,
    log: Path,
    *,
    grader: str | None = None,
    samples: int | None = None,
    max_cost: float | None = None,
    tracking_uri: str | None = None,
    confirm: Confirm | None = None,
    progress: StageProgress | None = None,
    quiet: bool = False,
) -> CollectReport:
    """Record outcomes into a log directory, and the log into MLflow; goes on where an earlier call stopped.

    confirm : asked with the plan before anything beyond the probe is drawn; None = go ahead.
    """
    table = read_prompts(prompts, grader=grader) if isinstance(prompts, Path) else prompts
    settings = config.collect if samples is None else msgspec.structs.replace(config.collect, samples=samples)
    with Log(log) as opened:
        collected = asyncio.run(_collect(config, settings, table, opened, max_cost, confirm, progress, quiet))
        run_id = tracking.log_collection(opened, uri=tracking_uri or config.tracking.uri, config=config)
    return CollectReport(collected, log, run_id, tracking.resolve_uri(tracking_uri or config.tracking.uri))


async def _collect(
    config: Config,
    settings: Any,
    prompts: pd.DataFrame,
    log: Log,
    max_cost: float | None,
    confirm: Confirm | None,
    progress: StageProgress | None,
    quiet: bool,
) -> collecting.Collected:
    backends = open_backends(config.backends)
    verifiers = open_verifiers(config.verifiers, backends)
    try:
        for backend in backends.values():
            check = getattr(backend, "check", None)
            if check is not None:
                await check()
        log.note(
            currency=config.currency,
            backends={
                name: msgspec.to_builtins(
                    BackendFacts(
                        kind=str(spec.__struct_config__.tag),
                        model=spec.model,
                        fingerprint=backends[name].fingerprint,
                        prices=backends[name].prices,
                    )
                )
                for name, spec in config.backends.items()
            },
        )
        work = {
            "backends": backends,
            "verifiers": config.verifiers,
            "opened": verifiers,
            "arms": config.arms,
            "n": settings.samples,
            "params": SamplingParams(
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_tokens=settings.max_tokens,
                confidence_of=settings.confidence_of,
                seed=settings.seed,
            ),
            "log": log,
            "concurrency": settings.concurrency,
            "latency_prompts": settings.latency_prompts,
        }
        planned = None
        if confirm is not None:
            planned = await collecting.plan(prompts, **work)
            if planned.stages and not confirm(f"{planned}\nGo ahead?"):
                raise InputError("nothing was drawn: the plan was declined")
        if progress is not None:
            return await collecting.collect(prompts, **work, planned=planned, max_cost=max_cost, progress=progress)
        with bars(quiet=quiet) as moving:
            return await collecting.collect(prompts, **work, planned=planned, max_cost=max_cost, progress=moving)
    finally:
        for backend in backends.values():
            await backend.close()


# ── what is learned from ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Outcomes to learn from or to judge on, and what is known of the arms that made them.

    name : in a few words, for reports and manifests. specs, verifiers, backends : {} for imported tables.
    outcomes : the long table that `matrix` was made of.
    log  : where the outcomes come from a log with samples; None otherwise.
    """

    name: str
    outcomes: pd.DataFrame
    matrix: OutcomeMatrix
    specs: Mapping[str, ArmSpec] = field(default_factory=dict)
    verifiers: Mapping[str, VerifierSpec] = field(default_factory=dict)
    backends: Mapping[str, BackendFacts] = field(default_factory=dict)
    log: Log | None = None
    notes: tuple[str, ...] = ()

    def only(self, prompt_ids: Iterable[str]) -> "Source":
        """The same source with these prompts alone; those that it does not have are passed over."""
        wanted = set(prompt_ids)
        matrix = self.matrix.rows(np.array([i in wanted for i in self.matrix.prompt_ids], dtype=bool))
        kept = [i in wanted for i in self.outcomes["prompt_id"].tolist()]
        return replace(self, outcomes=self.outcomes.loc[kept], matrix=matrix)

    def dialled(self) -> "Source":
        """The same prompts with an arm for each number of samples that the log can tell of (see dial.py).

        Raises InputError for a source without samples, or without an arm to dial.
        """
        if self.log is None:
            raise InputError(f"{self.name} holds no samples to tell of other numbers of them: train it without --dial")
        specs = dialled(self.specs, samples_per_prompt(self.log.samples(), self.specs))
        outcomes = collecting.assemble(self.log, list(specs.values()), self.verifiers)
        families = dict(zip(self.matrix.groups, self.matrix.families, strict=True))
        matrix = OutcomeMatrix.of(outcomes, self.log.prompts(), families=families, unit=self.matrix.unit)
        return replace(self, outcomes=outcomes, matrix=matrix, specs=specs).only(self.matrix.prompt_ids)

    def halves(self) -> tuple[OutcomeMatrix, OutcomeMatrix] | None:
        """The same prompts and arms from two disjoint halves of the samples, where all arms can be derived."""
        if self.log is None:
            return None
        return halves(self.log.samples(), self.log.prompts(), self.matrix, self.specs, self.verifiers)


def load_source(path: Path, mapping: Sequence[str] = (), families: Mapping[str, str] | None = None) -> Source:
    """Read a log directory, or a table in any form that `howhard import` knows, with a mapping ("FIELD=COLUMN").

    families : group -> family, over what the log or the table says itself.

    Raises TableError for a path that holds neither, and InputError for a mapping that is not of that form.
    """
    if path.is_dir() or not path.exists():
        if mapping:
            raise InputError(f"--map is for tables; {path} is a log directory")
        return _source_of(Log.open(path), path.name, families)
    imported = read_table(path, _mapping(mapping), average_samples=True)
    if imported.outcomes is None:
        raise TableError(f"{path}: no outcome in the table")
    known = {**imported.families, **(families or {})}
    matrix = OutcomeMatrix.of(imported.outcomes, imported.prompts, families=known)
    return Source(name=path.name, outcomes=imported.outcomes, matrix=matrix, notes=imported.notes)


def _source_of(log: Log, name: str, families: Mapping[str, str] | None = None) -> Source:
    notes = log.notes()
    arms = msgspec.convert(notes.get("arms", []), list[ArmSpec])
    verifiers = msgspec.convert(notes.get("verifiers", {}), dict[str, VerifierSpec])
    outcomes = collecting.assemble(log, arms or None, verifiers)
    return Source(
        name=name,
        outcomes=outcomes,
        matrix=OutcomeMatrix.of(
            outcomes,
            log.prompts(),
            families={**notes.get("families", {}), **(families or {})},
            unit=notes.get("currency", "cost"),
        ),
        specs={arm.name: arm for arm in arms},
        verifiers=verifiers,
        backends=msgspec.convert(notes.get("backends", {}), dict[str, BackendFacts]),
        log=log if arms else None,
        notes=tuple(notes.get("imported", ())),
    )


def _mapping(pairs: Sequence[str]) -> dict[str, str]:
    mapping = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not (name and equals and column):
            raise InputError(f"--map {pair!r}: write FIELD=COLUMN, for instance --map quality=score")
        mapping[name] = column
    return mapping


def held_out(clusters: Sequence[str], share: float) -> np.ndarray:
    """Which prompts are kept out of training: bool (n,), by a hash of their cluster, so that it is the same for ever.

    Champion and challenger are therefore judged on prompts that neither was trained on, nor on a twin of them. A prompt
    without a twin is a cluster of its own id, whatever else is logged.
    """
    return np.array([zlib.crc32(cluster.encode()) / 2**32 < share for cluster in clusters], dtype=bool)


# ── train ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """A trained router, what it did on held-out prompts, and where it is registered."""

    out: Path
    router_version: str
    n_learned: int
    seed: int
    report: Report
    run_id: str
    tracking_uri: str
    proposed: champions.Proposed | None
    data: DataReport
    guard: GuardReport
    success: tuple[SuccessScores, ...] = ()
    tuned: Tuned | None = None
    plans: PlansReport | None = None

    def text(self) -> str:
        """For people."""
        lines = [self.data.short(), ""]
        if self.tuned is not None:
            lines += [self.tuned.text(), ""]
        lines += [self.report.text(), "", textwrap.fill(self.guard.text(), WIDTH)]
        lines += [*(textwrap.fill(scores.text(), WIDTH) for scores in self.success), ""]
        if self.plans is not None:
            lines += [self.plans.text(), ""]
        lines.append(f"router {self.router_version} in {self.out}")
        lines.append(f"MLflow run {self.run_id} in {self.tracking_uri}")
        if self.proposed is not None:
            lines.append(self.proposed.text())
        elif isinstance(self.report.evaluations[0], Skipped):
            lines.append("not registered: it could not be judged on held-out prompts")
        lines.append(f'next: howhard route "PROMPT" --router {self.out}')
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "out": str(self.out),
            "router_version": self.router_version,
            "n_learned": self.n_learned,
            "seed": self.seed,
            "run_id": self.run_id,
            "tracking_uri": self.tracking_uri,
            "proposed": None if self.proposed is None else self.proposed.to_dict(),
            "data": self.data.to_dict(),
            "success": [asdict(scores) for scores in self.success],
            "tuned": None if self.tuned is None else self.tuned.to_dict(),
            "plans": None if self.plans is None else plain(self.plans.to_dict()),
            **self.report.to_dict(),
        }


def train(
    source: Path | Source | None,
    out: Path,
    *,
    mapping: Sequence[str] = (),
    runs: Sequence[str] = (),
    experiment: str | None = None,
    value: float | None = None,
    objective: Objective | None = None,
    holdout: float = 0.25,
    register: bool = True,
    tracking_uri: str | None = None,
    dial: bool = False,
    tune: int = 0,
    plan: PlanOptions | None = None,
    settings: FitSettings | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> TrainReport:
    """Fit a router, judge it on prompts kept out of its training and on whole families left out, and register it.

    source : a log directory or a table; or `runs` of MLflow, or all collections of an `experiment`, which then lie
             as a log beside the router.
    dial   : learn of best-of-N and votes at every N that the log's samples can tell of, not at the log's alone.
    tune   : trials of a search for better settings, which starts from `settings` (see tuning.py); 0 = none. Ctrl-C ends
             the search, and the router is trained with the best so far; the trials are kept beside the router.
    plan   : also learn plans that decide in flight from the log's samples, and keep them with the router; None = don't.
    objective : the router's own; `value` comes first. None = no limits, and a value chosen on validation prompts.
    settings  : how it is fitted; None = the defaults. seed : of the intervals, and of the fit without settings.

    With `register` the champion's holdout is kept out of training too, whatever the share.
    """
    settings = settings or FitSettings(seed=seed)
    if not 0 < holdout < 1:
        raise ConfigError(f"holdout={holdout}: it must lie inside (0, 1), for instance 0.25")
    given = [source is not None, bool(runs), experiment is not None]
    if sum(given) != 1:
        raise ConfigError("give one source: a log directory or table, --run, or --experiment")
    if isinstance(source, Path):
        source = load_source(source, mapping)
    elif source is None:
        kept = out.with_name(f"{out.name}-log")
        log = tracking.log_from_runs(kept, runs=runs, experiment=experiment, uri=tracking_uri)
        source = _source_of(log, experiment or ", ".join(runs))
    if dial:
        source = source.dialled()
    matrix = source.matrix
    uri = tracking.resolve_uri(tracking_uri)
    fixed = champions.champion_holdout(uri) if register else None
    held = champions.kept_out(held_out(matrix.clusters, holdout), matrix, fixed)
    if not held.any() or held.all():
        raise TableError(f"{len(matrix)} prompts: too few to hold a share of {holdout:g} of them out")
    learned = matrix.rows(~held)
    read = None if plan is None else _read_for_plans(source, plan, learned.prompt_ids)
    with bars(quiet=quiet) as progress:
        tuned = None
        if tune:
            tuned = search_settings(
                learned,
                settings,
                trials=tune,
                seed=seed,
                specs=source.specs or None,
                verifiers=source.verifiers,
                journal=out.with_name(f"{out.name}-tuning.journal"),
                progress=partial(progress, "tuning"),
            )
            settings = tuned.settings
        fitted = fit(
            learned,
            settings=settings,
            specs=source.specs or None,
            verifiers=source.verifiers,
            progress=partial(progress, "fitting"),
        )
        made = ()
        if plan is not None and read is not None:
            made = learn_plans(read, fitted, learned, plan, partial(progress, "learning plans"))
        if value is not None:
            objective = Objective(value=value) if objective is None else objective.but(value=value)
        about: dict[str, Any] = {
            "dataset": f"{source.name}, {len(learned)} of {len(matrix)} prompts",
            "objective": objective,
            "specs": source.specs,
            "backends": source.backends,
            "verifiers": source.verifiers,
            "plans": [one.plan for one in made],
        }
        router = Router.load(_fresh(out, lambda at: write_router(at, fitted, **about)))
        on_held: Evaluation | Skipped
        try:
            on_held = evaluate_router(
                router,
                matrix.rows(held),
                train=learned,
                halves=_rows(source.halves(), held),
                rules=_rules(router),
                seed=seed,
            )
        except TableError as exc:  # a sparse log teaches, but no prompt of it has every arm's outcome to compare
            on_held = Skipped(split="holdout", reason=str(exc))
        left_out = families_left_out(
            matrix,
            settings=settings,
            specs=source.specs,
            verifiers=source.verifiers,
            seed=seed,
            progress=partial(progress, "families left out"),
        )
    report = Report(
        f"{source.name}: {len(learned)} prompts to learn from, {int(held.sum())} held out", [on_held, left_out]
    )
    success: tuple[SuccessScores, ...] = ()
    if router.predictor.success is not None:
        unseen = matrix.rows(held).columns(router.arms)
        success = success_scores(router.predictor.success, unseen, router.estimate(unseen.texts).quality)
    figures = report.plots(out.with_suffix(".png"))
    plans = None
    if read is not None:
        unseen = matrix.rows(held)
        plans = report_plans(
            made,
            read,
            unseen,
            router.estimate(unseen.texts),
            router.policy,
            router.objective,
            picture=out.with_name(f"{out.name}-plan.png"),
            seed=seed,
        )
        figures = (*figures, *([] if plans.picture is None else [plans.picture]))
    run_id = tracking.log_training(
        out,
        params={"settings": msgspec.to_builtins(fitted.settings), "holdout": holdout, "seed": seed},
        metrics={
            **(headline(on_held) if isinstance(on_held, Evaluation) else {}),
            "validation_gain": fitted.gain,
            **({} if plans is None else plans.metrics()),
            **{f"weight/{name}": weight for name, weight in fitted.weights.items()},
        },
        outcomes=source.outcomes,
        source=source.name,
        files=figures,
        uri=uri,
    )
    proposed = None
    if register and isinstance(on_held, Evaluation):
        enrol = partial(registry.register_router, run_id, uri=uri)
        proposed = champions.propose(champions.contender(out), matrix, enrol, uri=uri, seed=seed)
    return TrainReport(
        out=out,
        router_version=router.version,
        n_learned=len(learned),
        seed=seed,
        report=report,
        run_id=run_id,
        tracking_uri=uri,
        proposed=proposed,
        data=data_report(source.name, matrix, source.outcomes, notes=source.notes),
        guard=fitted.guard,
        success=success,
        tuned=tuned,
        plans=plans,
    )


def _read_for_plans(source: Source, options: PlanOptions, learned: Sequence[str]) -> PlanLog:
    if source.log is None:
        raise InputError(f"{source.name} holds no samples to learn plans from: train it without --plan")
    arms = list(source.specs.values())
    return read_plan_log(source.log, source.outcomes, arms, source.verifiers, options, learned)


def _fresh(out: Path, write: Callable[[Path], Any]) -> Path:
    """Write a router to `out`; one that lies there gives way only once the new one is whole."""
    if not (out / "manifest.json").is_file():
        write(out)
        return out
    old = out.with_name(f".{out.name}-before")
    shutil.rmtree(old, ignore_errors=True)
    out.rename(old)
    try:
        write(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old)
    return out


def _rules(router: Router) -> dict[str, Policy]:
    """The rule of thumb, for comparison, where the router has arms for it."""
    try:
        return {"difficulty .3/.7": threshold_policy(router.manifest)}
    except ConfigError:
        return {}


def headline(evaluation: Evaluation) -> dict[str, float]:
    """The figures of an evaluation that an MLflow run shows; gains are over the best fixed arm, in units of quality."""
    best, router = evaluation.row(evaluation.best_arm), evaluation.router
    gains = {f"gain_at_{p.price:g}": p.router.gain for p in evaluation.prices}
    return {
        "router_quality": router.quality.mean,
        "router_cost": router.cost.mean,
        "best_arm_quality": best.quality.mean,
        "best_arm_cost": best.cost.mean,
        "cost_below_hull": evaluation.cost_below_hull.mean,
        "n_prompts": float(evaluation.n_prompts),
        **{name: gain.mean for name, gain in gains.items()},
        **{f"{name}_low": gain.low for name, gain in gains.items()},
    }


def _rows(pair: tuple[OutcomeMatrix, OutcomeMatrix] | None, mask: np.ndarray):
    return None if pair is None else (pair[0].rows(mask), pair[1].rows(mask))


# ── evaluate ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateReport:
    """What routing would have saved on tables: a report each, and every verdict read together."""

    reports: tuple[Report, ...]
    notes: tuple[str, ...]
    plots: tuple[Path, ...]

    @property
    def verdicts(self) -> tuple[Line, ...]:
        """Every comparison with the best fixed arm, of all tables, splits and prices."""
        return summary([(report.title.split(":")[0], report.done) for report in self.reports])

    def text(self) -> str:
        """For people."""
        several = len(self.reports) > 1
        parts = [summary_text(self.verdicts), ""] if several and self.verdicts else []
        for report in self.reports:
            parts += [report.text(verdicts=not several), ""]
        parts += [textwrap.fill(f"Note: {note}.", WIDTH, subsequent_indent="  ") for note in self.notes]
        parts += [f"plot: {path}" for path in self.plots]
        return "\n".join(parts).rstrip()

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "tables": [report.to_dict() for report in self.reports],
            "verdicts": [plain(asdict(line)) for line in self.verdicts],
            "notes": list(self.notes),
            "plots": [str(path) for path in self.plots],
        }


def evaluate(
    sources: Path | Sequence[Path],
    *,
    router: str | Path | None = None,
    mapping: Sequence[str] = (),
    without: Sequence[str] = (),
    families: Path | None = None,
    split: str = "both",
    lambdas: Sequence[float] = LAMBDAS,
    seeds: int | None = None,
    thorough: bool = False,
    against: Path | None = None,
    seed: int = 0,
    plot: Path | None = None,
    quiet: bool = False,
) -> EvaluateReport:
    """Judge a ready router on tables, or cross-fit one on each: with random prompts or whole families left out.

    without  : arms to leave out, where a table has them.
    families : file group -> family. split : prompt, group, time, or both (prompt and group).
    lambdas  : prices of compute, cost in units of the dearest arm's mean.
    seeds    : fold seeds of the cross-fits; None = 5 of a thorough evaluation, else 1.
    thorough : also shuffled outcomes and refits; each takes as long as a cross-fit.
    against  : another router's picks on the prompts of the one table.

    An interrupt (Ctrl-C) keeps what is done, once something is.
    """
    sources = [sources] if isinstance(sources, Path) else list(sources)
    if split not in (*SPLITS, "both"):
        raise ConfigError(f"split={split!r}: it must be {', '.join(SPLITS)} or both")
    if against is not None and len(sources) > 1:
        raise ConfigError(f"--against compares on one table, {len(sources)} are given")
    for price in lambdas:
        if not (np.isfinite(price) and price > 0):
            raise ConfigError(f"lambda={price:g}: it must be a finite number > 0, for instance 0.1")
    rival = None if against is None else read_picks(against)
    mapped = None if families is None else families_from(families)
    options: dict[str, Any] = {"lambdas": tuple(lambdas), "seed": seed, "rival": rival}
    further = {"fold_seeds": seeds or (5 if thorough else 1), "thorough": thorough}
    reports, notes = [], []
    with bars(quiet=quiet) as progress:
        for path in sources:
            loaded = load_source(path, mapping, mapped)
            matrix = loaded.matrix
            if set(without) & set(matrix.arms):
                matrix = matrix.columns([a for a in matrix.arms if a not in without])
            if rival is not None:
                check_picks(rival, matrix)
            notes += loaded.notes
            # Of .../bbh/outcomes.parquet the folder tells what it is.
            name = path.parent.name if path.is_file() and path.stem == "outcomes" else loaded.name
            found: list[Evaluation | Skipped] = []
            halves = loaded.halves()
            about = {"specs": loaded.specs, "verifiers": loaded.verifiers}
            try:
                if router is not None:
                    found.append(evaluate_router(Router.load(router), matrix, halves=halves, **options))
                for one in () if router is not None else ("prompt", "group") if split == "both" else (split,):
                    moving = partial(progress, f"{name[:18]} {one}" if len(sources) > 1 else f"{one} split")
                    try:
                        done = evaluate_split(
                            matrix, one, halves=halves, progress=moving, **about, **options, **further
                        )
                    except TableError as exc:
                        if len(sources) == 1:
                            raise
                        done = Skipped(split=one, reason=str(exc))  # the other tables can be judged all the same
                    found.append(done)
            except KeyboardInterrupt:
                if not (found or reports):
                    raise
                notes.append(f"interrupted: {name} and what follows are not complete")
                if found:
                    reports.append(Report(f"{name}: {len(matrix):,} prompts, {len(matrix.arms)} arms", found))
                break
            reports.append(Report(f"{name}: {len(matrix):,} prompts, {len(matrix.arms)} arms", found))
    plots: list[Path] = []
    if plot is not None:
        for i, report in enumerate(reports):
            at = plot if len(reports) == 1 else plot.with_name(f"{plot.stem}-{i + 1}{plot.suffix or '.png'}")
            plots += report.plots(at)
    return EvaluateReport(reports=tuple(reports), notes=tuple(dict.fromkeys(notes)), plots=tuple(plots))


# ── learning curve ───────────────────────────────────────────────────────────────────────────────────────────────────


def learning_curve(
    source: Path,
    *,
    mapping: Sequence[str] = (),
    rounds: int = 5,
    seconds: float | None = 100.0,
    lambdas: Sequence[float] = LAMBDAS,
    new_arm: str | None = None,
    settings: FitSettings | None = None,
    plot: Path | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> LearningCurve:
    """Show what a router gains by the outcomes that it learned from (learning_curve.py), and draw it where asked to."""
    read = load_source(source, mapping)
    with bars(quiet=quiet) as progress:
        curve = curve_of(
            read.matrix,
            name=read.name,
            rounds=rounds,
            seconds=seconds,
            settings=settings,
            lambdas=lambdas,
            new_arm=new_arm,
            specs=read.specs or None,
            verifiers=read.verifiers,
            seed=seed,
            progress=partial(progress, "fitting"),
        )
    if plot is not None:
        curve.plot(plot)
    return curve


# ── route ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RouteReport:
    """A decision, and the answer where it was acted on."""

    decision: Decision
    routed: RoutedResult | None

    def text(self) -> str:
        """For people."""
        if self.routed is None:
            return self.decision.explain()
        result = self.routed.result
        spent = (
            f"{result.usage.completion_tokens} completion tokens, cost {result.usage.cost:.4g}, {result.seconds:.2f} s"
        )
        steps = [f"  {i}. {step}" for i, step in enumerate(self.routed.steps, 1)]
        went = "\n".join(["", "", "how it went:", *steps]) if steps else ""
        return f"{self.decision.explain()}{went}\n\n{result.text.strip()}\n\n{spent}; {result.stopped_because}"

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        answer = None
        if self.routed is not None:
            result = self.routed.result
            answer = {
                "text": result.text,
                "answer": result.answer,
                "usage": msgspec.to_builtins(result.usage),
                "seconds": result.seconds,
                "stopped_because": result.stopped_because,
                "steps": [step.to_dict() for step in self.routed.steps],
            }
        return {"decision": self.decision.to_dict(), "result": answer}


def route(
    prompt: str,
    router: str | Path,
    config: Config | None,
    limits: Mapping[str, float | None],
    *,
    policy: str | None = None,
    plan: bool = True,
    decide_only: bool = False,
) -> RouteReport:
    """Choose an arm for one prompt, or go by the router's plan, and, unless only the decision is wanted, answer.

    plan : whether a plan is used, where the router has one.
    """
    return asyncio.run(_route(prompt, router, config, limits, policy, plan, decide_only))


async def _route(
    prompt: str,
    router: str | Path,
    config: Config | None,
    limits: Mapping[str, float | None],
    policy: str | None,
    plan: bool,
    decide_only: bool,
) -> RouteReport:
    served = {} if config is None else config.backends
    async with Router.load(router, backends=served, policy=policy, plan=plan) as loaded:
        changes = {name: limit for name, limit in limits.items() if limit is not None}
        objective = loaded.objective.but(**changes)
        if decide_only:
            return RouteReport(loaded.decide(prompt, objective), None)
        routed = await loaded.run(prompt, objective)
        return RouteReport(routed.decision, routed)


# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def data(
    source: Path,
    mapping: Sequence[str] = (),
    *,
    families: Path | None = None,
    write_families: Path | None = None,
) -> DataReport:
    """Count what a log or a table holds, and say what is amiss, before anything is learned from it.

    families : file group -> family. write_families : where to write such a file, for a person to check: the families
        as they are, with those made one that read alike.
    """
    known = None if families is None else families_from(families)
    loaded = load_source(source, mapping, known)
    log = Log.open(source) if source.is_dir() else None
    if write_families is not None:
        merged = merged_by_likeness(loaded.matrix.families, loaded.matrix.texts)
        families_to(write_families, dict(zip(loaded.matrix.groups, merged, strict=True)))
    return data_report(loaded.name, loaded.matrix, loaded.outcomes, log=log, notes=loaded.notes)


# ── import, promote ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What a table became."""

    log: Path
    prompts: int
    outcomes: int
    samples: int
    notes: tuple[str, ...]

    def text(self) -> str:
        """For people."""
        head = f"{self.log}: {self.prompts:,} prompts, {self.outcomes:,} outcomes, {self.samples:,} samples"
        return "\n".join([head, *(f"Note: {note}." for note in self.notes), f"next: howhard data {self.log}"])

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {**{f: getattr(self, f) for f in self.__slots__}, "log": str(self.log)}


def import_source(
    source: str,
    log: Path,
    mapping: Sequence[str] = (),
    *,
    table: str | None = None,
    average_samples: bool = False,
    without: Sequence[str] = (),
    families: Path | None = None,
    tracking_uri: str | None = None,
) -> ImportReport:
    """Turn what others logged into a log: any source that howhard.training.importing knows, or runs:/RUN_ID of MLflow.

    families : a file that says which groups are siblings, see `families_from`; the log keeps it.
    """
    known = {} if families is None else families_from(families)
    if source.startswith("runs:/"):
        if mapping or table or without or average_samples:
            raise InputError(
                "a run of `howhard collect` is taken as it is: --map, --table, --without, --average-samples "
                "are for other sources"
            )
        with tracking.log_from_runs(log, runs=[source.removeprefix("runs:/").strip("/")], uri=tracking_uri) as made:
            made.note(families={**made.notes().get("families", {}), **known})
            return ImportReport(log, len(made.prompts()), len(made.outcomes()), len(made.samples()), ())
    imported = read_source(
        source,
        _mapping(mapping),
        table=table,
        average_samples=average_samples,
        without=without,
        families=known,
        tracking_uri=tracking_uri,
    )
    with Log(log) as opened:
        imported.write(opened)
    outcomes, samples = (0 if part is None else len(part) for part in (imported.outcomes, imported.samples))
    return ImportReport(log, len(imported.prompts), outcomes, samples, imported.notes)


def promote(
    candidate: str | Path,
    source: Path,
    *,
    mapping: Sequence[str] = (),
    force: bool = False,
    why: str = "",
    tracking_uri: str | None = None,
) -> champions.Proposed:
    """Judge a router against the champion on the holdout's outcomes, and move the registry's aliases accordingly.

    candidate : a directory, which is registered as a new version, or a version that is registered already
                ("models:/howhard-router@challenger"). force : promote whatever the verdict, and write `why` on it.
    """
    uri = tracking.resolve_uri(tracking_uri)
    router = champions.contender(candidate, uri=uri)
    table = load_source(source, mapping)

    def enrol() -> str:
        known = champions.registered_version(router.source)
        if known is not None:
            return known
        run_id = tracking.log_training(
            router.source, outcomes=table.outcomes, source=table.name, uri=uri, name="promotion", kind="promotion"
        )
        return registry.register_router(run_id, uri=uri)

    forced = (why or "no reason given") if force else None
    return champions.propose(router, table.matrix, enrol, uri=uri, force=forced)


def diff(
    router_a: str | Path,
    router_b: str | Path,
    source: Path,
    *,
    mapping: Sequence[str] = (),
    value: float | None = None,
    tracking_uri: str | None = None,
    seed: int = 0,
) -> Diff:
    """Which prompts of a table change arm from one router to the other, and what that is worth.

    value : of a correct answer; None = the objective of the first.
    """
    uri = tracking.resolve_uri(tracking_uri)
    a, b = (champions.contender(router, uri=uri) for router in (router_a, router_b))
    objective = None if value is None else a.router.objective.but(value=value)
    return compared(a, b, load_source(source, mapping).matrix, objective=objective, seed=seed)
