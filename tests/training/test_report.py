import dataclasses
import json
import struct

import numpy as np
import pytest

from howhard.router.features import FeatureSpec
from howhard.training.against import Against, Difference
from howhard.training.curves import Interval
from howhard.training.evaluate import Skipped, evaluate_split
from howhard.training.fit import FitSettings
from howhard.training.printing import bracket, number, plus_minus, share
from howhard.training.report import Report, evaluation_text
from howhard.training.report_plots import PIXELS, plot_benefit, plot_families, plot_plane
from howhard.training.sanity import Sanity, Spread

TINY = FitSettings(components=("neighbours",), folds=2, features=FeatureSpec(n_text=1024))


@pytest.fixture(scope="module")
def evaluations(make_world):
    matrix = make_world(160, seconds=True).matrix
    return [evaluate_split(matrix, split, settings=TINY, draws=50, folds=2) for split in ("prompt", "group")]


@pytest.fixture(scope="module")
def report(evaluations):
    return Report("made-up outcomes", evaluations)


def test_both_splits_are_printed_with_every_row_and_its_intervals(report, evaluations):
    text = report.text()
    assert text.startswith("made-up outcomes\n================\n")
    assert "random prompts left out: 160 prompts, 4 families, 2 folds" in text
    assert "whole families of prompts left out: 160 prompts, 4 families, 2 folds" in text
    for evaluation in evaluations:
        told = evaluation_text(evaluation).splitlines()
        for row in evaluation.rows:
            lines = [x for x in told if x.startswith(row.name)]
            assert any(
                bracket(row.quality) in x and plus_minus(row.cost) in x and plus_minus(row.latency) in x for x in lines
            )
        for p in evaluation.prices:
            for s in p.standings:
                lines = [x for x in told if x.startswith(s.name)]
                assert any(bracket(s.gain, sign=True) in x for x in lines)
    assert f"{evaluations[0].best_arm} *" in text
    assert max(map(len, text.splitlines())) <= 120
    assert text.index("worth having?") < text.index("random prompts left out")
    assert text.count("too few families (n = 4 < 8) to say") == 4  # in the summary, and in words
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

    from howhard.training.report_plots import _draw, _label

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

    from howhard.training.report_plots import _draw

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
    assert plot_plane([dataclasses.replace(evaluations[0], rows=rows)], tmp_path / "free.png").exists()


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


def test_every_plot_is_a_png_as_wide_as_promised(report, tmp_path):
    made = report.plots(tmp_path / "plane.png")
    names = ["plane.png", "plane-calibration.png", "plane-benefit.png", "plane-families.png"]
    assert [path.name for path in made] == names
    for path in made:
        assert struct.unpack(">II", path.read_bytes()[16:24])[0] == PIXELS


def test_without_flags_there_is_no_picture_of_them_and_without_benefits_none_of_those(evaluations, tmp_path):
    e = evaluations[1]
    plain = dataclasses.replace(e, prices=tuple(dataclasses.replace(p, flagging=None) for p in e.prices))
    assert plot_families([plain], tmp_path / "x.png") is None
    same = dataclasses.replace(e.forecasting.benefit, bins=e.forecasting.benefit.bins[:1], slope=None)
    still = dataclasses.replace(e, forecasting=dataclasses.replace(e.forecasting, benefit=same))
    assert plot_benefit([still], tmp_path / "x.png") is None
    assert "predicts no differences between prompts" in " ".join(evaluation_text(still).split())


def test_what_needs_further_fits_is_told_where_it_was_asked_for(evaluations):
    e = evaluations[0]
    found = Interval(0.02, 0.01, 0.03)
    spread = Spread(price=0.3, gain=found, means=(0.01, 0.03), sd=0.014, ahead={"group": Interval(0.1, 0.05, 0.15)})
    sanity = Sanity(shuffled=((0.3, found),), refits=(spread,), folds=(spread,))
    text = evaluation_text(dataclasses.replace(e, sanity=sanity))
    assert "SOMETHING IS WRONG" in text
    assert "Refitted with 2 seeds: lambda 0.3 gain +.020 [+.010, +.030], seeds from +.010 to +.030 (sd .014)." in text
    assert "ahead at lambda 0.3, mean over the seeds: group +.100 [+.050, +.150]" in text
    quiet = Sanity(shuffled=((0.3, Interval(0.0, -0.01, 0.01)),))
    assert "WRONG" not in evaluation_text(dataclasses.replace(e, sanity=quiet))


def test_a_rivals_picks_and_what_its_file_lacks_are_told(evaluations):
    zero = Interval(0.0, -0.01, 0.01)
    one = Difference(price=0.3, quality=Interval(0.03, 0.01, 0.05), cost=zero, utility=zero, agree=0.25)
    against = Against(name="theirs", n=120, missing=40, prices=(one,))
    text = evaluation_text(dataclasses.replace(evaluations[0], against=against))
    assert "Against theirs, on 120 prompts (40 prompts that its file lacks are left out), router minus theirs:" in text
    assert "lambda 0.3: quality +.030 [+.010, +.050]" in text
    assert "the same arm on 25 %" in text
