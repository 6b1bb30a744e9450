"""The same prompts and arms twice, from two disjoint halves of the logged samples.

An oracle that chooses on one half and is paid by the other knows the prompts' true success probabilities as well as
so many samples tell, and never peeks at the outcome that it is paid (DESIGN section 7).
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..strategies import ArmSpec, BestOfNSpec, VerifierSpec
from .derive import derive, is_derivable
from .matrix import OutcomeMatrix


def halves(
    samples: pd.DataFrame,
    prompts: pd.DataFrame,
    matrix: OutcomeMatrix,
    specs: Mapping[str, ArmSpec],
    verifiers: Mapping[str, VerifierSpec],
) -> tuple[OutcomeMatrix, OutcomeMatrix] | None:
    """Derive `matrix` from the samples of even, then of odd index.

    An arm that a half cannot give (it was run once, or draws more samples than a half holds) has quality 0 in both,
    so that the oracle never takes it: paying it with what it was chosen by would be peeking, and any mean over other
    prompts would flatter it on the hard ones.

    Returns None where no arm can be derived from half of the samples.
    """
    collected = samples.loc[samples["origin"] == "collect"]
    counts = collected.groupby(["prompt_id", "backend"]).size().to_numpy()
    fewest = int(counts.min()) // 2 if len(counts) else 0
    split = [spec for spec in specs.values() if is_derivable(spec) and _draws(spec) <= fewest]
    if not split:
        return None
    pair = []
    for parity in (0, 1):
        half = collected.loc[collected["sample_index"] % 2 == parity]
        derived = OutcomeMatrix.of(derive(half, prompts, split, verifiers), prompts, unit=matrix.unit)
        pair.append(_filled(matrix, derived))
    return pair[0], pair[1]


def _draws(spec: ArmSpec) -> int:
    return spec.strategy.n if isinstance(spec.strategy, BestOfNSpec) else 1


def _filled(matrix: OutcomeMatrix, derived: OutcomeMatrix) -> OutcomeMatrix:
    """`matrix` with the derived arms in place of its own, and quality 0 for the others."""
    quality, cost = np.zeros_like(matrix.quality), matrix.cost.copy()
    row = {prompt_id: i for i, prompt_id in enumerate(derived.prompt_ids)}
    rows = [row[prompt_id] for prompt_id in matrix.prompt_ids]
    for column, arm in enumerate(matrix.arms):
        if arm in derived.arms:
            at = derived.arms.index(arm)
            quality[:, column], cost[:, column] = derived.quality[rows, at], derived.cost[rows, at]
    return dataclasses.replace(matrix, quality=quality, cost=cost)
