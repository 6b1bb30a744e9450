"""Draw a tree as SVG: the root at the left, a step per column, its text and its score in every box.

Green is a high score, red a low one, grey none; the way to the answer is bold. Needs nothing but strings.
"""

import html
from collections.abc import Iterable

from .tree import Node, Tree

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 208, 36, 34, 8, 16
_LETTERS = 26  # of a step's text that fit a box


def svg(tree: Tree) -> str:
    """Return the picture. Its size follows the tree: a column per step, a row per leaf."""
    rows = _rows(tree)
    columns = max(node.depth for node in tree.nodes)
    width = 2 * _MARGIN + (columns + 1) * _WIDTH + columns * _GAP_X
    height = 3 * _MARGIN + (max(rows.values()) + 1) * (_HEIGHT + _GAP_Y) + 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="Helvetica, Arial, sans-serif">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        f'<text x="{_MARGIN}" y="{1.6 * _MARGIN:.0f}" font-size="14" font-weight="bold" fill="#222222">'
        f"{html.escape(tree.strategy)}</text>",
    ]
    # What is chosen is drawn last, so that its lines lie on top.
    order = sorted(tree.nodes, key=lambda node: node.chosen)
    parts += [line for node in order for line in _edge(tree, node, rows)]
    parts += [line for node in order for line in _box(tree, node, rows)]
    words = "bold: the way to the answer   ·   round: finished   ·   dashed: failed, cut, or dropped"
    parts.append(f'<text x="{_MARGIN}" y="{height - _MARGIN:.0f}" font-size="11" fill="#666666">{words}</text>')
    parts.append("</svg>")
    return "\n".join(parts)


def _rows(tree: Tree) -> dict[int, float]:
    """Each node's row: a leaf has the next free one, a parent stands at the middle of its children."""
    children: dict[int, list[int]] = {node.index: [] for node in tree.nodes}
    for node in tree.nodes:
        if node.parent is not None:
            children[node.parent].append(node.index)
    rows: dict[int, float] = {}
    free = 0
    for index in _leaves_first(children):
        below = children[index]
        if below:
            rows[index] = (rows[below[0]] + rows[below[-1]]) / 2
        else:
            rows[index], free = float(free), free + 1
    return rows


def _leaves_first(children: dict[int, list[int]]) -> Iterable[int]:
    """Every node after all that are below it, without recursion: a tree may be deep."""
    stack = [(0, False)]
    while stack:
        index, ready = stack.pop()
        if ready:
            yield index
        else:
            stack.append((index, True))
            stack += [(child, False) for child in reversed(children[index])]


def _place(node: Node, rows: dict[int, float]) -> tuple[float, float]:
    return _MARGIN + node.depth * (_WIDTH + _GAP_X), 2.5 * _MARGIN + rows[node.index] * (_HEIGHT + _GAP_Y)


def _edge(tree: Tree, node: Node, rows: dict[int, float]) -> Iterable[str]:
    if node.parent is None:
        return
    (x0, y0), (x1, y1) = _place(tree.nodes[node.parent], rows), _place(node, rows)
    x0, y0, y1 = x0 + _WIDTH, y0 + _HEIGHT / 2, y1 + _HEIGHT / 2
    middle = (x0 + x1) / 2
    color, width = ("#222222", 3) if node.chosen else ("#bbbbbb", 1)
    yield (
        f'<path d="M{x0:.1f},{y0:.1f} C{middle:.1f},{y0:.1f} {middle:.1f},{y1:.1f} {x1:.1f},{y1:.1f}" '
        f'fill="none" stroke="{color}" stroke-width="{width}"/>'
    )


def _box(tree: Tree, node: Node, rows: dict[int, float]) -> Iterable[str]:
    x, y = _place(node, rows)
    color, width = ("#222222", 3) if node.chosen else ("#999999", 1)
    corner = _HEIGHT / 2 if node.state == "finished" else 4
    dashed = "" if node.kept or node.chosen else ' stroke-dasharray="4 3"'
    text = tree.prompt if node.parent is None else node.text
    weight = "bold" if node.chosen else "normal"
    middle = x + _WIDTH / 2
    yield f"<g><title>{html.escape(_shown(tree, node))}</title>"
    yield (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{_WIDTH}" height="{_HEIGHT}" rx="{corner:.0f}" '
        f'fill="{_color(node)}" stroke="{color}" stroke-width="{width}"{dashed}/>'
    )
    yield (
        f'<text x="{middle:.1f}" y="{y + 15:.1f}" font-size="12" font-weight="{weight}" text-anchor="middle" '
        f'fill="#111111">{html.escape(_short(text))}</text>'
    )
    yield (
        f'<text x="{middle:.1f}" y="{y + 29:.1f}" font-size="10" text-anchor="middle" '
        f'fill="#444444">{html.escape(_facts(node))}</text></g>'
    )


def _shown(tree: Tree, node: Node) -> str:
    """What a pointer over the box shows: the whole text."""
    return tree.prompt if node.parent is None else node.text


def _short(text: str) -> str:
    text = " ".join(text.split()) or "(white space)"
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"


def _facts(node: Node) -> str:
    facts = [] if node.score is None else [f"score {node.score:.2f}"]
    if node.visits:
        facts.append("1 visit" if node.visits == 1 else f"{node.visits} visits")
        if node.visits > node.copies or node.parent is None:
            facts.append(f"mean {node.value or 0.0:.2f}")
    elif node.copies > 1:
        facts.append(f"drawn {node.copies} times")
    if node.parent is None and not facts:
        facts.append("the prompt")
    if node.state in ("failed", "cut"):
        facts.append(node.state)
    if node.rollout:
        facts.append("to its end")
    return " · ".join(facts)


def _color(node: Node) -> str:
    """From a light red over a light yellow to a light green; grey without a score."""
    if node.score is None:
        return "#eeeeee"
    low, middle, high = (248, 196, 190), (252, 240, 190), (190, 230, 190)
    first, second, share = (low, middle, 2 * node.score) if node.score < 0.5 else (middle, high, 2 * node.score - 1)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(first, second, strict=True))
