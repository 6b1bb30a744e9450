"""Learn a plan from a samples log by backward induction: fitted value iteration with realised returns.

From the last places to the start: at every place a forest learns what each action comes to, as it was realised in the
runs: the action's own cost and seconds, and from there on what the plan as learned so far gets, which at each later
place takes the action of the highest utility by the forests of members that have not seen the prompt. So later fits
choose, and are never taken at their word for a value (Longstaff & Schwartz 2001, "Valuing American options by
simulation: a simple least-squares approach"). Runs meet many objectives: each draws a value of a correct answer and a
price of time, which are features, so that a change of objective needs no new fit.

One forest per node serves all actions and all three outcomes (quality, cost and seconds to go): grown on random
mixtures of their residuals, as learn_joint_trees.py does for arms, with leaf values for each.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...router.joint_trees import JointForest
from ...router.plan import (
    Action,
    GiveUp,
    Node,
    Place,
    Stop,
    actions_at,
    after,
    feature_names,
    features_of,
    is_open,
    places_of,
)  # fmt: skip
from ...strategies.errors import ConfigError, nearest
from ...strategies.spec import SpecError
from ..learn_joint_trees import direction
from ..learn_trees import Growth
from .runs import Runs

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings(Growth):
    """How a plan is learned.

    rounds, learning_rate, leaves, min_rows, l2, column_share, row_share : of each node's trees; `min_rows` counts runs
              with an objective.
    deals   : orders in which each prompt's samples are dealt.   objectives : drawn for each of these runs.
    values  : range of values of a correct answer, in mean costs of one sample of the first leg.
    waiting : share of runs that price time.   seconds : range of that price, in the same unit.
    hidden  : kinds of features that the forests are not shown: "prompt", "agrees", names of OF_SAMPLES.
    seed    : of everything random.
    """

    rounds: int = 40
    learning_rate: float = 0.15
    leaves: int = 15
    min_rows: int = 100
    l2: float = 5.0
    deals: int = 12
    objectives: int = 1
    values: tuple[float, float] = (1.0, 1000.0)
    waiting: float = 0.34
    seconds: tuple[float, float] = (0.3, 300.0)
    hidden: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        Growth.__post_init__(self)
        for name in ("deals", "objectives"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)!r}: it must be at least 1")
        for name in ("values", "seconds"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise ConfigError(
                    f"{name}={getattr(self, name)!r}: they must be a lowest and a highest, > 0 and finite"
                )
        if not 0 <= self.waiting <= 1:
            raise ConfigError(f"waiting={self.waiting!r}: it must lie in [0, 1]")


_FEWEST_COLUMNS = 6
"""Columns that a tree sees at least: at the start there are few, and a tree of one can't weigh prompt against value."""

# ── one node's forest ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class NodeFit:
    """The forest of one node, per member.

    boosters : as they were grown; only which leaf a row falls into counts.   tables : of each tree, what its leaves
    add, float32 (leaves, v).   bases : (members, v).
    """

    boosters: tuple[Any, ...]
    tables: tuple[tuple[np.ndarray, ...], ...]
    bases: np.ndarray

    def forest(self, name: str) -> JointForest:
        """The form in which plans hold it; the boosters' leaves become rows of the tables."""
        texts, tables = [], []
        for booster, own in zip(self.boosters, self.tables, strict=True):
            first = 0
            for t, table in enumerate(own):
                for i in range(len(table)):
                    booster.set_leaf_output(t, i, float(first + i))
                first += len(table)
            texts.append(booster.model_to_string(num_iteration=len(own)))
            tables.append(np.concatenate(own))
        return JointForest.of(name, texts, tables)

    def predict(self, x: np.ndarray, member: np.ndarray) -> np.ndarray:
        """(n, v) outputs, each row by its member."""
        out = self.bases[member].copy()
        for k, booster in enumerate(self.boosters):
            rows = np.flatnonzero(member == k)
            if not len(rows):
                continue
            found = np.asarray(booster.predict(x[rows], pred_leaf=True, num_threads=1))
            leaf = found.reshape(len(rows), -1).astype(np.intp)[:, : len(self.tables[k])]
            sizes = np.array([len(table) for table in self.tables[k]])
            out[rows] += _one_hot(leaf + (np.cumsum(sizes) - sizes), int(sizes.sum())) @ np.concatenate(self.tables[k])
        return out


def grow(
    x: np.ndarray, y: np.ndarray, fold: np.ndarray, weigh: np.ndarray, members: int, settings: PlanSettings, seed: int
) -> NodeFit:
    """Fit the members of one node's forest.

    x : (n, d) features.   y : (n, 3a) realised quality, cost and seconds to go of a actions, NaN where one was not
    open.   fold : (n,) of the run's prompt: member k of `members` must not see fold k.   weigh : (n, 2), what a unit of
    cost and a second are worth, in quality.
    """
    grown = [_grow(x, y, fold != k, weigh, settings, seed * 1009 + k) for k in range(members)]
    return NodeFit(tuple(g[0] for g in grown), tuple(g[1] for g in grown), np.stack([g[2] for g in grown]))


def _grow(
    x: np.ndarray, y: np.ndarray, learn: np.ndarray, weigh: np.ndarray, settings: PlanSettings, seed: int
) -> tuple[Any, tuple[np.ndarray, ...], np.ndarray]:
    import lightgbm as lgb

    x, y, weigh = np.ascontiguousarray(x[learn]), y[learn], weigh[learn]
    has = ~np.isnan(y)
    base = np.where(has, y, 0.0).sum(axis=0) / np.maximum(has.sum(axis=0), 1)
    varied = int((np.fmax.reduce(x) > np.fmin.reduce(x)).sum()) if len(x) >= 2 * settings.min_rows else 0
    if not varied:
        return _stump(x.shape[1], settings), (np.zeros((1, y.shape[1]), dtype=np.float32),), base
    residual = np.where(has, y - base, 0.0)
    spread = np.sqrt((residual**2).sum(axis=0) / np.maximum(has.sum(axis=0), 1))
    inverse = np.where(spread > 1e-9, 1.0 / np.maximum(spread, 1e-9), 0.0)
    rng = np.random.default_rng(seed)
    lightgbm = settings.lightgbm(
        objective="none",
        learning_rate=1.0,
        min_sum_hessian_in_leaf=0.0,
        feature_pre_filter=False,
        feature_fraction=max(settings.column_share, min(1.0, _FEWEST_COLUMNS / varied)),
        seed=seed,
    )
    booster = lgb.Booster(lightgbm, lgb.Dataset(x, np.zeros(len(x)), params=lightgbm, free_raw_data=False))
    hessian = np.ones(len(x))
    present = np.ones((len(x), 1)) if has.all() else has.astype(np.float64)
    tables: list[np.ndarray] = []
    for t in range(settings.rounds):
        target = (
            _of_utility(residual, has, weigh, rng)
            if t % 2
            else (residual * inverse) @ _direction(residual * inverse, rng)
        )
        booster.update(fobj=lambda *_, g=-target: (g, hessian))
        if booster.num_trees() == len(tables):
            continue  # the columns and rows that were drawn tell nothing of this mixture; others may
        found = booster.predict(x, start_iteration=len(tables), num_iteration=1, pred_leaf=True, num_threads=1)
        leaf = np.asarray(found).reshape(len(x), -1)[:, 0].astype(int)
        within = _one_hot(leaf[:, None], int(leaf.max()) + 1).T
        total, number = within @ residual, within @ present
        table = (settings.learning_rate * total / (number + settings.l2)).astype(np.float32)
        residual = np.where(has, residual - table[leaf], 0.0)
        tables.append(table)
    if not tables:  # nothing that tells runs apart tells of what they come to
        return _stump(x.shape[1], settings), (np.zeros((1, y.shape[1]), dtype=np.float32),), base
    return booster, tuple(tables), base


def _stump(columns: int, settings: PlanSettings) -> Any:
    """A booster of one tree of one leaf, where there is nothing to learn."""
    import lightgbm as lgb

    # Constant features can't be split, and LightGBM takes them only with an objective of its own.
    settings_ = settings.lightgbm(objective="regression", feature_pre_filter=False)
    booster = lgb.Booster(settings_, lgb.Dataset(np.zeros((2, columns)), np.zeros(2), params=settings_))
    booster.update()
    return booster


def _one_hot(column: np.ndarray, width: int) -> Any:
    """Sparse (n, width) with ones in the columns (n, m) of each row: sums over leaves as products of matrices."""
    from scipy.sparse import csr_matrix

    n, m = column.shape
    return csr_matrix((np.ones(n * m), column.ravel(), np.arange(0, n * m + 1, m)), shape=(n, width))


def _of_utility(residual: np.ndarray, has: np.ndarray, weigh: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random contrast (n,) of what the actions' utilities have left: which action is best, not how good all are."""
    a = residual.shape[1] // 3
    utility = residual[:, :a] - weigh[:, :1] * residual[:, a : 2 * a] - weigh[:, 1:] * residual[:, 2 * a :]
    open_ = has[:, :a]
    mean = np.where(open_, utility, 0.0).sum(axis=1, keepdims=True) / np.maximum(open_.sum(axis=1, keepdims=True), 1)
    apart = np.where(open_, utility - mean, 0.0)
    return apart @ _direction(apart, rng)


def _direction(residual: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """See learn_joint_trees.direction; a few thousand rows tell it."""
    return direction(residual[:: max(1, len(residual) // 4096)], rng)


# ── the induction ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class Tasks:
    """r = runs x objectives rows to learn from: each a run that meets one objective.

    run : (r,) row of the runs.   value, second : (r,), of the objective, in units of `unit`; log_* : as features.
    """

    run: np.ndarray
    value: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, runs: Runs, settings: PlanSettings, rng: np.random.Generator, *, timed: bool) -> "Tasks":
        """Draw objectives for the runs."""
        run = np.repeat(np.arange(len(runs)), settings.objectives)
        low, high = np.log(settings.values)
        value = np.exp(rng.uniform(low, high, len(run)))
        low, high = np.log(settings.seconds)
        second = np.exp(rng.uniform(low, high, len(run))) * (rng.random(len(run)) < settings.waiting) * timed
        return cls(run, value, second)


def induce(
    runs: Runs, fold: np.ndarray, unit: float, settings: PlanSettings, progress: Progress | None = None
) -> tuple[dict[Node, NodeFit], dict[Node, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Learn the forests of all nodes, from the last to the start.

    fold : (n,) of every prompt.   unit : see PlanFacts.

    Returns the fits, and of each node what was seen of it: rows of the runs, predictions (r, 3a) by the members that
    have not seen the prompt, and what was realised.
    """
    menu, rng = runs.log.menu, np.random.default_rng(settings.seed)
    timed = runs.timed
    tasks = Tasks.of(runs, settings, rng, timed=timed)
    r = len(tasks.run)
    member = fold[runs.prompt[tasks.run]]
    weigh = np.stack([1.0 / (tasks.value * unit), tasks.second / tasks.value], axis=1)
    log_value, log_second = np.log(tasks.value), np.log1p(tasks.second)
    nothing = np.zeros(r)
    hidden = _hidden(feature_names(menu, ()), runs.features.shape[1], settings.hidden)
    places = places_of(menu)
    nodes = list(dict.fromkeys(p.node for p in reversed(places)))  # each after all that it leads to
    worth: dict[Place, np.ndarray] = {}
    fits: dict[Node, NodeFit] = {}
    seen: dict[Node, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for done, node in enumerate(nodes):
        mine = [p for p in places if p.node == node]
        actions = actions_at(menu, node)
        a = len(actions)
        states, returns, proven = [], [], []
        for place in mine:
            state = runs.state(place, tasks.run, nothing, nothing)
            shown = features_of(menu, state, log_value, log_second)
            shown[:, hidden] = np.nan
            states.append(shown)
            returns.append(_returns(runs, place, actions, tasks.run, worth, timed))
            proven.append(_proven(state))
        pick = rng.integers(0, len(mine), r)
        x = np.stack(states)[pick, np.arange(r)] if len(mine) > 1 else states[0]
        y = np.stack(returns)[pick, np.arange(r)] if len(mine) > 1 else returns[0]
        open_ = ~np.stack(proven)[pick, np.arange(r)]
        fits[node] = grow(
            x[open_], y[open_], member[open_], weigh[open_], int(fold.max()) + 1, settings, settings.seed + done
        )
        for place, features, y_, sure in zip(mine, states, returns, proven, strict=True):
            told = fits[node].predict(features, member)
            utility = told[:, :a] - weigh[:, :1] * told[:, a : 2 * a] - weigh[:, 1:] * told[:, 2 * a :]
            utility[:, [not is_open(place, act) for act in actions]] = -np.inf
            best = utility.argmax(axis=1)
            rows = np.arange(r)
            got = np.stack([y_[rows, best], y_[rows, a + best], y_[rows, 2 * a + best]], axis=1)
            if sure.any():
                got[sure] = _of_proven(runs, place, tasks.run, sure)
            worth[place] = got
            if place == mine[-1]:
                seen[node] = (tasks.run[open_], fits[node].predict(x[open_], member[open_]), y[open_])
        if progress is not None:
            progress(done + 1, len(nodes))
    return fits, seen


def _hidden(names: Sequence[str], prompt: int, kinds: Sequence[str]) -> list[int]:
    """Columns of the hidden kinds, of `prompt` columns of the prompt and then those of these names.

    A column without values is never split on, so that whoever steps by the forests need not know what was hidden.
    """
    ends = [name.rpartition(".")[2] for name in names]
    known = {"prompt", *ends}
    for kind in kinds:
        if kind not in known:
            raise SpecError(f"hidden={kind!r} is no kind of feature{nearest(kind, known)}")
    own = range(prompt) if "prompt" in kinds else ()
    return [*own, *(prompt + j for j, end in enumerate(ends) if end in kinds)]


def _returns(
    runs: Runs, place: Place, actions: Sequence[Action], rows: np.ndarray, worth: dict[Place, np.ndarray], timed: bool
) -> np.ndarray:
    """(r, 3a): what each action came to, NaN for one that is not open here."""
    a = len(actions)
    out = np.full((len(rows), 3 * a), np.nan)
    for j, action in enumerate(actions):
        if not is_open(place, action):
            continue
        if isinstance(action, (Stop, GiveUp)):
            out[:, j], out[:, a + j], out[:, 2 * a + j] = runs.quality(place, action, rows), 0.0, 0.0
            continue
        took, then = runs.take(place, action, rows), worth[after(place, action)]
        out[:, j] = then[:, 0]
        out[:, a + j] = took.cost + then[:, 1]
        out[:, 2 * a + j] = took.seconds + then[:, 2] if timed else 0.0
    return out


def _proven(state: Any) -> np.ndarray:
    out = np.zeros(len(state), dtype=bool)
    for hand in state.hands:
        if hand is not None:
            out |= hand.proven
    return out


def _of_proven(runs: Runs, place: Place, rows: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """(s, 3): the proven answer's quality, at no further cost."""
    out = np.zeros((int(sure.sum()), 3))
    done = np.zeros(len(out), dtype=bool)
    for leg, k in enumerate(place.drawn):
        if k:
            mine = runs.hand(leg, k).proven[rows[sure]] & ~done
            out[mine, 0] = runs.quality(place, Stop(leg=leg), rows[sure])[mine]
            done |= mine
    return out
