"""The pictures of an evaluation: the cost-quality plane, calibration, benefits predicted and realised, and families.

All are PNGs PIXELS wide, a panel per evaluation (of calibration: per arm); nothing is computed here.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .curves import Interval
from .judge import Evaluation, Row
from .printing import name_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PIXELS = 900
"""Width of the PNGs; each panel of the plane is 560 pixels high."""

_HEADS = {
    "prompt": "random prompts left out",
    "group": "whole families left out",
    "time": "later prompts",
    "holdout": "held-out prompts",
}
_BLUE, _GREY, _RED, _GREEN = "#1f5fbf", "#555555", "#c0392b", "#2e8b57"


def plot_plane(evaluations: Sequence[Evaluation], path: str | Path, *, title: str = "") -> Path:
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
    axis.set_xlabel(f"cost per prompt, {unit_of(e)}")
    axis.set_ylabel("quality")
    axis.set_title(f"{_HEADS[e.split]}, {e.n_prompts:,} prompts", fontsize=10, loc="left")
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


def unit_of(e: Evaluation) -> str:
    """What cost is in, in words."""
    return "the unit of the table" if e.unit == "cost" else e.unit


# ── calibration ──────────────────────────────────────────────────────────────────────────────────────────────────

MOST_ARMS = 9
"""Arms that the calibration picture shows of each evaluation: those of the largest error over the perfect range."""


def plot_calibration(evaluations: Sequence[Evaluation], path: str | Path, *, title: str = "") -> Path | None:
    """Reliability diagrams: per arm the observed over the predicted quality, in the band of a perfect forecaster.

    Returns the path, None where there is nothing to draw.
    """
    panels = []
    for e in evaluations:
        ranked = sorted(e.forecasting.arms, key=lambda a: a.perfect.high - a.error)[:MOST_ARMS]
        panels += [(e, arm) for arm in e.forecasting.arms if arm in ranked]
    if not panels:
        return None

    def draw(axis: "Axes", panel: Any) -> None:
        e, arm = panel
        x = [b.predicted for b in arm.bins]
        axis.plot([0, 1], [0, 1], color=_GREY, lw=0.8, ls="--", zorder=1)
        low, high = ([max(0.0, b.low) for b in arm.bins], [min(1.0, b.high) for b in arm.bins])
        if len(x) > 1:
            axis.fill_between(x, low, high, color=_GREEN, alpha=0.22, lw=0, label="perfect forecaster, 95 %")
        else:
            axis.plot([x[0]] * 2, [low[0], high[0]], color=_GREEN, alpha=0.5, lw=6, label="perfect forecaster, 95 %")
        inside = [b.low <= b.observed <= b.high for b in arm.bins]
        axis.scatter(x, [b.observed for b in arm.bins], s=22, c=[_BLUE if i else _RED for i in inside], zorder=3)
        shown = [*x, *low, *high, *(b.observed for b in arm.bins)]
        middle, half = (max(shown) + min(shown)) / 2, 0.55 * max(max(shown) - min(shown), 0.1)
        axis.set_xlim(middle - half, middle + half)
        axis.set_ylim(middle - half, middle + half)
        axis.set_aspect("equal")
        told = f"error {arm.error:.3f}, perfect up to {arm.perfect.high:.3f}"
        axis.set_title(f"{arm.arm}\n{_HEADS[e.split]}\n{told}", fontsize=8, loc="left")
        axis.set_xlabel("predicted quality", fontsize=8)
        axis.set_ylabel("observed", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)

    note = "Band: where a perfect forecaster's points lie, 95 times of 100. Red: a point outside of it."
    columns = 2 if len(panels) in (2, 4) else 3
    return _grid(panels, draw, path, title=title, columns=columns, height=5.0 if columns == 2 else 3.6, note=note)


# ── benefits ─────────────────────────────────────────────────────────────────────────────────────────────────────


def plot_benefit(evaluations: Sequence[Evaluation], path: str | Path, *, title: str = "") -> Path | None:
    """Realised over predicted difference to the best fixed arm, in bins, with the line where both are equal."""
    panels = [e for e in evaluations if len(e.forecasting.benefit.bins) > 1]
    if not panels:
        return None

    def draw(axis: "Axes", e: Evaluation) -> None:
        benefit = e.forecasting.benefit
        x = [b.predicted for b in benefit.bins]
        y = [b.realised.mean for b in benefit.bins]
        around = [  # never below 0: of a bin whose draws all agree, the mean may differ from them by a rounding
            [max(b.realised.mean - b.realised.low, 0.0) for b in benefit.bins],
            [max(b.realised.high - b.realised.mean, 0.0) for b in benefit.bins],
        ]
        ends = [min(x), max(x)]
        axis.plot(ends, ends, color=_GREY, lw=1, ls="--", label="right: realised = predicted")
        axis.axhline(0, color=_GREY, lw=0.6)
        axis.errorbar(x, y, yerr=around, fmt="o", color=_BLUE, ms=6, elinewidth=1, capsize=2, label="bins, 95 %")
        told = "no slope: it predicts no differences"
        if benefit.slope is not None:
            told = f"slope {benefit.slope.mean:.2f} [{benefit.slope.low:.2f}, {benefit.slope.high:.2f}], 1 = right"
        axis.set_title(f"{_HEADS[e.split]}, {e.n_prompts:,} prompts\n{told}", fontsize=10, loc="left")
        axis.set_xlabel(f"predicted benefit over {e.best_arm}, from the arm's mean", fontsize=9)
        axis.set_ylabel("realised, from the arm's mean")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, frameon=False, loc="best")

    return _grid(panels, draw, path, title=title, columns=min(2, len(panels)), height=4.4)


# ── families ─────────────────────────────────────────────────────────────────────────────────────────────────────

MOST_FAMILIES = 30


def plot_families(evaluations: Sequence[Evaluation], path: str | Path, *, title: str = "") -> Path | None:
    """Gain over the best fixed arm with and without the flag of unfamiliar prompts, a pair of bars per family.

    Drawn where whole families were left out, at the last lambda. Returns None where nothing was flagged there.
    """
    ends = [e.prices[-1] for e in evaluations if e.split == "group" and e.prices]
    panels = [p for p in ends if p.flagging is not None]
    if not panels:
        return None

    def draw(axis: "Axes", panel: Any) -> None:
        p = panel
        families = sorted(p.flagging.families, key=lambda f: f.without - f.with_flag)
        if len(families) > MOST_FAMILIES:
            kept = sorted(families, key=lambda f: -abs(f.without - f.with_flag))[:MOST_FAMILIES]
            families = [f for f in families if f in kept]
        at = range(len(families))
        axis.barh([i + 0.2 for i in at], [f.without for f in families], 0.38, color=_RED, alpha=0.75, label="without")
        axis.barh([i - 0.2 for i in at], [f.with_flag for f in families], 0.38, color=_BLUE, label="with the flag")
        axis.axvline(0, color=_GREY, lw=0.8)
        axis.set_yticks(list(at), [f"{f.family[:38]} ({f.n:,}; {100 * f.share:.0f} %)" for f in families], fontsize=8)
        axis.set_ylim(-0.7, len(families) - 0.3)
        net = p.flagging.net
        axis.set_title(
            f"Families left out, lambda {p.price:g}: the flag adds {net.mean:+.3f} [{net.low:+.3f}, {net.high:+.3f}]",
            fontsize=10,
            loc="left",
        )
        axis.set_xlabel("gain of utility over the best fixed arm (in brackets: prompts; share flagged)", fontsize=9)
        axis.grid(alpha=0.25, axis="x")
        axis.legend(fontsize=8, frameon=False, loc="lower right")

    most = max(min(len(p.flagging.families), MOST_FAMILIES) for p in panels if p.flagging is not None)
    return _grid(panels, draw, path, title=title, columns=1, height=1.4 + 0.28 * most)


def _grid(
    panels: Sequence[Any],
    draw: Callable[["Axes", Any], None],
    path: str | Path,
    *,
    title: str,
    columns: int,
    height: float,
    note: str = "",
) -> Path:
    """Draw the panels in rows, `height` inches each, PIXELS wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(PIXELS / 100, height * rows + 0.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in itertools.zip_longest(axes, panels):
        if panel is None:
            axis.set_axis_off()
        else:
            draw(axis, panel)
    if title:
        figure.suptitle(title, fontsize=12)
    if note:
        figure.supxlabel(note, fontsize=8, color=_GREY)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path
