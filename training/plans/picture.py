"""The picture of a plan at one objective: its stages from left to right, and how many prompts stop at each.

The band that runs from the left to the right is all prompts that are not answered yet, its width their share; at each
stage those that stop fall out of it at the bottom, green as far as their answers are right. Columns are nodes: stages
of a leg, whatever was drawn before; a stage that nobody came to is not shown.
"""

import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...router.objective import Objective
from ...router.plan import START, FixedPlan, GiveUp, Menu, Node, PlanFacts, Stop, after
from ..report_plots import PIXELS
from .replay import Replayed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# ── the figures ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Stage:
    """A column of the picture. Shares are of all prompts.

    here    : share that comes here.   stops : that ends here with an answer.   gave_up : without one.
    quality : mean of the answers given here.   cost : mean of these requests as a whole; both NaN where there are none.
    """

    node: Node
    here: float
    stops: float
    gave_up: float
    quality: float
    cost: float


@dataclass(frozen=True, slots=True)
class Flows:
    """A replay as a picture shows it: stages in the order of the columns, and (from, to) -> share of all prompts."""

    stages: tuple[Stage, ...]
    moves: dict[tuple[int, int], float]


def flows_of(replayed: Replayed, menu: Menu) -> Flows:
    """Count who went where. Every run counts alike, as each prompt has as many."""
    total = sum(len(rows) for rows in replayed.ended.values())
    nodes = sorted({place.node for place in replayed.visited}, key=lambda node: _column(node, menu))
    at = {node: i for i, node in enumerate(nodes)}
    moves: dict[tuple[int, int], float] = {}
    stopped: list[list[np.ndarray]] = [[] for _ in nodes]
    here, gave_up = [0.0] * len(nodes), [0.0] * len(nodes)
    for (place, action), rows in replayed.moved.items():
        i, share = at[place.node], len(rows) / total
        here[i] += share
        if isinstance(action, GiveUp):
            gave_up[i] += share
        elif isinstance(action, Stop):
            stopped[i].append(rows)
        else:
            way = (i, at[after(place, action).node])
            moves[way] = moves.get(way, 0.0) + share
    stages = []
    for node, i in at.items():
        rows = np.concatenate([np.empty(0, dtype=np.intp), *stopped[i]])
        quality, cost = (
            float(values[rows].mean()) if len(rows) else np.nan for values in (replayed.quality, replayed.cost)
        )
        stages.append(Stage(node, here[i], len(rows) / total, gave_up[i], quality, cost))
    return Flows(tuple(stages), moves)


def _column(node: Node, menu: Menu) -> tuple[int, int]:
    """Where a node stands from the left: the start, the first leg, searches, later legs."""
    if node.search >= 0:
        return len(menu.legs[:1]), node.search
    return (node.leg + (node.leg > 0), node.drawn) if node != START else (-1, 0)


# ── the drawing, in pixels; y grows downwards ───────────────────────────────────────────────────────────────

_START, _LEFT, _RIGHT = 112.0, 12.0, 86.0
"""x of the start's bar; margin left of the words, and right of the last bar."""
_TITLE, _LINE, _HEADS, _BAND = 22.0, 17.0, 44.0, 90.0
"""y of the title, and a line of words; y, below these, of the columns' heads and of the band's top."""
_HEIGHT, _FIGURES, _FOOT = 240.0, 13.0, 52.0
"""Height of the band where all prompts are in it, of a line of figures beneath a block, and of the legend."""
_BAR, _BLOCK, _GAP, _ROOM = 12.0, 26.0, 3.0, 76.0
"""Width of a stage's bar and of the block of those that stop there; space between strands of the band; between columns
that are closer than the last, figures are smaller."""
_RIGHT_ANSWER, _WRONG_ANSWER, _NOTHING, _INK, _PALE = "#2e8b57", "#e9b8b0", "#b5b5b5", "#222222", "#666666"
_OF_LEG, _OF_SEARCH = ("#1f5fbf", "#d9822b", "#8e44ad", "#16808a", "#8a6d1d"), "#6b7a2a"


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where everything stands: of each column x, and y of its bar's top and of its end blocks' top.

    strands : upper edge of each, (x, y) at both sides of every column that it touches.
    """

    x: list[float]
    top: list[float]
    ends: list[float]
    strands: dict[tuple[int, int], list[tuple[float, float]]]


def draw_plan(
    replayed: Replayed,
    facts: PlanFacts,
    objective: Objective,
    path: str | Path,
    *,
    rival: tuple[FixedPlan, Replayed] | None = None,
) -> Path:
    """Draw what a plan did in a replay at an objective, PIXELS wide; a PNG, or what the path's suffix says (".svg").

    rival : the best fixed plan at that objective, and what it did on the same runs. Returns the path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    menu, unit = facts.menu, facts.unit
    flows = flows_of(replayed, menu)
    words = _words(replayed, facts, objective, rival)
    above = _TITLE + _LINE * (len(words) - 1)
    layout = _lay_out(flows, menu, above + _BAND)
    figures = [_figures(stage, unit) for stage in flows.stages]
    ended = (e + (s.stops + s.gave_up) * _HEIGHT for e, s in zip(layout.ends, flows.stages, strict=True))
    below = max(y + _FIGURES * (len(lines) + 1) for y, lines in zip(ended, figures, strict=True))
    height = below + _FOOT
    figure = Figure(figsize=(PIXELS / 100, height / 100), dpi=100)
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axis.set_axis_off()
    axis.set_xlim(0, PIXELS)
    axis.set_ylim(height, 0)
    axis.text(_LEFT, _TITLE, words[0], fontsize=13, fontweight="bold", color=_INK, va="center")
    for i, line in enumerate(words[1:]):
        axis.text(_LEFT, _TITLE + 5 + _LINE * (i + 1), line, fontsize=10, color=_INK, va="center")
    _heads(axis, flows.stages, menu, layout.x, above + _HEADS)
    room = min((b - a for a, b in itertools.pairwise(layout.x)), default=_ROOM)
    scale = min(1.0, room / _ROOM)
    for stage, x, top, end, lines in zip(flows.stages, layout.x, layout.top, layout.ends, figures, strict=True):
        _block(axis, x - _BAR / 2, top, _BAR, max(stage.here * _HEIGHT, 1.0), _colour(stage.node))
        _ends(axis, x, end, stage, lines, scale)
    for way in sorted(flows.moves, key=lambda w: w[0] - w[1]):
        _strand(axis, layout.strands[way], flows.moves[way] * _HEIGHT, _colour(flows.stages[way[1]].node))
    middle = above + _BAND + _HEIGHT / 2
    axis.text(_START - _BLOCK - 14, middle, "all\nprompts", fontsize=10, color=_INK, ha="right", va="center")
    _legend(axis, menu, below + 14, some_gave_up=any(stage.gave_up for stage in flows.stages))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format=path.suffix.removeprefix(".") or "png")
    return path


def _words(
    replayed: Replayed, facts: PlanFacts, objective: Objective, rival: tuple[FixedPlan, Replayed] | None
) -> list[str]:
    """The title and the lines beneath it."""
    menu, unit = facts.menu, facts.unit
    second = objective.price_of_second / unit
    waiting = f", and a second costs {second:,.3g}" if second else ""

    def told(name: str, r: Replayed) -> str:
        return f"{name}: {100 * np.nanmean(r.quality):.1f} % right at a mean cost of {np.nanmean(r.cost) / unit:.3g}"

    lines = [told("This plan", replayed)]
    if rival is not None:
        lines += textwrap.wrap(told(f"The best fixed plan ({rival[0].words(menu)})", rival[1]), 130)
    worth = f"{objective.value / unit:,.4g} samples of {menu.legs[0].backend}"
    return [f"What the plan does where a right answer is worth {worth}{waiting}", *lines]


def _lay_out(flows: Flows, menu: Menu, y0: float) -> _Layout:
    """Place everything. At each column the strands that pass lie above its bar, the farthest going on top, so that the
    band hangs from one line and every stop takes off its bottom.
    """
    x = _columns(flows.stages, menu)
    tops, ends = [], []
    strands: dict[tuple[int, int], list[tuple[float, float]]] = {way: [] for way in flows.moves}
    for j in range(len(flows.stages)):
        y = y0
        passing = sorted((w for w in flows.moves if w[0] < j < w[1]), key=lambda w: (-w[1], w[0]))
        for k, way in enumerate(passing):
            strands[way] += [(x[j] - _BAR / 2, y), (x[j] + _BAR / 2, y)]
            last = k + 1 == len(passing) or passing[k + 1][1] != way[1]
            y += flows.moves[way] * _HEIGHT + (_GAP if last else 0.0)
        tops.append(y)
        for way in sorted(w for w in flows.moves if w[1] == j):
            strands[way].append((x[j] - _BAR / 2, y))
            y += flows.moves[way] * _HEIGHT
        y = tops[-1]
        for way in sorted((w for w in flows.moves if w[0] == j), key=lambda w: -w[1]):
            strands[way].append((x[j] + _BAR / 2, y))
            y += flows.moves[way] * _HEIGHT
        ends.append(y)
    return _Layout(x, tops, ends, strands)


def _columns(stages: Sequence[Stage], menu: Menu) -> list[float]:
    """Each column's x; between two groups there is more room."""
    steps = [0.0]
    for a, b in itertools.pairwise(stages):
        apart = a.node != START and _group(a.node, menu) != _group(b.node, menu)
        steps.append(steps[-1] + (1.3 if apart else 1.0))
    width = min((PIXELS - _RIGHT - _START) / max(steps[-1], 1.0), 190.0)
    return [_START + s * width for s in steps]


def _group(node: Node, menu: Menu) -> str:
    return "search" if node.search >= 0 else menu.legs[node.leg].backend


def _colour(node: Node) -> str:
    if node == START:
        return _INK
    return _OF_SEARCH if node.search >= 0 else _OF_LEG[node.leg % len(_OF_LEG)]


def _share(share: float) -> str:
    return "<1 %" if 0 < share < 0.005 else ">99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"


def _figures(stage: Stage, unit: float) -> list[str]:
    """What stands beneath the block of those that end at a stage, the share first."""
    lines = []
    if stage.stops:
        cost = stage.cost / unit
        lines += [
            f"{_share(stage.stops)} stop",
            f"{_share(stage.quality)} right",
            f"cost {cost:.0f}" if cost >= 9.95 else f"cost {cost:.1f}",
        ]
    return [f"{_share(stage.gave_up)} given up", *lines] if stage.gave_up else lines


def _heads(axis: "Axes", stages: Sequence[Stage], menu: Menu, x: Sequence[float], y: float) -> None:
    """Over the columns: the backend, how many samples of it are drawn, and the share of prompts that come there."""
    for down, words in ((18, "samples drawn"), (34, "come here")):
        axis.text(_LEFT, y + down, words, fontsize=8.5, color=_PALE, va="center")
    groups: dict[str, list[int]] = {}
    for i, stage in enumerate(stages):
        axis.text(x[i], y + 34, _share(stage.here), fontsize=8.5, color=_INK, ha="center", va="center")
        if stage.node == START:
            continue
        groups.setdefault(_group(stage.node, menu), []).append(i)
        name = menu.searches[stage.node.search].rsplit("/", 1)[-1] if stage.node.search >= 0 else f"{stage.node.drawn}"
        axis.text(x[i], y + 18, name, fontsize=_fit(name, 10, 74), color=_INK, ha="center", va="center")
    for name, mine in groups.items():
        colour, ends = _colour(stages[mine[0]].node), (x[mine[0]] - 20, x[mine[-1]] + 20)
        axis.plot(ends, (y + 7, y + 7), color=colour, lw=2, solid_capstyle="round")
        size = _fit(name, 11, ends[1] - ends[0] + 40)
        axis.text(sum(ends) / 2, y - 3, name, fontsize=size, color=colour, weight="bold", ha="center", va="center")


def _fit(words: str, size: float, room: float) -> float:
    """The font size, at most `size`, at which words take no more than `room`."""
    return min(size, room / (0.9 * len(words)))


def _ends(axis: "Axes", x: float, y: float, stage: Stage, lines: Sequence[str], scale: float) -> None:
    """The blocks of those that end at a stage, from y downwards, and their figures beneath, smaller by `scale`.

    Those that are given up, all at the start, stand on its left: on the right nothing has stopped yet, so that the band
    may need the room.
    """
    right = stage.stops * stage.quality if stage.stops else 0.0
    for share, colour in ((right, _RIGHT_ANSWER), (stage.stops - right, _WRONG_ANSWER)):
        _block(axis, x + _BAR / 2, y, _BLOCK, share * _HEIGHT, colour)
        y += share * _HEIGHT
    _block(axis, x - _BAR / 2 - _BLOCK, y, _BLOCK, stage.gave_up * _HEIGHT, _NOTHING)
    y += stage.gave_up * _HEIGHT
    start, side = (x + _BAR / 2, "right") if stage.gave_up else (x - _BAR / 2, "left")
    for i, line in enumerate(lines):
        size, colour, weight = (8.5, _PALE, "normal") if i else (9.0, _INK, "bold")
        y += _FIGURES
        axis.text(
            start, y - 3, line, fontsize=scale * size, color=colour, weight=weight, ha=side, va="center", zorder=6
        )


def _block(axis: "Axes", x: float, y: float, width: float, height: float, colour: str) -> None:
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle((x, y), width, height, color=colour, lw=0, zorder=4))


def _strand(axis: "Axes", edge: Sequence[tuple[float, float]], width: float, colour: str) -> None:
    """A strand of the band below its upper edge."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Line

    def along(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        out = []
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            middle = (x0 + x1) / 2
            out += [(middle, y0), (middle, y1), (x1, y1)]
        return out

    lower = [(x, y + max(width, 0.6)) for x, y in reversed(edge)]
    there, back = along(edge), along(lower)
    curves = [Line.CURVE4] * len(there)
    shape = Line(
        [edge[0], *there, lower[0], *back, edge[0]], [Line.MOVETO, *curves, Line.LINETO, *curves, Line.CLOSEPOLY]
    )
    line = 0.5 if width > 3 else 0.0  # around a thin strand, it would hide it
    axis.add_patch(PathPatch(shape, facecolor=colour, alpha=0.38, edgecolor="white", lw=line, zorder=2))


def _legend(axis: "Axes", menu: Menu, y: float, *, some_gave_up: bool) -> None:
    entries = [(_RIGHT_ANSWER, "stop, the answer is right"), (_WRONG_ANSWER, "stop, it is wrong")]
    if some_gave_up:
        entries.append((_NOTHING, "given up: no answer, no cost"))
    x = _LEFT
    for colour, words in entries:
        _block(axis, x, y - 5, 14, 10, colour)
        axis.text(x + 19, y, words, fontsize=9, color=_PALE, va="center")
        x += 38 + 6.2 * len(words)
    words = f"Band: the prompts not answered yet. Cost: of the whole request, one sample of {menu.legs[0].backend} = 1."
    axis.text(_LEFT, y + 18, words, fontsize=9, color=_PALE, va="center")
