"""Let a new router take the champion's place only where it is surely better on the same held-out prompts.

What is compared is utility at the CHAMPION's objective, paired by prompt, on the prompts that are recorded with the
champion. A contest that would not be fair is refused, with the reason. champions.py does what follows from a verdict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..router.estimates import Estimates
from ..router.objective import Objective
from ..router.policy import guarded_gain
from ..strategies.errors import InputError, TableError
from .curves import Interval, interval, resampling_weights
from .evaluate import RouterLike
from .holdout import Holdout
from .matrix import OutcomeMatrix
from .provenance import prompt_keys, trained_on


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a candidate takes the champion's place, and why.

    reason     : a sentence. remedy : what to do about it, "" where it is promoted.
    difference : of utility per prompt, candidate minus champion, with its paired bootstrap interval; None where there
                 is no champion, or the two cannot be compared.
    candidate, champion : mean (quality, cost) of their picks; None where they were not compared.
    holdout    : the prompts that they were judged on, or, of a first champion, that later contests are judged on; None
                 where there was no fair contest.
    """

    promote: bool
    reason: str
    n_prompts: int
    remedy: str = ""
    difference: Interval | None = None
    candidate: tuple[float, float] | None = None
    champion: tuple[float, float] | None = None
    holdout: Holdout | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        d = self.difference
        return {
            "promote": self.promote,
            "reason": self.reason,
            "remedy": self.remedy,
            "n_prompts": self.n_prompts,
            "difference": None if d is None else {"mean": d.mean, "low": d.low, "high": d.high},
            "candidate": self.candidate,
            "champion": self.champion,
            "holdout": None
            if self.holdout is None
            else {"version": self.holdout.version, "prompts": len(self.holdout)},
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contender:
    """A router in a contest.

    files   : of its directory: they tell which prompts it was trained on. source : where it was loaded from.
    holdout : of a champion: the prompts that it was judged on; None where that was not recorded.
    plans   : whether it has plans. Contests are about the arms that are chosen from the prompt alone.
    """

    router: RouterLike
    files: Mapping[str, bytes]
    source: str = ""
    holdout: Holdout | None = None
    plans: bool = False

    def saw(self, table: OutcomeMatrix) -> np.ndarray | None:
        """Which prompts of a table, bool (n,), it was trained on; None where it does not tell."""
        return trained_on(self.files, prompt_keys(table.texts))


def judge(candidate: Contender, champion: Contender | None, table: OutcomeMatrix, *, seed: int = 0) -> Verdict:
    """Find the prompts that both may be judged on, and judge.

    table : outcomes, on whatever prompts. With a champion whose holdout is recorded, exactly that holdout is taken from
            it; else all prompts that neither of the two was trained on.

    Refused, with reason and remedy: a candidate that does not tell what it was trained on, or was trained on the
    champion's holdout; a table that lacks some of the holdout, or outcomes of an arm that one of the two may pick.
    """
    saw = candidate.saw(table)
    if saw is None:
        return _refused(
            "the candidate does not tell which prompts it was trained on", "train it anew with this howhard"
        )
    fixed = None if champion is None else champion.holdout
    if fixed is None:
        theirs = None if champion is None else champion.saw(table)
        fair = ~saw if theirs is None else ~(saw | theirs)
        if not fair.any():
            return _refused(
                f"all {len(table)} prompts of the table were used in training",
                "give outcomes on prompts that were held out: those of `howhard train --holdout`, or new ones",
            )
        fixed = Holdout.of(table.rows(fair))
    else:
        missing = fixed.missing(table)
        if missing:
            return _refused(
                f"the champion was judged on {len(fixed):,} prompts, of which the table lacks {missing:,}",
                "give the log that holds them all, so that both are judged on the same prompts",
            )
        fair = fixed.within(table)
        leaked = int((saw & fair).sum())
        if leaked:
            return _refused(
                f"the candidate was trained on {leaked:,} of the {len(fixed):,} prompts that the champion is judged on",
                "train it with `howhard train` on the same log and tracking store: it keeps the champion's holdout out",
            )
    try:
        found = promote(candidate.router, None if champion is None else champion.router, table.rows(fair), seed=seed)
    except InputError as exc:
        return _refused(f"the two cannot be compared: {exc}", "log what is missing on the holdout's prompts")
    return replace(found, holdout=fixed)


def _refused(reason: str, remedy: str) -> Verdict:
    return Verdict(promote=False, reason=reason, remedy=remedy, n_prompts=0)


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
            promote=False,
            reason=f"at the champion's objective it cannot decide: {exc}",
            remedy="train it on a log that holds what the champion's objective asks for",
            n_prompts=len(table),
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
    # Prompts that ask the same thing are one draw of the bootstrap.
    units = np.unique(np.asarray(table.clusters, dtype=str), return_inverse=True)[1]
    weights = resampling_weights(units, draws=draws, seed=seed)
    difference = interval(float(gain.mean()), weights @ gain)
    better = difference.low > 0
    found = f"{difference.mean:.4g} [{difference.low:.4g}, {difference.high:.4g}] per prompt on {len(table)} prompts"
    return Verdict(
        promote=better,
        reason=f"its utility is {'surely' if better else 'not surely'} above the champion's: {found}",
        remedy="" if better else "keep the champion: more outcomes to learn from, or a larger holdout, may tell more",
        n_prompts=len(table),
        difference=difference,
        candidate=_means(table, ours),
        champion=_means(table, theirs),
    )


def _arms(router: RouterLike, table: OutcomeMatrix) -> Sequence[str]:
    return router.estimate(table.texts[:1]).arms


def picked(router: RouterLike, texts: Sequence[str], objective: Objective) -> np.ndarray:
    """Name of the arm that a router picks on each prompt, str (n,); exploration, where it is on, from a fixed seed."""
    estimates: Estimates = router.estimate(texts)
    rng = np.random.default_rng(0) if router.policy.random else None
    return np.array(estimates.arms)[router.policy.choose(estimates, objective, rng=rng).index]


def _picks(router: RouterLike, table: OutcomeMatrix, objective: Objective) -> np.ndarray:
    """Column of `table` that the router picks on each prompt."""
    return np.array([table.arms.index(a) for a in picked(router, table.texts, objective)], dtype=int)


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
