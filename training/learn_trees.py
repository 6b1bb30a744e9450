"""Fit boosted trees of what a prompt adds to an arm's average (howhard.router.trees.TreesComponent).

The arms are POOLED: one row is a prompt's dense features followed by an arm's, so that what is learned of one arm's
hard prompts serves the others; or each arm has trees of its own. Either way the arms' means are given, and the trees
learn only what differs from them, on soft targets in [0, 1].
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..router.trees import MAX_LEAVES, TreesComponent
from ..strategies.errors import ConfigError
from .learners import Learned, Lesson

if TYPE_CHECKING:
    import lightgbm as lgb


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How boosted trees are grown; what learners of trees have in common.

    rounds  : most trees of a member; how many are kept is chosen on the folds left out, the same number for all. A
              decision's time grows with members * rounds.
    learning_rate, leaves, min_rows, l2, column_share, row_share : of the trees.

    Raises ConfigError for a value out of range.
    """

    rounds: int
    learning_rate: float
    leaves: int
    min_rows: int
    l2: float
    column_share: float = 0.3
    row_share: float = 0.8

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("leaves", 2), ("min_rows", 1), ("l2", 0)):
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name}={getattr(self, name)!r}: it must be at least {least}")
        for name in ("learning_rate", "column_share", "row_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)!r}: it must lie in (0, 1]")
        if self.leaves > MAX_LEAVES:
            raise ConfigError(f"leaves={self.leaves}: the router reads trees of at most {MAX_LEAVES} leaves")

    def lightgbm(self, **own: Any) -> dict[str, Any]:
        """LightGBM's settings. One booster at a time: two, fitted from two Python threads, crashed the process."""
        return {
            "learning_rate": self.learning_rate,
            "num_leaves": self.leaves,
            "min_data_in_leaf": self.min_rows,
            "lambda_l2": self.l2,
            "feature_fraction": self.column_share,
            "bagging_fraction": self.row_share,
            "bagging_freq": 1,
            "max_bin": 63,
            "num_threads": 1,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
            **own,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TreesLearner(Growth):
    """Boosted trees of LightGBM, one model per member.

    per_arm : each arm has trees of its own, instead of one model that reads what is known of the arm.
    """

    rounds: int = 25
    learning_rate: float = 0.3
    leaves: int = 31
    min_rows: int = 50
    l2: float = 10.0
    per_arm: bool = False

    @property
    def name(self) -> str:
        """That of the component."""
        return "trees_per_arm" if self.per_arm else "trees"

    def fit(self, lesson: Lesson) -> Learned:
        """Fit a model per member, and keep as many trees of each as predict the folds left out best."""
        a = len(lesson.matrix.arms)
        if self.per_arm:
            fits = [self._fit(lesson, np.array([j]), np.empty((1, 0)), ()) for j in range(a)]
            out_of_fold = np.concatenate([added for _, added in fits], axis=1)
            table = np.empty((a, 0))
        else:
            table = np.asarray(lesson.arms, dtype=np.float64)
            fits = [self._fit(lesson, np.arange(a), table, lesson.rising)]
            out_of_fold = fits[0][1]
        texts = [text for models, _ in fits for text in models]
        return Learned(component=TreesComponent.of(self.name, texts, table), out_of_fold=out_of_fold)

    def _fit(
        self, lesson: Lesson, columns: np.ndarray, table: np.ndarray, rising: tuple[int, ...]
    ) -> tuple[list[str], np.ndarray]:
        """The members' models of some arms, and what they add for the prompts they have not seen, (n, len(columns))."""
        import lightgbm as lgb

        n, a = len(lesson.x), len(columns)
        rows = pooled(lesson.x.dense, table) if table.shape[1] else lesson.x.dense
        y = lesson.matrix.quality[:, columns].ravel()
        fold, arm = np.repeat(lesson.fold, a), np.tile(columns, n)
        known = ~np.isnan(y)
        settings = self.lightgbm(objective="cross_entropy", seed=lesson.seed)
        if rising:
            constraints = np.zeros(rows.shape[1], dtype=int)
            constraints[[lesson.x.dense.shape[1] + i for i in rising]] = 1
            settings["monotone_constraints"] = constraints.tolist()
        whole = lgb.Dataset(rows[known], y[known], params=settings, free_raw_data=False).construct()
        boosters: list[lgb.Booster] = []
        gained, n_judged = np.zeros(self.rounds + 1), 0
        for k in range(lesson.members):
            learn, judge = np.flatnonzero((fold != k)[known]), np.flatnonzero((fold == k)[known])
            start = lesson.base[k][arm[known]]
            data = whole.subset(learn.tolist()).construct()
            data.set_init_score(start[learn])  # set before `construct`, it is not looked at
            booster = lgb.Booster({**settings, "seed": lesson.seed * 1009 + k}, data)
            for _ in range(self.rounds):
                if booster.update():  # nothing left to split: a tree of one leaf, and so would be all others
                    break
            boosters.append(booster)
            if len(judge):
                losses = _losses(booster, rows[known][judge], start[judge], y[known][judge], self.rounds)
                gained += losses * len(judge)
                n_judged += len(judge)
        kept = int(gained.argmin()) if n_judged else 0
        added = np.zeros((n, a))
        for k, booster in enumerate(boosters):
            if kept:
                inside = np.flatnonzero(fold == k)
                added[lesson.fold == k] = _raw(booster, rows[inside], kept).reshape(-1, a)
            else:
                _silence(booster)
        return [b.model_to_string(num_iteration=max(kept, 1)) for b in boosters], added


def pooled(x: np.ndarray, arms: np.ndarray) -> np.ndarray:
    """Rows [prompt features | arm features] for prompts (n, d) x arms (a, k), arms varying fastest, float32."""
    n, a = len(x), len(arms)
    out = np.empty((n * a, x.shape[1] + arms.shape[1]), dtype=np.float32)
    out[:, : x.shape[1]] = np.repeat(x, a, axis=0)
    out[:, x.shape[1] :] = np.tile(arms, (n, 1))
    return out


def _raw(booster: "lgb.Booster", rows: np.ndarray, trees: int) -> np.ndarray:
    return np.asarray(booster.predict(rows, raw_score=True, num_iteration=trees, num_threads=1))


def _losses(booster: "lgb.Booster", rows: np.ndarray, start: np.ndarray, y: np.ndarray, rounds: int) -> np.ndarray:
    """Mean cross-entropy (rounds + 1,) of soft targets after each number of trees, none first."""
    leaf = np.asarray(booster.predict(rows, pred_leaf=True, num_threads=1)).reshape(len(rows), -1).astype(int)
    out, z = np.empty(rounds + 1), start.copy()
    for t in range(rounds + 1):
        if 0 < t <= leaf.shape[1]:
            values = np.array([booster.get_leaf_output(t - 1, i) for i in range(leaf[:, t - 1].max() + 1)])
            z += values[leaf[:, t - 1]]
        out[t] = np.mean(np.logaddexp(0, z) - y * z)
    return out


def _silence(booster: "lgb.Booster") -> None:
    """Make the first tree say 0 to every prompt: nothing was learned."""
    leaves = booster.dump_model(num_iteration=1)["tree_info"][0]["num_leaves"] if booster.num_trees() else 0
    for leaf in range(leaves):
        booster.set_leaf_output(0, leaf, 0.0)
