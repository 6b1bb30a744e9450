"""Read LightGBM text models and evaluate them, without LightGBM.

Serving so needs neither lightgbm nor scipy (146 MB, 1.2 s of import), and a decision takes less time than through
lightgbm's own `predict`, because the arms of one prompt share all work on the prompt's features: for 8 arms and 200
trees of 31 leaves 0.021 ms against 0.038 ms (medians, one core; benchmarks/decide_latency.py).

Every test of every tree is made at once, and the leaf follows from bit masks (Lucchese et al. 2015,
"QuickScorer"): leaves are numbered from left to right, a test that fails clears the bits of the leaves on its
left side, and the lowest bit that is left over is the leaf. The result is exact: the same leaves as
LightGBM's, sums equal to rounding.

What is read: boosted models of one output with numerical splits, missing values included, up to 64 leaves per
tree. What is not, and is an ArtifactError: categorical splits, linear trees, random-forest averaging, several
classes.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..strategies.errors import ArtifactError, InputError
from .artifact import pack_arrays, unpack_arrays
from .features import Features

MAX_LEAVES = 64
MAX_TREES = 20_000
_ALL = np.uint64(2**64 - 1)
_ZERO = 1.0000000180025095e-35  # LightGBM's kZeroThreshold, a float32: a value no larger than this is 0 to it
_CHUNK = 50_000  # tests made at a time: what stays in a core's cache (2.5 times faster than two million)

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Trees of one or more models over the same features, side by side.

    Per test, sorted by tree: feature, threshold (left where value <= threshold), mask (what stays when it
    fails), nan_left (where a NaN goes), and zero_left: 1 / 0 where a zero goes left / right as a missing
    value, -1 where zero is a value like any other. Per tree: first_test, first_leaf. Per model: first_tree,
    and its `objective` line.
    """

    n_features: int
    objectives: tuple[str, ...]
    feature: NDArray[np.intp]
    threshold: NDArray[np.float64]
    mask: NDArray[np.uint64]
    nan_left: NDArray[np.bool_]
    zero_left: NDArray[np.int8]
    first_test: NDArray[np.intp]
    first_leaf: NDArray[np.intp]
    leaf_value: NDArray[np.float64]
    first_tree: NDArray[np.intp]

    @property
    def n_trees(self) -> int:
        """Trees of all models together."""
        return len(self.first_test)

    def raw(self, x: Floats) -> Floats:
        """Sum of leaf values (n, models) for rows x (n, n_features): LightGBM's raw score."""
        if x.ndim != 2 or x.shape[1] != self.n_features:
            raise InputError(f"the trees read {self.n_features} features: got an array of shape {x.shape}")
        return self.bind(np.empty((1, 0))).raw(x)[:, 0]

    def bind(self, tails: Floats) -> "BoundForest":
        """Fix the last columns: `tails` (a, k) holds a alternatives for the last k features.

        Their tests are made here, once. `bound.raw(heads)` then takes the first n_features - k columns and
        gives the sums for every (head, tail) pair.
        """
        k = tails.shape[1]
        cut = self.n_features - k
        if cut < 0:
            raise InputError(f"the trees read {self.n_features} features: {k} cannot be fixed")
        late = self.feature >= cut
        tree_of = np.repeat(np.arange(self.n_trees), np.diff(self.first_test, append=len(self.feature)))
        # Padded to full width, so that the tests' feature numbers stay valid.
        padded = np.concatenate([np.zeros((len(tails), cut)), _as_lightgbm(tails)], axis=1)
        fixed = np.full((len(tails), self.n_trees), _ALL)
        if late.any():
            trees, first = np.unique(tree_of[late], return_index=True)
            fixed[:, trees] = _surviving(_Tests.of(self, late, first), padded)
        early = np.flatnonzero(~late)
        trees, first = np.unique(tree_of[early], return_index=True)
        return BoundForest(self, cut, _Tests.of(self, early, first), trees, fixed)


def _as_lightgbm(x: Floats) -> Floats:
    """Values as LightGBM compares them: float64, and what is too near to 0 is 0."""
    x = np.asarray(x, dtype=np.float64)
    return np.where(np.abs(x) <= _ZERO, 0.0, x)


@dataclass(frozen=True, slots=True, eq=False)
class _Tests:
    """Some of a forest's tests, grouped by tree: group g starts at first[g]."""

    feature: NDArray[np.intp]
    threshold: NDArray[np.float64]
    mask: NDArray[np.uint64]
    nan_left: NDArray[np.bool_]
    zero_left: NDArray[np.int8]
    first: NDArray[np.intp]
    zeros_matter: bool

    @classmethod
    def of(cls, forest: Forest, which: NDArray[Any], first: NDArray[np.intp]) -> "_Tests":
        zero_left = forest.zero_left[which]
        return cls(
            forest.feature[which],
            forest.threshold[which],
            forest.mask[which],
            forest.nan_left[which],
            zero_left,
            first,
            bool((zero_left >= 0).any()),
        )


def _surviving(tests: _Tests, x: Floats) -> NDArray[np.uint64]:
    """Leaves (n, groups), one bit each, that the tests leave over for rows x (n, features)."""
    values = x.take(tests.feature, axis=1)
    left = values <= tests.threshold
    missing = np.isnan(values)
    if missing.any():
        left = np.where(missing, tests.nan_left, left)
    if tests.zeros_matter:
        left = np.where((values == 0) & (tests.zero_left >= 0), tests.zero_left == 1, left)
    return np.bitwise_and.reduceat(np.where(left, _ALL, tests.mask), tests.first, axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class BoundForest:
    """A forest with its last columns fixed to one of several alternatives; made by `Forest.bind`.

    cut   : number of free columns. tests : on those; `trees[g]` is the tree of group g.
    fixed : (a, trees), leaves that the tests on the fixed columns leave over.
    """

    forest: Forest
    cut: int
    tests: _Tests
    trees: NDArray[np.intp]
    fixed: NDArray[np.uint64]

    def raw(self, heads: Floats) -> Floats:
        """Sums (n, a, models) of the leaf values, for heads (n, cut) with each of the a tails."""
        if heads.ndim != 2 or heads.shape[1] != self.cut:
            raise InputError(f"the trees read {self.cut} features of a prompt: got shape {heads.shape}")
        heads = _as_lightgbm(heads)
        per_row = max(len(self.tests.feature), self.fixed.size, 1)
        step = max(1, _CHUNK // per_row)
        out = np.empty((len(heads), len(self.fixed), len(self.forest.first_tree)))
        for start in range(0, len(heads), step):
            out[start : start + step] = self._raw(heads[start : start + step])
        return out

    def _raw(self, heads: Floats) -> Floats:
        forest = self.forest
        return np.add.reduceat(forest.leaf_value[self._leaf(heads)], forest.first_tree, axis=2)

    def summed(self, heads: Floats, values: Floats) -> Floats:
        """Sums (n, models, v) of `values` (leaves, v) over the leaves that heads (n, cut) fall into.

        For a forest that is bound to one alternative; `values` are in the order of `forest.leaf_value`.
        """
        if heads.ndim != 2 or heads.shape[1] != self.cut:
            raise InputError(f"the trees read {self.cut} features of a prompt: got shape {heads.shape}")
        heads = _as_lightgbm(heads)
        step = max(1, _CHUNK // max(len(self.tests.feature), self.fixed.size * values.shape[1], 1))
        out = np.empty((len(heads), len(self.forest.first_tree), values.shape[1]))
        for start in range(0, len(heads), step):
            found = values.take(self._leaf(heads[start : start + step])[:, 0], axis=0)
            out[start : start + step] = np.add.reduceat(found, self.forest.first_tree, axis=1)
        return out

    def _leaf(self, heads: Floats) -> NDArray[np.intp]:
        """Place in `forest.leaf_value` of the leaf (n, a, trees) of every tree, for each head with each tail."""
        forest = self.forest
        live = np.repeat(self.fixed[None], len(heads), axis=0)
        if len(self.trees):
            surviving = _surviving(self.tests, heads)
            if len(self.trees) == forest.n_trees:
                live &= surviving[:, None, :]
            else:
                live[:, :, self.trees] &= surviving[:, None, :]
        # The lowest bit, 2^leaf, is exact as a float; its exponent is the leaf.
        lowest = (live & (~live + np.uint64(1))).astype(np.float64)
        return forest.first_leaf + (lowest.view(np.int64) >> 52) - 1023


@dataclass(frozen=True, slots=True, eq=False)
class TreesComponent:
    """Boosted trees of the log-odds that a prompt adds to an arm's base: a component of the quality (components.py).

    texts : LightGBM text models of objective cross_entropy over [dense features | arm features]; one per member where
            the arms are POOLED; where they have no features (table of width 0), one per arm and member, the members of
            an arm side by side.
    table : float64 (a, k), features of the arms.
    """

    name: str
    texts: tuple[str, ...]
    table: Floats
    bound: BoundForest

    @classmethod
    def of(cls, name: str, texts: Sequence[str], table: Floats) -> "TreesComponent":
        """Parse the models. Raises ArtifactError for one that is damaged, or of another kind."""
        forest = read_forest(texts, names=[f"model {i} of {name}" for i in range(len(texts))])
        other = [o for o in forest.objectives if o != "cross_entropy"]
        if other:
            raise ArtifactError(f"{name} was trained with objective {other[0]!r}, not cross_entropy: train it anew")
        return cls(name, tuple(texts), table, forest.bind(table if table.shape[1] else np.empty((1, 0))))

    def added(self, x: Features) -> Floats:
        """Log-odds (n, a, K) that each prompt adds to each arm's base, of every member."""
        return self.bound.raw(x.dense).reshape(len(x), len(self.table), -1)

    def pack(self) -> dict[str, bytes]:
        """The files that `read` makes the same component from."""
        return {f"{self.name}.txt": "".join(self.texts).encode(), f"{self.name}.npz": pack_arrays(arms=self.table)}

    @classmethod
    def read(cls, files: Mapping[str, bytes], *, name: str, arms: int, members: int) -> "TreesComponent":
        """Make the component from its files. Raises ArtifactError for one missing or damaged."""
        if f"{name}.npz" not in files:
            raise ArtifactError(f"the router lacks {name}.npz: train it anew")
        table = unpack_arrays(files[f"{name}.npz"], what=f"{name}.npz").get("arms")
        if table is None or table.dtype != np.float64 or table.ndim != 2 or len(table) != arms:
            raise ArtifactError(f"{name}.npz: arms must be float64 ({arms}, k): train the router anew")
        texts = split_models(files, f"{name}.txt", members if table.shape[1] else members * arms)
        return cls.of(name, texts, table)


def split_models(files: Mapping[str, bytes], what: str, number: int) -> list[str]:
    """The LightGBM text models of one file, one after another. Raises ArtifactError where there are not `number`."""
    if what not in files:
        raise ArtifactError(f"the router lacks {what}: train it anew")
    try:
        texts = re.split(r"^(?=tree$)", files[what].decode(), flags=re.MULTILINE)[1:]
    except UnicodeDecodeError as exc:
        raise ArtifactError(f"{what} is not text: train the router anew") from exc
    if len(texts) != number:
        raise ArtifactError(f"{what} holds {len(texts)} models, not {number}: train the router anew")
    return texts


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────


def read_forest(models: Sequence[str], *, names: Sequence[str]) -> Forest:
    """Parse LightGBM text models (`Booster.model_to_string()`) that read the same features.

    names : what messages call each model, for instance its file name.

    Raises ArtifactError for a damaged model, and for a kind of model that is not read.
    """
    parsed = [_parse_model(text, name) for text, name in zip(models, names, strict=True)]
    widths = {m.n_features for m in parsed}
    if len(widths) != 1:
        raise ArtifactError(f"the models {', '.join(names)} read different numbers of features: {sorted(widths)}")
    trees = [t for m in parsed for t in m.trees]
    tests = [t.tests for t in trees]
    leaves = [t.leaves for t in trees]
    rows = np.concatenate(tests) if tests else np.empty(0, _TEST)
    return Forest(
        n_features=widths.pop(),
        objectives=tuple(m.objective for m in parsed),
        feature=rows["feature"].astype(np.intp),
        threshold=np.ascontiguousarray(rows["threshold"]),
        mask=np.ascontiguousarray(rows["mask"]),
        nan_left=np.ascontiguousarray(rows["nan_left"]),
        zero_left=np.ascontiguousarray(rows["zero_left"]),
        first_test=_starts(tests),
        first_leaf=_starts(leaves),
        leaf_value=np.concatenate(leaves),
        first_tree=_starts([m.trees for m in parsed]),
    )


_TEST = np.dtype([("feature", "i8"), ("threshold", "f8"), ("mask", "u8"), ("nan_left", "?"), ("zero_left", "i1")])


@dataclass(frozen=True, slots=True)
class _Tree:
    tests: NDArray[Any]
    leaves: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Model:
    n_features: int
    objective: str
    trees: list[_Tree]


def _starts(parts: Sequence[Any]) -> NDArray[np.intp]:
    sizes = np.array([len(p) for p in parts], dtype=np.intp)
    return np.cumsum(sizes) - sizes


def _parse_model(text: str, name: str) -> _Model:
    body, end, _ = text.partition("\nend of trees")
    head, *blocks = body.split("\nTree=")
    if not end or not head.startswith("tree\n"):
        raise ArtifactError(f"{name} is not a whole LightGBM text model: train the router anew")
    if not 0 < len(blocks) <= MAX_TREES:
        raise ArtifactError(f"{name} has {len(blocks)} trees: from 1 to {MAX_TREES} are read")
    fields = _fields(head)
    if fields.get("num_class") != "1" or fields.get("num_tree_per_iteration") != "1":
        raise ArtifactError(f"{name} predicts several classes: howhard reads models of one output")
    if "average_output" in head.split("\n"):
        raise ArtifactError(f"{name} is a random forest: howhard reads boosted models")
    try:
        n_features = int(fields["max_feature_idx"]) + 1
        trees = [_parse_tree(_fields(b), i, n_features) for i, b in enumerate(blocks)]
    except KeyError as exc:
        raise ArtifactError(f"{name} is damaged: it lacks {exc}; train the router anew") from exc
    except (ValueError, OverflowError) as exc:
        raise ArtifactError(f"{name} is damaged: {exc}; train the router anew") from exc
    return _Model(n_features, fields.get("objective", ""), trees)


def _fields(block: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in block.split("\n"))
    return {key: value for key, equals, value in pairs if equals}


def _parse_tree(fields: dict[str, str], number: int, n_features: int) -> _Tree:
    where = f"tree {number}"
    n_leaves = int(fields["num_leaves"])
    if not 1 <= n_leaves <= MAX_LEAVES:
        raise ValueError(f"{where} has {n_leaves} leaves, from 1 to {MAX_LEAVES} are read (num_leaves in LightGBM)")
    if fields.get("num_cat", "0") != "0" or fields.get("is_linear", "0") != "0":
        raise ValueError(f"{where} has categorical splits or linear leaves, which are not read")

    def column(key: str, cast: Any, size: int) -> list[Any]:
        values = [cast(x) for x in fields[key].split()]
        if len(values) != size:
            raise ValueError(f"{where} has {len(values)} values of {key}, not {size}")
        return values

    values = column("leaf_value", float, n_leaves)
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{where} has a leaf value that is not finite")
    n = n_leaves - 1
    if n == 0:
        return _Tree(_always(), np.array(values))
    feature = column("split_feature", int, n)
    threshold = column("threshold", float, n)
    kind = column("decision_type", int, n)
    left = column("left_child", int, n)
    right = column("right_child", int, n)
    if not all(0 <= f < n_features for f in feature) or any(map(math.isnan, threshold)):
        raise ValueError(f"{where} tests a feature that does not exist, or against a NaN")

    # Leaves from left to right, and how many of them lie to the left of each test.
    order: list[int] = []
    span: dict[int, tuple[int, int]] = {}
    stack: list[tuple[int, int]] = [(0, 0)]  # node, stage: 0 = unseen, 1 = its left side is done
    began: dict[int, int] = {}
    while stack:
        node, stage = stack.pop()
        if node < 0:
            order.append(~node)
        elif stage == 1:
            span[node] = (began[node], len(order))
            stack.append((right[node], 0))
        else:
            if node >= n or node in began:
                raise ValueError(f"{where} is not a tree")
            began[node] = len(order)
            stack += [(node, 1), (left[node], 0)]
    if sorted(order) != list(range(n_leaves)) or len(span) != n:
        raise ValueError(f"{where} is not a tree")

    tests = np.empty(n, _TEST)
    for i in range(n):
        if kind[i] & 1:
            raise ValueError(f"{where} has a categorical split, which is not read")
        begin, end = span[i]
        default_left, missing = bool(kind[i] & 2), kind[i] >> 2 & 3  # 0: none, 1: zero is missing, 2: NaN is
        nan_left = default_left if missing else threshold[i] >= 0  # without a missing type NaN counts as 0
        cleared = ((1 << (end - begin)) - 1) << begin
        tests[i] = (
            feature[i],
            threshold[i],
            2**64 - 1 - cleared,
            nan_left,
            int(default_left) if missing == 1 else -1,
        )
    return _Tree(tests, np.array(values)[order])


def _always() -> NDArray[Any]:
    """One test that clears nothing, for a tree of a single leaf: every tree then has a test."""
    return np.array([(0, math.inf, 2**64 - 1, True, -1)], dtype=_TEST)
