"""Outcomes as arrays: one row per prompt, one column per arm.

Long tables are pivoted here once, and priced; everything that learns or judges (fit, baselines, evaluate, promote)
works on the arrays. What a table may hold is checked where it is read (tables, importing); here only what the arrays
themselves need is checked again, so that a DataFrame made by hand meets the same rules.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..strategies.errors import TableError, nearest
from .duplicates import clusters_of
from .families import family_of, merged_by_clusters

if TYPE_CHECKING:
    import pandas as pd

REFERENCE_UNIT = "completion tokens of the reference backend"

_ARRAYS = ("quality", "cost", "tokens", "latency", "draws")
_NAMES = ("prompt_ids", "texts", "groups", "families", "clusters")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutcomeMatrix:
    """What every arm did on every prompt.

    prompt_ids, texts, groups, families : length n; a family is a set of sibling groups that a group split moves whole.
    arms    : length a, in alphabetical order.
    quality : float (n, a), grader score in [0, 1]; NaN where the arm was not run.
    cost    : float (n, a), in `unit` per request; NaN where the arm was not run.
    tokens  : float (n, a), completion and verifier tokens; NaN where not run or not logged.
    latency : float (n, a), seconds; NaN where not measured.
    draws   : float (n, a), graded draws behind each quality: 1 for a run, n for the mean of n samples; NaN where the
              arm was not run. With them a soft quality is a count of successes.
    clusters : length n; prompts of one cluster ask the same thing and lie on one side of every split. Left out, every
              prompt is a cluster of its own.
    times   : datetime64[us] (n,), when the prompt was asked (UTC); NaT where that is not known, as it is left out.
    """

    prompt_ids: tuple[str, ...]
    texts: tuple[str, ...]
    groups: tuple[str, ...]
    families: tuple[str, ...]
    arms: tuple[str, ...]
    quality: np.ndarray
    cost: np.ndarray
    tokens: np.ndarray
    latency: np.ndarray
    draws: np.ndarray
    unit: str = "cost"
    clusters: tuple[str, ...] = ()
    times: np.ndarray = field(default_factory=lambda: np.empty(0, dtype="datetime64[us]"))

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def __post_init__(self) -> None:
        shape = (len(self.prompt_ids), len(self.arms))
        if not (shape[0] and shape[1]):
            raise TableError(f"there are {shape[0]} prompts and {shape[1]} arms: nothing to learn from")
        if not self.clusters:
            object.__setattr__(self, "clusters", self.prompt_ids)
        if not len(self.times):
            object.__setattr__(self, "times", np.full(shape[0], "NaT", dtype="datetime64[us]"))
        for name in (*_NAMES[1:], "times"):
            if len(getattr(self, name)) != shape[0]:
                raise TableError(f"{name} has {len(getattr(self, name))} entries for {shape[0]} prompts")
        for name in _ARRAYS:
            if getattr(self, name).shape != shape:
                raise TableError(f"{name} has shape {getattr(self, name).shape}, not prompts x arms = {shape}")

    @classmethod
    def of(
        cls,
        outcomes: "pd.DataFrame",
        prompts: "pd.DataFrame",
        *,
        arms: Sequence[str] | None = None,
        families: Mapping[str, str] | Callable[[str], str] = family_of,
        unit: str = "cost",
    ) -> "OutcomeMatrix":
        """Pivot the outcomes table; several rows of one prompt and arm become their mean.

        outcomes : columns prompt_id, arm, quality, cost; completion_tokens, verifier_tokens, latency_s, draws where
                   logged.
        prompts  : columns prompt_id, text, and group, time, cluster (problems that are one) where known.
        families : group -> family (a group that a mapping lacks: as its name says). Families that share clusters are
                   merged over it.
        arms     : keep only these; None = all that the table has.
        unit     : what `cost` is in, for reports. Without any price it is REFERENCE_UNIT, and the cost of an arm is
                   its completion and verifier tokens.

        Raises TableError for a missing column, an unknown arm, a prompt without text, a quality outside [0, 1], a
        negative or NaN figure, or an arm that has no price while others have one.
        """
        _need(outcomes, "outcomes", ("prompt_id", "arm", "quality"))
        _need(prompts, "prompts", ("prompt_id", "text"))
        names = outcomes["arm"].to_numpy(dtype=str)
        keep = np.ones(len(names), dtype=bool)
        if arms is not None:
            for arm in arms:
                if arm not in names:
                    raise TableError(f"no outcome of arm {arm!r} in the table{nearest(arm, set(names.tolist()))}")
            keep = np.isin(names, list(arms))
        if not keep.any():
            raise TableError("the outcomes table has no rows: nothing to learn from")
        names, ids = names[keep], outcomes["prompt_id"].to_numpy(dtype=str)[keep]
        read = _Columns(outcomes, keep, ids, names)
        quality = read.column("quality", upper=1.0, nulls=False)
        tokens = read.column("completion_tokens") + np.nan_to_num(read.column("verifier_tokens"))
        latency = read.column("latency_s")
        cost, unit = read.priced(tokens, unit)

        prompt_ids, row = np.unique(ids, return_inverse=True)
        arm_names, column = np.unique(names, return_inverse=True)
        shape = (len(prompt_ids), len(arm_names))

        def pivot(values: np.ndarray) -> np.ndarray:
            known = ~np.isnan(values)
            total, count = np.zeros(shape), np.zeros(shape)
            np.add.at(total, (row[known], column[known]), values[known])
            np.add.at(count, (row[known], column[known]), 1)
            return np.where(count > 0, total / np.maximum(count, 1), np.nan)

        def total(values: np.ndarray) -> np.ndarray:
            out = np.zeros(shape)
            np.add.at(out, (row, column), values)
            return np.where(out > 0, out, np.nan)

        text_of = dict(zip(prompts["prompt_id"].astype(str), prompts["text"], strict=True))
        absent = [i for i in prompt_ids.tolist() if i not in text_of]
        if absent:
            raise TableError(f"{len(absent)} prompts of the outcomes table have no text, the first is {absent[0]!r}")
        told = {name: _of_prompts(prompts, name, prompt_ids.tolist()) for name in ("group", "cluster", "time")}
        groups = tuple("" if g is None else str(g) for g in told["group"])
        texts = tuple(str(text_of[i]) for i in prompt_ids.tolist())
        clusters = clusters_of(prompt_ids.tolist(), texts, told["cluster"])
        to_family = families if callable(families) else lambda g: families.get(g) or family_of(g)
        return cls(
            prompt_ids=tuple(prompt_ids.tolist()),
            texts=texts,
            groups=groups,
            families=merged_by_clusters([to_family(g) for g in groups], clusters),
            clusters=clusters,
            times=_moments(told["time"]),
            arms=tuple(arm_names.tolist()),
            quality=pivot(quality),
            cost=pivot(cost),
            tokens=pivot(tokens),
            latency=pivot(latency),
            draws=total(np.nan_to_num(read.column("draws"), nan=1.0)),
            unit=unit,
        )

    def rows(self, index: np.ndarray | Sequence[int]) -> "OutcomeMatrix":
        """Return the matrix of the prompts at `index` (positions or a mask)."""
        where = np.arange(len(self))[np.asarray(index)]
        return dataclasses.replace(
            self,
            **{f: tuple(getattr(self, f)[i] for i in where) for f in _NAMES},
            **{f: getattr(self, f)[where] for f in (*_ARRAYS, "times")},
        )

    def columns(self, arms: Sequence[str]) -> "OutcomeMatrix":
        """Return the matrix of `arms` only, in that order. Raises TableError for an arm that it does not have."""
        for arm in arms:
            if arm not in self.arms:
                raise TableError(f"no outcome of arm {arm!r}{nearest(arm, self.arms)}")
        where = [self.arms.index(a) for a in arms]
        arrays = {f: getattr(self, f)[:, where] for f in _ARRAYS}
        return dataclasses.replace(self, arms=tuple(arms), **arrays)

    def complete(self) -> "OutcomeMatrix":
        """Return the prompts on which every arm was run: paired comparisons need them all.

        Raises TableError when there is none, naming the arm with the most gaps.
        """
        whole = np.asarray(~np.isnan(self.quality).any(axis=1))
        if not whole.any():
            gaps = np.isnan(self.quality).sum(axis=0)
            worst = int(gaps.argmax())
            raise TableError(
                f"no prompt has outcomes of all {len(self.arms)} arms; {self.arms[worst]!r} is missing on "
                f"{gaps[worst]} of {len(self)}. Leave arms out, or collect the missing outcomes"
            )
        return self if whole.all() else self.rows(whole)

    @property
    def arm_quality(self) -> np.ndarray:
        """Mean quality of each arm over the prompts on which it was run, float (a,)."""
        return np.nanmean(self.quality, axis=0)

    @property
    def arm_cost(self) -> np.ndarray:
        """Mean cost of each arm over the prompts on which it was run, float (a,)."""
        return np.nanmean(self.cost, axis=0)

    @property
    def best_arm(self) -> int:
        """Index of the arm with the highest mean quality; of equal ones the cheaper."""
        return best_fixed(self.arm_quality, self.arm_cost)

    @property
    def quality_se(self) -> np.ndarray:
        """Standard error (a, a) of the differences of the arms' mean qualities; see `difference_se`."""
        return difference_se(self.quality, np.unique(np.asarray(self.families, dtype=str), return_inverse=True)[1])


def difference_se(quality: np.ndarray, family: np.ndarray) -> np.ndarray:
    """Standard error (a, a) of the differences of columns' means, over families of prompts.

        se_jk^2 = F / (F - 1) * sum_f (s_fj - s_fk)^2,   s_fj = sum over family f of (q_j - mean_j) / n_j

    quality : (n, a), NaN where an arm was not run.   family : int (n,).

    Linearised, so that arms that were run on different prompts have one too. 0 where all prompts are of one family:
    nothing then says how families differ, and the next prompts are taken to be like these.
    """
    count = int(family.max()) + 1
    has = ~np.isnan(quality)
    share = np.where(has, quality - np.nanmean(quality, axis=0), 0.0) / has.sum(axis=0)
    sums = np.stack([np.bincount(family, column, minlength=count) for column in share.T], axis=1)
    apart = np.stack([((sums - own[:, None]) ** 2).sum(axis=0) for own in sums.T])
    return np.sqrt(apart * count / max(count - 1, 1))


def best_fixed(quality: np.ndarray, cost: np.ndarray, *, value: float | None = None) -> int:
    """Index of the arm with the highest `value * quality - cost` (quality alone where value is None).

    Of equal ones it is the cheaper. It looks back at outcomes; what a router falls back to on prompts to come is
    `ArmMeans.best`, which wants to be sure.
    """
    score = quality if value is None else value * quality - cost
    tied = np.flatnonzero(score >= score.max() - 1e-12)
    return int(tied[np.argmin(cost[tied])])


def _need(table: "pd.DataFrame", name: str, columns: Iterable[str]) -> None:
    for column in columns:
        if column not in table:
            raise TableError(f"the {name} table has no column {column!r}{nearest(column, map(str, table.columns))}")


def _of_prompts(prompts: "pd.DataFrame", column: str, ids: list[str]) -> list[Any]:
    """A column of the prompts table in the order of `ids`, None where it says nothing."""
    if column not in prompts:
        return [None] * len(ids)
    held = dict(zip(prompts["prompt_id"].astype(str), prompts[column].tolist(), strict=True))
    found = [held.get(i) for i in ids]
    return [None if value is None or value != value else value for value in found]  # NaN and NaT are not themselves


def _moments(times: Sequence[object]) -> np.ndarray:
    import pandas as pd

    return pd.DatetimeIndex(pd.to_datetime(list(times), utc=True)).tz_localize(None).to_numpy(dtype="datetime64[us]")


class _Columns:
    """Numeric columns of the rows kept, checked; a column that the table lacks is NaN throughout."""

    def __init__(self, table: "pd.DataFrame", keep: np.ndarray, ids: np.ndarray, arms: np.ndarray) -> None:
        self._table, self._keep, self._ids, self._arms = table, keep, ids, arms

    def column(self, name: str, *, upper: float = np.inf, nulls: bool = True) -> np.ndarray:
        """One column; raises TableError for a value that is negative, infinite, above `upper`, or null where needed."""
        if name not in self._table:
            return np.full(len(self._ids), np.nan)
        values = self._table[name].to_numpy(dtype=float, na_value=np.nan)[self._keep]
        bad = (values < 0) | (values > upper) | np.isinf(values) | (np.isnan(values) & (not nulls))
        if bad.any():
            i = int(bad.argmax())
            limits = f"in [0, {upper:g}]" if upper < np.inf else "a finite number >= 0"
            raise TableError(
                f"{name}={values[i]:g} for prompt {str(self._ids[i])!r}, arm {str(self._arms[i])!r} ({int(bad.sum())} "
                f"such rows): it must be {limits}. Repair or leave out these rows"
            )
        return values

    def priced(self, tokens: np.ndarray, unit: str) -> tuple[np.ndarray, str]:
        """The cost of each row and its unit: as logged, or tokens where no row at all has a price."""
        cost = self.column("cost")
        unpriced = np.isnan(cost)
        if unpriced.all():
            if np.isnan(tokens).any():
                raise TableError("no row has a cost, and completion_tokens has gaps: nothing says what an arm takes")
            return tokens, REFERENCE_UNIT
        if unpriced.any():
            arm = self._arms[unpriced][0]
            mine = self._arms == arm
            raise TableError(
                f"arm {str(arm)!r} cannot be priced: cost is null in {int((unpriced & mine).sum())} of its "
                f"{int(mine.sum())} rows, while other rows have one. Leave the arm out, or give its backend prices"
            )
        return cost, unit
