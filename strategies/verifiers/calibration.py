"""Make a verifier's scores into probabilities, from a few labels: a monotone map, kept as data.

A calibration is a tuple of breakpoints (score, probability), both rising, with straight lines between them and flat
ends. It stands in a configuration as it is. It changes no order among scores that differ on a rising line, but makes
thresholds and averages mean something.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence

from ..errors import ConfigError, InputError

Calibration = tuple[tuple[float, float], ...]


def check_calibration(points: Sequence[Sequence[float]]) -> None:
    """Raise ConfigError unless the breakpoints lie in [0, 1] and rise: scores strictly, probabilities weakly."""
    for place, point in enumerate(points):
        if len(point) != 2 or not all(0 <= value <= 1 for value in point):
            raise ConfigError(f"calibration[{place}]={point!r}: it must be a pair (score, probability) in [0, 1]")
        if place and not (point[0] > points[place - 1][0] and point[1] >= points[place - 1][1]):
            raise ConfigError(
                f"calibration[{place}]={point!r} comes after {points[place - 1]!r}: scores must rise, and "
                "probabilities must not fall"
            )


def calibrated(score: float, points: Calibration) -> float:
    """Return the probability of a score: linear between breakpoints, flat beyond the ends; itself without any.

    >>> calibrated(0.25, ((0.0, 0.1), (0.5, 0.3)))
    0.2
    """
    if not points:
        return score
    after = bisect_right(points, score, key=lambda p: p[0])
    if after == 0 or after == len(points):
        return points[0 if after == 0 else -1][1]
    (x0, y0), (x1, y1) = points[after - 1], points[after]
    return y0 + (y1 - y0) * (score - x0) / (x1 - x0)


def fit_isotonic(scores: Sequence[float], labels: Sequence[bool | float]) -> Calibration:
    """Fit by isotonic regression (pool adjacent violators): least squares among all maps that do not fall.

    Wants some hundred labels: with few it copies their noise, take `fit_platt` then. Equal scores are pooled first.
    Raises InputError for no labels, numbers outside [0, 1], or lists of different lengths.
    """
    _check(scores, labels)
    pooled: dict[float, list[float]] = {}
    for score, label in zip(scores, labels, strict=True):
        pooled.setdefault(float(score), []).append(float(label))
    blocks: list[tuple[float, int, list[float]]] = []  # mean label, weight, scores
    for score in sorted(pooled):
        mean, weight, members = math.fsum(pooled[score]) / len(pooled[score]), len(pooled[score]), [score]
        while blocks and blocks[-1][0] >= mean:
            other, its_weight, its_members = blocks.pop()
            mean = (other * its_weight + mean * weight) / (its_weight + weight)
            weight, members = its_weight + weight, its_members + members
        blocks.append((mean, weight, members))
    points: list[tuple[float, float]] = []
    for mean, _, members in blocks:
        mean = min(max(mean, 0.0), 1.0)
        points += [(members[0], mean)] if len(members) == 1 else [(members[0], mean), (members[-1], mean)]
    return tuple(points)


def fit_platt(scores: Sequence[float], labels: Sequence[bool | float]) -> Calibration:
    """Fit 1 / (1 + exp(-(a s + b))), a >= 0, by likelihood, and give it at 21 scores from 0 to 1.

    Labels are drawn towards 1/2 as if one right and one wrong answer more had been seen, so that a handful of labels
    that agree do not give certainty: right counts as (n1 + 1) / (n1 + 2), wrong as 1 / (n0 + 2) (Platt 1999, section
    2.2). Newton's method; a map that would fall becomes the constant share of right ones. Raises InputError as
    `fit_isotonic`.
    """
    _check(scores, labels)
    right = math.fsum(float(label) for label in labels)
    high, low = (right + 1) / (right + 2), 1 / (len(labels) - right + 2)
    targets = [low + (high - low) * float(label) for label in labels]
    a, b = 0.0, 0.0
    for _ in range(100):
        chances = [_logistic(a * s + b) for s in scores]
        gap = [t - p for t, p in zip(targets, chances, strict=True)]
        weights = [p * (1 - p) for p in chances]
        ga = math.fsum(g * s for g, s in zip(gap, scores, strict=True)) - 1e-6 * a
        gb = math.fsum(gap)
        haa = math.fsum(w * s * s for w, s in zip(weights, scores, strict=True)) + 1e-6
        hab = math.fsum(w * s for w, s in zip(weights, scores, strict=True))
        hbb = math.fsum(weights) + 1e-9
        determinant = haa * hbb - hab * hab
        if determinant <= 0:
            break
        da, db = (ga * hbb - gb * hab) / determinant, (gb * haa - ga * hab) / determinant
        scale = min(1.0, 5.0 / max(abs(da), abs(db), 1e-300))  # no leap into the flat ends of the logistic
        a, b = a + scale * da, b + scale * db
        if abs(da) + abs(db) < 1e-10:
            break
    if a < 0:
        mean = math.fsum(targets) / len(targets)
        return ((0.0, mean), (1.0, mean))
    return tuple((i / 20, _logistic(a * i / 20 + b)) for i in range(21))


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _check(scores: Sequence[float], labels: Sequence[bool | float]) -> None:
    if not scores or len(scores) != len(labels):
        raise InputError(f"{len(scores)} scores and {len(labels)} labels: give as many labels as scores, at least one")
    for name, values in (("score", scores), ("label", labels)):
        for place, value in enumerate(values):
            if not 0 <= float(value) <= 1:
                raise InputError(f"{name} {place} is {value!r}: it must lie in [0, 1]")
