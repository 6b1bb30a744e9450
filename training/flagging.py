"""What it does to flag prompts as unlike the training prompts: how often, and whether the flag pays, family by family.

A high hit rate alone is easy (likeness to the training prompts flags nearly every prompt of a family left out): what
counts is the utility with the flag and without it, and how many prompts of KNOWN families it flags in vain.
"""

from dataclasses import dataclass

import numpy as np

from .curves import Interval, PairedMeans
from .matrix import OutcomeMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyFlag:
    """One family: its prompts, the share flagged, and the mean gain over the best fixed arm with and without flags."""

    family: str
    n: int
    share: float
    with_flag: float
    without: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Flagging:
    """share : of prompts flagged. On random splits, where no prompt is of an unknown family, that is the false alarms.

    with_flag, without : the router's gain over the best fixed arm; net : their difference, paired.
    """

    share: Interval
    with_flag: Interval
    without: Interval
    net: Interval
    families: tuple[FamilyFlag, ...]


def flagging(
    matrix: OutcomeMatrix, flagged: np.ndarray, with_flag: np.ndarray, without: np.ndarray, means: PairedMeans
) -> Flagging:
    """Judge flags (n,) by the gains (n,) of the router that heeds them and of the same router that does not."""
    names, member = np.unique(np.asarray(matrix.families, dtype=str), return_inverse=True)
    size = np.bincount(member)

    def by_family(figure: np.ndarray) -> np.ndarray:
        return np.bincount(member, figure) / size

    columns = (by_family(np.asarray(flagged, float)), by_family(with_flag), by_family(without))
    return Flagging(
        share=means.interval(np.asarray(flagged, float)),
        with_flag=means.interval(with_flag),
        without=means.interval(without),
        net=means.interval(with_flag - without),
        families=tuple(
            FamilyFlag(family=str(f), n=int(n), share=float(s), with_flag=float(w), without=float(o))
            for f, n, s, w, o in zip(names, size, *columns, strict=True)
        ),
    )
