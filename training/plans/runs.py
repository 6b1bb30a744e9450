"""Runs that could have been: a samples log with every prompt's samples dealt in random orders, to be drawn by stages.

Learning and replay both walk over these: what a place shows (State), what an action costs and takes, and how good the
answer is that a run stops with. The orders are all that is random. Runs of one prompt weigh as one prompt.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, fields

import numpy as np

from ...router.flight import Lead, seconds_of_wave
from ...router.plan import Action, Draw, GiveUp, Hand, Place, Search, State, Stop
from .trajectories import SampleLog, Samples

_CHUNK = 4096  # runs whose samples are looked at at a time


@dataclass(frozen=True, slots=True, eq=False)
class Spent:
    """What an action took, (t,) each: cost, tokens (completion and verifier), seconds (NaN = never timed)."""

    cost: np.ndarray
    tokens: np.ndarray
    seconds: np.ndarray


class Runs:
    """t = n prompts x deals runs, those of one prompt side by side.

    log     : the samples.   prompt : (t,) row of the log.   features : (t, p), familiar : (t,), of each run's prompt.
    seconds : per leg (a, b, c): a wave takes a + b * longest sample's tokens + c * all its tokens; None = not timed.
    """

    def __init__(
        self,
        log: SampleLog,
        features: np.ndarray,
        familiar: np.ndarray,
        *,
        deals: int,
        seed: int,
        seconds: tuple[tuple[float, float, float] | None, ...],
    ) -> None:
        """Deal every prompt's samples `deals` times.

        features : (n, p), familiar : (n,), one row per prompt.
        """
        rng = np.random.default_rng(seed)
        self.log, self.deals, self.seconds = log, deals, seconds
        self.prompt = np.repeat(np.arange(len(log)), deals)
        self.features, self.familiar = features[self.prompt], familiar[self.prompt]
        self._legs: list[Samples] = []
        for leg in log.legs:
            k = leg.draws.k
            order = rng.random((len(self.prompt), k)).argsort(axis=1)
            self._legs.append(leg[self.prompt].ordered(order))
        self._hands: dict[tuple[int, int], Hand] = {}
        timed = [run.seconds[~np.isnan(run.seconds)] for run in log.searches]
        self._search_seconds = [float(seconds.mean()) if len(seconds) else np.nan for seconds in timed]

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def timed(self) -> bool:
        """Whether the seconds of everything are known."""
        return None not in self.seconds and not np.isnan(self._search_seconds).any()

    def leg(self, leg: int) -> Samples:
        """The samples of a leg as they were dealt, (t, k)."""
        return self._legs[leg]

    def first_leg(self) -> "Runs":
        """The same runs where there is the first leg alone."""
        same = copy(self)
        same.log, same.seconds, same._legs = self.log.first_leg(), self.seconds[:1], self._legs[:1]
        same._hands = {}
        return same

    def seen_as(self, features: np.ndarray, familiar: np.ndarray) -> "Runs":
        """The same runs of prompts of which something else is said: features (n, p), familiar (n,)."""
        same = copy(self)
        same.features, same.familiar = features[self.prompt], familiar[self.prompt]
        return same

    def hand(self, leg: int, k: int) -> Hand:
        """What the first k samples of a leg have shown, for all runs."""
        if (leg, k) not in self._hands:
            draws = self._legs[leg].draws.first(k)
            # Every sample is held against every other: a few thousand runs at a time keep that small.
            parts = [Hand.of(draws[at : at + _CHUNK]) for at in range(0, len(self), _CHUNK)]
            self._hands[leg, k] = parts[0] if len(parts) == 1 else _joined(parts)
        return self._hands[leg, k]

    def state(self, place: Place, rows: np.ndarray, spent: np.ndarray, elapsed: np.ndarray) -> State:
        """The state of some runs at a place; spent and elapsed are theirs."""
        return State(
            place=place,
            prompt=self.features[rows],
            familiar=self.familiar[rows],
            hands=tuple(self.hand(i, k)[rows] if k else None for i, k in enumerate(place.drawn)),
            found=None if place.search < 0 else self.log.searches[place.search].label[self.prompt[rows]],
            spent=spent,
            elapsed=elapsed,
        )

    def take(self, place: Place, action: Action, rows: np.ndarray) -> Spent:
        """What an action takes in some runs; an end takes nothing."""
        if isinstance(action, Draw):
            leg, start = self._legs[action.leg], place.drawn[action.leg]
            wave = slice(start, action.total)
            own = leg.draws.tokens[rows, wave]
            judged = leg.draws.complete[rows, wave].any(axis=1)
            return Spent(
                leg.cost[rows, wave].sum(axis=1) + leg.prompt_cost[rows] + judged * leg.reading_cost[rows],
                leg.tokens[rows, wave].sum(axis=1) + judged * leg.prompt_tokens[rows],
                seconds_of_wave(self.seconds[action.leg], own),
            )
        if isinstance(action, Search):
            run, at = self.log.searches[action.search], self.prompt[rows]
            return Spent(run.cost[at], run.tokens[at], np.full(len(rows), self._search_seconds[action.search]))
        nothing = np.zeros(len(rows))
        return Spent(nothing, nothing, nothing)

    def quality(self, place: Place, action: Action, rows: np.ndarray) -> np.ndarray:
        """How good the answer is that a run ends with."""
        if isinstance(action, Stop):
            if action.search >= 0:
                return self.log.searches[action.search].quality[self.prompt[rows]]
            index = self.hand(action.leg, place.drawn[action.leg]).lead.index[rows]
            return self._legs[action.leg].quality[rows, index]
        if isinstance(action, GiveUp):
            return np.zeros(len(rows))
        raise ValueError(f"{action} is not an end")


def _joined(parts: Sequence[Hand]) -> Hand:
    """Hands of some runs after hands of others."""
    lead = Lead(*(np.concatenate([getattr(part.lead, f.name) for part in parts]) for f in fields(Lead)))
    return Hand(
        lead=lead,
        features=np.concatenate([part.features for part in parts]),
        proven=np.concatenate([part.proven for part in parts]),
    )
