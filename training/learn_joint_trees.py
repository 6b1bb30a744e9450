"""Fit boosted trees whose leaves hold a value for EVERY arm (howhard.router.joint_trees.JointTreesComponent).

A tree is grown on one mixture of the arms' residuals, drawn anew each round, and each of its leaves then takes a Newton
step for every arm: one row per prompt, one walk down each tree, however many arms there are. Mixtures are drawn from
the covariance of the residuals, in turns of the residuals as they are (how hard is the prompt?) and less the prompt's
mean (which arm does it need?), so that trees go where something is left to explain.

    leaf_j = rate * (s + (r_j - s h_j) / (h_j + l2)),     s = sum_j r_j / (sum_j h_j + l2)

r_j, h_j: sums over the leaf's prompts of arm j's residuals y - p and of p (1 - p), 0 where the arm was not run: an arm
with few outcomes takes the step s of all arms. Boosting: Friedman 2001, "Greedy function approximation"; one structure
for several outputs: Zhang & Jung 2021, "GBDT-MO". Growing on random mixtures is ours.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..router.joint_trees import JointTreesComponent
from ..router.predictor import sigmoid
from .learn_trees import Growth
from .learners import Learned, Lesson


@dataclass(frozen=True, slots=True, kw_only=True)
class JointTreesLearner(Growth):
    """Boosted trees with a leaf value for every arm, one model per member; `min_rows` counts prompts."""

    rounds: int = 40
    learning_rate: float = 0.2
    leaves: int = 15
    min_rows: int = 20
    l2: float = 1.0

    @property
    def name(self) -> str:
        """That of the component."""
        return "joint_trees"

    def fit(self, lesson: Lesson) -> Learned:
        """Fit a model per member, and keep as many trees of each as predict the folds left out best."""
        n, a = lesson.matrix.quality.shape
        grown = [self._grow(lesson, k) for k in range(lesson.members)]
        rounds = max(len(one.tables) for one in grown)
        base = lesson.base[lesson.fold]
        added = np.zeros((n, a))
        kept, least, out_of_fold = 0, _loss(base, lesson.matrix.quality), added.copy()
        for t in range(rounds):
            for one in grown:
                if t < len(one.tables):
                    added[one.judge] += one.tables[t][one.leaf[t]]
            loss = _loss(base + added, lesson.matrix.quality)
            if loss < least:
                kept, least, out_of_fold = t + 1, loss, added.copy()
        component = JointTreesComponent.of(
            self.name,
            [one.text(kept) for one in grown],
            [np.concatenate(one.tables[: max(kept, 1)]) for one in grown],
        )
        return Learned(component=component, out_of_fold=out_of_fold)

    def _grow(self, lesson: Lesson, k: int) -> "_Grown":
        """The trees of one member."""
        import lightgbm as lgb

        x = lesson.x.dense
        learn, judge = np.flatnonzero(lesson.fold != k), np.flatnonzero(lesson.fold == k)
        y = lesson.matrix.quality[learn]
        has = ~np.isnan(y)
        y = np.where(has, y, 0.0)
        n, a = y.shape
        rng = np.random.default_rng([lesson.seed, k])
        inside = np.ascontiguousarray(x[learn])
        varied = bool((inside.max(axis=0) > inside.min(axis=0)).any())
        settings = self.lightgbm(
            # Constant features can't be split, and LightGBM takes them only with an objective of its own.
            objective="none" if varied else "regression",
            learning_rate=1.0,  # leaves get values of ours, which the rate is in
            min_sum_hessian_in_leaf=0.0,
            feature_pre_filter=False,
            seed=lesson.seed * 1009 + k,
        )
        booster = lgb.Booster(settings, lgb.Dataset(inside, np.zeros(n), params=settings, free_raw_data=False))
        z = np.tile(lesson.base[k], (n, 1))
        tables: list[np.ndarray] = []
        leaves: list[np.ndarray] = []
        for t in range(self.rounds if varied else 0):
            p = sigmoid(z)
            residual, weight = np.where(has, y - p, 0.0), np.where(has, p * (1 - p), 0.0)
            mixture = _mixture(residual, has, rng, apart=bool(t % 2) and a > 1)
            gradient, hessian = -(residual @ mixture), np.maximum(weight @ mixture**2, 1e-6)
            if booster.update(fobj=lambda *_, g=gradient, h=hessian: (g, h)):
                break  # nothing left to split
            leaf = _leaf(booster, inside, t)
            table = (self.learning_rate * _newton(residual, weight, leaf, self.l2)).astype(np.float32)
            z += table[leaf]
            tables.append(table)
            leaves.append(np.minimum(_leaf(booster, x[judge], t), len(table) - 1))
        if not tables:  # one tree of one leaf, which adds nothing
            if not varied:
                booster.update()
            tables, leaves = [np.zeros((1, a), dtype=np.float32)], [np.zeros(len(judge), dtype=int)]
        return _Grown(booster, tuple(tables), tuple(leaves), judge)


@dataclass(frozen=True, slots=True, eq=False)
class _Grown:
    """A member's trees: per tree the values (leaves, a), and the leaf of each prompt it has not seen (`judge`)."""

    booster: Any
    tables: tuple[np.ndarray, ...]
    leaf: tuple[np.ndarray, ...]
    judge: np.ndarray

    def text(self, kept: int) -> str:
        """LightGBM text of the first trees, in which each leaf's value is its row in the tables one after another."""
        first = 0
        for t, table in enumerate(self.tables[: max(kept, 1)]):
            for i in range(len(table)):
                self.booster.set_leaf_output(t, i, float(first + i))
            first += len(table)
        return self.booster.model_to_string(num_iteration=max(kept, 1))


def _leaf(booster: Any, rows: np.ndarray, tree: int) -> np.ndarray:
    """Number of the leaf, (n,), that each row falls into."""
    if not len(rows):
        return np.zeros(0, dtype=int)
    found = booster.predict(rows, start_iteration=tree, num_iteration=1, pred_leaf=True, num_threads=1)
    return np.asarray(found).reshape(len(rows), -1)[:, 0].astype(int)


def _mixture(residual: np.ndarray, has: np.ndarray, rng: np.random.Generator, *, apart: bool) -> np.ndarray:
    """A direction (a,) of length 1 drawn from the residuals' covariance; `apart`: of what differs between arms."""
    if apart:
        number = np.maximum(has.sum(axis=1, keepdims=True), 1)
        residual = np.where(has, residual - residual.sum(axis=1, keepdims=True) / number, 0.0)
    return direction(residual, rng)


def direction(residual: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A direction (v,) of length 1 drawn from the covariance of residuals (n, v)."""
    values, vectors = np.linalg.eigh(residual.T @ residual / len(residual))
    drawn = vectors @ (np.sqrt(np.maximum(values, 0)) * rng.normal(size=len(values)))
    length = float(np.linalg.norm(drawn))
    return drawn / length if length > 1e-12 else np.full(len(drawn), len(drawn) ** -0.5)


def _newton(residual: np.ndarray, weight: np.ndarray, leaf: np.ndarray, l2: float) -> np.ndarray:
    """The step (leaves, a) of every arm in every leaf, before the learning rate."""
    count = int(leaf.max()) + 1
    r, h = (np.stack([np.bincount(leaf, c, minlength=count) for c in part.T], axis=1) for part in (residual, weight))
    shared = (r.sum(axis=1) / (h.sum(axis=1) + l2))[:, None]
    return shared + (r - shared * h) / (h + l2)


def _loss(z: np.ndarray, y: np.ndarray) -> float:
    """Mean cross-entropy of soft targets, NaN left out, plus the mean squared error of what differs between arms."""
    has = ~np.isnan(y)
    target = np.where(has, y, 0.0)
    entropy = np.where(has, np.logaddexp(0, z) - target * z, 0.0).sum() / has.sum()
    off = np.where(has, target - sigmoid(z), 0.0)
    number = np.maximum(has.sum(axis=1, keepdims=True), 1)
    apart = np.where(has, off - off.sum(axis=1, keepdims=True) / number, 0.0)
    return float(entropy + (apart**2).sum() / has.sum())
