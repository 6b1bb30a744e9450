import dataclasses
import itertools
import json

import numpy as np
import pytest

from howhard.router.features import FeatureSpec
from howhard.strategies.errors import ConfigError, TableError
from howhard.training import learning_curve as module
from howhard.training.cli import main
from howhard.training.fit import FitSettings
from howhard.training.learning_curve import FULL, ONE, TWO, LearningCurve, Spread, learning_curve

FAST = FitSettings(components=("neighbours",), features=FeatureSpec(n_hashed=0, n_text=1024))


@pytest.fixture(scope="module")
def table(make_world):
    return make_world(240).matrix


@pytest.fixture(scope="module")
def curve(table) -> LearningCurve:
    return learning_curve(table, name="made up", rounds=2, seconds=None, settings=FAST)


def test_every_kind_of_log_is_there_at_equal_numbers_of_outcomes(curve):
    assert curve.kinds == (FULL, ONE, TWO, "new arm: large/single")
    assert [p.outcomes for p in curve.of(FULL)] == [150, 300, 459]
    assert [p.outcomes for p in curve.of(ONE)] == [150]
    assert [p.outcomes for p in curve.of(TWO)] == [150, 300]
    assert [p.outcomes for p in curve.of("new arm: large/single")] == [50, 100, 153]
    assert all(p.rounds == 2 for p in curve.points)
    assert curve.n_held_out == 80
    assert not curve.stopped_because


def test_where_prompts_tell_the_arms_apart_a_router_gains_and_more_outcomes_help(curve):
    full = curve.of(FULL)
    assert full[-1].skill.mean > 0.4
    assert full[-1].gains[0].mean > 0.1
    assert full[-1].skill.mean > full[0].skill.mean - 0.05


def test_parts_hold_what_they_say_and_nothing_of_the_prompts_they_are_paid_on(table):
    for fold in range(3):
        parts = list(module._parts(table, 2, seed=1, fold=fold))
        held = parts[0].held
        for part in parts:
            assert (part.held == held).all()
            assert not set(part.learn) & set(held)
            assert len(set(part.learn)) == len(part.learn) == len(part.ran)
            log = module._only(table.rows(part.learn), part.ran)
            known = ~np.isnan(log.quality)
            assert (known == part.ran).all()
            assert np.isnan(log.cost[~known]).all()
            each = known.sum(axis=1)
            if part.kind.startswith("new"):
                assert known[:, 2].sum() == part.outcomes
                assert known[:, :2].all()
            else:
                assert (each == {FULL: 3, ONE: 1, TWO: 2}[part.kind]).all()
                assert known.sum() == part.outcomes


def test_prompts_that_ask_the_same_lie_on_one_side(table):
    clusters = tuple(f"c{i // 2}" for i in range(len(table)))
    twins = dataclasses.replace(table, clusters=clusters)
    part = next(iter(module._parts(twins, None, seed=0, fold=0)))
    assert not {clusters[i] for i in part.learn} & {clusters[i] for i in part.held}


def test_of_two_arms_none_is_held_back(table):
    curve = learning_curve(table.columns(table.arms[:2]), rounds=1, settings=FAST)
    assert curve.kinds == (FULL, ONE)
    assert curve.new_arm is None


def test_one_round_has_no_intervals_and_says_so_in_plain_types(table):
    curve = learning_curve(table.columns(table.arms[:2]), rounds=1, settings=FAST)
    assert np.isnan(curve.points[0].skill.low)
    assert "[" not in curve.text().split("Intervals")[0].split("skill")[1]
    found = curve.to_dict()
    assert found["points"][0]["skill"]["low"] is None
    assert found["points"][0]["gains"][1]["mean"] == curve.points[0].gains[1].mean


def test_when_time_is_over_the_first_round_is_whole_and_small_parts_come_next(table, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    curve = learning_curve(table.columns(table.arms[:2]), rounds=3, seconds=2.5, settings=FAST)
    assert [p.rounds for p in curve.of(FULL)] == [3, 1, 1]
    assert "2.5 s were over" in curve.text()
    assert "(1 of 3 rounds)" in curve.text()


def test_an_interrupted_curve_holds_the_points_seen(table, monkeypatch):
    real, calls = module.fit, itertools.count()

    def interrupted(*args, **options):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(module, "fit", interrupted)
    curve = learning_curve(table, rounds=2, settings=FAST)
    assert len(curve.points) == 2
    assert curve.stopped_because == "interrupted"


def test_shuffled_outcomes_gain_nothing(make_world):
    curve = learning_curve(make_world(240, shuffle=True, seed=3).matrix, rounds=1, settings=FAST)
    assert max(g.mean for g in curve.of(FULL)[-1].gains) < 0.03


def test_the_spread_is_students_interval():
    spread = Spread.of([0.1, 0.2, 0.4])
    assert spread.mean == pytest.approx(0.7 / 3)
    half = 4.303 * np.std([0.1, 0.2, 0.4], ddof=1) / 3**0.5
    assert (spread.low, spread.high) == pytest.approx((spread.mean - half, spread.mean + half))


def test_text_and_plot_show_every_point(curve, tmp_path):
    text = curve.text()
    assert "large/single, beside full logs of the others" in text
    assert all(f"{p.outcomes:,}" in text for p in curve.points)
    curve.plot(tmp_path / "made" / "curve.png")
    assert (tmp_path / "made" / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_bad_input_is_refused_with_its_remedy(table):
    with pytest.raises(TableError, match="100 prompts have outcomes of all arms: a learning curve needs 150"):
        learning_curve(table.rows(np.arange(100)))
    with pytest.raises(ConfigError, match="rounds=0"):
        learning_curve(table, rounds=0)
    with pytest.raises(ConfigError, match="each above 0"):
        learning_curve(table, lambdas=(0.1, 0.0))
    with pytest.raises(TableError, match="no outcome of arm 'large/singel'"):
        learning_curve(table, new_arm="large/singel")


def test_the_command_line_prints_and_draws_the_curve_of_a_strangers_table(table, tmp_path, capsys):
    rows = [
        f'"{text}",{arm},{table.quality[i, j]:g},{table.cost[i, j]:g}'
        for i, text in enumerate(table.texts)
        for j, arm in enumerate(table.arms[:2])
    ]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["prompt,arm,quality,cost", *rows]))
    words = ["learning-curve", path, "--rounds", "1", "--components", "neighbours", "--plot", tmp_path / "c.png"]
    assert main([str(w) for w in (*words, "--json")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {p["kind"] for p in found["points"]} == {FULL, ONE}
    assert (tmp_path / "c.png").stat().st_size > 1000
