"""Tables and plots: no figure is cut, no name covers another."""

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from howhard.training.printing import name_points, text_table

ROWS = [("first", ["1.00", "", "22"]), ("second arm", ["10.00", "", "3"])]


def test_a_table_is_aligned_and_leaves_empty_columns_out():
    head, rule, *lines = text_table(["accuracy", "nothing", "tokens"], ROWS).splitlines()
    assert head.split() == ["accuracy", "tokens"]
    assert set(rule) == {"─"}
    assert [line.split() for line in lines] == [["first", "1.00", "22"], ["second", "arm", "10.00", "3"]]
    assert len({len(line) for line in (head, *lines)}) == 1


def test_columns_that_can_be_spared_go_in_their_order_and_no_further_than_needed():
    wide = text_table(["accuracy", "nothing", "tokens"], ROWS)
    width = max(map(len, wide.splitlines()))
    assert text_table(["accuracy", "nothing", "tokens"], ROWS, width=width, spare=("tokens", "accuracy")) == wide
    narrow = text_table(["accuracy", "nothing", "tokens"], ROWS, width=width - 1, spare=("tokens", "accuracy"))
    assert narrow.splitlines()[0].split() == ["accuracy"]


def test_a_line_is_drawn_after_a_row_on_wish():
    lines = text_table(["x"], [("a", ["1"]), ("b", ["2"])], rules_after=[0]).splitlines()
    assert [line.split()[:1] for line in lines[2:]] in ([["a"], [], ["b"]], [["a"], ["─" * len(lines[1])], ["b"]])


@pytest.mark.parametrize("points", [1, 6, 14])
def test_names_of_points_close_together_cover_no_other_name(points):
    figure = Figure(figsize=(9, 6), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axis = figure.subplots()
    at = [(1 + 0.01 * (i % 4), 1 + 0.01 * (i // 4)) for i in range(points)]
    axis.plot(*zip(*at, strict=True), "o")
    axis.set_xlim(0.9, 1.2)
    axis.set_ylim(0.9, 1.2)
    canvas.draw()
    name_points(axis, [(f"strategy_{i}", x, y) for i, (x, y) in enumerate(at)], canvas.get_renderer())
    canvas.draw()
    boxes = [Text.get_window_extent(text, canvas.get_renderer()) for text in axis.texts]
    assert len(boxes) == points
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
