"""Boosted trees whose leaves hold several values: a component of the quality (components.py), and what plans know.

A row walks down each tree once, whatever the number of arms (of actions, in a plan); 240 trees take about as long as 40
that are pooled over eight arms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..strategies.errors import ArtifactError
from .artifact import pack_arrays, unpack_arrays
from .estimates import Floats
from .features import Features
from .trees import BoundForest, read_forest, split_models


@dataclass(frozen=True, slots=True, eq=False)
class JointForest:
    """Trees of K members, whose leaves hold a row of v values each.

    texts  : LightGBM text models, one per member; a leaf's value is its row in the member's table.
    tables : float32 (leaves of the member, v) each.
    """

    texts: tuple[str, ...]
    tables: tuple[NDArray[np.float32], ...]
    bound: BoundForest
    _values: Floats

    @classmethod
    def of(cls, name: str, texts: Sequence[str], tables: Sequence[NDArray[np.float32]]) -> "JointForest":
        """Parse the models. Raises ArtifactError for one that is damaged, or does not fit its table."""
        forest = read_forest(texts, names=[f"model {i} of {name}" for i in range(len(texts))])
        sizes = np.array([len(t) for t in tables])
        member = np.searchsorted(forest.first_tree, np.arange(forest.n_trees), side="right") - 1
        of_leaf = np.repeat(member, np.diff(forest.first_leaf, append=len(forest.leaf_value)))
        row = forest.leaf_value.astype(np.intp)
        # No table of few rows is spread over many leaves: what is read takes no more memory than its files did.
        several = (np.bincount(of_leaf, minlength=len(sizes)) > sizes).any()
        if several or (row != forest.leaf_value).any() or (row < 0).any() or (row >= sizes[of_leaf]).any():
            raise ArtifactError(f"{name}: the trees' leaves do not fit their tables: train the router anew")
        values = np.concatenate(tables).astype(np.float64)[row + (np.cumsum(sizes) - sizes)[of_leaf]]
        return cls(tuple(texts), tuple(tables), forest.bind(np.empty((1, 0))), values)

    def summed(self, rows: Floats) -> Floats:
        """Sums (n, K, v) over the trees of each member, for rows (n, features)."""
        return self.bound.summed(rows, self._values)

    @property
    def n_features(self) -> int:
        """Columns of the rows that it reads."""
        return self.bound.forest.n_features

    def arrays(self, prefix: str = "") -> dict[str, NDArray[np.float32]]:
        """The tables by the names that `of_arrays` looks for."""
        return {f"{prefix}leaves_{k}": table for k, table in enumerate(self.tables)}

    @classmethod
    def of_arrays(
        cls, name: str, texts: Sequence[str], arrays: Mapping[str, NDArray[Any]], *, values: int, prefix: str = ""
    ) -> "JointForest":
        """Make a forest of `values` per leaf from texts and tables. Raises ArtifactError for what does not fit."""
        tables = []
        for k in range(len(texts)):
            key = f"{prefix}leaves_{k}"
            table = arrays.get(key)
            if table is None or table.dtype != np.float32 or table.ndim != 2 or table.shape[1] != values:
                raise ArtifactError(f"{name}.npz: {key} must be float32 (leaves, {values}): train the router anew")
            if not np.isfinite(table).all():
                raise ArtifactError(f"{name}.npz: {key} holds a value that is not finite: train the router anew")
            tables.append(table)
        return cls.of(name, texts, tables)

    def pack(self, name: str) -> dict[str, bytes]:
        """The files that `read` makes the same forest from."""
        return {f"{name}.txt": "".join(self.texts).encode(), f"{name}.npz": pack_arrays(**self.arrays())}

    @classmethod
    def read(cls, files: Mapping[str, bytes], *, name: str, values: int, members: int) -> "JointForest":
        """Make a forest of `values` per leaf from its files. Raises ArtifactError for one missing or damaged."""
        texts = split_models(files, f"{name}.txt", members)
        if f"{name}.npz" not in files:
            raise ArtifactError(f"the router lacks {name}.npz: train it anew")
        arrays = unpack_arrays(files[f"{name}.npz"], what=f"{name}.npz")
        return cls.of_arrays(name, texts, arrays, values=values)


@dataclass(frozen=True, slots=True, eq=False)
class JointTreesComponent:
    """Trees of K members over the dense features; a leaf holds the log-odds that it adds to every arm."""

    name: str
    forest: JointForest

    @classmethod
    def of(cls, name: str, texts: Sequence[str], tables: Sequence[NDArray[np.float32]]) -> "JointTreesComponent":
        """Parse the models; as `JointForest.of`."""
        return cls(name, JointForest.of(name, texts, tables))

    def added(self, x: Features) -> Floats:
        """Log-odds (n, a, K) that each prompt adds to each arm's base, of every member."""
        return np.ascontiguousarray(self.forest.summed(x.dense).transpose(0, 2, 1))

    def pack(self) -> dict[str, bytes]:
        """The files that `read` makes the same component from."""
        return self.forest.pack(self.name)

    @classmethod
    def read(cls, files: Mapping[str, bytes], *, name: str, arms: int, members: int) -> "JointTreesComponent":
        """Make the component from its files. Raises ArtifactError for one missing or damaged."""
        return cls(name, JointForest.read(files, name=name, values=arms, members=members))
