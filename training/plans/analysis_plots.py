"""The picture of an analysis of plans: quality over cost, the plan's curve with its band, and what it must beat."""

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..curves import hull_points
from ..report_plots import PIXELS
from .analysis import Analysis, Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CURVES = 8

_COLOURS = {
    "plan": "#1f5fbf",
    "ceiling": "#2e8b57",
    "cap": "#c0392b",
    "cascade": "#8e44ad",
    "posterior": "#d68910",
    "prompt": "#0e8a96",
    "fixed": "#555555",
}
_OTHERS = ("#8d6e63", "#c2185b", "#7f8c8d", "#9e9d24")
_ORDER = ("plan", "ceiling", "cap", "cascade", "prompt", "posterior", "fixed", "rule")


def plot_curves(analysis: Analysis, path: str | Path) -> Path:
    """Draw quality over cost (log), PIXELS wide; each curve is named at its right end. Returns the path.

    The plan's points are joined, with 95 % bands of quality; of the others the upper hulls are drawn. At most
    MOST_CURVES are, rules last.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(PIXELS / 100, 5.4), dpi=100)
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0.075, 0.115, 0.675, 0.80))
    axis.set_xscale("log")
    chosen = sorted(
        (c for c in analysis.curves.values() if c.kind in _ORDER), key=lambda c: _ORDER.index(c.kind)
    )[:MOST_CURVES]  # fmt: skip
    others, ends = list(_OTHERS), []
    for curve in reversed(chosen):
        colour = _COLOURS.get(curve.kind) or (others.pop(0) if others else "#999999")
        x, y = _line(axis, analysis, curve, colour)
        ends.append((curve.name, float(x[-1]), float(y[-1]), colour))
    axis.set_xlabel("cost per prompt, in samples of the first backend (log)")
    by = "families" if analysis.split == "group" else "prompts"
    told = f"Band: 95 % of the plan's mean\nover {by}. Differences are\npaired, and surer than it."
    figure.text(0.77, 0.115, told, fontsize=8, color="#666666", va="bottom")
    axis.set_ylabel("quality")
    where = "families left out" if analysis.split == "group" else "prompts left out"
    axis.set_title(f"{analysis.name}: {analysis.menu}. {analysis.n_prompts:,} {where}", fontsize=10, loc="left")
    axis.grid(alpha=0.25, which="major")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    _name(axis, ends)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path


def _line(axis: "Axes", analysis: Analysis, curve: Curve, colour: str) -> tuple[np.ndarray, np.ndarray]:
    cost, quality = curve.cost.mean(axis=1), curve.quality.mean(axis=1)
    if curve.kind == "plan":
        order = np.argsort(cost, kind="stable")
        drawn = analysis.means.of(curve.quality.T)[1]
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
        axis.fill_between(cost[order], low[order], high[order], color=colour, alpha=0.15, lw=0, zorder=2)
        axis.plot(*_straight(cost[order], quality[order]), color=colour, lw=2.4, zorder=6)
        axis.plot(cost[order], quality[order], color=colour, lw=0, marker="o", ms=4.5, zorder=6)
        return cost[order], quality[order]
    some = cost > 0
    x, y = hull_points(cost[some], quality[some])
    dashed = "--" if curve.kind in ("ceiling", "fixed") else "-"
    along_x, along_y = _straight(x, y)
    axis.plot(along_x, along_y, color=colour, lw=1.5, ls=dashed, zorder=4)
    axis.plot(x, y, color=colour, lw=0, marker=".", ms=4, zorder=4)
    return x, y


def _straight(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points along the mixes of neighbours: straight lines in cost are curves where its axis is logarithmic."""
    if len(x) < 2:
        return x, y
    pairs = itertools.pairwise(zip(x.tolist(), y.tolist(), strict=True))
    steps = np.linspace(0.0, 1.0, 20)
    parts = [(a + steps * (c - a), b + steps * (d - b)) for (a, b), (c, d) in pairs]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _name(axis: "Axes", ends: list[tuple[str, float, float, str]]) -> None:
    """Write the names beside the axes, in the order of the curves' ends, never on top of each other."""
    low, high = axis.get_ylim()
    least = (high - low) * 0.05
    placed: list[tuple[float, Any]] = []
    for end in sorted(ends, key=lambda e: e[2]):
        y = max(end[2], placed[-1][0] + least) if placed else end[2]
        placed.append((y, end))
    over = max(0.0, placed[-1][0] - (high - least / 2)) if placed else 0.0
    floor = math.inf
    for y, (name, x, end_y, colour) in reversed(placed):  # push down from the top where the last are too high
        y = min(y - over if floor is math.inf else y, floor - least if floor is not math.inf else y)
        floor = y
        axis.annotate(
            name,
            xy=(x, end_y),
            xytext=(1.03, (y - low) / (high - low)),
            textcoords="axes fraction",
            fontsize=9,
            color=colour,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "lw": 0.6,
                "color": colour,
                "alpha": 0.5,
                "shrinkA": 2,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )
