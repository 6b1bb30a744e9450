"""The picks that another router made on the same prompts, read from a file and compared with ours, paired by prompt.

Both are paid what the table of outcomes says of the arm picked; a rival that logged a cost of its own (its judge's or
its embedding's calls, for instance) may bring it along.
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..strategies.errors import TableError, nearest
from .curves import Interval, PairedMeans, resampling_weights
from .matrix import OutcomeMatrix


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RivalPicks:
    """What another router picked.

    name : of the rival. arms : prompt id -> arm. cost : prompt id -> what serving it cost the rival, in the table's
    unit; {} = what the table says of its arm.
    """

    name: str
    arms: Mapping[str, str]
    cost: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Router minus rival at one lambda, means per prompt: of quality, cost (in the table's unit), and utility.

    utility = quality - lambda * cost / (mean cost of the dearest arm). agree : share of prompts with the same arm.
    """

    price: float
    quality: Interval
    cost: Interval
    utility: Interval
    agree: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """The comparison: n prompts that both decided, and how many the rival's file lacks, which are left out of it."""

    name: str
    n: int
    missing: int
    prices: tuple[Difference, ...]


def read_picks(path: str | Path) -> RivalPicks:
    """Read a CSV with the columns prompt_id and arm, and cost where the rival logged its own.

    Raises TableError for a missing column, a prompt that stands there twice, or a cost that is negative or no number.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            for column in ("prompt_id", "arm"):
                if column not in columns:
                    raise TableError(f"{path} has no column {column!r}{nearest(column, columns)}")
            arms: dict[str, str] = {}
            cost: dict[str, float] = {}
            for row in reader:
                prompt, arm, where = row["prompt_id"], row["arm"], f"{path}: line {reader.line_num}"
                if not prompt or not arm:
                    raise TableError(
                        f"{path}: line {reader.line_num}: prompt_id {prompt!r}, arm {arm!r}: both are needed"
                    )
                if prompt in arms:
                    raise TableError(
                        f"{path}: line {reader.line_num}: prompt {prompt!r} stands there twice: keep one pick"
                    )
                arms[prompt] = arm
                if "cost" in columns:
                    cost[prompt] = _cost(row["cost"], f"{where}, prompt {prompt!r}")
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise TableError(f"{path}: not readable as CSV: {exc}") from exc
    return RivalPicks(name=path.stem, arms=arms, cost=cost)


def _cost(text: str | None, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise TableError(
            f"{where}: cost={text!r}: it must be a number >= 0; leave the column out to pay the rival what the table "
            "says of its arms"
        )
    return value


def check_picks(rival: RivalPicks, matrix: OutcomeMatrix) -> None:
    """Raise TableError where the rival names a prompt or an arm that the table does not have."""
    known = set(matrix.prompt_ids)
    for prompt, arm in rival.arms.items():
        if prompt not in known:
            raise TableError(
                f"{rival.name}: no outcome of prompt {prompt!r} in the table{nearest(prompt, matrix.prompt_ids)}"
            )
        if arm not in matrix.arms:
            raise TableError(
                f"{rival.name}: prompt {prompt!r} was given to arm {arm!r}, which is not in the table"
                f"{nearest(arm, matrix.arms)}"
            )


def compare_picks(
    matrix: OutcomeMatrix,
    rival: RivalPicks,
    picks: Mapping[float, np.ndarray],
    *,
    scale: float,
    by_family: bool,
    draws: int,
    seed: int,
) -> Against:
    """Compare our picks (n,) at each lambda with the rival's, on the prompts of its file.

    scale : 1 / the dearest arm's mean cost. Raises TableError where the rival has none of these prompts.
    """
    both = np.array([i for i, p in enumerate(matrix.prompt_ids) if p in rival.arms], dtype=np.intp)
    if not len(both):
        raise TableError(f"{rival.name} has a pick for none of the {len(matrix)} prompts that are compared")
    ids = [matrix.prompt_ids[i] for i in both]
    theirs = np.array([matrix.arms.index(rival.arms[p]) for p in ids])
    their_cost = np.array([rival.cost.get(p, matrix.cost[i, a]) for p, i, a in zip(ids, both, theirs, strict=True)])
    units = np.asarray(matrix.families if by_family else matrix.clusters, dtype=str)[both]
    means = PairedMeans(resampling_weights(units, draws=draws, seed=seed))
    found = []
    for price, index in picks.items():
        ours = index[both]
        quality = matrix.quality[both, ours] - matrix.quality[both, theirs]
        cost = matrix.cost[both, ours] - their_cost
        found.append(
            Difference(
                price=price,
                quality=means.interval(quality),
                cost=means.interval(cost),
                utility=means.interval(quality - price * scale * cost),
                agree=float((ours == theirs).mean()),
            )
        )
    return Against(name=rival.name, n=len(both), missing=len(matrix) - len(both), prices=tuple(found))
