"""What changes when one router takes another's place: which prompts change arm, and what that costs or gains.

Both decide every prompt of a table at one objective, and the arms that they pick are paid what the table says. Prompts
that keep their arm differ by nothing.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..router.objective import Objective
from .curves import Interval, interval, resampling_weights
from .matrix import OutcomeMatrix
from .printing import WIDTH, bracket, number, plus_minus, text_table
from .promote import Contender, picked

_EXAMPLES = 3
_GROUPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What some prompts gain per prompt: B minus A, as logged.

    prompts : how many; changed : of those, how many change arm; logged : of the changed, those with outcomes of both.
    quality, cost, utility : means over the prompts that keep their arm or are logged; None where there are none.
    """

    name: str
    prompts: int
    changed: int
    logged: int
    quality: Interval | None
    cost: Interval | None
    utility: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One prompt that changes arm; quality and cost are B's minus A's."""

    prompt_id: str
    prompt: str
    group: str
    from_arm: str
    to_arm: str
    quality: float
    cost: float
    utility: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """B instead of A on one table.

    a, b      : the two in words. objective : that at which both decided. unit : of cost and utility.
    whole     : all prompts. unseen : those that neither was trained on; None where that is all of them, or not known.
    moves     : by pair of arms, changed prompts alone. groups : by group, those that change most first.
    gains, losses : the prompts that gain and lose most utility.
    notes     : sentences on what to know before reading the figures.
    """

    a: str
    b: str
    objective: Objective
    unit: str
    whole: Change
    unseen: Change | None
    moves: tuple[Change, ...]
    groups: tuple[Change, ...]
    gains: tuple[Example, ...]
    losses: tuple[Example, ...]
    notes: tuple[str, ...]

    def text(self) -> str:
        """For people."""
        w, value = self.whole, number(self.objective.value)
        lines = [f"A: {self.a}", f"B: {self.b}"]
        lines.append(
            f"{w.changed:,} of {w.prompts:,} prompts change arm ({100 * w.changed / w.prompts:.0f} %), at "
            f"{value} for a correct answer; cost is in {'the unit of the table' if self.unit == 'cost' else self.unit}."
        )
        lines += [textwrap.fill(f"Note: {note}.", WIDTH, subsequent_indent="  ") for note in self.notes]
        if not w.changed:
            return "\n".join([*lines, "Nothing changes on these prompts."])
        totals = [w] if self.unseen is None else [w, self.unseen]
        lines += ["", _table("B minus A, per prompt", totals)]
        lines += ["", _table("prompts that change arm", self.moves, changed=False)]
        if len(self.groups) > 1:
            lines += ["", _table("by group", self.groups[:_GROUPS])]
            if len(self.groups) > _GROUPS:
                lines.append(f"... and {len(self.groups) - _GROUPS} groups more (--json has all)")
        for title, examples in (("gain most", self.gains), ("lose most", self.losses)):
            if examples:
                lines += ["", f"{title}:", *(line for e in examples for line in _example(e))]
        lines += ["", "Intervals: 95 %, paired bootstrap by prompt."]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """For programs: plain JSON types."""
        skipped = ("objective",)
        parts: dict[str, Any] = {f: getattr(self, f) for f in self.__slots__ if f not in skipped}
        plain = {k: _plain(v) for k, v in parts.items()}
        return {**plain, "value": self.objective.value}


def diff(
    a: Contender,
    b: Contender,
    table: OutcomeMatrix,
    *,
    objective: Objective | None = None,
    seed: int = 0,
    draws: int = 2000,
) -> Diff:
    """Compare two routers on a table of outcomes.

    objective : at which both decide; None = A's own. Where no arm keeps its limits each takes its fallback.
    """
    objective = (objective or a.router.objective).but(on_infeasible="fallback")
    old, new = (picked(c.router, table.texts, objective) for c in (a, b))
    moved = old != new
    one, other = (_paid(table, picks, objective) for picks in (old, new))
    gain = np.where(moved, other - one, 0.0)  # (3, n): quality, cost, utility
    logged = ~np.isnan(gain).any(axis=0)
    units = np.unique(np.asarray(table.clusters, dtype=str), return_inverse=True)[1]

    def change(name: str, rows: np.ndarray) -> Change:
        told = rows & logged
        means: list[Interval | None] = [None, None, None]
        if told.any():
            weights = resampling_weights(units[told], draws=draws, seed=seed)
            means = [interval(float(g.mean()), weights @ g) for g in gain[:, told]]
        return Change(
            name=name,
            prompts=int(rows.sum()),
            changed=int((rows & moved).sum()),
            logged=int((told & moved).sum()),
            quality=means[0],
            cost=means[1],
            utility=means[2],
        )

    pairs = sorted({(str(old[i]), str(new[i])) for i in np.flatnonzero(moved)})
    moves = [change(f"{x} -> {y}", moved & (old == x) & (new == y)) for x, y in pairs]
    names = np.asarray(table.groups, dtype=str)
    groups = [change(str(g), names == g) for g in np.unique(names[moved])]
    order = np.argsort(np.where(moved & logged, gain[2], 0.0), kind="stable")

    def example(i: int) -> Example:
        quality, cost, utility = gain[:, i].tolist()
        return Example(
            prompt_id=table.prompt_ids[i], prompt=table.texts[i], group=table.groups[i], from_arm=str(old[i]),
            to_arm=str(new[i]), quality=quality, cost=cost, utility=utility,
        )  # fmt: skip

    saw = [c.saw(table) for c in (a, b)]
    fair = ~np.any([s for s in saw if s is not None] or [np.zeros(len(table), dtype=bool)], axis=0)
    return Diff(
        a=_words(a),
        b=_words(b),
        objective=objective,
        unit=table.unit,
        whole=change("all prompts", np.ones(len(table), dtype=bool)),
        unseen=None if fair.all() or not fair.any() else change("not trained on by either", fair),
        moves=tuple(sorted(moves, key=lambda c: -c.changed)),
        groups=tuple(sorted(groups, key=lambda c: -c.changed)),
        gains=tuple(example(int(i)) for i in order[::-1][:_EXAMPLES] if gain[2, i] > 0),
        losses=tuple(example(int(i)) for i in order[:_EXAMPLES] if gain[2, i] < 0),
        notes=tuple(_notes(saw, moved & ~logged, fair)),
    )


def _paid(table: OutcomeMatrix, picks: np.ndarray, objective: Objective) -> np.ndarray:
    """Quality, cost and utility (3, n) of the arms picked, NaN where the table has no outcome of them."""
    column = {arm: j for j, arm in enumerate(table.arms)}
    at = np.array([column.get(arm, -1) for arm in picks.tolist()])
    rows = np.arange(len(table))
    quality, cost, seconds = (
        np.where(at >= 0, figures[rows, at], np.nan) for figures in (table.quality, table.cost, table.latency)
    )
    utility = objective.value * quality - cost
    if objective.price_of_second:
        utility = utility - objective.price_of_second * seconds
    return np.stack([quality, cost, utility])


def _notes(saw: Sequence[np.ndarray | None], unlogged: np.ndarray, fair: np.ndarray) -> list[str]:
    notes = []
    for name, seen in zip("AB", saw, strict=True):
        if seen is None:
            notes.append(f"{name} does not tell which prompts it was trained on")
        elif seen.any():
            notes.append(f"{name} was trained on {seen.sum():,} of these prompts, and looks better there than it is")
    if not fair.any():
        notes.append("no prompt is new to both: the figures flatter, give a log with prompts that were held out")
    if unlogged.any():
        notes.append(
            f"{unlogged.sum():,} prompts that change arm lack an outcome of one of the two arms: not in the means"
        )
    return notes


def _words(c: Contender) -> str:
    version = getattr(c.router, "version", "")
    return f"{c.source or 'a router'}{f' ({version})' if version else ''}"


def _table(title: str, changes: Sequence[Change], *, changed: bool = True) -> str:
    columns = ["prompts", *(["change arm"] if changed else []), "quality", "cost", "utility"]
    rows = []
    for c in changes:
        counts = [f"{c.prompts:,}", *([f"{c.changed:,}"] if changed else [])]
        quality = "not logged" if c.quality is None else bracket(c.quality, sign=True)
        money = ["" if i is None else _signed(i) for i in (c.cost, c.utility)]
        rows.append((c.name, [*counts, quality, *money]))
    return f"{title}\n{text_table(columns, rows)}"


def _signed(i: Interval) -> str:
    return f"{'+' if i.mean > 0 else ''}{plus_minus(i)}"


def _example(e: Example) -> list[str]:
    figures = f"quality {e.quality:+.2f}, cost {e.cost:+.3g}, utility {e.utility:+.3g}"
    text = " ".join(e.prompt.split())
    short = text if len(text) <= WIDTH - 4 else f"{text[: WIDTH - 7]}..."
    return [f"  {e.prompt_id}: {e.from_arm} -> {e.to_arm}; {figures}", f"    {short}"]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Change | Example):
        return asdict(value)
    return value
