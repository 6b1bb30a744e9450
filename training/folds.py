"""Splits of prompts into folds: at random, or by whole families of groups."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ..strategies.errors import ConfigError, TableError, nearest

Split = Literal["prompt", "group"]


def fold_of(families: Sequence[str], *, split: Split, folds: int, seed: int) -> np.ndarray:
    """Return the fold, int (n,) in 0..k-1, of each prompt; k = `folds`, or the number of families where that is less.

    prompt : prompts are dealt out at random, folds of equal size up to one.
    group  : a family goes to one fold whole, the largest families first, each to the fold that is emptiest so far.

    Raises TableError when a group split has fewer than two families, or there are fewer prompts than folds.
    """
    if split not in ("prompt", "group"):
        raise ConfigError(f"split={split!r}{nearest(str(split), ('prompt', 'group'))}")
    if folds < 2:
        raise ConfigError(f"folds={folds}: at least 2 are needed")
    n = len(families)
    rng = np.random.default_rng(seed)
    if split == "prompt":
        if n < folds:
            raise TableError(f"{n} prompts cannot make {folds} folds: give more prompts")
        dealt = np.empty(n, dtype=int)
        dealt[rng.permutation(n)] = np.arange(n) % folds
        return dealt
    names, member, size = np.unique(np.asarray(families, dtype=str), return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise TableError(
            f"a split by group needs two families of prompts or more, the table has {len(names)} ({str(names[0])!r}): "
            "nothing can be left out. Give the prompts a group column that tells tasks apart"
        )
    k = min(folds, len(names))
    shuffled = rng.permutation(len(names))
    order = shuffled[np.argsort(-size[shuffled], kind="stable")]
    filled = np.zeros(k, dtype=int)
    home = np.empty(len(names), dtype=int)
    for family in order:
        home[family] = filled.argmin()
        filled[home[family]] += size[family]
    return home[member]
