"""Put a plan together: forests by backward induction, fixed plans with what they gave, a guard that replay chose."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from ...router.estimates import ArmMeans, Estimates
from ...router.joint_trees import JointForest
from ...router.plan import (
    QUANTILES,
    FixedPlan,
    Menu,
    Node,
    NodeModel,
    Plan,
    PlanFacts,
    actions_at,
    places_of,
    prompt_features,
)  # fmt: skip
from ...router.policy import UtilityPolicy
from ...strategies.answers import EXTRACTOR
from ..guard import pairwise_error
from ..matrix import difference_se
from ..threads import one_thread
from .judge_plan import PlanReport, judge_plan
from .learn import NodeFit, PlanSettings, induce
from .replay import ByFixedPlan, Replayed, replay
from .runs import Runs
from .trajectories import SampleLog

Progress = Callable[[int, int], None]
Seconds = tuple[tuple[float, float, float] | None, ...]

SETTLED = (0.8, 0.9, 0.95, 0.99)
"""Chances to stay ahead at which fixed plans take an answer for settled."""

_DEALS = 4  # orders of each prompt's samples on which fixed plans, and the plan, are judged


@dataclass(frozen=True, slots=True, eq=False)
class FittedPlan:
    """A plan, and what fitting saw.

    policy : chooses with the guard that was learned; None = no gain is sure, the best fixed plan serves everything.
    runs   : of the training prompts, dealt anew.   fold : (n,) of theirs: member k has not seen fold k.
    fixed  : what each fixed plan came to on them, without the ways.
    report : what the plan is worth on prompts left out.
    """

    plan: Plan
    policy: UtilityPolicy | None
    runs: Runs
    fold: np.ndarray
    fixed: tuple[Replayed, ...]
    report: PlanReport


def fixed_plans(menu: Menu) -> tuple[FixedPlan, ...]:
    """Every fixed plan that is worth trying: so many at once; early stops with a cap, by proof or by votes; the same,
    and then a later backend; each search; to give up, where the menu lets.
    """
    found: dict[FixedPlan, None] = {}
    settled: tuple[float | None, ...] = SETTLED if menu.verifier is None else (None, *SETTLED)
    single = [((i, (k,)),) for i, leg in enumerate(menu.legs) for k in leg.stages]
    waves = [
        ((i, leg.stages[a:b]),) for i, leg in enumerate(menu.legs) for a in range(min(3, len(leg.stages)))
        for b in range(a + 2, len(leg.stages) + 1)
    ]  # fmt: skip
    later = [
        ((i, stages),) for i, leg in enumerate(menu.legs) if i
        for stages in {leg.stages[:1], leg.stages[-1:], leg.stages, leg.stages[1:2]} if stages
    ]  # fmt: skip
    for legs in single:
        found[FixedPlan(legs=legs, settled=2.0)] = None
    for until in settled:
        for legs in waves:
            found[FixedPlan(legs=legs, settled=until)] = None
        for first, then in itertools.product((*single, *waves), later):
            if first[0][0] < then[0][0]:
                found[FixedPlan(legs=(*first, *then), settled=until)] = None
    for s in range(len(menu.searches)):
        found[FixedPlan(search=s)] = None
    if menu.give_up:
        found[FixedPlan()] = None
    return tuple(found)


def fit_plan(
    log: SampleLog,
    estimates: Estimates,
    fold: np.ndarray,
    *,
    families: Sequence[str],
    seconds: Seconds,
    settings: PlanSettings | None = None,
    needs: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> FittedPlan:
    """Learn a plan from the prompts of a log.

    estimates : of these prompts, out of fold.   fold : (n,), the folds of those: member k of the plan sees no prompt of
    fold k.   families : of the prompts.   seconds : see PlanFacts.
    """
    with one_thread():
        return _fit_plan(log, estimates, fold, families, seconds, settings or PlanSettings(), needs, progress)


def _fit_plan(
    log: SampleLog, estimates: Estimates, fold: np.ndarray, families: Sequence[str], seconds: Seconds,
    settings: PlanSettings, needs: tuple[str, ...], progress: Progress | None,
) -> FittedPlan:  # fmt: skip
    # Forests learn from all prompts; who is judged as a stranger is served by the best fixed plan, as when it serves.
    familiar = np.ones(len(log), dtype=bool) if estimates.familiar is None else estimates.familiar
    told = prompt_features(estimates)
    runs = Runs(log, told, familiar, deals=settings.deals, seed=settings.seed, seconds=seconds)
    unit = unit_of(log)
    steps = _Steps(progress, len(dict.fromkeys(place.node for place in places_of(log.menu))) + 2)
    fits, seen = induce(runs, fold, unit, settings, lambda *_: steps.done())
    family = np.unique(np.asarray(families, dtype=str), return_inverse=True)[1]
    nodes = {node: _model(node, fits[node], seen[node], runs, family, log.menu) for node in fits}
    candidates = fixed_plans(log.menu)
    runs = Runs(log, told, familiar, deals=min(settings.deals, _DEALS), seed=settings.seed + 1, seconds=seconds)
    fixed = tuple(replace(replay(runs, ByFixedPlan(p)), moved={}, visited={}) for p in candidates)
    steps.done()
    first = log.legs[0]
    facts = PlanFacts(
        menu=log.menu,
        fixed=candidates,
        needs=needs,
        unit=unit,
        seconds=seconds,
        search_seconds=tuple(None if np.isnan(s.seconds).all() else float(np.nanmean(s.seconds)) for s in log.searches),
        extractor=EXTRACTOR,
        n_prompts=len(log),
        n_samples=first.draws.k,
    )
    by_prompt = _ByPrompt.of(fixed)
    plan = Plan(facts=facts, arms=estimates.arms, nodes=nodes, fixed_means=by_prompt.means(family))
    members = [
        replace(
            plan,
            nodes={node: _member(model, k) for node, model in nodes.items()},
            fixed_means=by_prompt.rows(fold != k).means(family[fold != k]),
        )
        for k in range(int(fold.max()) + 1)
    ]
    report = judge_plan(members, runs, fold, fixed, family)
    steps.done()
    found = {"guard": report.strength, "trusted": report.trusted, "trusted_waiting": report.trusted_waiting}
    plan = replace(plan, facts=msgspec.structs.replace(facts, **found))
    policy = None if report.strength is None else UtilityPolicy(guard=report.strength)
    return FittedPlan(plan, policy, runs, fold, fixed, report)


class _Steps:
    """Counts what is done of a fit."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def done(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def unit_of(log: SampleLog) -> float:
    """Mean cost of a sample of the first leg that costs anything, its prompt included; 1 where all are free."""
    costs = [float(leg.cost.mean() + leg.prompt_cost.mean() + leg.reading_cost.mean()) for leg in log.legs]
    return next((cost for cost in costs if cost > 0), 1.0)


def _member(model: NodeModel, k: int) -> NodeModel:
    """What member k alone says at a node."""
    forest = JointForest.of("a member", model.forest.texts[k : k + 1], model.forest.tables[k : k + 1])
    return replace(model, forest=forest, base=model.base[k : k + 1])


def _model(
    node: Node,
    fit: NodeFit,
    seen: tuple[np.ndarray, np.ndarray, np.ndarray],
    runs: Runs,
    family: np.ndarray,
    menu: Menu,
) -> NodeModel:
    rows, told, real = seen
    a = len(actions_at(menu, node))
    one = np.unique(runs.prompt[rows], return_index=True)[1]  # a run of each prompt: those of one prompt are no news
    error = pairwise_error(
        told[one, :a], real[one, :a], np.unique(family[runs.prompt[rows[one]]], return_inverse=True)[1]
    )
    took = real[:, 2 * a :]
    # What is told to take next to no time has no tail that could be told as a multiple of it.
    typical = np.where(np.isnan(took), 0.0, took).sum(axis=0) / max(len(took), 1)
    mean = np.maximum(told[:, 2 * a :], 0.05 * typical + 1e-12)
    ratio = np.where(took > 0, took / mean, np.nan)
    tails = np.ones((a, len(QUANTILES)))
    for j in range(a):
        known = ratio[~np.isnan(ratio[:, j]), j]
        if len(known):
            tails[j] = np.quantile(known, QUANTILES)
    return NodeModel(forest=fit.forest(f"plan {node}"), base=fit.bases, error=error, tails=tails)


@dataclass(frozen=True, slots=True)
class _ByPrompt:
    """What the fixed plans came to, (n, plans) each."""

    quality: np.ndarray
    cost: np.ndarray
    seconds: np.ndarray

    @classmethod
    def of(cls, fixed: Sequence[Replayed]) -> "_ByPrompt":
        return cls(*(np.stack([f.by_prompt(name) for f in fixed], axis=1) for name in cls.__slots__))

    def rows(self, mask: np.ndarray) -> "_ByPrompt":
        return _ByPrompt(self.quality[mask], self.cost[mask], self.seconds[mask])

    def means(self, family: np.ndarray) -> ArmMeans:
        """Means over the prompts, and errors of their differences."""
        return ArmMeans(
            quality=self.quality.mean(axis=0),
            cost=self.cost.mean(axis=0),
            seconds=self.seconds.mean(axis=0),
            quality_se=difference_se(self.quality, np.unique(family, return_inverse=True)[1]),
        )
