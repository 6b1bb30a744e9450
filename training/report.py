"""Evaluations for people: a table with intervals, the sentences that matter, and the cost-quality plane as a PNG.

Nothing is computed here; evaluate.py did that.
"""

import itertools
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .curves import Interval
from .evaluate import Evaluation, Row, Skipped
from .printing import WIDTH, bracket, name_points, number, plus_minus, share, text_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PIXELS = 900
"""Width of the PNG; each evaluation gets a panel of 560 pixels in height."""

_SPLITS = {
    "prompt": "random prompts left out",
    "group": "whole families of prompts left out",
    "holdout": "held-out prompts",
}
_ORDER = ("arm", "router", "baseline", "control", "oracle")


@dataclass(frozen=True, slots=True)
class Report:
    """Evaluations of one table under a title; what commands print."""

    title: str
    evaluations: Sequence[Evaluation | Skipped]

    def text(self, *, width: int = WIDTH) -> str:
        """The tables and sentences as plain text, at most `width` characters wide where arm names allow it."""
        parts = [self.title, "=" * len(self.title)]
        for e in self.evaluations:
            parts += ["", _skipped(e) if isinstance(e, Skipped) else evaluation_text(e, width=width)]
        return "\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"title": self.title, "evaluations": [e.to_dict() for e in self.evaluations]}

    def plot(self, path: str | Path) -> Path:
        """Draw every evaluation's cost-quality plane into one PNG, a panel each; returns the path."""
        return plot([e for e in self.evaluations if isinstance(e, Evaluation)], path, title=self.title)


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def evaluation_text(e: Evaluation, *, width: int = WIDTH) -> str:
    """One evaluation as text: heading, table, sentences, notes."""
    head = (
        f"{_SPLITS[e.split]}: {e.n_prompts:,} prompts, {e.n_families:,} {'family' if e.n_families == 1 else 'families'}"
    )
    if e.folds > 1:
        head += f", {e.folds} folds"
    told = [*_sentences(e), *(f"Note: {note}." for note in e.notes)]
    return "\n".join([head, _table(e, width), *(textwrap.fill(x, width, subsequent_indent="  ") for x in told)])


def _table(e: Evaluation, width: int) -> str:
    """The rows as a table; where it is too wide, AIQ and then the ratio of costs are left out, and no figure is cut."""
    columns: dict[str, Callable[[Row], str]] = {
        "quality": lambda r: bracket(r.quality),
        "cost": lambda r: plus_minus(r.cost),
        "x best": lambda r: number(r.cost_ratio.mean),
        "tokens": lambda r: "" if r.tokens is None else plus_minus(r.tokens),
        "seconds": lambda r: "" if r.latency is None else plus_minus(r.latency),
        "over the mix": lambda r: bracket(r.over_hull, sign=True),
        "AIQ": lambda r: "" if r.aiq is None else share(r.aiq.mean),
    }
    rows = sorted(e.rows, key=lambda r: _ORDER.index(r.kind))
    return text_table(
        list(columns),
        [(f"{r.name} *" if r.name == e.best_arm else r.name, [cell(r) for cell in columns.values()]) for r in rows],
        width=width,
        spare=("AIQ", "x best"),
        rules_after=[
            i for i, (row, after) in enumerate(itertools.pairwise(rows))
            if after.kind != row.kind and row.kind in ("arm", "router", "baseline")
        ],
    )  # fmt: skip


def _sentences(e: Evaluation) -> list[str]:
    router, estimates = e.router, e.forecasting
    by = "family" if e.split == "group" else "prompt"
    rival = e.cost_below_hull.mean
    mix = f"the mix that is as good costs {number(1 / rival)} times as much" if rival > 0 else "no mix is as good"
    true_gap = e.true_oracle_gap
    beside = "" if true_gap is None else f"; to the oracle of true probabilities {bracket(true_gap)}"
    return [
        f"* the best fixed arm. Intervals: 95 %, paired bootstrap by {by}. Cost is in {_unit(e.unit)}.",
        f"Router against the best fixed arm: quality {bracket(router.over_best, sign=True)} at "
        f"{bracket(router.cost_ratio)} of its cost.",
        f"Router over the mix of fixed arms at equal cost: {bracket(router.over_hull, sign=True)}; {mix}.",
        f"AIQ of the router's curve above the mix's: {bracket(e.router_aiq_over_hull, sign=True)}.",
        f"At {number(e.value)} for a correct answer, share of the utility from the best fixed arm to the peeking "
        f"oracle: {bracket(e.oracle_gap)}{beside}.",
        f"Estimates: Brier skill {bracket(estimates.brier_skill)}, of the differences between arms "
        f"{bracket(estimates.benefit_skill)}; calibration error {share(estimates.calibration_error)} "
        f"(of a perfect forecaster, by chance: {share(estimates.perfect_calibration_error)}).",
        f"Picks: {_picks(router)}.",
        f"The guard held the fallback arm on {100 * e.fallback_share:.0f} % of the prompts.",
    ]


def _skipped(e: Skipped) -> str:
    return f"{_SPLITS[e.split]}: not possible, {e.reason}."


def _picks(row: Row) -> str:
    ranked = sorted(row.shares.items(), key=lambda s: -s[1])
    return ", ".join(f"{arm} {100 * share:.0f} %" for arm, share in ranked)


def _unit(unit: str) -> str:
    return "the unit of the table" if unit == "cost" else unit


# ── the plane ────────────────────────────────────────────────────────────────────────────────────────────────────


def plot(evaluations: Sequence[Evaluation], path: str | Path, *, title: str = "") -> Path:
    """Draw the cost-quality plane of each evaluation, one panel under another, PIXELS wide; returns the path.

    Fixed arms with their intervals, the line of their mixes, the router's curve over all values with the point that
    was chosen, its picks shuffled, and the peeking oracle. The cost axis is logarithmic where it spans more than 10x.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PIXELS / 100, 5.6 * len(evaluations)), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(evaluations), 1, squeeze=False)[:, 0]
    for axis, e in zip(axes, evaluations, strict=True):
        _draw(axis, e)
    if title:
        figure.suptitle(title, fontsize=13)
    canvas.draw()
    figure.set_layout_engine("none")  # labels are placed on the final axes, so nothing may move after this
    for axis, e in zip(axes, evaluations, strict=True):
        _label(axis, e, canvas.get_renderer())
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path


_BLUE, _GREY, _RED, _GREEN = "#1f5fbf", "#555555", "#c0392b", "#2e8b57"


def _draw(axis: "Axes", e: Evaluation) -> None:
    arms = [r for r in e.rows if r.kind == "arm"]
    corners = [(c, q) for c, q in e.hull]
    costs = [r.cost.mean for r in arms]
    if min(costs) > 0 and max(costs) / min(costs) > 10:
        axis.set_xscale("log")
        corners = [p for a, b in itertools.pairwise(corners) for p in _between(a, b)] or corners
    axis.plot(*zip(*corners, strict=True), color=_GREY, lw=1.2, ls="--", label="mix of fixed arms", zorder=2)
    for points, colour, name in ((e.oracle_curve, _GREEN, "oracle (peeks)"), (e.curve, _BLUE, "router")):
        along = sorted({(c, q) for _, c, q in points})
        axis.plot(*zip(*along, strict=True), color=colour, lw=1.8, alpha=0.8, label=f"{name}, any value", zorder=3)
    for r in arms:
        _point(axis, r, _GREY, "o", 6)
    for r in e.rows:
        if r.kind == "control":
            _point(axis, r, _RED, "X", 8, label=r.name)
        elif r.kind == "oracle":
            _point(axis, r, _GREEN, "*", 12)
        elif r.kind == "router":
            _point(axis, r, _BLUE, "D", 8, label="router, value chosen on validation", zorder=6)
    axis.set_xlabel(f"cost per prompt, {_unit(e.unit)}")
    axis.set_ylabel("quality")
    axis.set_title(f"{_SPLITS[e.split]}, {e.n_prompts:,} prompts", fontsize=10, loc="left")
    axis.grid(alpha=0.25, which="major")
    axis.margins(x=0.08, y=0.1)
    axis.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=3, fontsize=8, frameon=False)


def _point(
    axis: "Axes", r: Row, colour: str, marker: str, size: float, *, label: str | None = None, zorder: float = 5
) -> None:
    def around(i: Interval) -> list[list[float]]:
        return [[max(i.mean - i.low, 0)], [max(i.high - i.mean, 0)]]

    axis.errorbar(
        [r.cost.mean],
        [r.quality.mean],
        xerr=around(r.cost),
        yerr=around(r.quality),
        fmt=marker,
        color=colour,
        ms=size,
        elinewidth=1,
        capsize=2,
        label=label,
        zorder=zorder,
        markeredgecolor="white",
        markeredgewidth=0.7,
    )


def _between(a: tuple[float, float], b: tuple[float, float], steps: int = 40) -> list[tuple[float, float]]:
    """Points of the straight mix between two corners: it is a curve where the cost axis is logarithmic."""
    return [(a[0] + (b[0] - a[0]) * i / steps, a[1] + (b[1] - a[1]) * i / steps) for i in range(steps + 1)]


def _label(axis: "Axes", e: Evaluation, renderer: Any) -> None:
    """Name the fixed arms and the oracle."""
    named = [(r.name, r.cost.mean, r.quality.mean) for r in e.rows if r.kind in ("arm", "oracle")]
    others = [(r.cost.mean, r.quality.mean) for r in e.rows if r.kind in ("router", "control")]
    name_points(axis, named, renderer, beside=others)
