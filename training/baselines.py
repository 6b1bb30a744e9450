"""What a router must beat, each brought to the same form: estimates that go through the same policy and table.

Most decide as the router does, guarded by their standard errors. The peers' ways (ridge, the difficulty probe, the
counts) claim none: with errors of 0 the policy takes the plain argmax, as they do.

A `Forecaster` learns from training prompts and gives `Estimates` for others. Fixed arms, the shuffled control and the
oracles are not forecasters: they need no learning, only the outcomes (`shuffled`, `oracle_picks`). The mix hull lives
in curves.py, the router itself in fit.py.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..router.estimates import ArmMeans, Estimates, FixedArms
from ..router.features import Features, SparseRows
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

    name     : which cells: "length", "cluster", "group", "difficulty probe" or "no features". A cell that training
               has not seen has the arms' means.
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
        cell, assign = _CELLS[self.name](train, features, self.n_cells, seed)
        k, a = int(cell.max()) + 1, len(train.arms)
        quality, cost, spread = np.empty((k + 1, a)), np.empty((k + 1, a)), np.zeros((k + 1, a, a))
        everywhere = _moments(train.quality, train.cost, train)
        quality[k], cost[k], spread[k] = everywhere
        for i in range(k):
            inside = np.flatnonzero(cell == i)
            n = len(inside)
            q, c, s = _moments(train.quality[inside], train.cost[inside], train) if n else everywhere
            weight = n / (n + self.strength)
            quality[i] = weight * q + (1 - weight) * everywhere[0]
            cost[i] = weight * c + (1 - weight) * everywhere[1]
            spread[i] = s
        if self.name in _UNGUARDED:
            spread[:] = 0

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
        everywhere = _moments(train.quality, train.cost, train)
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
            # The spread of the differences, by one variance per pair: k neighbours are too few for one each.
            fewest = np.minimum(n[:, :, None], n[:, None, :])
            share = fewest / (fewest + self.strength)
            se = everywhere[2] * np.sqrt(len(train) / np.maximum(fewest, 1)) * share
            return _estimates(train, q, c, se)

        return look_up


@dataclass(frozen=True, slots=True)
class RidgeForecaster:
    """Ridge regression of every arm's quality and log cost on TF-IDF of words and pairs of words.

    The peers' strongest cheap router. How strongly weights are shrunk is chosen on inner folds, for quality and for
    cost apart. Quality is clipped to [0, 1]; costs are scaled to average to each arm's mean. Inner folds share the
    words' weights, which know no outcome.

    alphas : strengths of the shrinkage that are tried.
    """

    name: str = "TF-IDF ridge"
    alphas: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0)

    def fit(self, train: OutcomeMatrix, features: Features, *, seed: int) -> Forecast:
        """Learn the words, and the weights."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, max_features=50_000, token_pattern=r"(?u)\w+|[^\w\s]"
        )
        try:
            x = words.fit_transform(train.texts)
        except ValueError:  # not one word in all the prompts
            return CellForecaster("no features", n_cells=0).fit(train, features, seed=seed)
        fold = fold_of(train.families, split="prompt", folds=4, seed=seed, clusters=train.clusters)
        mean = train.arm_cost
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(train.cost / mean)
        logs[np.isinf(logs) | (np.isnan(logs) & (train.cost == 0))] = 0.0  # a free answer, or a free arm
        quality, of_quality = self._validated(x, train.quality, fold)
        cost, of_cost = self._validated(x, logs, fold)
        scale = mean / np.nanmean(np.where(np.isnan(train.cost), np.nan, np.exp(np.clip(cost, -6, 6))), axis=0)

        def estimates(quality: np.ndarray, logs: np.ndarray) -> Estimates:
            n, a = quality.shape
            return _estimates(train, np.clip(quality, 0, 1), scale * np.exp(np.clip(logs, -6, 6)), np.zeros((n, a, a)))

        def look_up(prompts: OutcomeMatrix, x: Features) -> Estimates:
            rows = words.transform(prompts.texts)
            return estimates(of_quality(rows), of_cost(rows))

        return _CrossFitted(look_up, estimates(quality, cost))

    def _validated(self, x: Any, y: np.ndarray, fold: np.ndarray) -> tuple[np.ndarray, "_Linear"]:
        """Out-of-fold predictions of `y` (n, targets) at the strength that makes them best, and the whole's weights."""
        best, error, alpha = np.zeros(y.shape), np.inf, self.alphas[0]
        for tried in self.alphas:
            seen = np.empty(y.shape)
            for k in range(int(fold.max()) + 1):
                inside, outside = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
                seen[inside] = _ridge(x[outside], y[outside], tried)(x[inside])
            off = float(np.nanmean((seen - y) ** 2))
            if off < error:
                best, error, alpha = seen, off, tried
        return best, _ridge(x, y, alpha)


def quick_baselines(train_groups: int) -> list[Forecaster]:
    """The learned baselines of every evaluation; group means only where there is more than one group to tell apart."""
    found: list[Forecaster] = [
        CellForecaster("no features", n_cells=0),
        CellForecaster("length"),
        CellForecaster("cluster", n_cells=12),
        NearestForecaster(),
    ]
    if train_groups > 1:
        found.append(CellForecaster("group", n_cells=0))
    return found


def standard_baselines(train_groups: int) -> list[Forecaster]:
    """The quick ones, and the two that fit on the prompts' words: ridge and the difficulty probe."""
    return [RidgeForecaster(), CellForecaster("difficulty probe"), *quick_baselines(train_groups)]


# ── how cells are found ──────────────────────────────────────────────────────────────────────────────────────────


_Cells = tuple[np.ndarray, Callable[[OutcomeMatrix, Features], np.ndarray]]
"""The cells of the training prompts, and what finds those of others."""


def _length_cells(train: OutcomeMatrix, features: Features, n_cells: int, seed: int) -> _Cells:
    """Quantile bins of the number of characters."""
    length = np.array([len(t) for t in train.texts], dtype=float)
    edges = np.unique(np.quantile(length, np.arange(1, n_cells) / n_cells))

    def assign(prompts: OutcomeMatrix, x: Features) -> np.ndarray:
        return np.searchsorted(edges, [len(t) for t in prompts.texts], side="right")

    return assign(train, features), assign


def _cluster_cells(train: OutcomeMatrix, features: Features, n_cells: int, seed: int) -> _Cells:
    """k-means of the standardised features."""
    scale = _Scaler(features.dense)
    centres = k_means(scale(features.dense), min(n_cells, max(2, len(train) // 20)), seed)

    def assign(prompts: OutcomeMatrix, x: Features) -> np.ndarray:
        return squared_distances(scale(x.dense), centres).argmin(axis=1)

    return assign(train, features), assign


def _group_cells(train: OutcomeMatrix, features: Features, n_cells: int, seed: int) -> _Cells:
    """The group column; a group that training has not seen has no cell."""
    number = {g: i for i, g in enumerate(sorted(set(train.groups)))}

    def assign(prompts: OutcomeMatrix, x: Features) -> np.ndarray:
        return np.array([number.get(g, -1) for g in prompts.groups])

    return assign(train, features), assign


def _no_cells(train: OutcomeMatrix, features: Features, n_cells: int, seed: int) -> _Cells:
    """One cell: all that is known are the arms' counts."""
    return np.zeros(len(train), dtype=int), lambda prompts, x: np.zeros(len(prompts), dtype=int)


def _probe_cells(train: OutcomeMatrix, features: Features, n_cells: int, seed: int) -> _Cells:
    """Bins of predicted difficulty: the failure of the cheapest arm, by a linear probe of the prompt.

    The rule of Damani et al. 2024 (arXiv 2410.04707), "Learning How Hard to Think", offline: a probe predicts how hard
    a prompt is, prompts are binned by it, and each bin is given the compute of the highest marginal reward under an
    average budget, whose multiplier is lambda. Theirs reads the model's hidden state, this one the words. Training
    prompts are binned by a probe that has not seen them.
    """
    x = _matrix(features.text)
    y = train.quality[:, [int(np.argmin(train.arm_cost))]]
    fold = fold_of(train.families, split="prompt", folds=4, seed=seed, clusters=train.clusters)
    seen = np.empty(len(train))
    for k in range(int(fold.max()) + 1):
        inside, outside = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        seen[inside] = _ridge(x[outside], y[outside], 1.0)(x[inside])[:, 0]
    probe = _ridge(x, y, 1.0)
    edges = np.unique(np.quantile(seen, np.arange(1, n_cells) / n_cells))
    return np.searchsorted(edges, seen, side="right"), lambda prompts, new: np.searchsorted(
        edges, probe(_matrix(new.text))[:, 0], side="right"
    )


_CELLS: dict[str, Callable[[OutcomeMatrix, Features, int, int], _Cells]] = {
    "length": _length_cells,
    "cluster": _cluster_cells,
    "group": _group_cells,
    "no features": _no_cells,
    "difficulty probe": _probe_cells,
}
_UNGUARDED = frozenset({"no features", "difficulty probe"})

_Linear = Callable[[Any], np.ndarray]
"""Sparse rows (n, d) -> predictions (n, targets)."""


def _ridge(x: Any, y: np.ndarray, alpha: float) -> _Linear:
    """Ridge on sparse rows, target by target where outcomes are missing; a target without any is predicted as 0."""
    from sklearn.linear_model import Ridge

    def fitted(rows: Any, targets: np.ndarray) -> Any:
        return Ridge(alpha=alpha, solver="sparse_cg", tol=1e-3).fit(rows, targets)

    known = ~np.isnan(y)
    if known.all():
        whole = fitted(x, y)
        return lambda rows: whole.predict(rows).reshape(-1, y.shape[1])
    each = [fitted(x[np.flatnonzero(k)], t[k]) if k.any() else None for k, t in zip(known.T, y.T, strict=True)]

    def predict(rows: Any) -> np.ndarray:
        return np.stack([np.zeros(rows.shape[0]) if m is None else m.predict(rows) for m in each], axis=1)

    return predict


def _matrix(rows: SparseRows) -> Any:
    from scipy.sparse import csr_matrix

    return csr_matrix((rows.value, rows.index, rows.start), shape=(len(rows), rows.width))


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
    fold = fold_of(train.families, split="prompt", folds=4, seed=seed, clusters=train.clusters)
    parts = []
    for k in range(int(fold.max()) + 1):
        inside, outside = fold == k, fold != k
        parts.append((inside, learner.learn(train.rows(outside), x[outside], seed)(train.rows(inside), x[inside])))
    return _CrossFitted(learner.learn(train, x, seed), stitch(parts, train))


def stitch(parts: Sequence[tuple[np.ndarray, Estimates]], train: OutcomeMatrix) -> Estimates:
    """Put the estimates of folds together, in the order of `train`; each part comes with its positions or mask of rows.

    The fallback and reference arms, and what the arms gave on average, are those of `train`; latencies are not
    stitched.
    """
    n, a = train.quality.shape
    quality, cost = np.full((n, a), np.nan), np.full((n, a), np.nan)
    known = all(e.fixed is not None for _, e in parts)
    se = np.full((n, a, a) if known else (n, a), np.nan)
    flagged = all(e.familiar is not None for _, e in parts)
    familiar = np.ones(n, dtype=bool)
    for rows, e in parts:
        quality[rows], cost[rows] = e.quality, e.cost
        se[rows] = e.fixed.difference_se if known and e.fixed is not None else e.benefit_se
        if flagged:
            familiar[rows] = e.familiar
    return _estimates(train, quality, cost, se, familiar if flagged else None)


def _moments(quality: np.ndarray, cost: np.ndarray, train: OutcomeMatrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean quality and cost of each arm on some prompts (n, a), and standard errors (a, a) of the pairs' differences.

    An arm without a row among them has its mean over all of `train`.
    """
    has = ~np.isnan(quality)
    total = has.sum(axis=0)
    safe = np.maximum(total, 1)
    q = np.where(total > 0, np.nan_to_num(quality).sum(axis=0) / safe, train.arm_quality)
    c = np.where(total > 0, np.nan_to_num(cost).sum(axis=0) / safe, train.arm_cost)
    se = np.zeros((len(q), len(q)))
    for i in range(len(q)):
        both = has & has[:, [i]]
        n = np.maximum(both.sum(axis=0), 1)
        d = np.where(both, np.nan_to_num(quality) - np.nan_to_num(quality[:, [i]]), 0.0)
        mean = d.sum(axis=0) / n
        # One pseudo-observation of the largest possible variance: two equal outcomes are no proof of certainty.
        variance = ((both * (d - mean) ** 2).sum(axis=0) + 0.25) / (n + 1)
        se[i] = np.sqrt(variance / n)
    np.fill_diagonal(se, 0.0)
    return q, c, (se + se.T) / 2


def _estimates(
    train: OutcomeMatrix, quality: np.ndarray, cost: np.ndarray, se: np.ndarray, familiar: np.ndarray | None = None
) -> Estimates:
    """Estimates with the arms' means of `train`; `se` (n, a, a) of every pair, or (n, a) of the best arm alone."""
    best = train.best_arm
    pairs = se.ndim == 3
    to_best = np.array(se[:, :, best] if pairs else se, dtype=float)
    to_best[:, best] = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an arm that was never timed has no mean
        seconds = np.nanmean(train.latency, axis=0)
    means = ArmMeans(quality=train.arm_quality, cost=train.arm_cost, seconds=seconds, quality_se=train.quality_se)
    return Estimates(
        arms=train.arms,
        quality=quality,
        benefit_se=to_best,
        cost=cost,
        fallback=train.arms[best],
        reference=train.arms[int(np.argmin(train.arm_cost))],
        fixed=FixedArms(means=means, difference_se=se) if pairs else None,
        familiar=familiar,
    )
