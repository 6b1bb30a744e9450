"""Let a new router take the champion's place only where it is surely better on the same held-out prompts.

What is compared is utility at the CHAMPION's objective, paired by prompt; the registry itself is tracking.py's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..router.estimates import Estimates
from ..router.objective import Objective
from ..router.policy import guarded_gain
from ..strategies.errors import InputError, TableError
from .curves import Interval, interval, resampling_weights
from .evaluate import RouterLike
from .matrix import OutcomeMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a candidate takes the champion's place, and why.

    reason     : a sentence.
    difference : of utility per prompt, candidate minus champion, with its paired bootstrap interval; None where there
                 is no champion, or the two cannot be compared.
    candidate, champion : mean (quality, cost) of their picks; None where they were not compared.
    """

    promote: bool
    reason: str
    n_prompts: int
    difference: Interval | None = None
    candidate: tuple[float, float] | None = None
    champion: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        d = self.difference
        return {
            "promote": self.promote,
            "reason": self.reason,
            "n_prompts": self.n_prompts,
            "difference": None if d is None else {"mean": d.mean, "low": d.low, "high": d.high},
            "candidate": self.candidate,
            "champion": self.champion,
        }


def promote(
    candidate: RouterLike,
    champion: RouterLike | None,
    holdout: OutcomeMatrix,
    *,
    seed: int = 0,
    draws: int = 2000,
) -> Verdict:
    """Judge a candidate against the champion; a first router becomes champion without a contest.

        promote  <=>  lower end of the 95 % interval of mean(U_candidate - U_champion) > 0

    holdout : outcomes, on prompts that neither was trained on, of every arm of both.
    U       : value * quality - cost - price_of_second * seconds of the arm each picks, as logged, at the champion's
              objective; where no arm keeps its limits each takes its fallback.

    Raises TableError when an arm of either has no outcomes in the table.
    """
    if champion is None:
        return Verdict(promote=True, reason="there is no champion yet", n_prompts=len(holdout))
    objective = champion.objective.but(on_infeasible="fallback")
    wanted = [*_arms(champion, holdout), *(a for a in _arms(candidate, holdout) if a not in _arms(champion, holdout))]
    table = holdout.columns(wanted).complete()
    try:
        ours, theirs = (_picks(r, table, objective) for r in (candidate, champion))
    except InputError as exc:
        return Verdict(
            promote=False, reason=f"at the champion's objective it cannot decide: {exc}", n_prompts=len(table)
        )
    rows = np.arange(len(table))
    seconds = _seconds(table, np.union1d(ours, theirs)) if objective.price_of_second else np.zeros_like(table.cost)
    gain = guarded_gain(
        benefit=table.quality[rows, ours] - table.quality[rows, theirs],
        benefit_se=0.0,
        extra_cost=table.cost[rows, ours] - table.cost[rows, theirs],
        extra_seconds=seconds[rows, ours] - seconds[rows, theirs],
        objective=objective,
        guard=0.0,
    )
    weights = resampling_weights(rows, draws=draws, seed=seed)
    difference = interval(float(gain.mean()), weights @ gain)
    better = difference.low > 0
    found = f"{difference.mean:.4g} [{difference.low:.4g}, {difference.high:.4g}] per prompt on {len(table)} prompts"
    return Verdict(
        promote=better,
        reason=f"its utility is {'surely' if better else 'not surely'} above the champion's: {found}",
        n_prompts=len(table),
        difference=difference,
        candidate=_means(table, ours),
        champion=_means(table, theirs),
    )


def _arms(router: RouterLike, table: OutcomeMatrix) -> Sequence[str]:
    return router.estimate(table.texts[:1]).arms


def _picks(router: RouterLike, table: OutcomeMatrix, objective: Objective) -> np.ndarray:
    """Column of `table` that the router picks on each prompt; exploration, where it is on, draws from a fixed seed."""
    estimates: Estimates = router.estimate(table.texts)
    rng = np.random.default_rng(0) if router.policy.random else None
    index = router.policy.choose(estimates, objective, rng=rng).index
    return np.array([table.arms.index(a) for a in estimates.arms])[index]


def _seconds(table: OutcomeMatrix, picked: np.ndarray) -> np.ndarray:
    """Seconds (n, a) as logged; where a prompt was not timed, the arm's mean.

    Raises TableError when time has a price and an arm that was picked was never timed.
    """
    timed = ~np.isnan(table.latency)
    never = [table.arms[j] for j in picked if not timed[:, j].any()]
    if never:
        raise TableError(
            f"the champion's objective prices time, and arm {never[0]!r} was never timed in the held-out table: "
            "log latency_s for it"
        )
    mean = np.nan_to_num(table.latency).sum(axis=0) / np.maximum(timed.sum(axis=0), 1)
    return np.where(timed, table.latency, mean)


def _means(table: OutcomeMatrix, picks: np.ndarray) -> tuple[float, float]:
    rows = np.arange(len(table))
    return float(table.quality[rows, picks].mean()), float(table.cost[rows, picks].mean())
