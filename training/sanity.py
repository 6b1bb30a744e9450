"""What a router's gain is worth once it has been tried again: without anything to learn, refitted, on other folds.

Only arithmetic: the gains per prompt come from evaluate.py, which does the fitting.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .curves import Interval, PairedMeans
from .matrix import OutcomeMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The router's gain over the best fixed arm at one lambda, under several seeds.

    gain   : its mean over the seeds; the interval is the paired bootstrap of each prompt's mean over the seeds.
    means  : of each seed. sd : their standard deviation (n - 1), None with one seed.
    ahead  : rival -> the router's utility minus the rival's, mean over the seeds; {} where the router alone was
             refitted.
    """

    price: float
    gain: Interval
    means: tuple[float, ...]
    sd: float | None
    ahead: Mapping[str, Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sanity:
    """Each a tuple with an entry per lambda; None where it was not tried, or was interrupted.

    shuffled : gain of a router fitted on outcomes dealt out to the prompts at random, where nothing can be had.
    refits   : other seeds of the fit, same folds. folds : other folds.
    """

    shuffled: tuple[tuple[float, Interval], ...] | None = None
    refits: tuple[Spread, ...] | None = None
    folds: tuple[Spread, ...] | None = None


def with_shuffled_outcomes(matrix: OutcomeMatrix, *, seed: int) -> OutcomeMatrix:
    """The table with its rows of outcomes, costs included, dealt out to the prompts at random.

    A row stays whole, so that the arms keep their means and go together as before; what it says of a prompt is gone.
    (With costs left in place there would be something to find: where an arm is dear.)
    """
    dealt = np.random.default_rng(seed).permutation(len(matrix))
    rows = ("quality", "cost", "tokens", "latency", "draws")
    return dataclasses.replace(matrix, **{name: getattr(matrix, name)[dealt] for name in rows})


def spread(
    prices: Sequence[float],
    router: Sequence[np.ndarray],
    fixed: np.ndarray,
    rivals: Mapping[str, Sequence[np.ndarray]],
    means: PairedMeans,
) -> tuple[Spread, ...]:
    """Put the utilities of several seeds together.

    router : per seed (prices, n), as judge.utilities_at. fixed : (prices, n) of the best fixed arms. rivals : by name,
    as the router's.
    """
    mine = np.stack(router)
    found = []
    for i, price in enumerate(prices):
        gains = mine[:, i] - fixed[i]
        by_seed = gains.mean(axis=1)
        found.append(
            Spread(
                price=price,
                gain=means.interval(gains.mean(axis=0)),
                means=tuple(float(x) for x in by_seed),
                sd=float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
                ahead={
                    name: means.interval((mine[:, i] - np.stack(theirs)[:, i]).mean(axis=0))
                    for name, theirs in rivals.items()
                },
            )
        )
    return tuple(found)
