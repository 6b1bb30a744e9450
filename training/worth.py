"""Whether a router is worth having, in plain words.

One sentence per split and price of compute; a router that gains nothing is told so, and families too few to judge by
are never taken for a pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .curves import Interval, simultaneous
from .judge import AtPrice, Evaluation
from .printing import bracket

FEW_FAMILIES = 8
"""With fewer families than this a bootstrap over families says too little."""

SAFE = 0.01
"""Loss of utility against the best fixed arm, in units of quality, that does no harm on families never seen."""


LITTLE = 0.005
"""Gain in units of quality below which a router is hardly worth its upkeep, however sure the gain is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """worth : True = worth having, False = not, None = can't be said. short, sentence : the same for people."""

    worth: bool | None
    short: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One comparison with the best fixed arm, among the several that are read together.

    together : the interval that holds for all of them at once. worth : the verdict by that interval.
    """

    table: str
    split: str
    price: float
    best_arm: str
    gain: Interval
    together: Interval
    worth: Worth


def worth_having(e: Evaluation, p: AtPrice, gain: Interval | None = None) -> Worth:
    """Judge the router at one price by its gain over the best fixed arm; `gain` in the place of its own interval."""
    gain = gain or p.router.gain
    figure = bracket(gain, sign=True)
    best = p.best_arm
    if e.split == "group" and e.n_families < FEW_FAMILIES:
        few = f"too few families (n = {e.n_families} < {FEW_FAMILIES}) to say"
        return Worth(worth=None, short=few, sentence=f"{few}: {figure}")
    if gain.low > 0:
        told = f"worth having: {figure} over the best fixed arm {best}{_simpler(p)}"
        if gain.mean < LITTLE:
            return Worth(worth=False, short=f"hardly: less than {LITTLE:g}", sentence=f"hardly {told}")
        return Worth(worth=True, short="yes", sentence=told)
    if gain.high < 0:
        told = f"not worth having: it LOSES to the best fixed arm {best} ({figure})"
        return Worth(worth=False, short=f"no, it LOSES to {best}", sentence=told)
    if e.split == "group" and gain.low > -SAFE:
        told = f"safe, without a gain: the best fixed arm {best} does as well ({figure})"
        return Worth(worth=False, short=f"safe, {best} does as well", sentence=told)
    if e.split == "group":
        told = (
            f"not shown to be safe: it may lose more than {SAFE:g} to the best fixed arm {best} ({figure}); over the "
            f"arm that was best on the training prompts {bracket(p.over_fallback, sign=True)}"
        )
        return Worth(worth=False, short="not shown to be safe", sentence=told)
    told = f"not worth having: the best fixed arm {best} does as well ({figure})"
    return Worth(worth=False, short=f"no, {best} does as well", sentence=told)


def _simpler(p: AtPrice) -> str:
    """The best of the learned baselines, where the router is not surely ahead of it."""
    rival = max((s for s in p.standings if s.kind == "baseline"), key=lambda s: s.gain.mean, default=None)
    if rival is None or rival.ahead.low > 0:
        return ""
    if rival.ahead.high < 0:
        return f"; but {rival.name!r}, which is simpler, does better by {bracket(_negated(rival.ahead))}"
    return f"; {rival.name!r}, which is simpler, does about as well ({bracket(rival.gain, sign=True)})"


def summary(tables: Sequence[tuple[str, Sequence[Evaluation]]]) -> tuple[Line, ...]:
    """Every comparison of the router with the best fixed arm, of several tables, splits and prices read together.

    The simultaneous intervals take different evaluations for independent; those of one share their draws.
    """
    found = [(table, e, p) for table, evaluations in tables for e in evaluations for p in e.prices]
    if not found:
        return ()
    draws = min(len(p.drawn) for _, _, p in found)
    # Evaluations of one seed resample their prompts by the same numbers: turned by an offset of their own, they don't.
    places = {key: i for i, key in enumerate(dict.fromkeys(id(e) for _, e, _ in found))}
    drawn = np.stack([np.roll(p.drawn[:draws], 101 * places[id(e)]) for _, e, p in found], axis=1)
    together = simultaneous(np.array([p.router.gain.mean for _, _, p in found]), drawn)
    return tuple(
        Line(
            table=table,
            split=e.split,
            price=p.price,
            best_arm=p.best_arm,
            gain=p.router.gain,
            together=t,
            worth=worth_having(e, p, t),
        )
        for (table, e, p), t in zip(found, together, strict=True)
    )


def _negated(i: Interval) -> Interval:
    return Interval(-i.mean, -i.high, -i.low)
