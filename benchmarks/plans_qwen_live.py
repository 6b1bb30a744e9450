"""What a log of two real models teaches, and whether it holds live: the second half of plans_qwen.py.

A router with a plan is learned from all problems of the log. What the plan and its rivals come to is foretold by
replay, in which each problem is decided by the member of the plan that has not seen it. Then all of them answer fresh
problems for real, through Router.run, and are held against what was foretold and against each other.
"""

import asyncio
import dataclasses
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import server  # pyright: ignore[reportMissingImports]

from howhard.router.decision import Context
from howhard.router.objective import Objective
from howhard.router.plan import Plan, prompt_features
from howhard.router.router import Router
from howhard.strategies.base import Arm, Backend, Bindable, Budget, Request, StrategyResult, Trace
from howhard.strategies.errors import BackendError
from howhard.training import commands
from howhard.training.curves import Interval, interval, resampling_weights
from howhard.training.fit import fit, write_router
from howhard.training.graders import get_grader
from howhard.training.plans.fit_plan import FittedPlan
from howhard.training.plans.judge_plan import stopped
from howhard.training.plans.menus import PlanOptions
from howhard.training.plans.replay import ByFixedPlan, ByPlan, Mover, replay
from howhard.training.plans.runs import Runs
from howhard.training.plans.train_plans import learn_plans, read_plan_log
from howhard.training.plans.trajectories import read_samples
from howhard.training.prompt_sets import messages_of
from howhard.training.recording import Recorder

FIGURES = ("quality", "cost", "tokens", "seconds")
DRAWS = 4000


# ── ways to answer ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Way:
    """One way to answer: the plan, or the best fixed plan, at a value of a right answer in units; or an arm."""

    name: str
    value: float | None = None
    fixed: bool = False
    arm: str | None = None


def ways(values: Sequence[float], arms: Sequence[str]) -> tuple[Way, ...]:
    """The plan and the best fixed plan at each value, then the arms."""
    found = [
        way for value in values for way in (Way(f"plan at {value:g}", value), Way(f"fixed at {value:g}", value, True))
    ]
    return (*found, *(Way(arm, arm=arm) for arm in arms))


# ── learned and foretold ─────────────────────────────────────────────────────────────────────────────────────────────


def learn(path: Path, out: Path) -> tuple[commands.Source, FittedPlan]:
    """Learn a router with a plan from all problems of a log: `howhard train --plan` without a share held out."""
    source = commands.load_source(path)
    assert source.log is not None
    options = PlanOptions()
    read = read_plan_log(source.log, source.outcomes, list(source.specs.values()), source.verifiers, options)
    fitted = fit(source.matrix, specs=source.specs, verifiers=source.verifiers)
    made = learn_plans(read, fitted, source.matrix, options)
    write_router(
        out,
        fitted,
        dataset=f"{source.name}, {len(source.matrix)} problems",
        specs=source.specs,
        backends=source.backends,
        verifiers=source.verifiers,
        plans=[one.plan for one in made],
    )
    for one in made:
        print(one.report.text(), file=sys.stderr, flush=True)
    return source, made[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Foretold:
    """What a way comes to on a log; figures: name -> (n,) per problem.   ends : of a replay, by what was drawn."""

    figures: dict[str, np.ndarray]
    ends: dict[str, float]


def foretell(way: Way, made: FittedPlan, source: commands.Source) -> Foretold:
    """Replay a way on the log's problems; of the plan, the member that has not seen a problem decides on it alone.

    The guard and the best fixed plan were chosen on all of these problems, so both are foretold a little too well.
    """
    runs = made.runs
    if way.arm is not None:
        return _derived(way.arm, source, runs.log.prompt_ids)
    objective = objective_of(way, made.plan)
    if way.fixed:
        return _replayed(runs, ByFixedPlan(made.plan.best_fixed(objective)))
    return _replayed(runs, ByPlan(made.plan, objective, made.policy, runs.prompt, blind=made.fold))


def _replayed(runs: Runs, mover: Mover) -> Foretold:
    replayed = replay(runs, mover)
    return Foretold(
        figures={name: replayed.by_prompt(name) for name in FIGURES},
        ends=dict(stopped(runs.log.menu, [replayed])),
    )


def _derived(arm: str, source: commands.Source, ids: Sequence[str]) -> Foretold:
    """An arm, as collection derives it from the log's samples: it breaks ties in votes in its own way, not a plan's."""
    own = source.outcomes[source.outcomes["arm"].eq(arm)].set_index("prompt_id").loc[list(ids)]
    columns = ("quality", "cost", "completion_tokens", "latency_s")
    return Foretold(
        figures={name: own[column].to_numpy(float) for name, column in zip(FIGURES, columns, strict=True)}, ends={}
    )


def objective_of(way: Way, plan: Plan) -> Objective:
    """What a way is asked for; of no consequence for an arm."""
    return Objective(value=(way.value or 1.0) * plan.facts.unit)


def retell(way: Way, router: Router, source: commands.Source, deals: int = 20) -> tuple[tuple[str, ...], Foretold]:
    """Replay a way on other samples of the very problems that were answered live, and say which problems these are."""
    plan, log = router.plan, source.log
    assert plan is not None
    assert log is not None
    samples = read_samples(log.samples(), log.outcomes(), plan.facts.menu, router.manifest.verifiers)
    ids = samples.prompt_ids
    if way.arm is not None:
        return ids, _derived(way.arm, source, ids)
    asked = log.prompts()
    texts = dict(zip(asked["prompt_id"].astype(str), asked["text"].astype(str), strict=True))
    estimates = router.predictor.predict_texts([texts[i] for i in ids])
    familiar = np.ones(len(ids), dtype=bool) if estimates.familiar is None else estimates.familiar
    runs = Runs(samples, prompt_features(estimates), familiar, deals=deals, seed=7, seconds=plan.facts.seconds)
    objective = objective_of(way, plan)
    if way.fixed:
        return ids, _replayed(runs, ByFixedPlan(plan.best_fixed(objective)))
    return ids, _replayed(runs, ByPlan(plan, objective, router.plan_policy, runs.prompt))


# ── live ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Routed(Bindable):
    """A router at an objective as a strategy, so that a recorder logs what it does as an arm of that name."""

    def __init__(self, name: str, router: Router, objective: Objective, context: Context | None) -> None:
        self.name = name.replace(" ", "_")
        self.router, self.objective, self.context = router, objective, context

    async def run(
        self, request: Request, backend: Backend, *, budget: Budget | None = None, trace: Trace | None = None
    ) -> StrategyResult:
        """Have the router answer; `backend` is the router's own affair."""
        routed = await self.router.run(request, self.objective, context=self.context, budget=budget, trace=trace)
        return routed.result


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One problem, answered live. drew : samples by backend.   steps : of a plan, in words."""

    prompt_id: str
    group: str
    question: str
    reference: str
    answer: str | None
    quality: float
    cost: float
    tokens: float
    prompt_tokens: int
    seconds: float
    drew: dict[str, int]
    without_logprob: int
    stopped_because: str
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lived:
    """All problems, answered in one way. served : what the servers counted meanwhile.   failed : problems by error."""

    answered: tuple[Answered, ...]
    served: dict[str, dict[str, float]]
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float

    def figures(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Per problem (n,), in the order of `ids`."""
        at = {a.prompt_id: a for a in self.answered}
        return {name: np.array([float(getattr(at[i], name)) for i in ids]) for name in FIGURES}

    @property
    def ends(self) -> dict[str, float]:
        """Share of problems by what was drawn."""
        count = Counter(" + ".join(f"{b} x{k}" for b, k in a.drew.items()) or "given up" for a in self.answered)
        return {words: n / len(self.answered) for words, n in count.most_common()}


async def live(
    way: Way,
    router: Router,
    small: Backend,
    urls: Mapping[str, str],
    prompts: pd.DataFrame,
    record: Path,
    concurrency: int,
) -> Lived:
    """Answer all problems in one way, so many at once, and record what was drawn.

    small : the backend that the recorder names the runs by.   urls : of the servers, for their counters.
    """
    assert router.plan is not None
    before = {name: server.idle(url) for name, url in urls.items()}
    started = time.monotonic()
    context = None if way.arm is None else Context(allowed=(way.arm,))
    arm = Arm(Routed(way.name, router, objective_of(way, router.plan), context), small)  # type: ignore[arg-type]
    graders = {name: get_grader(name) for name in prompts["grader"].unique()}
    places, failed = asyncio.Semaphore(concurrency), dict[str, str]()

    async def one(row: Mapping[str, Any], recorder: Recorder) -> Answered | None:
        request = Request(messages_of(row))
        told = recorder.trace(request, arm, group=row["group"])
        drew: Counter[str] = Counter()
        blank = 0

        def trace(event: str, fields: Mapping[str, Any]) -> None:
            nonlocal blank
            if event == "sample":
                drew[fields["backend"]] += 1
                blank += fields["candidate"].generation.mean_logprob is None
            told(event, fields)

        async with places:
            try:
                result = await arm.run(request, trace=trace)
            except BackendError as exc:
                failed[row["prompt_id"]] = str(exc)
                recorder.finish(request, arm, None)
                return None
        quality = graders[row["grader"]].grade(row["text"], result.text, result.answer, row["reference"])
        recorder.finish(request, arm, result, quality=quality)
        steps = getattr(result, "steps", ())
        return Answered(
            prompt_id=row["prompt_id"],
            group=row["group"],
            question=request.messages[-1].content,
            reference=row["reference"],
            answer=result.answer,
            quality=float(quality),
            cost=result.usage.cost,
            tokens=result.usage.completion_tokens,
            prompt_tokens=result.usage.prompt_tokens,
            seconds=result.seconds,
            drew=dict(drew),
            without_logprob=blank,
            stopped_because=result.stopped_because,
            steps=tuple(f"{step}{' (the fixed plan’s way kept)' if step.fallback else ''}" for step in steps),
        )

    with Recorder(record) as recorder:
        done = await asyncio.gather(*(one(row, recorder) for row in prompts.to_dict("records")))
    for grader in graders.values():
        grader.close()
    seconds = time.monotonic() - started
    after = {name: server.idle(url) for name, url in urls.items()}
    served = {b: {c: after[b][c] - before[b][c] for c in ("generated", "prompt", "cached", "requests")} for b in urls}
    return Lived(answered=tuple(a for a in done if a is not None), served=served, failed=failed, seconds=seconds)


def without_gain(router: Router, backends: Mapping[str, Backend]) -> Router:
    """The same router, but that it never leaves the best fixed plan's way."""
    assert router.plan is not None
    kept = dataclasses.replace(router.plan, facts=msgspec.structs.replace(router.plan.facts, guard=None))
    return Router(router.manifest, router.predictor, source=router.source, backends=backends, plan=kept)


# ── held against each other ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One figure of one way: live, foretold, and live less foretold, with 95 % intervals over problems."""

    live: Interval
    foretold: Interval
    apart: Interval

    @property
    def agrees(self) -> bool:
        """Whether the difference may be nothing."""
        return self.apart.low <= 0 <= self.apart.high


def held(live: np.ndarray, foretold: np.ndarray, seed: int = 0) -> Held:
    """Two samples of problems of the same kinds: their intervals, and that of the difference of means."""
    of_live, of_log = _drawn(live, seed), _drawn(foretold, seed + 1)
    apart = float(live.mean() - foretold.mean())
    return Held(
        live=interval(float(live.mean()), of_live),
        foretold=interval(float(foretold.mean()), of_log),
        apart=interval(apart, of_live - of_log),
    )


def _drawn(values: np.ndarray, seed: int) -> np.ndarray:
    return resampling_weights(np.arange(len(values)), draws=DRAWS, seed=seed) @ values


def paired(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], worth: float) -> dict[str, Interval]:
    """Ours less theirs on the same problems: utility (quality - cost / worth), quality, and cost in `worth`'s unit."""
    weights = resampling_weights(np.arange(len(ours["quality"])), draws=DRAWS, seed=0)
    more = {name: ours[name] - theirs[name] for name in FIGURES}
    more["utility"] = more["quality"] - more["cost"] / worth
    return {name: interval(float(x.mean()), weights @ x) for name, x in more.items()}


def once_more(lived: Lived, ids: Sequence[str], told: Foretold, unit: float) -> dict[str, Any]:
    """Live less replayed on other samples of the same problems, paired: quality, cost, tokens."""
    ours, theirs = _in_units(lived.figures(ids), unit), _in_units(told.figures, unit)
    found = paired(ours, theirs, 1.0)
    return {
        name: {"live": float(ours[name].mean()), "replayed": float(theirs[name].mean()), "apart": asdict(found[name])}
        for name in ("quality", "cost", "tokens")
    } | {"ends": lived.ends, "ends_replayed": told.ends}


def text(found: Mapping[str, Any]) -> str:
    """The tables for people."""
    lines = [f"{found['problems']} fresh problems; cost in samples of the small model ({found['unit']:.2f} credits)"]
    lines.append("way                 quality live [95 %]      foretold  cost live   foretold  tokens live  foretold")
    for name, one in found["ways"].items():
        q, c, t = (one["figures"][figure] for figure in ("quality", "cost", "tokens"))
        told = ["" if f["agrees"] else " (!)" for f in (q, c, t)]
        lines.append(
            f"{name:18}  {_of(q['live'])}  {q['foretold']['mean']:.3f}{told[0]:4}"
            f"  {c['live']['mean']:9.1f}  {c['foretold']['mean']:8.1f}{told[1]:4}"
            f"  {t['live']['mean']:8.1f}  {t['foretold']['mean']:8.1f}{told[2]:4}"
        )
    lines.append("(!) live and foretold differ by more than chance allows")
    for name, rivals in found["ahead"].items():
        for rival, one in rivals.items():
            lines.append(
                f"{name} less {rival}: utility {_of(one['utility'], '+')}, quality {_of(one['quality'], '+')}, "
                f"cost {_of(one['cost'], '+', 1)}"
            )
    for name, one in found["ways"].items():
        lines.append(f"{name}: {', '.join(f'{words} {share:.0%}' for words, share in one['ends'].items())}")
    for name, examples in found["examples"].items():
        for example in examples:
            lines.append(f"{name}: {example['question']!r}, right is {example['reference']}, said {example['answer']}")
            lines += [f"    {step}" for step in example["steps"]]
    return "\n".join(lines)


def _of(found: Mapping[str, float], sign: str = "", digits: int = 3) -> str:
    return f"{found['mean']:{sign}.{digits}f} [{found['low']:{sign}.{digits}f}, {found['high']:{sign}.{digits}f}]"


def judged(
    lived: Mapping[str, Lived], foretold: Mapping[str, Foretold], plans: Mapping[str, float], unit: float
) -> dict[str, Any]:
    """All figures of what has been run so far. plans : names of the learned plan's ways -> value, in units."""
    ids = sorted(set.intersection(*({a.prompt_id for a in one.answered} for one in lived.values())))
    figures = {name: _in_units(one.figures(ids), unit) for name, one in lived.items()}
    found: dict[str, Any] = {"problems": len(ids), "unit": unit, "ways": {}, "ahead": {}, "examples": {}}
    for name, one in lived.items():
        told = _in_units(foretold[name].figures, unit)
        seconds = [a.seconds for a in one.answered]
        found["ways"][name] = {
            "figures": {
                figure: asdict(one_held := held(figures[name][figure], told[figure])) | {"agrees": one_held.agrees}
                for figure in FIGURES
                if not np.isnan(told[figure]).any()
            },
            "ends": one.ends,
            "ends_foretold": foretold[name].ends,
            "seconds": {"median": statistics.median(seconds), "p95": float(np.quantile(seconds, 0.95))},
            "wall_seconds": one.seconds,
            "failed": one.failed,
            "counted": _counted(one),
        }
    for name, value in plans.items():
        if name in lived:
            rivals = [other for other in lived if other not in plans]
            found["ahead"][name] = {
                other: {k: asdict(v) for k, v in paired(figures[name], figures[other], value).items()}
                for other in rivals
            }
            found["examples"][name] = examples(lived[name])
    return found


def _in_units(figures: Mapping[str, np.ndarray], unit: float) -> dict[str, np.ndarray]:
    return {**figures, "cost": figures["cost"] / unit}


def _counted(one: Lived) -> dict[str, Any]:
    """What howhard booked beside what the servers counted, and samples that came without log-probabilities."""
    return {
        "booked_tokens": sum(a.tokens for a in one.answered),
        "served_tokens": sum(s["generated"] for s in one.served.values()),
        "booked_prompt_tokens": sum(a.prompt_tokens for a in one.answered),
        "served": one.served,
        "without_logprob": sum(a.without_logprob for a in one.answered),
    }


def examples(one: Lived) -> list[dict[str, Any]]:
    """A request that the plan ended early with a right answer, and the one of most steps that ended right."""
    right = [a for a in one.answered if a.quality == 1.0 and a.steps]
    if not right:
        return []
    chosen = {a.prompt_id: a for a in (min(right, key=lambda a: a.cost), max(right, key=lambda a: len(a.steps)))}
    return [
        {"question": a.question, "reference": a.reference, "answer": a.answer, "steps": list(a.steps)}
        for a in chosen.values()
    ]
