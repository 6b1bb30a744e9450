"""How figures are shown: numbers and intervals as text, tables of them, and names beside the points of a plot.

Nothing here knows what the figures mean; report.py and compare_report.py do.
"""

import io
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .curves import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 120
"""Columns of text that a report keeps to, where names allow it."""


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def share(x: float) -> str:
    """A figure of quality to three places, without the zero before the point: .732, 1.000, -.004."""
    if x != x:
        return "n/a"
    text = f"{x + 0.0:.3f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def bracket(i: Interval, *, sign: bool = False) -> str:
    """Mean and interval of a quality, or with `sign` of a difference of two: "+.021 [-.004, +.046]"."""

    def one(x: float) -> str:
        text = share(x)
        return f"+{text}" if sign and x == x and float(text) > 0 else text

    return f"{one(i.mean)} [{one(i.low)}, {one(i.high)}]"


def number(x: float) -> str:
    """Three significant digits, plain where that is readable."""
    if x != x:
        return "n/a"
    if x == 0:
        return "0"
    if abs(x) >= 1000:
        return f"{x:,.0f}"
    text = f"{x:.3g}"
    return text if "e" not in text else f"{x:.2e}"


def plus_minus(i: Interval) -> str:
    """The mean and half of the interval's width, both to the place that the width leaves certain."""
    half = (i.high - i.low) / 2
    if not (math.isfinite(half) and half > 0):
        return number(i.mean)
    place = -math.floor(math.log10(half)) + (1 if half / 10 ** math.floor(math.log10(half)) < 3 else 0)
    if place <= 0:
        return f"{i.mean:,.0f} ±{round(half, place):,.0f}"
    return f"{i.mean:,.{place}f} ±{half:.{place}f}" if place <= 6 else f"{number(i.mean)} ±{half:.1g}"


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────


def text_table(
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str]]],
    *,
    width: int = WIDTH,
    spare: Sequence[str] = (),
    rules_after: Sequence[int] = (),
) -> str:
    """Figures as plain text, right-aligned, the rows' names at the left; no figure is ever cut.

    rows        : name and one cell per column; a column whose every cell is empty is left out.
    spare       : columns to leave out, in this order, while the table is wider than `width`.
    rules_after : places in `rows` after which a line is drawn.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = [i for i in range(len(columns)) if any(cells[i] for _, cells in rows)]

    def build() -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        table.add_column("", no_wrap=True)
        for i in shown:
            table.add_column(columns[i], justify="right", no_wrap=True)
        for place, (name, cells) in enumerate(rows):
            table.add_row(name, *(cells[i] for i in shown), end_section=place in rules_after)
        return table

    out = io.StringIO()
    console = Console(file=out, width=10_000, no_color=True, highlight=False, legacy_windows=False)
    for name in spare:
        if console.measure(build()).maximum > width:
            shown = [i for i in shown if columns[i] != name]
    console.print(build())
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


# ── names on a plot ──────────────────────────────────────────────────────────────────────────────────────────────


def name_points(
    axis: "Axes",
    names: Sequence[tuple[str, float, float]],
    renderer: Any,
    *,
    beside: Sequence[tuple[float, float]] = (),
    colours: Sequence[str] | None = None,
) -> None:
    """Write each name (text, x, y) near its point, where it covers least: other names, points, bars and lines.

    A name that finds no room near its point stands further off, at the end of a thin line.
    beside : further points that should stay visible. Call it once nothing on the axes moves any more.
    """
    from matplotlib.patheffects import withStroke
    from matplotlib.text import Text

    points = axis.transData.transform([(x, y) for _, x, y in names] + list(beside))
    thin = [axis.transData.transform(line.get_xydata()) for line in axis.get_lines()]
    thin += [axis.transData.transform(bar) for c in axis.collections for bar in c.get_segments()]  # type: ignore[attr-defined]
    dots = np.concatenate([points, *(_dense(path) for path in thin if len(path) > 1)])
    taken: list[Any] = []
    frame = axis.get_window_extent(renderer)
    offsets = [(dx, dy) for far in (6, 14, 24) for dx in (-far, far) for dy in (-far, far)]
    offsets += [(dx, dy) for far in (10, 20, 32) for dx, dy in ((far, 0), (-far, 0), (0, far), (0, -far))]
    turns = [math.tau * turn / 16 for turn in range(16)]
    offsets += [(far * math.cos(turn), far * math.sin(turn)) for far in (45, 60, 80, 100, 120) for turn in turns]
    for place_of, (name, x, y) in enumerate(names):
        text = axis.annotate(
            name,
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8,
            zorder=6,
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "#999999", "shrinkA": 1, "shrinkB": 4},
        )
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        if colours is not None:
            text.set_color(colours[place_of])

        def place(dx: float, dy: float, text: Any = text) -> Any:
            text.set_position((dx, dy))
            text.set_horizontalalignment("left" if dx > 0 else "right" if dx < 0 else "center")
            text.set_verticalalignment("bottom" if dy > 0 else "top" if dy < 0 else "center")
            text.update_positions(renderer)
            return Text.get_window_extent(text, renderer)  # an annotation's own extent has its line in it

        def harm(offset: tuple[float, float], place: Any = place) -> float:
            box = place(*offset)
            outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
            hidden = sum(box.overlaps(other) for other in taken)
            return (
                1000 * outside
                + 300 * hidden
                + 60 * _inside(box, points)
                + _inside(box, dots)
                + 0.3 * math.hypot(*offset)
            )

        chosen = min(offsets, key=harm)
        taken.append(place(*chosen))
        if text.arrow_patch is not None:
            text.arrow_patch.set_visible(math.hypot(*chosen) > _NEAR)


_NEAR = 34.0  # points; a name no further off needs no line to its point


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
