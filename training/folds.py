"""Splits of prompts into folds: at random, by whole families of groups, or by time.

Clusters (prompts that ask the same thing, see howhard.training.duplicates) lie in one fold whole, whatever the split.
"""

import heapq
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from ..strategies.errors import ConfigError, TableError, nearest

Split = Literal["prompt", "group", "time"]
SPLITS: tuple[Split, ...] = ("prompt", "group", "time")


def fold_of(
    families: Sequence[str],
    *,
    split: Split,
    folds: int,
    seed: int,
    clusters: Sequence[str] | None = None,
    times: np.ndarray | None = None,
) -> np.ndarray:
    """Return the fold, int (n,) in 0..k-1, of each prompt; k = `folds`, or what there is where that is less.

    prompt : clusters are dealt out at random, the largest first, each to the fold that is emptiest so far; without
             clusters folds are of equal size up to one.
    group  : a family goes to one fold whole, the largest first likewise. A cluster over several families goes with the
             one that has most of its prompts.
    time   : fold 0 is only ever learned from: the earliest prompts, of folds + 1 stretches with equally many; 1..folds
             are judged, each by what was learned from all earlier ones (`sides`). A cluster goes with its latest
             prompt, so that nothing of the future is learned; the seed has no say.

    clusters : length n; None = every prompt is its own. times : datetime64 (n,), needed for split = "time".

    Raises TableError when a group split has fewer than two families, there are fewer clusters than folds, or a split
    by time has prompts without a time or too few times.
    """
    if split not in SPLITS:
        raise ConfigError(f"split={split!r}{nearest(str(split), SPLITS)}")
    if folds < 2:
        raise ConfigError(f"folds={folds}: at least 2 are needed")
    cluster = np.arange(len(families)) if clusters is None else _numbered(clusters)[0]
    if split == "time":
        return _by_time(times, cluster, folds)
    rng = np.random.default_rng(seed)
    if split == "prompt":
        size = np.bincount(cluster)
        if len(size) < folds:
            alike = f" ({len(size)} that are not alike)" if len(size) < len(families) else ""
            raise TableError(f"{len(families)} prompts{alike} cannot make {folds} folds: give more prompts")
        return _dealt(size, folds, rng)[cluster]
    family, names = _numbered(families)
    home = _main_family(family, cluster)[cluster]
    kept, member = np.unique(home, return_inverse=True)
    if len(kept) < 2:
        raise TableError(
            f"a split by group needs two families of prompts or more, the table has {len(kept)} "
            f"({str(names[kept[0]])!r}): nothing can be left out. Give the prompts a group column that tells "
            "tasks apart"
        )
    return _dealt(np.bincount(member), min(folds, len(kept)), rng)[member]


def sides(fold: np.ndarray, split: Split) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each fold that is judged: what is learned from and what is judged, masks (n,), (n,).

    All other folds are learned from; by time all earlier ones, and fold 0 is not judged.
    """
    for i in range(1 if split == "time" else 0, int(fold.max()) + 1):
        yield (fold < i if split == "time" else fold != i), fold == i


def _numbered(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    found, member = np.unique(np.array(list(names), dtype=str), return_inverse=True)
    return member, found


def _dealt(size: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """A fold for each unit: the largest first, equal ones in random order, each to the emptiest fold."""
    shuffled = rng.permutation(len(size))
    home = np.empty(len(size), dtype=int)
    filled = [(0, fold) for fold in range(folds)]
    for unit in shuffled[np.argsort(-size[shuffled], kind="stable")].tolist():
        prompts, fold = filled[0]
        home[unit] = fold
        heapq.heapreplace(filled, (prompts + int(size[unit]), fold))
    return home


def _main_family(family: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """The family of each cluster that has most of its prompts; of equal ones the first."""
    k = int(family.max()) + 1
    pairs, count = np.unique(cluster * k + family, return_counts=True)
    best = np.lexsort((pairs % k, -count, pairs // k))
    _, first = np.unique(pairs[best] // k, return_index=True)
    return pairs[best][first] % k


def _by_time(times: np.ndarray | None, cluster: np.ndarray, folds: int) -> np.ndarray:
    n = len(cluster)
    missing = n if times is None else int(np.isnat(times).sum())
    if times is None or missing:
        raise TableError(
            f"a split by time needs the time of every prompt, {missing} of {n} have none: map a column to `time`, or "
            "leave those prompts out"
        )
    seconds = times.astype("datetime64[us]").astype(np.int64)
    latest = np.full(int(cluster.max()) + 1, np.iinfo(np.int64).min)
    np.maximum.at(latest, cluster, seconds)
    when = latest[cluster]
    moments, index, count = np.unique(when, return_inverse=True, return_counts=True)
    if len(moments) < folds + 1:
        raise TableError(
            f"{len(moments)} different times cannot make {folds} folds after a first stretch to learn from: "
            f"lower folds to {len(moments) - 1}, or log finer times"
        )
    # Prompts of one moment stay together, and every stretch has a moment at least.
    before = np.cumsum(count) - count
    stretch = np.minimum(before * (folds + 1) // n, folds)
    last = len(moments) - 1
    stretch = np.maximum(stretch, folds - (last - np.arange(last + 1)))
    for i in range(1, last + 1):
        stretch[i] = min(stretch[i], stretch[i - 1] + 1)
    return stretch[index]
