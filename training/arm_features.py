"""What is known of the arms themselves: the columns by which pooled models tell them apart."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from ..strategies import ArmSpec, VerifierSpec
from .fit_success import is_sound
from .matrix import OutcomeMatrix

COLUMNS = 12
"""Least number of columns, copies counted: each tree draws a share of the columns, and with one copy of three half of
the trees could not tell arms apart; the differences between arms, which the router acts on, were learned worse (bbh
.125 -> .137 of their variance)."""


@dataclass(frozen=True, slots=True, eq=False)
class ArmFeatures:
    """Features of the arms, float64 (a, k); `rising`: columns in which quality cannot fall, all else equal."""

    table: np.ndarray
    rising: tuple[int, ...]


def arm_features(
    matrix: OutcomeMatrix, specs: Mapping[str, ArmSpec | None], verifiers: Mapping[str, VerifierSpec]
) -> ArmFeatures:
    """Describe the arms by their outcomes: rank by mean quality, mean quality, log mean cost; and by their specs.

    Of the specs: number of the backend, of the strategy's kind and of the verifier (in alphabetical order, 0 = none),
    and log2 of n (width times branches of a tree search), in one column where the verifier is sound and in another
    where it is not. An arm whose spec is not known has -1 in all of these.

    More samples under a sound verifier cannot do worse, so quality must not fall in that column. For this to hold of
    whole arms, those that differ in nothing but n share the means of the first three columns.
    """
    plain = {a: msgspec.to_builtins(s) for a, s in specs.items() if s and a in matrix.arms}
    strategies: dict[str, dict[str, Any]] = {a: s.get("strategy", {}) for a, s in plain.items()}
    sound = {a for a, s in strategies.items() if s.get("verifier") and is_sound(str(s["verifier"]), verifiers)}
    quality, cost = matrix.arm_quality.copy(), np.maximum(matrix.arm_cost, 1e-12)
    alike: dict[str, list[int]] = {}
    for i, arm in enumerate(matrix.arms):
        but_n = {k: v for k, v in strategies.get(arm, {}).items() if k != "n"}
        alike.setdefault(repr((plain[arm].get("backend"), but_n)) if arm in sound else arm, []).append(i)
    for members in alike.values():
        quality[members], cost[members] = quality[members].mean(), cost[members].mean()
    rank = np.argsort(np.argsort(quality, kind="stable"), kind="stable").astype(float)
    for members in alike.values():
        rank[members] = rank[members].mean()
    columns, rising = [rank, quality, np.log(cost / cost.mean())], []
    if plain:
        for of in (
            {a: s.get("backend") for a, s in plain.items()},
            {a: s.get("kind") for a, s in strategies.items()},
            {a: s.get("verifier") for a, s in strategies.items()},
        ):
            number = {w: i + 1 for i, w in enumerate(sorted({str(w) for w in of.values() if w is not None}))}
            columns.append(np.array([number.get(str(of[a]), 0) if a in of else -1 for a in matrix.arms], float))
        columns += [
            np.array([_log2_n(strategies[a]) if a in chosen else -1.0 for a in matrix.arms])
            for chosen in (sound, set(strategies) - sound)
        ]
        rising = [len(columns) - 2] if sound else []
    copies = -(-COLUMNS // len(columns))
    table = np.tile(np.stack(columns, axis=1), (1, copies))
    return ArmFeatures(table, tuple(i + c * len(columns) for c in range(copies) for i in rising))


def _log2_n(strategy: Mapping[str, Any]) -> float:
    """Samples of a whole answer, or of a step where it searches, in powers of two."""
    return math.log2(strategy.get("n") or strategy.get("width", 1) * strategy.get("branches", 1))
