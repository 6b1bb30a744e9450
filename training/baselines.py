"""What a router must beat, each brought to the same form: estimates that go through the same policy and table.

A `Forecaster` learns from training prompts and gives `Estimates` for others. Fixed arms, the shuffled control and the
oracles are not forecasters: they need no learning, only the outcomes (`shuffled`, `oracle_picks`). The mix hull lives
in curves.py, the router itself in fit.py.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..router.estimates import Estimates
from ..router.features import Features
from .clusters import k_means, squared_distances
from .folds import fold_of
from .matrix import OutcomeMatrix


class Forecast(Protocol):
    """What a forecaster has learned."""

    @property
    def validation(self) -> Estimates:
        """Out-of-fold estimates of the training prompts: what thresholds and `value` may be chosen on."""
        ...

    def predict(self, prompts: OutcomeMatrix, features: Features) -> Estimates:
        """Estimate the outcomes of new prompts from their texts, groups and features; their outcomes are not read."""
        ...


class Forecaster(Protocol):
    """Learns estimates from outcomes."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    def fit(self, train: OutcomeMatrix, features: Features, *, seed: int) -> Forecast:
        """Learn from the training prompts; `seed` makes the inner folds of `validation`."""
        ...


def shuffled(picks: np.ndarray, matrix: OutcomeMatrix) -> np.ndarray:
    """Each prompt's arm weights (n, a) when the picks are dealt out to the prompts at random.

    It is the mean over all permutations, exactly: every prompt gets each arm with that arm's share of the picks. What
    a router has above this control is skill; the rest is the mix.
    """
    share = np.bincount(picks, minlength=len(matrix.arms)) / len(picks)
    return np.broadcast_to(share, matrix.quality.shape)


def oracle_picks(matrix: OutcomeMatrix, *, value: float) -> np.ndarray:
    """The arm of highest observed utility on each prompt, int (n,); ties go to the cheaper arm.

    It peeks at the very outcomes it is paid by, so with one noisy outcome per arm nobody can reach it.
    """
    utility = value * matrix.quality - matrix.cost
    tied = utility >= utility.max(axis=1, keepdims=True) - 1e-12
    return np.where(tied, matrix.cost, np.inf).argmin(axis=1)


# ── forecasters made of cells: prompts that are alike share a shrunk mean ────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class CellForecaster:
    """Mean outcome of the training prompts in the same cell, shrunk towards each arm's mean.

        (n_cell * mean_cell + strength * mean_all) / (n_cell + strength)

    name     : "length", "cluster", "group": which cells. A cell that training has not seen has the arms' means.
    strength : prompts that the overall mean counts for.
    """

    name: str
    n_cells: int = 10
    strength: float = 10.0

    def fit(self, train: OutcomeMatrix, features: Features, *, seed: int) -> Forecast:
        """Learn the cells and their means."""
        return _cross_fit(self, train, features, seed)

    def learn(self, train: OutcomeMatrix, features: Features, seed: int) -> "_Learned":
        """Learn without inner folds."""
        assign = _CELLS[self.name](train, features, self.n_cells, seed)
        cell = assign(train, features)
        k = int(cell.max()) + 1
        quality, cost, spread = (np.empty((k + 1, len(train.arms))) for _ in range(3))
        fallback = train.best_arm
        everywhere = _moments(train, np.ones(len(train)), fallback)
        quality[k], cost[k], spread[k] = everywhere
        for i in range(k):
            inside = (cell == i).astype(float)
            n = inside.sum()
            q, c, s = _moments(train, inside, fallback) if n else everywhere
            weight = n / (n + self.strength)
            quality[i] = weight * q + (1 - weight) * everywhere[0]
            cost[i] = weight * c + (1 - weight) * everywhere[1]
            spread[i] = s

        def look_up(prompts: OutcomeMatrix, x: Features) -> Estimates:
            at = assign(prompts, x)
            at = np.where((at < 0) | (at > k), k, at)
            return _estimates(train, quality[at], cost[at], spread[at])

        return look_up


@dataclass(frozen=True, slots=True)
class NearestForecaster:
    """Mean outcome of the k nearest training prompts in standardised feature space, shrunk like a cell.

    Constant features are left out; hashed counts enter by their square root, so that one long text does not rule.
    """

    name: str = "nearest"
    k: int = 20
    strength: float = 5.0

    def fit(self, train: OutcomeMatrix, features: Features, *, seed: int) -> Forecast:
        """Keep the training prompts."""
        return _cross_fit(self, train, features, seed)

    def learn(self, train: OutcomeMatrix, features: Features, seed: int) -> "_Learned":
        """Learn without inner folds."""
        scale = _Scaler(features.dense)
        known = scale(features.dense)
        k = min(self.k, len(train))
        fallback = train.best_arm
        everywhere = _moments(train, np.ones(len(train)), fallback)
        has = ~np.isnan(train.quality)
        quality, cost = np.nan_to_num(train.quality), np.nan_to_num(train.cost)

        def look_up(prompts: OutcomeMatrix, x: Features) -> Estimates:
            at = _nearest(scale(x.dense), known, k)
            n = has[at].sum(axis=1)
            weight = n / (n + self.strength)
            mean_q = quality[at].sum(axis=1) / np.maximum(n, 1)
            mean_c = cost[at].sum(axis=1) / np.maximum(n, 1)
            q = weight * mean_q + (1 - weight) * everywhere[0]
            c = weight * mean_c + (1 - weight) * everywhere[1]
            # The spread of the differences, by one variance per arm: k neighbours are too few for one each.
            se = everywhere[2] * np.sqrt(len(train) / np.maximum(n, 1)) * weight
            return _estimates(train, q, c, se)

        return look_up


def standard_baselines(train_families: int) -> list[Forecaster]:
    """The learned baselines of every table; group means only where there is more than one group to tell apart."""
    found: list[Forecaster] = [
        CellForecaster("length"),
        CellForecaster("cluster", n_cells=12),
        NearestForecaster(),
    ]
    if train_families > 1:
        found.append(CellForecaster("group", n_cells=0))
    return found


# ── how cells are found ──────────────────────────────────────────────────────────────────────────────────────────


def _length_cells(train: OutcomeMatrix, features: Features, n_cells: int, seed: int):
    """Quantile bins of the number of characters."""
    length = np.array([len(t) for t in train.texts], dtype=float)
    edges = np.unique(np.quantile(length, np.arange(1, n_cells) / n_cells))
    return lambda prompts, x: np.searchsorted(edges, [len(t) for t in prompts.texts], side="right")


def _cluster_cells(train: OutcomeMatrix, features: Features, n_cells: int, seed: int):
    """k-means of the standardised features."""
    scale = _Scaler(features.dense)
    centres = k_means(scale(features.dense), min(n_cells, max(2, len(train) // 20)), seed)
    return lambda prompts, x: squared_distances(scale(x.dense), centres).argmin(axis=1)


def _group_cells(train: OutcomeMatrix, features: Features, n_cells: int, seed: int):
    """The group column; a group that training has not seen has no cell."""
    number = {g: i for i, g in enumerate(sorted(set(train.groups)))}
    return lambda prompts, x: np.array([number.get(g, -1) for g in prompts.groups])


_CELLS = {"length": _length_cells, "cluster": _cluster_cells, "group": _group_cells}


class _Scaler:
    """Square root of non-negative columns, then mean 0 and variance 1 by the training prompts."""

    def __init__(self, features: np.ndarray) -> None:
        x = np.asarray(features, dtype=np.float32)
        self._root = x.min(axis=0) >= 0
        x = self._rooted(x)
        self._mean = x.mean(axis=0)
        spread = x.std(axis=0)
        self._keep = spread > 1e-6
        self._spread = np.where(self._keep, spread, 1.0)

    def _rooted(self, x: np.ndarray) -> np.ndarray:
        return np.where(self._root, np.sqrt(np.maximum(x, 0)), x)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        x = (self._rooted(np.asarray(features, dtype=np.float32)) - self._mean) / self._spread
        return np.clip(x[:, self._keep], -6, 6)


def _nearest(x: np.ndarray, known: np.ndarray, k: int, block: int = 512) -> np.ndarray:
    """Positions (n, k) of the k nearest known rows, block by block to bound the memory."""
    found = [
        np.argpartition(squared_distances(x[i : i + block], known), k - 1, axis=1)[:, :k]
        for i in range(0, len(x), block)
    ]
    return np.concatenate(found)


# ── shared ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _Learned(Protocol):
    def __call__(self, prompts: OutcomeMatrix, x: Features) -> Estimates: ...


class _Learner(Protocol):
    def learn(self, train: OutcomeMatrix, features: Features, seed: int) -> _Learned: ...


@dataclass(frozen=True, slots=True)
class _CrossFitted:
    """A forecast with the out-of-fold estimates of its own training prompts."""

    look_up: _Learned
    validation: Estimates

    def predict(self, prompts: OutcomeMatrix, features: Features) -> Estimates:
        return self.look_up(prompts, features)


def _cross_fit(learner: _Learner, train: OutcomeMatrix, x: Features, seed: int) -> _CrossFitted:
    fold = fold_of(train.families, split="prompt", folds=4, seed=seed)
    parts = []
    for k in range(int(fold.max()) + 1):
        inside, outside = fold == k, fold != k
        parts.append((inside, learner.learn(train.rows(outside), x[outside], seed)(train.rows(inside), x[inside])))
    return _CrossFitted(learner.learn(train, x, seed), stitch(parts, train))


def stitch(parts: list[tuple[np.ndarray, Estimates]], train: OutcomeMatrix) -> Estimates:
    """Put the estimates of folds together, in the order of `train`; each part comes with its mask (n,) of prompts.

    The fallback and reference arms of the whole are those of `train`; latencies are not stitched.
    """
    quality, se, cost = (np.full(train.quality.shape, np.nan) for _ in range(3))
    for inside, e in parts:
        quality[inside], se[inside], cost[inside] = e.quality, e.benefit_se, e.cost
    return _estimates(train, quality, cost, se)


def _moments(train: OutcomeMatrix, weight: np.ndarray, fallback: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted mean quality and cost of each arm, and the standard error of its mean difference to the fallback.

    An arm without a row under the weights has its mean over all prompts.
    """
    has = ~np.isnan(train.quality)
    w = weight[:, None] * has
    total = w.sum(axis=0)
    safe = np.maximum(total, 1e-12)
    quality = np.where(total > 0, (w * np.nan_to_num(train.quality)).sum(axis=0) / safe, train.arm_quality)
    cost = np.where(total > 0, (w * np.nan_to_num(train.cost)).sum(axis=0) / safe, train.arm_cost)
    difference = train.quality - train.quality[:, [fallback]]
    both = ~np.isnan(difference)
    w = weight[:, None] * both
    n = np.maximum(w.sum(axis=0), 1.0)
    d = np.nan_to_num(difference)
    mean = (w * d).sum(axis=0) / n
    # One pseudo-observation of the largest possible variance: two equal outcomes are no proof of certainty.
    variance = ((w * (d - mean) ** 2).sum(axis=0) + 0.25) / (n + 1)
    se = np.sqrt(variance / n)
    se[fallback] = 0.0
    return quality, cost, se


def _estimates(train: OutcomeMatrix, quality: np.ndarray, cost: np.ndarray, se: np.ndarray) -> Estimates:
    se = np.array(se, dtype=float)
    se[:, train.best_arm] = 0.0
    return Estimates(
        arms=train.arms,
        quality=quality,
        benefit_se=se,
        cost=cost,
        fallback=train.arms[train.best_arm],
        reference=train.arms[int(np.argmin(train.arm_cost))],
    )
