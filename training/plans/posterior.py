"""Deciding by counts alone: what a run has shown, as numbers, without a look at the prompt or the samples' features.

With a sound verifier the counts are failures, and the best of all ways to go on is exact: dynamic programming over the
posterior of the chances of success. With votes the counts are those of the two leading answers, and what going on is
worth after each is looked up in the training runs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from .contest import Fold
from .outcome import Outcome

# ── a sound verifier ────────────────────────────────────────────────────────────────────────────────────────


def beta_of(successes: np.ndarray, draws: int) -> tuple[float, float]:
    """The beta prior (a, b) of chances p under which counts (n,) of `draws` samples each are likeliest.

    Found on a grid of means and of a + b, refined six times; a + b lies in [.01, 10,000].
    """
    count = np.bincount(successes.astype(int), minlength=draws + 1)
    steps = np.arange(draws)
    low, high = np.array([-7.0, math.log(0.01)]), np.array([7.0, math.log(1e4)])
    for _ in range(7):
        mean, total = np.meshgrid(*(np.linspace(a, b, 21) for a, b in zip(low, high, strict=True)), indexing="ij")
        a = np.exp(total) / (1 + np.exp(-mean))
        b = np.exp(total) - a
        up, down, all_ = (
            np.concatenate([np.zeros((1, *x.shape)), np.cumsum(np.log(x + steps[:, None, None]), axis=0)])
            for x in (a, np.maximum(b, 1e-300), a + b)
        )
        likely = np.tensordot(count, up + down[::-1], axes=1) - count.sum() * all_[-1]
        best = np.unravel_index(int(likely.argmax()), likely.shape)
        at, width = np.array([mean[best], total[best]]), (high - low) / 10
        low, high = at - width, at + width
    return float(a[best]), float(b[best])


def left_over(
    priors: Sequence[tuple[float, float]], successes: Sequence[np.ndarray], draws: Sequence[int]
) -> np.ndarray:
    """Chances that nothing has succeeded after (m_0, m_1, ...) samples of the legs, an array (k_0 + 1, k_1 + 1, ...).

    Each training prompt's chances have the posterior under its own counts and the legs' priors; the chances are means
    over the prompts, so that what one leg's failures say of another leg's chance is in them.
    """
    each = []
    for (a, b), won, k in zip(priors, successes, draws, strict=True):
        steps = np.arange(k)
        lost = k - won[:, None]
        fall = np.cumprod((b + lost + steps) / (a + b + k + steps), axis=1)
        each.append(np.concatenate([np.ones((len(won), 1)), fall], axis=1))
    n = len(each[0])
    mean = each[0]
    for x in each[1:]:
        mean = mean[..., None] * x[(slice(None), *([None] * (mean.ndim - 1)))]
    return mean.sum(axis=0) / n


def best_schedule(
    left: np.ndarray, cost: Sequence[float], prompt: Sequence[float], value: float, *, give_up: bool = False
) -> tuple[tuple[int, int], ...]:
    """The waves (leg, samples of it in all) that are best to draw until one succeeds, and then to give it up.

    left : see left_over.   cost, prompt : of a sample, and of a wave, of each leg.
    give_up : whether nothing need be drawn; else the first wave is, whatever it is worth.

    Waves are of 1, 2, 4, ... samples or of all that are left; legs are drawn in order.
    Exact for these chances: backward induction over all counts, the gain in quality times value less the cost.
    """
    shape, legs = left.shape, len(left.shape)
    worth = np.zeros(shape)
    choice: dict[tuple[int, ...], tuple[int, int]] = {}
    for at in product(*(range(k - 1, -1, -1) for k in shape)):
        last = max((i for i in range(legs) if at[i]), default=0)
        best, move = 0.0 if any(at) or give_up else -math.inf, None
        for leg in range(last, legs):
            room = shape[leg] - 1 - at[leg]
            for more in sorted({2**i for i in range(room.bit_length()) if 2**i <= room} | ({room} if room else set())):
                then = (*at[:leg], at[leg] + more, *at[leg + 1 :])
                stay = left[then] / left[at] if left[at] > 0 else 1.0
                gain = value * (1 - stay) - more * cost[leg] - prompt[leg] + stay * worth[then]
                if gain > best + 1e-12:
                    best, move = gain, (leg, at[leg] + more)
        worth[at] = best
        if move is not None:
            choice[at] = move
    waves, here = [], (0,) * legs
    while here in choice:
        leg, total = choice[here]
        waves.append((leg, total))
        here = (*here[:leg], total, *here[leg + 1 :])
    return tuple(waves)


@dataclass(frozen=True, slots=True)
class ByPosterior:
    """The posterior of the counts under a sound verifier: after every failure, draw on where that is worth its cost.

    Beta priors of each backend's chance, by maximum likelihood from the training prompts; see `left_over`, and
    `best_schedule` for the waves. No feature of a prompt or a sample is looked at.
    """

    name: str = "posterior of counts"
    kind: str = "posterior"
    quick: bool = True

    def play(self, fold: Fold, values: Sequence[float]) -> list[Outcome]:
        """See Rival."""
        log = fold.plan.runs.log
        won = [leg.draws.proven.sum(axis=1) for leg in log.legs]
        draws = [leg.draws.k for leg in log.legs]
        left = left_over([beta_of(w, k) for w, k in zip(won, draws, strict=True)], won, draws)
        cost = [float(leg.cost.mean()) for leg in log.legs]
        prompt = [float((leg.prompt_cost + leg.reading_cost).mean()) for leg in log.legs]
        played: dict[tuple[tuple[int, int], ...], Outcome] = {}
        found = []
        for value in values:
            waves = best_schedule(left, cost, prompt, float(value), give_up=log.menu.give_up)
            if waves not in played:
                played[waves] = until_proven(fold, waves)
            found.append(played[waves])
        return found


def until_proven(fold: Fold, waves: Sequence[tuple[int, int]]) -> Outcome:
    """Draw the waves (leg, samples in all) in order on the test prompts until an answer is proven."""
    t, n = len(fold.runs), len(fold.test)
    quality, cost, tokens, seconds = (np.zeros(t) for _ in range(4))
    open_ = np.ones(t, dtype=bool)
    for leg in dict.fromkeys(leg for leg, _ in waves):
        totals = [total for of, total in waves if of == leg]
        ladder = fold.ladder(leg, trained=False)
        proven = np.stack([ladder.samples.draws.proven[:, :total].any(axis=1) for total in totals], axis=1)
        stop = proven.copy()
        stop[:, -1] = True
        at = stop.argmax(axis=1)
        drawn = np.stack([ladder.quality(total) for total in totals], axis=1)[np.arange(t), at]
        quality = np.where(open_, drawn, quality)
        for total, own in zip((cost, tokens, seconds), ladder.spent(totals, at), strict=True):
            total += np.where(open_, own, 0.0)
        open_ &= ~proven.any(axis=1)
    return Outcome.of_runs(n, quality, cost, tokens, seconds)


# ── votes ───────────────────────────────────────────────────────────────────────────────────────────────────

SHRINK = 30.0
"""Runs that the mean of all counts of one leading number weighs beside a cell's own."""


@dataclass(frozen=True, slots=True)
class ByCounts:
    """The counts of the two leading answers, and what the training runs say that going on is worth after each.

    Stages are the menu's; at each, for every pair of counts, a run may stop, go on to the next stage, or be answered by
    so many samples of a later backend, by the mean utility that this had in the training runs with these counts
    (backward induction, realised returns; cells are shrunk to all runs of the same leading count). The backend and the
    stage that it begins with are chosen on the training prompts too.
    """

    name: str = "posterior of counts"
    kind: str = "posterior"
    quick: bool = False

    def play(self, fold: Fold, values: Sequence[float]) -> list[Outcome]:
        """See Rival."""
        legs = range(len(fold.data.log.menu.legs))
        tables = [(_Stages(fold, leg, trained=True), _Stages(fold, leg, trained=False)) for leg in legs]
        found = []
        for value in values:
            best: tuple[float, Outcome] | None = None
            for trained, test in tables:
                for start in range(len(trained.stages)):
                    rules = trained.rules(float(value), start)
                    utility = trained.outcome(rules, start).utility(float(value))
                    if best is None or utility > best[0]:
                        best = utility, test.outcome(rules, start)
            assert best is not None
            found.append(best[1])
        return found


class _Stages:
    """Runs of one leg at the menu's stages: the two leading counts, and what each way to end there comes to.

    ends : per stage, (ways, t) quality, cost, tokens and seconds from there on: stop, or samples of a later leg.
    """

    def __init__(self, fold: Fold, leg: int, *, trained: bool) -> None:
        menu = fold.data.log.menu
        self.stages = menu.legs[leg].stages
        ladder = fold.ladder(leg, trained=trained)
        self.n, self.t = int(ladder.runs.prompt[-1]) + 1, len(ladder)
        self.counts = ladder.votes
        rows = np.arange(self.t)
        later = []
        for other in range(leg + 1, len(menu.legs)):
            far = fold.ladder(other, trained=trained)
            later += [(far.quality(k), *far.spent((k,), np.zeros(self.t, dtype=int))) for k in menu.legs[other].stages]
        nothing = np.zeros(self.t)
        self.ends = [
            np.stack([(ladder.quality(k), nothing, nothing, nothing), *later]) for k in self.stages
        ]  # (ways, 4, t) each
        self.first = [np.stack(ladder.spent((k,), np.zeros(self.t, dtype=int))) for k in self.stages]
        self.on = []
        for before, after in zip(self.stages, self.stages[1:], strict=False):
            both = np.stack(ladder.spent((before, after), np.ones(self.t, dtype=int)))
            self.on.append(both - np.stack(ladder.spent((before,), np.zeros(self.t, dtype=int))))
        self.rows = rows

    def rules(self, value: float, start: int) -> list[np.ndarray]:
        """Per stage from `start` the way (k + 1, k + 1) taken after (first, second) votes: an end, or -1 = go on."""
        found: list[np.ndarray] = []
        going: np.ndarray | None = None
        for stage in range(len(self.stages) - 1, start - 1, -1):
            ways = self.ends[stage]
            if going is not None:
                ways = np.concatenate([ways, (going + _spent_first(self.on[stage]))[None]])
            utility = ways[:, 0] - ways[:, 1] / value
            rule = self._best(utility, stage)
            if going is not None:
                rule = np.where(rule == len(ways) - 1, -1, rule)
            going = self._taken(ways, rule, stage)
            found.append(rule)
        return found[::-1]

    def _best(self, utility: np.ndarray, stage: int) -> np.ndarray:
        """The way of the highest mean utility (ways, t) in each cell."""
        k = self.stages[stage]
        first, second = (c[:, k] for c in self.counts)
        side = k + 1
        cell, number = first * side + second, np.bincount(first * side + second, minlength=side * side)
        means = []
        for u in utility:
            of_first = np.bincount(first, u, minlength=side) / np.maximum(np.bincount(first, minlength=side), 1)
            total = np.bincount(cell, u, minlength=side * side)
            means.append((total + SHRINK * np.repeat(of_first, side)) / (number + SHRINK))
        return np.stack(means).argmax(axis=0).reshape(side, side)

    def _taken(self, ways: np.ndarray, rule: np.ndarray, stage: int) -> np.ndarray:
        """(4, t), what each run comes to from this stage on."""
        k = self.stages[stage]
        return ways[rule[self.counts[0][:, k], self.counts[1][:, k]], :, self.rows].T

    def outcome(self, rules: Sequence[np.ndarray], start: int) -> Outcome:
        """What runs come to that begin with a stage and go by the rules."""
        going: np.ndarray | None = None
        for stage in range(len(self.stages) - 1, start - 1, -1):
            ways = self.ends[stage]
            if going is not None:
                ways = np.concatenate([ways, (going + _spent_first(self.on[stage]))[None]])
            going = self._taken(ways, rules[stage - start], stage)
        assert going is not None
        quality, cost, tokens, seconds = going + _spent_first(self.first[start])
        return Outcome.of_runs(self.n, quality, cost, tokens, seconds)


def _spent_first(spent: np.ndarray) -> np.ndarray:
    """(4, t) of what a wave takes, (3, t): it adds no quality."""
    return np.concatenate([np.zeros((1, spent.shape[1])), spent])
