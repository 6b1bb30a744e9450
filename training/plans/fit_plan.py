"""Put a plan together: forests by backward induction, fixed plans with what they gave, and a guard that replay chose."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...router.estimates import ArmMeans, Estimates
from ...router.plan import (
    QUANTILES,
    FixedPlan,
    Menu,
    Node,
    NodeModel,
    Plan,
    PlanFacts,
    actions_at,
    prompt_features,
)  # fmt: skip
from ...router.policy import UtilityPolicy
from ...strategies.answers import EXTRACTOR
from ..guard import pairwise_error
from ..threads import one_thread
from .learn import NodeFit, PlanSettings, induce
from .replay import ByFixedPlan, Replayed, replay
from .runs import Runs
from .trajectories import SampleLog

Progress = Callable[[int, int], None]
Seconds = tuple[tuple[float, float, float] | None, ...]

STRENGTHS = (0.0, 0.5, 1.0, 2.0)
SETTLED = (0.8, 0.9, 0.95, 0.99)
"""Chances to stay ahead at which fixed plans take an answer for settled."""


@dataclass(frozen=True, slots=True, eq=False)
class FittedPlan:
    """A plan, and what fitting saw.

    policy : chooses with the guard that was learned.   runs : of the training prompts.   fold : (n,) of theirs: member k
    has not seen fold k.   fixed : what each fixed plan came to on them.
    """

    plan: Plan
    policy: UtilityPolicy
    runs: Runs
    fold: np.ndarray
    fixed: tuple[Replayed, ...]


def fixed_plans(menu: Menu) -> tuple[FixedPlan, ...]:
    """Every fixed plan that is worth trying: so many at once; early stops with a cap, by proof or by votes; the same, and
    then a later backend; each search.
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
    familiar = np.ones(len(log), dtype=bool)  # learned from all; the flag is the router's business
    runs = Runs(log, prompt_features(estimates), familiar, deals=settings.deals, seed=settings.seed, seconds=seconds)
    first = log.legs[0]
    unit = max(float(first.cost.mean() + first.prompt_cost.mean()), 1e-12)
    fits, seen = induce(runs, fold, unit, settings, progress)
    family = np.unique(np.asarray(families, dtype=str), return_inverse=True)[1]
    nodes = {node: _model(node, fits[node], seen[node], runs, family, log.menu) for node in fits}
    candidates = fixed_plans(log.menu)
    fixed = tuple(replay(runs, ByFixedPlan(p)) for p in candidates)
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
    plan = Plan(facts=facts, arms=estimates.arms, nodes=nodes, fixed_means=_means(fixed, family))
    return FittedPlan(plan, UtilityPolicy(guard=0.0), runs, fold, fixed)


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
    mean = np.maximum(told[:, 2 * a :], 1e-9)
    ratio = np.where(real[:, 2 * a :] > 0, real[:, 2 * a :] / mean, np.nan)
    tails = np.ones((a, len(QUANTILES)))
    for j in range(a):
        known = ratio[~np.isnan(ratio[:, j]), j]
        if len(known):
            tails[j] = np.quantile(known, QUANTILES)
    return NodeModel(forest=fit.forest(f"plan {node}"), base=fit.bases, error=error, tails=tails)


def _means(fixed: Sequence[Replayed], family: np.ndarray) -> ArmMeans:
    quality = np.stack([f.by_prompt("quality") for f in fixed], axis=1)
    cost = np.array([f.by_prompt("cost").mean() for f in fixed])
    seconds = np.array([f.by_prompt("seconds").mean() for f in fixed])
    count = int(family.max()) + 1
    off = (quality - quality.mean(axis=0)) / len(quality)
    sums = np.stack([np.bincount(family, c, minlength=count) for c in off.T], axis=1)
    if count < 2:
        sums, count = off, len(off)
    apart = ((sums[:, :, None] - sums[:, None, :]) ** 2).sum(axis=0) * count / max(count - 1, 1)
    return ArmMeans(quality=quality.mean(axis=0), cost=cost, seconds=seconds, quality_se=np.sqrt(apart))
