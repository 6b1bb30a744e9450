"""What is predicted of every arm on every prompt: the arrays that policies decide on.

Made by predictor.py (and by the baselines of howhard.training); read by policy.py. Nothing here predicts or
decides.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..strategies.errors import ConfigError, InputError, nearest
from .objective import Objective, guarded_gain

Floats = NDArray[np.floating[Any]]


SURE = 1.645
"""Standard errors by which an arm must be worth more than the arm of the highest quality to be the best fixed arm in
its place: 95 %, one-sided."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArmMeans:
    """What each arm gave on average on the training prompts, so that the best FIXED arm is known at any objective.

    quality, cost : (a,) means. seconds : (a,) mean median latency, NaN where never measured.
    quality_se    : (a, a), standard error of the difference of two arms' mean qualities over families of prompts like
                    those of training; symmetric, 0 on the diagonal.
    """

    quality: Floats
    cost: Floats
    seconds: Floats
    quality_se: Floats

    def best(self, objective: Objective) -> int:
        """Column of the best fixed arm at the objective.

        It is the arm of the highest mean quality, unless others are surely worth more (`guarded_gain` above 0 at SURE
        standard errors): then the one of the highest mean utility among those. On families that are left out the
        training prompts' best arm by a hair is often not the best one (bbh at lambda .3: a loss of .05 at times).
        """
        return _best(self, objective)


@lru_cache(maxsize=1024)  # a service decides at few objectives, and often
def _best(means: ArmMeans, objective: Objective) -> int:
    priced = bool(objective.price_of_second) and not np.isnan(means.seconds).all()
    seconds = means.seconds if priced else np.zeros_like(means.cost)
    known = ~np.isnan(seconds)
    top = int(np.lexsort((means.cost, -np.where(known, means.quality, -np.inf)))[0])
    gain = guarded_gain(
        benefit=means.quality - means.quality[top],
        benefit_se=means.quality_se[:, top],
        extra_cost=means.cost - means.cost[top],
        extra_seconds=seconds - seconds[top],
        objective=objective,
        guard=SURE,
    )
    sure = known & (gain > 0)
    sure[top] = True
    u = objective.value * means.quality - means.cost - objective.price_of_second * seconds
    return int(np.argmax(np.where(sure, u, -np.inf)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FixedArms:
    """Any arm as the fallback arm: what the arms gave on average, and how sure their differences are on each prompt.

    difference_se : (n, a, a), standard error of the quality difference of any two arms; symmetric, 0 on the diagonal.
    """

    means: ArmMeans
    difference_se: Floats

    def __getitem__(self, rows: "slice | NDArray[Any]") -> "FixedArms":
        """Return what holds for some prompts."""
        return replace(self, difference_se=self.difference_se[rows])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Estimates:
    """Predictions for n prompts and a arms.

    arms       : names, in the order of every array's second axis.
    quality    : (n, a), expected grader score in [0, 1].
    benefit_se : (n, a), standard error of each arm's quality DIFFERENCE to the fallback arm (its own column
                 is 0).
    cost       : (n, a), expected cost, >= 0.
    latency    : (n, a, q), seconds at each of `quantiles`, NaN for an arm whose latency was never measured;
                 None where no arm's was.
    quantiles  : (q,) ascending, inside (0, 1); () without latency.
    tokens     : (n, a), expected completion and verifier tokens, NaN for an arm whose tokens were never logged; None
                 where no arm's were.
    fallback   : the arm taken when nothing else convinces, usually the best fixed one.
    reference  : the arm whose expected failure is called difficulty, usually the cheapest single pass.
    fixed      : what the arms gave on average: `at` then makes the best fixed arm of an objective the fallback. None
                 = `fallback` is the fallback at every objective.
    familiar   : (n,) bool, whether the prompt is like the training prompts; None = not known, taken for familiar.

    Raises InputError for shapes that do not fit, an unknown arm, or a value that is not finite.
    """

    arms: tuple[str, ...]
    quality: Floats
    benefit_se: Floats
    cost: Floats
    fallback: str
    reference: str
    latency: Floats | None = None
    quantiles: tuple[float, ...] = ()
    tokens: Floats | None = None
    fixed: FixedArms | None = None
    familiar: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        shape = (len(self.quality), len(self.arms))
        for name in ("quality", "benefit_se", "cost"):
            array = getattr(self, name)
            if array.shape != shape:
                raise InputError(f"estimates.{name} has shape {array.shape}: it must be {shape} (prompts, arms)")
            # A sum is finite only where all of it is: one pass for what is nearly always so.
            if not math.isfinite(array.sum()) and not np.isfinite(array).all():
                raise InputError(f"estimates.{name} holds a value that is not finite")
        if self.latency is not None and self.latency.shape != (*shape, len(self.quantiles)):
            raise InputError(
                f"estimates.latency has shape {self.latency.shape}: it must be "
                f"{(*shape, len(self.quantiles))} (prompts, arms, quantiles)"
            )
        for name in ("fallback", "reference"):
            self.index(getattr(self, name), what=f"estimates.{name}")

    def __len__(self) -> int:
        return len(self.quality)

    def __getitem__(self, rows: "slice | NDArray[Any]") -> "Estimates":
        """Return the estimates of some prompts: a slice, an index array or a mask."""
        return replace(
            self,
            quality=self.quality[rows],
            benefit_se=self.benefit_se[rows],
            cost=self.cost[rows],
            latency=None if self.latency is None else self.latency[rows],
            tokens=None if self.tokens is None else self.tokens[rows],
            fixed=None if self.fixed is None else self.fixed[rows],
            familiar=None if self.familiar is None else self.familiar[rows],
        )

    def at(self, objective: Objective) -> "Estimates":
        """The same estimates with the best fixed arm of the objective as the fallback arm, where `fixed` is known."""
        if self.fixed is None:
            return self
        best = self.fixed.means.best(objective)
        if self.arms[best] == self.fallback:
            return self
        return replace(self, fallback=self.arms[best], benefit_se=self.fixed.difference_se[:, :, best])

    def index(self, arm: str, *, what: str = "arm") -> int:
        """Return the column of an arm. Raises InputError with the nearest name when there is none."""
        try:
            return self.arms.index(arm)
        except ValueError:
            raise InputError(f"{what} {arm!r} is not an arm of this router{nearest(arm, self.arms)}") from None

    @property
    def benefit(self) -> Floats:
        """(n, a): each arm's quality minus the fallback arm's; `benefit_se` is its standard error."""
        at = self.index(self.fallback)
        return self.quality - self.quality[:, at : at + 1]

    @property
    def difficulty(self) -> Floats:
        """(n,): 1 - quality of the reference arm."""
        return 1.0 - self.quality[:, self.index(self.reference)]

    def latency_at(self, quantile: float) -> Floats:
        """Return (n, a) seconds at a quantile, interpolated between the stored ones; NaN where never
        measured.

        Raises ConfigError where no latency was measured, or the quantile lies outside of the stored ones.
        """
        if self.latency is None:
            raise ConfigError(
                "this router was trained on outcomes without latency_s: it knows nothing of time. "
                "Leave deadline and price_of_second out, or train it on a log that holds latency_s"
            )
        q = self.quantiles
        if quantile in q:
            return self.latency[:, :, q.index(quantile)]
        if not q[0] <= quantile <= q[-1]:
            raise ConfigError(
                f"the {quantile:g} quantile of latency is not known: this router's reach from {q[0]:g} to "
                f"{q[-1]:g}. Set deadline_quantile to one of {', '.join(f'{x:g}' for x in q)}"
            )
        above = int(np.searchsorted(q, quantile))
        share = (quantile - q[above - 1]) / (q[above] - q[above - 1])
        return (1 - share) * self.latency[:, :, above - 1] + share * self.latency[:, :, above]

    @property
    def seconds(self) -> Floats:
        """(n, a): the median latency, which `price_of_second` is charged on; tails are the deadline's."""
        return self.latency_at(0.5)
