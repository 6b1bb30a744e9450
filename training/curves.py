"""The cost-quality plane: the mix hull of fixed arms, AIQ, and bootstrap weights for paired intervals.

Plain arithmetic on arrays; nothing here knows of models, tables or files.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


def hull_quality(cost: np.ndarray, quality: np.ndarray, at: np.ndarray | float) -> np.ndarray:
    """Highest quality that a mix of the points reaches at mean cost `at`.

        max over pairs (i, j) with c_i <= at <= c_j of the straight line between them, never less than any c_i <= at

    cost, quality : float (..., a), the points; leading axes are independent problems (bootstrap draws).
    at            : float (...), one mean cost per problem. Left of the cheapest point, where no mix exists, the
                    cheapest point's quality is returned: it is the hardest rival that can be named there.
    """
    cost, quality = np.asarray(cost, float), np.asarray(quality, float)
    at = np.maximum(np.asarray(at, float), cost.min(axis=-1))[..., None]
    best = np.where(cost <= at, quality, -np.inf).max(axis=-1)
    left, right = cost[..., :, None], cost[..., None, :]
    inside = (left <= at[..., None]) & (at[..., None] <= right) & (right > left)
    share = np.where(inside, (at[..., None] - left) / np.where(right > left, right - left, 1.0), 0.0)
    mixed = quality[..., :, None] + share * (quality[..., None, :] - quality[..., :, None])
    return np.maximum(best, np.where(inside, mixed, -np.inf).max(axis=(-1, -2)))


def hull_cost(cost: np.ndarray, quality: np.ndarray, at: np.ndarray | float) -> np.ndarray:
    """Lowest mean cost at which a mix of the points reaches quality `at`; NaN where none does. Shapes as above."""
    cost, quality = np.asarray(cost, float), np.asarray(quality, float)
    at = np.asarray(at, float)[..., None]
    best = np.where(quality >= at, cost, np.inf).min(axis=-1)
    low, high = quality[..., :, None], quality[..., None, :]
    inside = (low <= at[..., None]) & (at[..., None] <= high) & (high > low)
    share = np.where(inside, (at[..., None] - low) / np.where(high > low, high - low, 1.0), 0.0)
    mixed = cost[..., :, None] + share * (cost[..., None, :] - cost[..., :, None])
    best = np.minimum(best, np.where(inside, mixed, np.inf).min(axis=(-1, -2)))
    return np.where(np.isfinite(best), best, np.nan)


def hull_points(cost: np.ndarray, quality: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the upper hull, from the cheapest point to the best one, costs and qualities rising."""
    order = np.lexsort((-quality, cost))
    corners: list[int] = []
    for i in order:
        if corners and quality[i] <= quality[corners[-1]]:
            continue
        while len(corners) > 1:
            a, b = corners[-2], corners[-1]
            turn = (quality[b] - quality[a]) * (cost[i] - cost[a]) - (quality[i] - quality[a]) * (cost[b] - cost[a])
            if turn > 0:
                break
            corners.pop()
        corners.append(int(i))
    return cost[corners], quality[corners]


def aiq(cost: np.ndarray, quality: np.ndarray, *, low: float, high: float) -> float:
    """Average quality of the points' mix hull over the cost axis from `low` to `high` (AIQ).

        1 / (high - low) * integral of hull(c) dc

    The hull is flat beyond its dearest corner, and has the cheapest corner's quality before it.
    Source: Hu et al. 2024, "RouterBench", section 3. With low = high it is the hull's quality there.
    """
    x, y = hull_points(np.asarray(cost, float), np.asarray(quality, float))
    if high <= low:
        return float(np.interp(low, x, y))
    knots = np.unique(np.concatenate([[low, high], x[(x > low) & (x < high)]]))
    return float(_area(np.interp(knots, x, y), knots) / (high - low))


def _area(y: np.ndarray, x: np.ndarray) -> float:
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum())


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % percentile bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


def resampling_weights(units: np.ndarray, *, draws: int, seed: int) -> np.ndarray:
    """Bootstrap weights, float32 (draws, n), each row summing to 1: `weights @ per_prompt` is one mean per draw.

    units : (n,), number or name of each prompt's resampling unit: its cluster (by prompt) or its family (by group).
    All figures of one table share one set of weights, so that every difference is paired.
    """
    _, member = np.unique(units, return_inverse=True)
    k = int(member.max()) + 1
    rng = np.random.default_rng(seed)
    counts = np.stack([np.bincount(rng.integers(k, size=k), minlength=k) for _ in range(draws)]).astype(np.float32)
    weights = counts[:, member]
    return weights / weights.sum(axis=1, keepdims=True)


class PairedMeans:
    """Means per prompt with their bootstrap draws; all figures that share one instance are paired.

    weights : (draws, n), as `resampling_weights` makes them.
    """

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights

    def of(self, per_prompt: np.ndarray) -> tuple[Any, np.ndarray]:
        """Mean of (n,) or (n, k) and its draws (draws,) or (draws, k)."""
        return per_prompt.mean(axis=0), self.weights @ per_prompt

    def interval(self, per_prompt: np.ndarray) -> Interval:
        """The mean of (n,) with its interval."""
        return interval(*self.of(per_prompt))

    def ratio(self, over: np.ndarray, under: np.ndarray) -> Interval:
        """The ratio of the sums of two (n,), with its interval; NaN where the second sum is 0."""
        mean, drawn = self.of(np.stack([over, under], axis=1))
        return interval(ratio(mean[0], mean[1]), ratio(drawn[:, 0], drawn[:, 1]))


def ratio(over: Any, under: Any) -> Any:
    """The ratio of two figures or arrays, NaN where the second is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.asarray(over, float) / np.asarray(under, float)
    found = np.where(np.isfinite(found), found, np.nan)
    return float(found) if found.ndim == 0 else found


def simultaneous(means: np.ndarray, drawn: np.ndarray, *, level: float = 0.95) -> tuple[Interval, ...]:
    """Intervals of m figures that ALL hold at once with chance `level`: the max-t bootstrap.

        mean_j +- c * s_j,    s_j = sd of the draws,    c = level quantile over draws of max_j |draw_j - mean_j| / s_j

    means : (m,). drawn : (draws, m); columns of different data are drawn independently. A figure that never varies
    keeps a width of 0. Source: Romano and Wolf 2005, "Stepwise multiple testing as formalized data snooping".
    """
    spread = drawn.std(axis=0)
    varies = spread > 0
    if not varies.any():
        return tuple(Interval(float(m), float(m), float(m)) for m in means)
    t = np.abs(drawn[:, varies] - means[varies]) / spread[varies]
    c = float(np.quantile(t.max(axis=1), level))
    return tuple(Interval(float(m), float(m - c * s), float(m + c * s)) for m, s in zip(means, spread, strict=True))


def interval(mean: Any, drawn: np.ndarray) -> Interval:
    """Percentile interval of the drawn values around `mean`, NaN draws left out."""
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Interval(float(mean), float("nan"), float("nan"))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(mean), float(low), float(high))
