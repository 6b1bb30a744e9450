"""Everything that a plan must beat, on the same runs and tuned on the same training prompts.

A rival plays a fold: for each value of a correct answer it says what it came to on the fold's own prompts, having
looked at the training prompts alone. Most are FAMILIES: many candidates without a thought for the prompt, of which at
each value the one is played that had the highest mean utility on the training prompts.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from ...router.flight import seconds_of_wave
from ...router.objective import Objective
from ...router.plan import FixedPlan
from ...strategies.stopping import stays_ahead
from .contest import Fold, PlanData
from .fit_plan import SETTLED, FittedPlan
from .ladders import Ladder, totals_of
from .outcome import Outcome
from .posterior import ByCounts, ByPosterior
from .replay import ByPlan, replay


class Rival(Protocol):
    """An entrant of a contest.

    kind  : "plan", "fixed", "rule", "cap", "posterior", "cascade", "prompt", "arm", "ablation", "ceiling", or
            "waiting": a plan at another objective.
    quick : whether it may be asked for many values.
    """

    @property
    def name(self) -> str:
        """For tables."""
        ...

    @property
    def kind(self) -> str:
        """What it is."""
        ...

    @property
    def quick(self) -> bool:
        """How often it may be asked."""
        ...

    def play(self, fold: Fold, values: Sequence[float]) -> list[Outcome]:
        """What it comes to on the fold's test prompts at each value of a correct answer, in the log's currency."""
        ...


# ── plans, and routers that look at the prompt alone ────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Learned:
    """A learned plan.

    fit    : learns it from a fold's training prompts; None = the fold's own.
    second : price of a second, in mean costs of one sample of the first leg.
    """

    name: str = "plan"
    kind: str = "plan"
    fit: Callable[[Fold], FittedPlan] | None = None
    second: float = 0.0
    quick: bool = False

    def play(self, fold: Fold, values: Sequence[float]) -> list[Outcome]:
        """See Rival."""
        fitted = fold.plan if self.fit is None else self.fit(fold)
        found = []
        for value in values:
            objective = Objective(value=float(value), price_of_second=self.second * fold.data.unit)
            mover = ByPlan(fitted.plan, objective, fitted.policy, fold.runs.prompt)
            found.append(Outcome.of(replay(fold.runs, mover)))
        return found


@dataclass(frozen=True, slots=True)
class PromptOnly:
    """The router without plans: it chooses an arm from the prompt alone, and runs it to its end.

    Where the menu allows to give up, so may it: where no arm is worth its cost.
    """

    name: str = "prompt-only routing"
    kind: str = "prompt"
    quick: bool = True

    def play(self, fold: Fold, values: Sequence[float]) -> list[Outcome]:
        """See Rival."""
        arms = [fold.played(fold.data.arms[a]) for a in fold.estimates.arms]
        stacked = [np.stack([getattr(o, n) for o in arms]) for n in ("quality", "cost", "tokens", "seconds")]
        rows, found = np.arange(len(fold.test)), []
        for value in values:
            objective = Objective(value=float(value), on_infeasible="fallback")
            chosen = fold.fitted.policy.choose(fold.estimates, objective)
            came = [x[chosen.index, rows] for x in stacked]
            if (
                fold.data.log.menu.give_up
            ):  # no arm of a router gives up; one that may does where none is worth its cost
                worth = chosen.utilities[rows, chosen.index] > 0
                came = [np.where(worth if x.ndim == 1 else worth[:, None], x, 0.0) for x in came]
            found.append(Outcome(*came))
        return found


# ── families of candidates ──────────────────────────────────────────────────────────────────────────────────


class Candidate(Protocol):
    """A way to answer that knows neither prompt nor value."""

    def on(self, fold: Fold, *, trained: bool) -> Outcome:
        """What it comes to on the fold's training prompts, or on its test prompts."""
        ...


@dataclass(frozen=True, slots=True)
class Family:
    """Candidates, of which the best on the training prompts is played at each value."""

    name: str
    kind: str
    candidates: tuple[Candidate, ...]
    quick: bool = True

    def play(self, fold: Fold, values: Sequence[float]) -> list[Outcome]:
        """See Rival."""
        trained = [c.on(fold, trained=True) for c in self.candidates]
        quality, cost = (np.array([getattr(o, name).mean() for o in trained]) for name in ("quality", "cost"))
        played: dict[int, Outcome] = {}
        found = []
        for value in values:
            best = int(np.argmax(quality - cost / value))
            if best not in played:
                played[best] = self.candidates[best].on(fold, trained=False)
            found.append(played[best])
        return found


@dataclass(frozen=True, slots=True)
class Fixed:
    """A fixed plan as a candidate."""

    plan: FixedPlan

    def on(self, fold: Fold, *, trained: bool) -> Outcome:
        """See Candidate."""
        return fold.trained[self.plan] if trained else fold.played(self.plan)


GIVING_UP = FixedPlan()
"""What a menu allows to plans it allows to all: it is among the fixed plans where the menu has it."""


@dataclass(frozen=True, slots=True)
class OfFixed:
    """Those of the plan's own list of fixed plans that some condition picks out, as a family."""

    name: str
    kind: str
    wanted: Callable[[FixedPlan], bool] = lambda plan: True
    quick: bool = True

    def play(self, fold: Fold, values: Sequence[float]) -> list[Outcome]:
        """See Rival."""
        some = tuple(Fixed(p) for p in fold.trained if p == GIVING_UP or self.wanted(p))
        return Family(self.name, self.kind, some).play(fold, values)


# ── rules that stop ─────────────────────────────────────────────────────────────────────────────────────────


class Rule(Protocol):
    """Says of t runs whether they are settled: the array form of a StopRule of strategies.stopping."""

    def settled(self, ladder: Ladder, drawn: int, most: int) -> np.ndarray:
        """(t,) bool, after `drawn` samples of at most `most`."""
        ...


@dataclass(frozen=True, slots=True)
class BetaVotes:
    """As strategies.stopping.Beta."""

    threshold: float = 0.95

    def settled(self, ladder: Ladder, drawn: int, most: int) -> np.ndarray:
        """See Rule."""
        first, second = ladder.votes
        return _ahead(ladder.k, self.threshold)[first[:, drawn], second[:, drawn]]


@lru_cache(maxsize=32)
def _ahead(most: int, threshold: float) -> np.ndarray:
    """(most + 1, most + 1): whether v1 votes stay ahead of v2; nobody has none."""
    return np.array(
        [[a > 0 and stays_ahead(a, b, threshold) for b in range(most + 1)] for a in range(most + 1)], dtype=bool
    )


@dataclass(frozen=True, slots=True)
class Unanimous:
    """As strategies.stopping.ESC."""

    window: int = 5

    def settled(self, ladder: Ladder, drawn: int, most: int) -> np.ndarray:
        """See Rule."""
        last = ladder.samples.draws.label[:, max(drawn - self.window, 0) : drawn]
        if last.shape[1] < self.window:
            return np.zeros(len(last), dtype=bool)
        return (last == last[:, :1]).all(axis=1) & (last[:, 0] >= 0)


@dataclass(frozen=True, slots=True)
class Decided:
    """As strategies.stopping.Exact, votes of weight 1."""

    def settled(self, ladder: Ladder, drawn: int, most: int) -> np.ndarray:
        """See Rule."""
        first, second = ladder.votes
        return first[:, drawn] - second[:, drawn] > most - drawn


@dataclass(frozen=True, slots=True)
class AcceptedBy:
    """As strategies.stopping.Accepted."""

    threshold: float = 1.0

    def settled(self, ladder: Ladder, drawn: int, most: int) -> np.ndarray:
        """See Rule."""
        draws = ladder.samples.draws
        accepted = draws.complete[:, :drawn] & (np.nan_to_num(draws.score[:, :drawn]) >= self.threshold)
        return np.any(accepted, axis=1)


@dataclass(frozen=True, slots=True)
class InWaves:
    """Draw a leg in waves until a rule says so, at most so many."""

    leg: int
    most: int
    rule: Rule
    wave: int = 4
    doubling: bool = False

    def on(self, fold: Fold, *, trained: bool) -> Outcome:
        """See Candidate."""
        ladder = fold.ladder(self.leg, trained=trained)
        return ladder.until(self.totals, self.settled(ladder))

    @property
    def totals(self) -> tuple[int, ...]:
        """Samples after each wave."""
        return totals_of(self.wave, self.most, doubling=self.doubling)

    def settled(self, ladder: Ladder) -> np.ndarray:
        """(t, waves)."""
        return np.stack([self.rule.settled(ladder, total, self.most) for total in self.totals], axis=1)


@dataclass(frozen=True, slots=True)
class Confident:
    """Votes of the most confident samples, weighed by confidence; stop once they agree.

        threshold = the confidence that the share `keep` of the first `warm` samples reaches

    Samples below it neither vote nor count. Further samples are drawn four at a time until the leading answer has .95
    of the weight. With warm = most it is DeepConf offline, which draws all. Online DeepConf also breaks a sample off
    where its confidence falls below the threshold; a log holds whole samples, so they are paid whole here.
    Source: Fu et al. 2025, "Deep Think with Confidence" (2508.15260), sections 3.1 and 3.2.
    """

    leg: int
    most: int
    keep: float
    warm: int

    def on(self, fold: Fold, *, trained: bool) -> Outcome:
        """See Candidate."""
        ladder = fold.ladder(self.leg, trained=trained)
        draws = ladder.samples.draws
        sure = np.where(draws.label >= 0, np.nan_to_num(draws.confidence[:, : draws.k], nan=0.0), 0.0)
        ranked = np.sort(sure[:, : self.warm], axis=1)[:, ::-1]
        threshold = ranked[:, max(math.ceil(self.keep * self.warm), 1) - 1]
        weight = np.where(sure >= threshold[:, None], sure, 0.0)
        totals = (self.warm, *range(self.warm + 4, self.most + 1, 4)) if self.warm < self.most else (self.most,)
        chosen, agreed = zip(*(self._elect(draws.label[:, :m], weight[:, :m]) for m in totals), strict=True)
        settled = np.stack(agreed, axis=1)
        settled[:, -1] = True
        at, rows = settled.argmax(axis=1), np.arange(len(ladder))
        quality = ladder.samples.quality[rows, np.stack(chosen, axis=1)[rows, at]]
        return Outcome.of_runs(int(ladder.runs.prompt[-1]) + 1, quality, *ladder.spent(totals, at))

    @staticmethod
    def _elect(label: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Place of the sample that is the answer (t,), and whether its answer has .95 of the weight."""
        same = (label[:, :, None] == label[:, None, :]) & (label >= 0)[:, :, None]
        votes = np.where(same, weight[:, None, :], 0.0).sum(axis=2)
        best = votes.argmax(axis=1)
        top, every = votes[np.arange(len(best)), best], weight.sum(axis=1)
        return best, (top > 0) & (top >= 0.95 * every * (1 - 1e-12))


# ── who enters ──────────────────────────────────────────────────────────────────────────────────────────────

CAP_SCORES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
"""Scores at which a verifier that proves nothing may be taken to accept."""

WAVES = ((1, False), (2, False), (4, False), (1, True), (2, True), (4, True))
"""Sizes of waves, and whether they double, that a cap is tuned over."""


def standard_rivals(data: PlanData) -> tuple[Rival, ...]:
    """Everything that makes sense on a log: with a verifier, or with votes alone.

    Where everything was timed there is a plan for which waiting has a price too: the time of one sample costs one
    sample.
    """
    menu, legs = data.log.menu, range(len(data.log.menu.legs))
    every = [(i, k) for i in legs for k in menu.legs[i].stages]
    several = [(i, k) for i, k in every if k > 1] or every
    none: tuple[Candidate, ...] = (Fixed(GIVING_UP),) if menu.give_up else ()

    def ruled(rule: Rule, wave: int, *, doubling: bool = False) -> tuple[Candidate, ...]:
        return (*(InWaves(i, k, rule, min(wave, k), doubling) for i, k in every), *none)

    found: list[Rival] = [
        Learned(),
        OfFixed("fixed samples", "fixed", lambda p: p.search >= 0 or (len(p.legs) == 1 and len(p.legs[0][1]) == 1)),
        PromptOnly(),
    ]
    if menu.verifier is not None:
        scores = (1.0,) if data.sound else (*CAP_SCORES, 1.0)
        cap = tuple(
            InWaves(i, k, AcceptedBy(score), min(wave, k), doubling)
            for i, k in every for wave, doubling in WAVES for score in scores
        )  # fmt: skip
        found.append(Family("tuned early-stop cap", "cap", (*dict.fromkeys(cap), *none)))
    if not data.sound:
        tuned = tuple(
            InWaves(i, k, BetaVotes(threshold), min(wave, k), doubling)
            for i, k in every for wave, doubling in WAVES for threshold in SETTLED
        )  # fmt: skip
        found += [
            Family("Beta .95, waves of 4", "rule", ruled(BetaVotes(), 4)),
            Family("Beta .95, doubling", "rule", ruled(BetaVotes(), 4, doubling=True)),
            Family("ESC-5", "rule", ruled(Unanimous(5), 5)),
            Family("exact, waves of 4", "rule", ruled(Decided(), 4)),
            Family("votes, every setting tuned", "cap", (*dict.fromkeys(tuned), *none)),
        ]
        known = [not np.isnan(leg.draws.confidence).all() for leg in data.log.legs]
        offline = tuple(Confident(i, k, keep, k) for i, k in several if known[i] for keep in (0.1, 0.9))
        online = tuple(Confident(i, k, keep, k // 2) for i, k in several if known[i] and k >= 16 for keep in (0.1, 0.9))
        if offline:
            found.append(Family("DeepConf offline", "rule", (*offline, *none)))
        if online:
            found.append(Family("DeepConf online", "rule", (*online, *none)))
    found.append(ByPosterior() if data.sound else ByCounts())
    if len(legs) > 1:
        found.append(OfFixed("best static cascade", "cascade"))
    found += [Family(name, "arm", (Fixed(plan),)) for name, plan in data.arms.items()]
    shape = data.seconds[0]
    searched = all(not np.isnan(run.seconds).all() for run in data.log.searches)
    if shape is not None and searched and all(s is not None for s in data.seconds):
        tokens = data.log.legs[0].draws.tokens[:, :1]
        second = 1.0 / max(float(seconds_of_wave(shape, tokens).mean()), 1e-9)
        found.append(Learned("plan, waiting priced", "waiting", second=second))
    return tuple(found)
