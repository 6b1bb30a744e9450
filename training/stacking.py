"""How much each component of a prediction counts, learned on what it says of prompts that it has not seen.

    z[n, a] = intercept_a + slope_a * sum_c (shared_c * mean_c[n] + own_c * (added_c[n, a] - mean_c[n]))
    quality = sigmoid(z),    mean_c the mean over the arms of added_c

The weights are the same for all arms and never negative, so that nothing is believed upside down, and are chosen by the
outcomes and by their DIFFERENCES between arms, which the router acts on. A component has two: pooled models learn how
hard a prompt is sooner than which arm it needs, so their differences come out too small (BIG-Bench Hard: realised
benefits 1.16 times the predicted ones with one weight, 1.05 with two). Intercept and slope then calibrate every arm
(Platt 1999), the slopes held together: an arm with few outcomes has the slope of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize, minimize_scalar

from ..router.predictor import sigmoid

SLOPE_SPREAD = 0.15
"""Prior standard deviation of an arm's slope around 1, the slope of all arms."""
TOGETHER = 4.0
"""How strongly a component's two weights are held together: a normal prior of standard deviation about 1/2."""
MOST_SHARPENED = 1.3
"""Most that slopes are multiplied by for a router that averages its members."""
LEAST_WEIGHT = 0.02
"""Components that count less are left out: they cost time at every decision."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack:
    """What components count, and every arm's calibration.

    weights   : (c, 2) >= 0, shared and own. intercept : (a,), log-odds. slope : (a,) >= 0.
    quality   : (n, a), of the training prompts: out of fold, and with weights and slopes that have not seen the fold.
    gain      : log loss per outcome that the components take off that of the arms' means, by `quality`; 0 where nothing
                was learned.
    """

    weights: np.ndarray
    intercept: np.ndarray
    slope: np.ndarray
    quality: np.ndarray
    gain: float

    def of(self, added: Sequence[np.ndarray]) -> np.ndarray:
        """Quality of prompts from what the components add, each (..., a)."""
        return sigmoid(self.intercept + self.slope * _total(added, self.weights))


def stack(added: Sequence[np.ndarray], y: np.ndarray, fold: np.ndarray) -> Stack:
    """Weigh components by their out-of-fold log-odds.

    added : of each component (n, a). y : quality (n, a), NaN where not run. fold : (n,) int in 0..K-1.

    Weights that do not predict a fold better than the arms' means, learned on the other folds, are shrunk for all: by
    the share in [0, 1] of the log-odds that serves the folds left out best, 0 where none gains a standard error.
    """
    n, a = y.shape
    total, means = np.zeros((n, a)), np.empty((n, a))
    slopes = np.ones((n, a))
    for k in np.unique(fold):
        learn, judge = fold != k, fold == k
        weights = _weights([f[learn] for f in added], y[learn])
        shared = _total([f[learn] for f in added], weights)
        _, slope = _calibrated(shared, y[learn])
        total[judge] = _total([f[judge] for f in added], weights)
        slopes[judge] = slope
        means[judge] = mean_log_odds(y[learn])
    share = _share(means, slopes * total, y)
    if not _surely_better(means + share * slopes * total, means, y):
        share = 0.0
    weights = share * _weights(added, y)
    shared = _total(added, weights)
    intercept, slope = _calibrated(shared, y) if share else (mean_log_odds(y), np.ones(a))
    honest = np.stack([_shifted(share * (slopes * total)[:, j], y[:, j]) for j in range(a)], axis=1)
    before, after = _loss(means, y), _loss(honest, y)
    return Stack(
        weights=weights,
        intercept=intercept,
        slope=slope,
        quality=sigmoid(honest),
        gain=max(0.0, before - after) if share else 0.0,
    )


def sharpened(
    stacked: Stack, added: Sequence[np.ndarray], again: Sequence[np.ndarray], y: np.ndarray, *, members: int
) -> Stack:
    """The stack for a router that averages so many members, each prompt of which none has seen.

    again : what the components add out of fold (n, a) when the folds are dealt anew.

    Out of fold a prompt has one prediction, in service the mean of several, from which their noise has gone: calibrated
    on the first, the second is too timid. Let s_R be the factor on the log-odds that suits the mean of R predictions
    best. Noise of variance v beside a signal of variance u calls for s_R proportional to 1 / (1 + v / (u R)), so

        1 / s_R = A + B / R,     A and B from R = 1 and R = 2 (a prompt's two predictions share as much data as members)

    and slopes are multiplied by s_R / s_1 at R = members (at least 1), intercepts moved so that the arms' means stay.
    """
    if not stacked.weights.any() or members < 2:
        return stacked
    dealt = [stacked.slope * _total(parts, stacked.weights) for parts in (added, again)]
    one = (1 / _suiting(stacked.intercept, dealt[:1], y) + 1 / _suiting(stacked.intercept, dealt[1:], y)) / 2
    two = 1 / _suiting(stacked.intercept, dealt, y)
    b = max(2 * (one - two), 0.0)
    # Where nothing is to be known the two s_R are noise, and the right side may come out below 0.
    factor = one / max(one - b + b / members, one / MOST_SHARPENED)
    before = _averaged(stacked.intercept, dealt, 1.0, y)
    after = _averaged(stacked.intercept, dealt, factor, y)
    return replace(stacked, slope=factor * stacked.slope, intercept=stacked.intercept + after[1] - before[1])


def _suiting(intercept: np.ndarray, dealt: Sequence[np.ndarray], y: np.ndarray) -> float:
    """Factor on the log-odds under which the mean of their probabilities has the least log loss."""

    def loss(factor: float) -> float:
        return _loss(_averaged(intercept, dealt, factor, y)[0], y)

    found: Any = minimize_scalar(loss, bounds=(0.2, 3.0), method="bounded", options={"xatol": 1e-3})
    return float(found.x)


def _averaged(
    intercept: np.ndarray, dealt: Sequence[np.ndarray], factor: float, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds (n, a) of the mean probability, and how far (a,) they were moved to agree with the outcomes' means."""
    mean = np.clip(np.mean([sigmoid(intercept + factor * z) for z in dealt], axis=0), 1e-12, 1 - 1e-12)
    z = np.log(mean / (1 - mean))
    moved = np.stack([_shifted(z[:, j], y[:, j]) for j in range(y.shape[1])], axis=1)
    return moved, (moved - z)[0]


def _total(added: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    total = np.zeros(added[0].shape)
    for (shared, own), part in zip(weights, added, strict=True):
        mean = part.mean(axis=-1, keepdims=True)
        total += shared * mean + own * (part - mean)
    return total


def mean_log_odds(y: np.ndarray) -> np.ndarray:
    """Log-odds (a,) of each arm's mean quality, half a success and half a failure added."""
    has = ~np.isnan(y)
    mean = (np.where(has, y, 0.0).sum(axis=0) + 0.5) / (has.sum(axis=0) + 1)
    return np.log(mean / (1 - mean))


def _loss(z: np.ndarray, y: np.ndarray) -> float:
    """Mean cross-entropy of soft targets, NaN left out."""
    return float(np.nanmean(np.logaddexp(0, z) - y * z))


def _surely_better(z: np.ndarray, base: np.ndarray, y: np.ndarray) -> bool:
    """Whether log-odds z have less log loss than `base` by more than a standard error over the prompts."""
    gain = (np.logaddexp(0, base) - y * base) - (np.logaddexp(0, z) - y * z)
    per_prompt = np.nansum(gain, axis=1)
    return bool(per_prompt.sum() > np.sqrt((per_prompt**2).sum()))


def _share(base: np.ndarray, total: np.ndarray, y: np.ndarray) -> float:
    """Share in [0, 1] of the added log-odds that predicts unseen prompts best."""
    tried = np.linspace(0, 1, 21)
    return float(tried[int(np.argmin([_loss(base + s * total, y) for s in tried]))])


def _weights(added: Sequence[np.ndarray], y: np.ndarray) -> np.ndarray:
    """Weights (c, 2) >= 0 that minimise

        cross-entropy / that of the arms' means + squared error of the differences to the arms' mean / that of the means
        + TOGETHER / outcomes * sum_c (shared_c - own_c)^2

    over the prompts, small weights set to 0 and the others fitted again. The second term takes the prompts with
    outcomes of two arms or more, each arm's residual off the mean residual of the prompt's arms.
    """
    used = [c for c, part in enumerate(added) if part.any()]
    weights = np.zeros((len(added), 2))
    while used:
        found = _minimised([added[c] for c in used], y)
        kept = [c for c, w in zip(used, found, strict=True) if w.max() >= LEAST_WEIGHT]
        if len(kept) == len(used):
            weights[used] = found
            break
        used = kept
    return weights


def _minimised(added: Sequence[np.ndarray], y: np.ndarray) -> np.ndarray:
    has = ~np.isnan(y)
    several = has.sum(axis=1) > 1
    target = np.where(has, y, 0.0)
    number = np.maximum(has.sum(axis=1, keepdims=True), 1)
    start = mean_log_odds(y)
    means = [np.broadcast_to(part.mean(axis=1, keepdims=True), part.shape) for part in added]
    parts = np.stack([np.stack([mean, part - mean]) for part, mean in zip(added, means, strict=True)])
    c, n_known = 2 * len(added), has.sum()

    def apart(residual: np.ndarray) -> np.ndarray:
        """Residuals less the prompt's mean residual; 0 where not run, or run alone."""
        residual = np.where(has & several[:, None], residual, 0.0)
        return np.where(has & several[:, None], residual - residual.sum(axis=1, keepdims=True) / number, 0.0)

    entropy0 = max(_loss(np.broadcast_to(start, y.shape), y), 1e-9)
    squares0 = (apart(target - sigmoid(start)) ** 2).sum()

    def value(theta: np.ndarray) -> tuple[float, np.ndarray]:
        weights = theta[:c].reshape(-1, 2)
        z = theta[c:] + np.einsum("cw,cwna->na", weights, parts)
        q = sigmoid(z)
        loss = np.where(has, np.logaddexp(0, z) - target * z, 0.0).sum() / n_known / entropy0
        slope = np.where(has, q - target, 0.0) / n_known / entropy0
        if squares0 > 0:
            off = apart(target - q)
            loss += (off**2).sum() / squares0
            slope -= 2 * off * q * (1 - q) / squares0
        apart_by = weights[:, 0] - weights[:, 1]
        loss += TOGETHER / n_known * (apart_by**2).sum()
        by_weight = np.einsum("na,cwna->cw", slope, parts)
        by_weight += 2 * TOGETHER / n_known * np.stack([apart_by, -apart_by], axis=1)
        return loss, np.concatenate([by_weight.ravel(), slope.sum(axis=0)])

    bounds = [(0.0, None)] * c + [(None, None)] * len(start)
    first = np.concatenate([np.full(c, 2.0 / c), start])
    return (
        minimize(value, first, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 100})
        .x[:c]
        .reshape(-1, 2)
    )


def _calibrated(shared: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intercept and slope (a,) of each arm by Newton's method: slope ~ N(1, SLOPE_SPREAD^2), one pseudo-outcome of 1/2.

    The log-odds are taken about 0, what the components add on average, so that the pseudo-outcome binds the mean alone.
    """
    a = y.shape[1]
    intercept, slope = mean_log_odds(y), np.ones(a)
    for j in range(a):
        has = ~np.isnan(y[:, j])
        f, target = np.append(shared[has, j], 0.0), np.append(y[has, j], 0.5)
        theta = np.array([intercept[j], 1.0])
        columns = np.stack([np.ones_like(f), f], axis=1)
        ridge = np.diag([1e-6, SLOPE_SPREAD**-2])
        for _ in range(50):
            q = sigmoid(columns @ theta)
            gradient = columns.T @ (q - target) + ridge @ (theta - [intercept[j], 1.0])
            curve = (columns * (q * (1 - q))[:, None]).T @ columns + ridge
            step = np.linalg.solve(curve, gradient)
            step *= min(1.0, 2.0 / max(np.abs(step).max(), 1e-12))
            theta = theta - step
            if np.abs(step).max() < 1e-9:
                break
        intercept[j], slope[j] = theta[0], max(theta[1], 0.0)
    return intercept, slope


def _shifted(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Log-odds z moved as a whole so that their probabilities average to the outcomes', one of them 1/2."""
    has = ~np.isnan(y)
    f, target = np.append(z[has], 0.0), np.append(y[has], 0.5)
    move = 0.0
    for _ in range(100):
        q = sigmoid(f + move)
        step = (target.sum() - q.sum()) / max((q * (1 - q)).sum(), 1e-12)
        move += min(max(step, -1.0), 1.0)  # far from the goal Newton's steps are too long
        if abs(step) < 1e-10:
            break
    return z + move
