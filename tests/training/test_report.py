import dataclasses
import json
import struct

import numpy as np
import pytest

from howhard.training.curves import Interval
from howhard.training.evaluate import Skipped, evaluate_splits
from howhard.training.fit import FitSettings
from howhard.training.printing import bracket, number, plus_minus, share
from howhard.training.report import PIXELS, Report, evaluation_text, plot


@pytest.fixture(scope="module")
def evaluations(make_world):
    matrix = make_world(160, seconds=True).matrix
    return evaluate_splits(matrix, settings=FitSettings(rounds=10), draws=50, folds=2)


@pytest.fixture(scope="module")
def report(evaluations):
    return Report("made-up outcomes", evaluations)


def test_both_splits_are_printed_with_every_row_and_its_intervals(report, evaluations):
    text = report.text()
    assert text.startswith("made-up outcomes\n================\n")
    assert "random prompts left out: 160 prompts, 4 families, 2 folds" in text
    assert "whole families of prompts left out: 160 prompts, 4 families, 2 folds" in text
    for evaluation in evaluations:
        for row in evaluation.rows:
            line = next(x for x in evaluation_text(evaluation).splitlines() if x.startswith(row.name))
            assert bracket(row.quality) in line
            assert plus_minus(row.cost) in line
            assert plus_minus(row.latency) in line
    assert f"{evaluations[0].best_arm} *" in text
    assert "paired bootstrap by prompt" in text
    assert "paired bootstrap by family" in text
    assert "Note: intervals resample 4 families" in text


def test_a_table_fits_the_width_and_columns_without_figures_are_left_out(evaluations):
    rows = tuple(dataclasses.replace(r, tokens=None, latency=None) for r in evaluations[0].rows)
    text = evaluation_text(dataclasses.replace(evaluations[0], rows=rows))
    assert max(map(len, text.splitlines())) <= 120
    assert "tokens" not in text
    assert "seconds" not in text
    assert "…" not in text


def test_a_split_that_cannot_be_had_says_why(report):
    text = Report("x", [Skipped(split="group", reason="the table has 1 family")]).text()
    assert "whole families of prompts left out: not possible, the table has 1 family." in text


def test_programs_get_plain_json(report, evaluations):
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert [e["split"] for e in found["evaluations"]] == ["prompt", "group"]
    assert found["evaluations"][0]["rows"][0]["name"] == evaluations[0].rows[0].name


def test_the_plane_is_a_png_of_the_promised_width_with_a_panel_per_split(report, tmp_path):
    path = report.plot(tmp_path / "deep" / "plane.png")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == (PIXELS, 2 * 560)


def test_names_on_the_plane_do_not_cover_each_other(evaluations, tmp_path):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from howhard.training.report import _draw, _label

    figure = Figure(figsize=(9, 5.6), dpi=100)
    canvas, axis = FigureCanvasAgg(figure), figure.subplots()
    _draw(axis, evaluations[0])
    canvas.draw()
    renderer = canvas.get_renderer()
    _label(axis, evaluations[0], renderer)
    boxes = [text.get_window_extent(renderer) for text in axis.texts]
    assert len(boxes) == 4
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    frame = axis.get_window_extent(renderer)
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)


def test_the_cost_axis_is_logarithmic_where_it_spans_more_than_tenfold(evaluations, tmp_path):
    from matplotlib.figure import Figure

    from howhard.training.report import _draw

    def scale(factor):
        def times(i):
            return Interval(i.mean * factor, i.low * factor, i.high * factor)

        rows = tuple(
            dataclasses.replace(r, cost=times(r.cost)) if r.name == "large/single" else r for r in evaluations[0].rows
        )
        axis = Figure().subplots()
        _draw(axis, dataclasses.replace(evaluations[0], rows=rows))
        return axis.get_xscale()

    assert (scale(0.5), scale(3.0)) == ("linear", "log")


def test_free_arms_can_be_drawn(evaluations, tmp_path):
    zero = Interval(0.0, 0.0, 0.0)
    rows = tuple(dataclasses.replace(r, cost=zero) for r in evaluations[0].rows)
    assert plot([dataclasses.replace(evaluations[0], rows=rows)], tmp_path / "free.png").exists()


@pytest.mark.parametrize(
    ("x", "text"),
    [(0.7321, ".732"), (1.0, "1.000"), (-0.004, "-.004"), (-0.0001, ".000"), (0.0, ".000"), (float("nan"), "n/a")],
)
def test_shares_have_three_places_and_no_leading_zero(x, text):
    assert share(x) == text


@pytest.mark.parametrize(
    ("x", "text"),
    [(0, "0"), (0.00133, "0.00133"), (12345.6, "12,346"), (0.64, "0.64"), (3.2e-7, "3.20e-07"), (float("nan"), "n/a")],
)
def test_numbers_have_three_significant_digits(x, text):
    assert number(x) == text


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(0.0536, 0.0530, 0.0542), "0.0536 ±0.0006"),
        (Interval(177.1, 174.7, 179.5), "177.1 ±2.4"),
        (Interval(5477.0, 4900.0, 6100.0), "5,477 ±600"),
        (Interval(2.0, 2.0, 2.0), "2"),
        (Interval(2.0, np.nan, np.nan), "2"),
    ],
)
def test_a_figure_is_shown_to_the_place_that_its_interval_leaves_certain(interval, text):
    assert plus_minus(interval) == text
