"""The samples of one leg as a ladder: drawn wave by wave, in the order dealt, until something says to stop.

What rules by count, votes and verifiers come to on a samples log is read off here, for all runs at once.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ...router.flight import lead_of, seconds_of_wave
from .outcome import Outcome
from .runs import Runs


def totals_of(wave: int, most: int, *, doubling: bool = False) -> tuple[int, ...]:
    """Samples drawn after each wave, as the stop rules of strategies.stopping draw them: at most `most`.

    >>> totals_of(4, 10), totals_of(4, 32, doubling=True)
    ((4, 8, 10), (4, 8, 16, 32))
    """
    drawn = [min(wave, most)]
    while drawn[-1] < most:
        drawn.append(min(2 * drawn[-1] if doubling else drawn[-1] + wave, most))
    return tuple(drawn)


class Ladder:
    """The samples of a leg in t runs."""

    def __init__(self, runs: Runs, leg: int) -> None:
        self.runs, self.leg = runs, leg
        self.samples = runs.leg(leg)
        self._quality: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def k(self) -> int:
        """Samples of each run."""
        return self.samples.draws.k

    def quality(self, drawn: int) -> np.ndarray:
        """(t,), of the answer in hand after so many samples."""
        if drawn not in self._quality:
            index = lead_of(self.samples.draws.first(drawn)).index
            self._quality[drawn] = self.samples.quality[np.arange(len(self)), index]
        return self._quality[drawn]

    @cached_property
    def votes(self) -> tuple[np.ndarray, np.ndarray]:
        """Votes (t, k + 1) of the answer that has most after 0, 1, ... samples, and of the one that has second most."""
        label = self.samples.draws.label
        t, k = label.shape
        given = label >= 0
        same = (label[:, :, None] == label[:, None, :]) & given[:, :, None]
        count = same.cumsum(axis=2, dtype=np.int16)
        first, second = np.zeros((t, k + 1), dtype=int), np.zeros((t, k + 1), dtype=int)
        rows = np.arange(t)
        for m in range(1, k + 1):
            votes = count[:, :m, m - 1]
            best = votes.argmax(axis=1)
            first[:, m] = votes[rows, best]
            second[:, m] = np.where(same[rows, best, :m], 0, votes).max(axis=1)
        return first, second

    @cached_property
    def _spent(self) -> tuple[np.ndarray, np.ndarray]:
        """Cost and tokens (t, k + 1) of the first 0, 1, ... samples, without what each wave adds."""
        nothing = np.zeros((len(self), 1))
        cost, tokens = (np.cumsum(x, axis=1) for x in (self.samples.cost, self.samples.tokens))
        return np.hstack([nothing, cost]), np.hstack([nothing, tokens])

    def spent(self, totals: Sequence[int], at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cost, tokens and seconds (t,) of the waves up to wave number `at` (t,), in 0..len(totals) - 1."""
        rows, drawn = np.arange(len(self)), np.asarray(totals)[at]
        cost, tokens = self._spent
        seconds, read = np.zeros((len(self), len(totals))), np.zeros((len(self), len(totals)))
        shape, start = self.runs.seconds[self.leg], 0
        for w, total in enumerate(totals):
            seconds[:, w] = seconds_of_wave(shape, self.samples.draws.tokens[:, start:total])
            read[:, w] = self.samples.draws.complete[:, start:total].any(axis=1)
            start = total
        times = read.cumsum(axis=1)[rows, at]
        return (
            cost[rows, drawn] + (at + 1) * self.samples.prompt_cost + times * self.samples.reading_cost,
            tokens[rows, drawn] + times * self.samples.prompt_tokens,
            seconds.cumsum(axis=1)[rows, at],
        )

    def until(self, totals: Sequence[int], settled: np.ndarray) -> Outcome:
        """What drawing to each of the totals comes to, if each run stops at the first at which it is settled (t, w)."""
        at = _first(settled)
        quality = np.stack([self.quality(total) for total in totals], axis=1)[np.arange(len(self)), at]
        return Outcome.of_runs(int(self.runs.prompt[-1]) + 1, quality, *self.spent(totals, at))

    def drawn(self, totals: Sequence[int], settled: np.ndarray) -> np.ndarray:
        """(t,), samples that each run has drawn when it stops."""
        return np.asarray(totals)[_first(settled)]


def _first(settled: np.ndarray) -> np.ndarray:
    """(t,), the first wave at which each run stops; it does at the last in any case."""
    stop = settled.copy()
    stop[:, -1] = True
    return stop.argmax(axis=1)
