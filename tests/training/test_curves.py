import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from howhard.training.curves import (
    PairedMeans,
    aiq,
    hull_cost,
    hull_points,
    hull_quality,
    interval,
    ratio,
    resampling_weights,
    simultaneous,
)

numbers = st.floats(0.01, 1.0).map(lambda x: round(x, 3))
planes = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6).map(lambda p: np.array(p).T)


def mixes(cost, quality):
    """Every mix of two points on a fine grid of shares: the brute force."""
    share = np.linspace(0, 1, 401)[:, None, None]
    return (
        (share * cost[:, None] + (1 - share) * cost[None, :]).ravel(),
        (share * quality[:, None] + (1 - share) * quality[None, :]).ravel(),
    )


@given(planes, st.floats(0.01, 1.2))
def test_the_hull_is_the_best_mix_that_costs_no_more(plane, at):
    cost, quality = plane
    c, q = mixes(cost, quality)
    at = max(at, cost.min())
    brute = q[c <= at + 1e-12].max()
    assert hull_quality(cost, quality, at) == pytest.approx(brute, abs=0.01)
    assert hull_quality(cost, quality, at) >= brute - 1e-9


@given(planes, st.floats(0.01, 1.0))
def test_the_cost_of_a_quality_is_that_of_the_cheapest_mix_that_reaches_it(plane, at):
    cost, quality = plane
    found = hull_cost(cost, quality, at)
    if at > quality.max():
        assert np.isnan(found)
        return
    c, q = mixes(cost, quality)
    assert found <= c[q >= at - 1e-12].min() + 1e-9
    assert hull_quality(cost, quality, found) >= at - 1e-6


@given(planes)
def test_corners_rise_and_every_point_lies_on_or_below_them(plane):
    cost, quality = plane
    x, y = hull_points(cost, quality)
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) > 0).all()
    assert (np.interp(cost, x, y) >= quality - 1e-9).all()
    assert np.allclose(np.interp(cost, x, y), [hull_quality(cost, quality, c) for c in cost], atol=1e-9)


@given(planes)
def test_aiq_is_the_mean_of_the_hull_over_the_cost_axis(plane):
    cost, quality = plane
    low, high = cost.min(), cost.max()
    grid = np.linspace(low, high, 2001)
    brute = hull_quality(np.tile(cost, (2001, 1)), np.tile(quality, (2001, 1)), grid).mean()
    assert aiq(cost, quality, low=low, high=high) == pytest.approx(brute, abs=2e-3)


def test_aiq_of_one_line_is_the_height_of_its_middle():
    assert aiq(np.array([1.0, 3.0]), np.array([0.2, 0.6]), low=1, high=3) == pytest.approx(0.4)
    assert aiq(np.array([1.0, 3.0]), np.array([0.2, 0.6]), low=1, high=5) == pytest.approx(0.5)


def test_left_of_the_cheapest_arm_the_hull_is_its_quality():
    assert hull_quality(np.array([2.0, 3.0]), np.array([0.5, 0.9]), 1.0) == 0.5


def test_problems_side_by_side_give_what_each_gives_alone():
    rng = np.random.default_rng(0)
    cost, quality, at = rng.random((5, 4)), rng.random((5, 4)), rng.random(5)
    together = hull_quality(cost, quality, at)
    assert together.tolist() == [float(hull_quality(c, q, x)) for c, q, x in zip(cost, quality, at, strict=True)]


def test_bootstrap_intervals_of_a_mean_cover_it_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        x = rng.exponential(size=60)
        found = interval(x.mean(), resampling_weights(np.arange(60), draws=300, seed=trial) @ x)
        hits += found.low <= 1.0 <= found.high
    assert 0.87 <= hits / 200 <= 0.99


def test_resampling_families_moves_whole_families_and_widens_the_interval():
    families = np.repeat(np.arange(8), 25)
    weights = resampling_weights(families, draws=400, seed=0)
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-5)
    by_family = weights.reshape(400, 8, 25)
    assert (by_family == by_family[:, :, :1]).all()
    x = np.repeat(np.random.default_rng(2).normal(size=8), 25)
    wide = interval(x.mean(), weights @ x)
    narrow = interval(x.mean(), resampling_weights(np.arange(200), draws=400, seed=0) @ x)
    assert wide.high - wide.low > 2.5 * (narrow.high - narrow.low)


def test_simultaneous_intervals_hold_all_at_once_as_often_as_they_say():
    rng = np.random.default_rng(0)
    n, m, tables = 60, 6, 150
    single = together = 0
    for _ in range(tables):
        x = rng.normal(0, 1, (n, m))  # the truth is 0 everywhere
        means, drawn = PairedMeans(resampling_weights(np.arange(n), draws=300, seed=int(rng.integers(1e9)))).of(x)
        alone = [interval(a, d) for a, d in zip(means, drawn.T, strict=True)]
        single += all(i.low <= 0 <= i.high for i in alone)
        together += all(i.low <= 0 <= i.high for i in simultaneous(means, drawn))
    assert single / tables < 0.85
    assert 0.89 < together / tables <= 1


def test_a_single_figure_needs_no_wider_interval_and_one_that_never_varies_has_none():
    rng = np.random.default_rng(0)
    means, drawn = PairedMeans(resampling_weights(np.arange(200), draws=2000, seed=0)).of(rng.normal(1, 1, (200, 1)))
    (found,) = simultaneous(means, drawn)
    alone = interval(means[0], drawn[:, 0])
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=0.02)
    (still,) = simultaneous(np.array([0.5]), np.full((10, 1), 0.5))
    assert (still.low, still.high) == (0.5, 0.5)


def test_a_ratio_is_that_of_the_sums_and_nothing_over_nothing_is_no_number():
    means = PairedMeans(resampling_weights(np.arange(4), draws=50, seed=0))
    assert means.ratio(np.array([1.0, 2, 3, 4]), np.array([2.0, 2, 2, 4])).mean == pytest.approx(1.0)
    assert np.isnan(ratio(1.0, 0.0))
    assert ratio(np.array([1.0, 1.0]), np.array([2.0, 0.0])).tolist() == pytest.approx([0.5, np.nan], nan_ok=True)


def test_units_may_be_names_and_prompts_of_one_unit_are_drawn_together():
    weights = resampling_weights(np.array(["a", "b", "a", "c"]), draws=50, seed=0)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert weights.sum(axis=1) == pytest.approx(1)
