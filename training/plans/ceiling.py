"""The ceiling for plans with a sound verifier: what could be had by one who knows how often each prompt succeeds.

With a sound verifier a request is done once a sample is proven, and all that is left to decide is whether the next
samples are worth their price. For a known chance of success p that has a simple answer. One sample at a time, each at
cost c and worth v if it succeeds, the best of all ways draws until success where p v > c, and never where not:

    V = (p v - c) (1 - (1 - p)^K) / p        with K samples in the log

With several backends it is: draw from the first until success or up to k samples, then from the next; with prompts that
are paid once per wave: in waves. `best_ways` finds the best of all these by dynamic programming from the last sample
backwards, for any chances that hold as long as nothing has succeeded.

A log does not tell p, only how often some samples succeeded. The ceiling is therefore paid on the same runs as all
others, in the same order, and is told how many of each run's LAST half of samples succeeded: it estimates p on those
and is paid on the others first. What it holds for p is the mean of the posterior under a beta prior that was fitted to
the log, and falls with every failure. Only where more than half of the samples are drawn is it paid on what it has
seen, which makes it too good there rather than not good enough. Time is not priced, and searches are not run.

There is no ceiling for votes: which answer many samples lead to is not what is right, and what is right is known to
none of them; one who knew the right answer would stop at its first sample, and that is this ceiling.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...router.plan import Action, Draw, GiveUp, Menu, State, Stop
from ...strategies.errors import ConfigError
from .contest import Fold
from .outcome import Outcome
from .replay import Moves, replay
from .runs import Runs

STOP = 0

GROUPS = 6
"""Runs are grouped by how many samples of the first leg succeed: what is hard for it is hard for later legs too, so
that each group has a prior of its own for them."""


@dataclass(frozen=True, slots=True, eq=False)
class Ways:
    """The best way on for each of n prompts, whatever has been drawn, as long as nothing is proven.

    legs  : per leg (n, k + 1): after so many samples of it, STOP, or the number of samples to draw up to, or -(i + 1) =
    go to leg i.   first : (n,) the leg to begin with, -1 = give up.   entry : (n, legs) samples to draw first in a leg.
    worth : (n,) expected utility, quality times value less cost, from the start.
    """

    legs: tuple[np.ndarray, ...]
    first: np.ndarray
    entry: np.ndarray
    worth: np.ndarray


def best_ways(
    chances: Sequence[np.ndarray],
    each: Sequence[np.ndarray],
    prompt: Sequence[np.ndarray],
    value: float,
    *,
    stages: Sequence[Sequence[int]] | None = None,
    give_up: bool = False,
) -> Ways:
    """Find the best way to draw, for known chances of success.

    chances : per leg (n, k): of sample j + 1, after j failures of that leg.   each, prompt : per leg (n,), cost of a
    sample and of a wave's prompt.   value : of success.   stages : per leg, numbers of samples at which it may be asked
    what is next; None = at any.   give_up : whether nothing need be drawn.
    """
    n = len(chances[0])
    on, entry, enters = np.full(n, -np.inf), np.zeros((n, len(chances)), dtype=int), np.zeros(n, dtype=int)
    legs: list[np.ndarray] = []
    for i in reversed(range(len(chances))):
        k = chances[i].shape[1]
        asked = range(1, k + 1) if stages is None else [s for s in stages[i] if s <= k]
        survive = np.concatenate(
            [np.zeros((n, 1)), np.log1p(-np.minimum(chances[i], 1 - 1e-12)).cumsum(axis=1)], axis=1
        )
        worth, way = np.full((n, k + 1), np.nan), np.zeros((n, k + 1), dtype=int)
        for j in [*reversed(asked), 0]:
            best = np.full(n, -np.inf) if j == 0 else np.zeros(n)
            if j:
                better = on > best
                best, way[better, j] = np.where(better, on, best), -(enters[better] + 1)
            for total in asked:
                if total > j:
                    fails = np.exp(survive[:, total] - survive[:, j])
                    got = value * (1 - fails) - prompt[i] - each[i] * (total - j) + fails * worth[:, total]
                    better = got > best
                    best, way[better, j] = np.where(better, got, best), total
            worth[:, j] = best
        entry[:, i] = way[:, 0]
        here = worth[:, 0] > on
        on, enters = np.where(here, worth[:, 0], on), np.where(here, i, enters)
        legs.append(way)
    gone = give_up & (on < 0)
    return Ways(tuple(reversed(legs)), np.where(gone, -1, enters), entry, np.where(gone, 0.0, on))


# ── chances from a log ──────────────────────────────────────────────────────────────────────────────────────


def beta_prior(successes: np.ndarray, draws: int) -> tuple[float, float]:
    """(a, b) of the beta distribution of p whose counts of `successes` (n,) among `draws` have the mean and variance
    that were seen (beta-binomial, by moments).
    """
    mean = float(np.clip(successes.mean() / draws, 1e-3, 1 - 1e-3))
    apart = float(successes.var()) / (draws * mean * (1 - mean))  # 1 + (draws - 1) rho
    rho = np.clip((apart - 1) / max(draws - 1, 1), 1e-3, 1 - 1e-3)
    size = 1 / rho - 1
    return mean * size, (1 - mean) * size


def chances_of(successes: np.ndarray, draws: int, prior: tuple[float, float], k: int) -> np.ndarray:
    """(n, k): of success at sample j + 1 after j failures, where `successes` (n,) of `draws` others succeeded."""
    a, b = prior
    return (a + successes[:, None]) / (a + b + draws + np.arange(k))


@dataclass(frozen=True, slots=True, eq=False)
class ByCeiling:
    """Moves by the best ways, a row per run."""

    menu: Menu
    ways: Ways

    @classmethod
    def of(cls, runs: Runs, value: float, *, stages: Sequence[Sequence[int]] | None = None) -> "ByCeiling":
        """Tell every run how many of the last half of its samples succeed; value : of success, in units of cost.

        Raises ConfigError where a leg has fewer than two samples: there is no half to estimate on.
        """
        chances, each, prompt = [], [], []
        alike = np.zeros(len(runs), dtype=int)
        for i, leg in enumerate(runs.log.menu.legs):
            dealt = runs.leg(i)
            k = dealt.draws.k
            if k < 2:
                raise ConfigError(f"ceiling: {leg.backend!r} has {k} sample per prompt; two or more are needed")
            told = dealt.draws.proven[:, k - k // 2 :].sum(axis=1)
            successes, own = dealt.draws.proven.sum(axis=1), np.empty((len(runs), k))
            for group in np.unique(alike):
                mine = alike == group
                own[mine] = chances_of(told[mine], k // 2, beta_prior(successes[mine], k), k)
            chances.append(own)
            if i == 0:
                alike = np.digitize(told, np.unique(np.quantile(told, np.arange(1, GROUPS) / GROUPS)))
            each.append(runs.log.legs[i].cost.mean(axis=1)[runs.prompt])
            prompt.append(dealt.prompt_cost)
        menu = runs.log.menu
        return cls(menu, best_ways(chances, each, prompt, value, stages=stages, give_up=menu.give_up))

    def moves(self, state: State, rows: np.ndarray) -> Moves:
        """See Mover."""
        leg, ways = state.place.leg, self.ways
        if leg < 0:
            codes = np.where(ways.first[rows] < 0, STOP, -(ways.first[rows] + 1))
        else:
            hand = state.hands[leg]
            codes = ways.legs[leg][rows, state.place.drawn[leg]]
            codes = codes if hand is None else np.where(hand.proven, STOP, codes)
        found: Moves = []
        for code in np.unique(codes):
            mine = codes == code
            if code == STOP:
                found.append((mine, Stop(leg=leg) if leg >= 0 else GiveUp()))
            elif code > 0:
                found.append((mine, Draw(leg, int(code))))
            else:
                found += self._into(-int(code) - 1, mine, rows)
        return found

    def _into(self, leg: int, mine: np.ndarray, rows: np.ndarray) -> list[tuple[np.ndarray, Action]]:
        totals = self.ways.entry[rows, leg]
        return [(mine & (totals == t), Draw(leg, int(t))) for t in np.unique(totals[mine])]


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The ceiling as a rival of plans; `as_menu` = asked only after the menu's stages, as plans are."""

    as_menu: bool = False
    kind: str = "ceiling"
    quick: bool = False

    @property
    def name(self) -> str:
        """In tables."""
        return "ceiling, at the menu's stages" if self.as_menu else "ceiling"

    def play(self, fold: Fold, values: Sequence[float]) -> list[Outcome]:
        """What it comes to on the test prompts, at each value."""
        stages = [leg.stages for leg in fold.runs.log.menu.legs] if self.as_menu else None
        return [Outcome.of(replay(fold.runs, ByCeiling.of(fold.runs, float(value), stages=stages))) for value in values]
