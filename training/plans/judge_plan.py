"""What a plan is worth on prompts that its forests have not seen, and the strength of guard under which it gains.

Member k of every forest has not seen fold k. So each member alone, with the fixed plans' means from the other folds, is
a plan that decides for fold k as it would for strangers: its replay there says what the plan gains over the best fixed
plan, chosen without that fold too. (What serves requests is the mean of the members, which is a little better.) The
guard is chosen on these gains as guard.py chooses that of the arms, and with it the values of a correct answer at which
the plan is trusted: what is learned from few prompts may gain where answers are cheap and lose where they are dear.
What was chosen on these prompts is a little better on them than on others: prompts held out of all this say what a plan
is worth (train_plans.py, analysis.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...router.objective import Objective
from ...router.plan import Menu, Place, Plan, places_of
from ...router.policy import UtilityPolicy
from ..guard import Gain, GuardSettings
from .replay import ByPlan, Replayed, replay
from .runs import Runs

STRENGTHS = (0.0, 0.5, 1.0, 2.0)
"""Standard errors that are tried for the guard; beside them, never to leave the best fixed plan's way."""

VALUES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Values of a correct answer that the guard must serve, in units (see PlanFacts)."""

PRICED = ((30.0, 3.0), (300.0, 30.0))
"""Values with a price of a second, both in units, that it must serve too where the log was timed."""

FEWEST_FAMILIES = 8
"""With so many, errors are those of means of families."""

_NAMES = ("quality", "cost", "seconds")
_OFTEN = 0.02  # share of the prompts from which on an end is named for people
_DEALS = 2  # runs of each prompt that are replayed


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What a plan and the best fixed plan came to at one objective, on prompts left out.

    value, second : the objective, in units.   gain : of utility / value.   plan, fixed : mean (quality, cost in units).
    words : the fixed plan that was best in most folds.
    """

    value: float
    second: float
    gain: Gain
    plan: tuple[float, float]
    fixed: tuple[float, float]
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """What was seen when a plan was learned; all figures are of prompts that the deciding member did not see.

    menu     : in words.   needs : signals beside answers, lengths and the verifier.
    strength : of the guard, None = the best fixed plan always.   trusted, trusted_waiting : see PlanFacts; at other
    objectives the best fixed plan serves.   gain : over all values, time free.
    worth    : at each objective that was tried.   stopped : share of prompts by where they ended, at the value `at`, in
    units.
    families : number of them.   n_prompts : learned from.   left_out : too few samples for the menu.
    """

    menu: str
    needs: tuple[str, ...]
    strength: float | None
    trusted: tuple[float, float | None] | None
    trusted_waiting: bool
    gain: Gain
    worth: tuple[Worth, ...]
    stopped: tuple[tuple[str, float], ...]
    at: float
    families: int
    n_prompts: int
    left_out: int

    def text(self) -> str:
        """For people."""
        seen = ", ".join(self.needs)
        lines = [f"Plan over {self.menu}{f', reading {seen}' if seen else ''}: learned from {self.n_prompts:,} prompts"]
        if self.left_out:
            lines[0] += f"; {self.left_out:,} more have too few samples for it"
        if self.strength is None:
            lines.append(
                "Guard: no gain over the best fixed plan is sure on prompts left out, so that plan serves every prompt."
            )
            return "\n".join(lines)
        lines.append(
            f"Guard: {self.strength:g} standard errors; gain over the best fixed plan {_spread(self.gain)} of a right "
            "answer per prompt, on the prompts that chose the guard."
        )
        low, high = self.trusted or (0.0, None)
        if low > 0 or high is not None:
            until = "" if high is None else f" up to {high:.3g}"
            lines.append(f"It is followed at values from {low:.3g}{until}; the best fixed plan serves all others.")
        if not self.trusted_waiting and any(one.second for one in self.worth):
            lines.append("Where time is priced the best fixed plan serves: there the plan did not gain.")
        lines.append("value  quality        cost           gain              best fixed plan")
        for one in self.worth:
            priced = f" at {one.second:g} a second" if one.second else ""
            lines.append(
                f"{one.value:5g}  {one.plan[0]:.3f} ({one.fixed[0]:.3f})  {one.plan[1]:5.1f} ({one.fixed[1]:5.1f})  "
                f"{_spread(one.gain)}  {one.words}{priced}"
            )
        lines.append("(values and costs in samples of the first backend; in brackets the best fixed plan's)")
        often = [(where, share) for where, share in self.stopped if share >= _OFTEN]
        ends = ", ".join(f"{where} {share:.0%}" for where, share in often)
        if len(often) < len(self.stopped):
            ends += f", other ways {1 - sum(share for _, share in often):.0%}"
        lines.append(f"Where prompts end at a value of {self.at:g}: {ends}")
        return "\n".join(lines)


def _spread(gain: Gain) -> str:
    return f"{gain.mean:+.3f} ± {1.96 * gain.error:.3f}"


def judge_plan(
    members: Sequence[Plan],
    runs: Runs,
    fold: np.ndarray,
    fixed: Sequence[Replayed],
    family: np.ndarray,
    *,
    strengths: Sequence[float] = STRENGTHS,
    settings: GuardSettings | None = None,
) -> PlanReport:
    """Choose the guard's strength, and say what the plan gains with it.

    members : plan k has forests that did not see fold k, and means of the fixed plans from the other folds.
    runs    : of the training prompts.   fold, family : (n,) of them.   fixed : the members' fixed plans on `runs`.
    """
    settings = settings or GuardSettings()
    facts = members[0].facts
    tried = [(value, 0.0) for value in VALUES] + (list(PRICED) if runs.timed else [])
    contests = [_Contest(members, runs, fold, fixed, family, *pair) for pair in tried]
    best = _Trust(None, (), False)
    most = 0.0
    for strength in strengths:
        gains = np.stack([contest.gains(strength) for contest in contests])
        trust = _trusted(strength, gains.mean(axis=1), settings.tolerance)
        gain = contests[0].of(gains[list(trust.stretch)].sum(axis=0) / len(VALUES))
        if gain.low(settings) > 0 and gain.mean > most:
            best, most = trust, gain.mean
    used = [best.strength if best.covers(i) else None for i in range(len(contests))]
    gains = np.stack([contest.gains(strength) for contest, strength in zip(contests, used, strict=True)])
    middle = best.stretch[len(best.stretch) // 2] if best.stretch else 0
    return PlanReport(
        menu=facts.menu.words,
        needs=facts.needs,
        strength=best.strength,
        trusted=best.values,
        trusted_waiting=best.waiting,
        gain=contests[0].of(gains[: len(VALUES)].mean(axis=0)),
        worth=tuple(contest.worth(strength) for contest, strength in zip(contests, used, strict=True)),
        stopped=() if best.strength is None else stopped(facts.menu, contests[middle].replayed(best.strength)),
        at=contests[middle].value,
        families=int(family.max()) + 1,
        n_prompts=len(fold),
        left_out=runs.log.left_out,
    )


@dataclass(frozen=True, slots=True)
class _Trust:
    """A strength, the stretch of VALUES at which it loses nowhere, and whether it loses nothing where time costs."""

    strength: float | None
    stretch: tuple[int, ...]
    waiting: bool

    def covers(self, contest: int) -> bool:
        """Whether the plan leaves the best fixed plan's way at a contest: those of VALUES first, then PRICED."""
        return contest in self.stretch if contest < len(VALUES) else self.waiting

    @property
    def values(self) -> tuple[float, float | None] | None:
        """The stretch as PlanFacts.trusted: from halfway to the value before it to halfway to the one after it."""
        if not self.stretch:
            return None
        first, last = self.stretch[0], self.stretch[-1]
        low = 0.0 if first == 0 else math.sqrt(VALUES[first - 1] * VALUES[first])
        high = None if last == len(VALUES) - 1 else math.sqrt(VALUES[last] * VALUES[last + 1])
        return low, high


def _trusted(strength: float, gains: np.ndarray, tolerance: float) -> _Trust:
    """The stretch of VALUES with the largest sum of gains of those at which it loses nowhere; gains : (contests,)."""
    stretches: list[tuple[int, ...]] = [()]
    for i, gain in enumerate(gains[: len(VALUES)]):
        if gain < -tolerance:
            stretches.append(())
        else:
            stretches[-1] = (*stretches[-1], i)
    best = max(stretches, key=lambda stretch: sum(gains[list(stretch)]))
    waiting = bool(best) and bool((gains[len(VALUES) :] >= -tolerance).all())
    return _Trust(strength, best, waiting)


class _Contest:
    """A plan against the best fixed plans at one objective, on each fold's runs by the member that is blind to it."""

    def __init__(
        self,
        members: Sequence[Plan],
        runs: Runs,
        fold: np.ndarray,
        fixed: Sequence[Replayed],
        family: np.ndarray,
        value: float,
        second: float,
    ) -> None:
        self.value, self.second = value, second
        self._members, self._runs, self._fold = members, runs, fold
        self._unit = members[0].facts.unit
        self._objective = Objective(value=value * self._unit, price_of_second=second * self._unit)
        self._cell = family if int(family.max()) + 1 >= FEWEST_FAMILIES else np.arange(len(fold))
        self._rows = np.flatnonzero(np.arange(len(runs)) % runs.deals < _DEALS)
        self._best = [plan.best_fixed(self._objective) for plan in members]
        at = np.array([members[0].facts.fixed.index(plan) for plan in self._best])[fold[runs.prompt]]
        self._fixed = {name: np.empty(len(self._rows)) for name in _NAMES}
        for j in np.unique(at):
            mine = at[self._rows] == j
            for name, values in self._fixed.items():
                values[mine] = getattr(fixed[j], name)[self._rows[mine]]
        self._played: dict[float, tuple[Replayed, ...]] = {}

    def replayed(self, strength: float) -> tuple[Replayed, ...]:
        """The runs under a guard: for each member the prompts that it has not seen."""
        if strength not in self._played:
            parts = []
            for k, plan in enumerate(self._members):
                rows = self._rows[self._fold[self._runs.prompt[self._rows]] == k]
                mover = ByPlan(plan, self._objective, UtilityPolicy(guard=strength), self._runs.prompt)
                parts.append(replay(self._runs, mover, rows))
            self._played[strength] = tuple(parts)
        return self._played[strength]

    def _took(self, strength: float | None) -> dict[str, np.ndarray]:
        """Quality, cost and seconds of the rows."""
        if strength is None:
            return self._fixed
        parts = self.replayed(strength)
        whose = self._fold[self._runs.prompt[self._rows]]
        return {
            name: np.stack([getattr(part, name)[self._rows] for part in parts])[whose, np.arange(len(whose))]
            for name in _NAMES
        }

    def gains(self, strength: float | None) -> np.ndarray:
        """(n,) utility / value of each prompt over the best fixed plan's."""
        took = self._took(strength)
        more = {name: took[name] - self._fixed[name] for name in _NAMES}
        gain = more["quality"] - more["cost"] / (self.value * self._unit)
        if self.second:
            gain = gain - more["seconds"] * self.second / self.value
        prompt = self._runs.prompt[self._rows]
        return np.bincount(prompt, gain) / np.bincount(prompt)

    def of(self, gains: np.ndarray) -> Gain:
        """The mean of gains (n,), with its standard error over families, or over prompts where those are few."""
        total = np.bincount(self._cell, gains - gains.mean())
        cells = len(np.unique(self._cell))
        error = float(np.sqrt((total**2).sum() * cells / max(cells - 1, 1))) / len(gains)
        return Gain(mean=float(gains.mean()), error=error)

    def worth(self, strength: float | None) -> Worth:
        """What both came to."""
        took = self._took(strength)
        words = [plan.words(self._members[0].facts.menu) for plan in self._best]
        return Worth(
            value=self.value,
            second=self.second,
            gain=self.of(self.gains(strength)),
            plan=(float(took["quality"].mean()), float(took["cost"].mean() / self._unit)),
            fixed=(float(self._fixed["quality"].mean()), float(self._fixed["cost"].mean() / self._unit)),
            words=max(dict.fromkeys(words), key=words.count),
        )


def stopped(menu: Menu, replayed: Sequence[Replayed]) -> tuple[tuple[str, float], ...]:
    """Share of the runs that ended at each place, in the order of the menu."""
    count: dict[Place, int] = {}
    for one in replayed:
        for (place, _), rows in one.ended.items():
            count[place] = count.get(place, 0) + len(rows)
    total = sum(count.values())
    ordered = [place for place in places_of(menu) if place in count]
    return tuple((_where(menu, place), count[place] / total) for place in ordered)


def _where(menu: Menu, place: Place) -> str:
    parts = [f"{leg.backend} x{k}" for leg, k in zip(menu.legs, place.drawn, strict=True) if k]
    parts += [menu.searches[place.search]] if place.search >= 0 else []
    return " + ".join(parts) or "given up"
