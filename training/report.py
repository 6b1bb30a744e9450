"""Evaluations for people: a table with intervals, the sentences that matter, and the cost-quality plane as a PNG.

Nothing is computed here; evaluate.py did that.
"""

import io
import itertools
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .curves import Interval
from .evaluate import Evaluation, Row, Skipped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 120
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
    from rich import box
    from rich.console import Console
    from rich.table import Table

    columns: dict[str, Callable[[Row], str]] = {
        "quality": lambda r: _bracket(r.quality),
        "cost": lambda r: _plus_minus(r.cost),
        "x best": lambda r: _number(r.cost_ratio.mean),
        "tokens": lambda r: "" if r.tokens is None else _plus_minus(r.tokens),
        "seconds": lambda r: "" if r.latency is None else _plus_minus(r.latency),
        "over the mix": lambda r: _bracket(r.over_hull, sign=True),
        "AIQ": lambda r: "" if r.aiq is None else _share(r.aiq.mean),
    }
    columns = {name: cell for name, cell in columns.items() if any(cell(row) for row in e.rows)}
    rows = sorted(e.rows, key=lambda r: _ORDER.index(r.kind))

    def build() -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        table.add_column("", no_wrap=True)
        for name in columns:
            table.add_column(name, justify="right", no_wrap=True)
        for row, after in itertools.zip_longest(rows, rows[1:]):
            ends = after is not None and after.kind != row.kind and row.kind in ("arm", "router", "baseline")
            label = f"{row.name} *" if row.name == e.best_arm else row.name
            table.add_row(label, *(cell(row) for cell in columns.values()), end_section=ends)
        return table

    out = io.StringIO()
    console = Console(file=out, width=10_000, no_color=True, highlight=False, legacy_windows=False)
    for name in ("AIQ", "x best"):
        if console.measure(build()).maximum > width:
            columns.pop(name, None)
    console.print(build())
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _sentences(e: Evaluation) -> list[str]:
    router, estimates = e.router, e.forecasting
    by = "family" if e.split == "group" else "prompt"
    rival = e.cost_below_hull.mean
    mix = f"the mix that is as good costs {_number(1 / rival)} times as much" if rival > 0 else "no mix is as good"
    true_gap = e.true_oracle_gap
    beside = "" if true_gap is None else f"; to the oracle of true probabilities {_bracket(true_gap)}"
    return [
        f"* the best fixed arm. Intervals: 95 %, paired bootstrap by {by}. Cost is in {_unit(e.unit)}.",
        f"Router against the best fixed arm: quality {_bracket(router.over_best, sign=True)} at "
        f"{_bracket(router.cost_ratio)} of its cost.",
        f"Router over the mix of fixed arms at equal cost: {_bracket(router.over_hull, sign=True)}; {mix}.",
        f"AIQ of the router's curve above the mix's: {_bracket(e.router_aiq_over_hull, sign=True)}.",
        f"At {_number(e.value)} for a correct answer, share of the utility from the best fixed arm to the peeking "
        f"oracle: {_bracket(e.oracle_gap)}{beside}.",
        f"Estimates: Brier skill {_bracket(estimates.brier_skill)}, of the differences between arms "
        f"{_bracket(estimates.benefit_skill)}; calibration error {_share(estimates.calibration_error)} "
        f"(of a perfect forecaster, by chance: {_share(estimates.perfect_calibration_error)}).",
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


def _share(x: float) -> str:
    """A figure of quality to three places, without the zero before the point: .732, 1.000, -.004."""
    if x != x:
        return "n/a"
    text = f"{x + 0.0:.3f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _bracket(i: Interval, *, sign: bool = False) -> str:
    def one(x: float) -> str:
        text = _share(x)
        return f"+{text}" if sign and x == x and float(text) > 0 else text

    return f"{one(i.mean)} [{one(i.low)}, {one(i.high)}]"


def _number(x: float) -> str:
    """Three significant digits, plain where that is readable."""
    if x != x:
        return "n/a"
    if x == 0:
        return "0"
    if abs(x) >= 1000:
        return f"{x:,.0f}"
    text = f"{x:.3g}"
    return text if "e" not in text else f"{x:.2e}"


def _plus_minus(i: Interval) -> str:
    """The mean and half of the interval's width, both to the place that the width leaves certain."""
    half = (i.high - i.low) / 2
    if not (math.isfinite(half) and half > 0):
        return _number(i.mean)
    place = -math.floor(math.log10(half)) + (1 if half / 10 ** math.floor(math.log10(half)) < 3 else 0)
    if place <= 0:
        return f"{i.mean:,.0f} ±{round(half, place):,.0f}"
    return f"{i.mean:,.{place}f} ±{half:.{place}f}" if place <= 6 else f"{_number(i.mean)} ±{half:.1g}"


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
    """Name the fixed arms and the oracle, each where it covers least: other names, points, bars and lines."""
    from matplotlib.patheffects import withStroke

    shown = [r for r in e.rows if r.kind != "baseline"]
    points = axis.transData.transform([(r.cost.mean, r.quality.mean) for r in shown])
    thin = [axis.transData.transform(line.get_xydata()) for line in axis.get_lines()]
    thin += [axis.transData.transform(bar) for c in axis.collections for bar in c.get_segments()]  # type: ignore[attr-defined]
    dots = np.concatenate([_dense(path) for path in thin if len(path) > 1])
    taken: list[Any] = []
    frame = axis.get_window_extent(renderer)
    offsets = [(dx, dy) for far in (6, 14, 24) for dx in (-far, far) for dy in (-far, far)]
    offsets += [(dx, dy) for far in (10, 20, 32) for dx, dy in ((far, 0), (-far, 0), (0, far), (0, -far))]
    for r in shown:
        if r.kind not in ("arm", "oracle"):
            continue
        text = axis.annotate(
            r.name, (r.cost.mean, r.quality.mean), xytext=(0, 0), textcoords="offset points", fontsize=8, zorder=6
        )
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])

        def place(dx: float, dy: float, text: Any = text) -> Any:
            text.set_position((dx, dy))
            text.set_horizontalalignment("left" if dx > 0 else "right" if dx < 0 else "center")
            text.set_verticalalignment("bottom" if dy > 0 else "top" if dy < 0 else "center")
            return text.get_window_extent(renderer)

        def harm(offset: tuple[float, float], place: Any = place) -> float:
            box = place(*offset)
            outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
            names = sum(box.overlaps(other) for other in taken)
            return (
                1000 * outside
                + 300 * names
                + 60 * _inside(box, points)
                + _inside(box, dots)
                + 0.3 * math.hypot(*offset)
            )

        taken.append(place(*min(offsets, key=harm)))


def _dense(path: np.ndarray, step: float = 3.0) -> np.ndarray:
    """Points every few pixels along a path of pixels."""
    return np.concatenate(
        [
            np.linspace(a, b, max(2, int(np.hypot(*(b - a)) / step)))
            for a, b in itertools.pairwise(path)
            if np.isfinite([a, b]).all()
        ]
    )


def _inside(box: Any, points: np.ndarray) -> int:
    """How many of the points lie in the box."""
    x, y = points[:, 0], points[:, 1]
    return int(((x > box.x0) & (x < box.x1) & (y > box.y0) & (y < box.y1)).sum())
