"""Plans for a router that has been fitted: learned from the same prompts, judged on those held out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from ...router.estimates import Estimates
from ...router.objective import Objective
from ...router.plan import Menu, prompt_features
from ...router.policy import Policy
from ...strategies import ArmSpec, VerifierSpec
from ...strategies.errors import TableError
from ..curves import Interval, interval, resampling_weights
from ..fit import Fitted
from ..log import Log
from ..matrix import OutcomeMatrix
from .fit_plan import FittedPlan, fit_plan
from .judge_plan import PlanReport
from .menus import PlanOptions, menu_of, wave_seconds
from .picture import draw_plan
from .replay import ByFixedPlan, ByPlan, replay
from .runs import Runs
from .trajectories import SampleLog, read_samples

Progress = Callable[[int, int], None]

HELD_OUT_VALUES = (10.0, 30.0, 100.0, 300.0)
"""Values of a correct answer that plans are shown at on held-out prompts, in units (see PlanFacts)."""

FEWEST_PROMPTS = 40
_DRAWS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLog:
    """A log as plans read it, and how long its waves take.

    log      : all prompts of the log that have what the menu asks for.   votes : the same without the verifier, None
               where there is none.   seconds : see wave_seconds.
    """

    log: SampleLog
    votes: SampleLog | None
    seconds: tuple[tuple[float, float, float] | None, ...]

    @property
    def menu(self) -> Menu:
        """What the plan may do."""
        return self.log.menu


def read_plan_log(
    log: Log,
    outcomes: pd.DataFrame,
    arms: Sequence[ArmSpec],
    verifiers: Mapping[str, VerifierSpec],
    options: PlanOptions,
    learned: Sequence[str] | None = None,
) -> PlanLog:
    """Read what plans are learned from, and judged on.

    learned : prompts to learn from, None = all: the menu's searches are chosen by what they were worth on these alone.

    Raises as `menu_of` and `read_samples`, and TableError where too few of `learned` have all that the menu asks for.
    """
    samples = log.samples()
    teach: set[str] = set(log.prompts()["prompt_id"] if learned is None else learned)
    menu = menu_of(samples, outcomes.loc[outcomes["prompt_id"].isin(list(teach))], arms, verifiers, options)
    runs = log.outcomes()  # the assembled table has the derived row of an arm that was both derived and run
    whole = read_samples(samples, runs, menu, verifiers)
    enough = len(teach & set(whole.prompt_ids))
    if enough < FEWEST_PROMPTS:
        raise TableError(
            f"{enough} of {len(teach)} training prompts have all that the plan's menu asks for ({menu.words}): "
            f"{FEWEST_PROMPTS} are needed. Give it fewer stages ([plan] stages), or collect more"
        )
    votes = None
    if menu.verifier is not None:
        votes = read_samples(samples, runs, msgspec.structs.replace(menu, verifier=None), verifiers)
    return PlanLog(log=whole, votes=votes, seconds=wave_seconds(whole, runs, arms))


def learn_plans(
    read: PlanLog,
    fitted: Fitted,
    learned: OutcomeMatrix,
    options: PlanOptions,
    progress: Progress | None = None,
) -> tuple[FittedPlan, ...]:
    """Plans with falling needs: by all signals of the log; without log-probabilities and confidence; by votes alone.

    learned : the prompts that `fitted` was fitted to; those that the log has too little of are left out.
    """
    at = {prompt_id: i for i, prompt_id in enumerate(learned.prompt_ids)}
    rows = np.array([i for i, prompt_id in enumerate(read.log.prompt_ids) if prompt_id in at], dtype=int)
    own = np.array([at[read.log.prompt_ids[i]] for i in rows], dtype=int)
    fold = np.unique(fitted.fold[own], return_inverse=True)[1]
    signals = read.log.signals
    kinds: list[tuple[SampleLog, tuple[str, ...]]] = [(read.log, signals)]
    if signals:
        kinds.append((read.log.without(signals), ()))
    if read.votes is not None:
        kinds.append((read.votes.without(signals), ()))
    made: list[FittedPlan] = []
    for i, (log, needs) in enumerate(kinds):

        def step(done: int, total: int, before: int = i) -> None:
            if progress is not None:
                progress(before * total + done, len(kinds) * total)

        plan = fit_plan(
            log.rows(rows),
            fitted.validation[own],
            fold,
            families=[learned.families[j] for j in own],
            seconds=read.seconds,
            settings=options.settings,
            needs=needs,
            progress=step,
        )
        made.append(plan)
    return tuple(made)


# ── on prompts held out ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutRow:
    """The first plan at one value, in units, beside the best fixed plan and the router that sees the prompt alone.

    plan, fixed, router : mean (quality, cost in units).   over_* : plan minus that, of utility / value.
    """

    value: float
    plan: tuple[float, float]
    fixed: tuple[float, float]
    words: str
    router: tuple[float, float]
    over_fixed: Interval
    over_router: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class PlansReport:
    """Plans that were learned, best first, and what the first does on held-out prompts.

    held_out : () where none of these prompts had all samples.   picture : of the first plan on them.
    """

    plans: tuple[PlanReport, ...]
    unit: float
    n_held_out: int
    held_out: tuple[HeldOutRow, ...]
    picture: Path | None

    def text(self) -> str:
        """For people."""
        lines = [self.plans[0].text()]
        for other in self.plans[1:]:
            guard = "the best fixed plan serves" if other.strength is None else f"gain {other.gain.mean:+.3f}"
            read = f"reading {', '.join(other.needs)}" if other.needs else "no log-probabilities and no confidence"
            lines.append(f"Where signals are missing: plan over {other.menu}, {read}: {guard}")
        if self.held_out:
            lines.append(f"On {self.n_held_out:,} prompts held out (utility / value, paired 95 % intervals):")
            lines.append("value  plan           best fixed     router         plan - best fixed     plan - router")
            for row in self.held_out:
                cells = [f"{q:.3f} at {c:<5.1f}" for q, c in (row.plan, row.fixed, row.router)]
                lines.append(
                    f"{row.value:5g}  {'  '.join(cells)}  {_signed(row.over_fixed)}  {_signed(row.over_router)}"
                )
        else:
            lines.append("No prompt that was held out has all samples that the plan asks for: it was not judged there.")
        if self.picture is not None:
            lines.append(f"plot: {self.picture}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "plans": [asdict(plan) for plan in self.plans],
            "unit": self.unit,
            "n_held_out": self.n_held_out,
            "held_out": [asdict(row) for row in self.held_out],
            "picture": None if self.picture is None else str(self.picture),
        }

    def metrics(self) -> dict[str, float]:
        """Figures for an MLflow run."""
        told = {f"plan_gain_at_{row.value:g}": row.over_fixed.mean for row in self.held_out}
        return {**told, "plan_validation_gain": self.plans[0].gain.mean}


def _signed(found: Interval) -> str:
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def report_plans(
    made: Sequence[FittedPlan],
    read: PlanLog,
    held: OutcomeMatrix,
    estimates: Estimates,
    policy: Policy,
    objective: Objective,
    *,
    picture: Path | None = None,
    seed: int = 0,
) -> PlansReport:
    """Replay the first plan on prompts held out, beside the best fixed plan and the router's picks.

    held : outcomes of the router's arms on the prompts held out.   estimates : of them.   policy : of the router.
    objective : the router's; the picture is drawn at it.
    """
    first, unit = made[0], made[0].plan.facts.unit
    at = {prompt_id: i for i, prompt_id in enumerate(held.prompt_ids)}
    rows = np.array([i for i, prompt_id in enumerate(read.log.prompt_ids) if prompt_id in at], dtype=int)
    own = np.array([at[read.log.prompt_ids[i]] for i in rows], dtype=int)
    found: list[HeldOutRow] = []
    drawn: Path | None = None
    if len(rows):
        seen, table = estimates[own], held.rows(own)
        familiar = np.ones(len(own), dtype=bool) if seen.familiar is None else seen.familiar
        runs = Runs(
            read.log.rows(rows), prompt_features(seen), familiar, deals=first.runs.deals, seed=seed,
            seconds=read.seconds,
        )  # fmt: skip
        units = np.unique(np.asarray(table.clusters, dtype=str), return_inverse=True)[1]
        weights = resampling_weights(units, draws=_DRAWS, seed=seed)
        found += [
            _row(first, runs, seen, table, policy, Objective(value=value * unit), value, weights)
            for value in HELD_OUT_VALUES
        ]
        if picture is not None:
            ours = replay(runs, ByPlan(first.plan, objective, first.policy, runs.prompt))
            best = first.plan.best_fixed(objective)
            rival = (best, replay(runs, ByFixedPlan(best)))
            drawn = draw_plan(ours, first.plan.facts, objective, picture, rival=rival)
    return PlansReport(
        plans=tuple(plan.report for plan in made),
        unit=unit,
        n_held_out=len(rows),
        held_out=tuple(found),
        picture=drawn,
    )


def _row(
    made: FittedPlan,
    runs: Runs,
    estimates: Estimates,
    table: OutcomeMatrix,
    policy: Policy,
    objective: Objective,
    value: float,
    weights: np.ndarray,
) -> HeldOutRow:
    ours = replay(runs, ByPlan(made.plan, objective, made.policy, runs.prompt))
    best = made.plan.best_fixed(objective)
    fixed = replay(runs, ByFixedPlan(best))
    rng = np.random.default_rng(0) if policy.random else None
    picks = policy.choose(estimates, objective, rng=rng).index
    columns = np.array([table.arms.index(arm) for arm in estimates.arms])[picks]
    quality, cost = (
        np.where(np.isnan(x), mean, x)[np.arange(len(table)), columns]
        for x, mean in ((table.quality, table.arm_quality), (table.cost, table.arm_cost))
    )
    each = {
        "plan": (ours.by_prompt("quality"), ours.by_prompt("cost")),
        "fixed": (fixed.by_prompt("quality"), fixed.by_prompt("cost")),
        "router": (quality, cost),
    }
    unit = objective.value / value
    utility = {name: q - c / objective.value for name, (q, c) in each.items()}
    means = {name: (float(q.mean()), float(c.mean() / unit)) for name, (q, c) in each.items()}
    over = {name: utility["plan"] - utility[name] for name in ("fixed", "router")}
    return HeldOutRow(
        value=value,
        plan=means["plan"],
        fixed=means["fixed"],
        words=best.words(made.plan.facts.menu),
        router=means["router"],
        over_fixed=interval(float(over["fixed"].mean()), weights @ over["fixed"]),
        over_router=interval(float(over["router"].mean()), weights @ over["router"]),
    )
