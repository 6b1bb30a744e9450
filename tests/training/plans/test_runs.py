"""Runs that could have been: what they show, what they cost, and that a prompt is one prompt however often dealt."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.router.plan import Draw, FixedPlan, Place, Stop, start_of
from howhard.training.plans.replay import ByFixedPlan, replay
from howhard.training.plans.runs import Runs


def runs_of(log, *, deals=3, seed=0, seconds=None) -> Runs:
    n = len(log)
    return Runs(
        log, np.arange(n, dtype=float)[:, None], np.ones(n, dtype=bool), deals=deals, seed=seed,
        seconds=seconds or (None,) * len(log.legs),
    )  # fmt: skip


@given(n=st.integers(1, 12), deals=st.integers(1, 5), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_every_run_is_a_permutation_of_its_prompts_samples(log_of, n, deals, seed):
    log = log_of(np.linspace(0, 1, n), seed=seed)
    runs = runs_of(log, deals=deals, seed=seed)
    assert len(runs) == n * deals
    dealt = runs.leg(0)
    for run, prompt in enumerate(runs.prompt):
        for name in ("quality", "cost", "tokens"):
            mine, logged = getattr(dealt, name)[run], getattr(log.legs[0], name)[prompt]
            assert sorted(mine) == sorted(logged)
    assert (runs.state(start_of(log.menu), np.arange(len(runs)), *np.zeros((2, len(runs)))).prompt[:, 0]
            == runs.prompt).all()  # fmt: skip


@given(a=st.integers(1, 5), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_two_waves_cost_what_one_does_and_the_prompt_once_more(log_of, a, seed):
    log = log_of(np.full(6, 0.5), seed=seed)
    log.legs[0].prompt_cost[:] = 0.25
    runs, rows = runs_of(log, seed=seed), np.arange(18)
    start = start_of(log.menu)
    whole = runs.take(start, Draw(0, 6), rows)
    first, then = runs.take(start, Draw(0, a), rows), runs.take(Place((a,)), Draw(0, 6), rows)
    assert np.allclose(first.cost + then.cost, whole.cost + 0.25)
    assert np.allclose(first.tokens + then.tokens, whole.tokens)


def test_a_wave_takes_as_long_as_its_longest_sample_and_all_its_tokens_say(log_of):
    log = log_of(np.full(4, 0.5))
    log.legs[0].draws.tokens[:] = [10, 20, 30, 40, 50, 60]
    runs = runs_of(log, deals=1, seconds=((1.0, 0.1, 0.01),))
    tokens = runs.leg(0).draws.tokens[:, :3]
    took = runs.take(start_of(log.menu), Draw(0, 3), np.arange(4))
    assert took.seconds == pytest.approx(1.0 + 0.1 * tokens.max(axis=1) + 0.01 * tokens.sum(axis=1))
    assert runs.timed


def test_where_nothing_was_timed_seconds_are_not_known(log_of):
    log = log_of(np.full(4, 0.5))
    runs = runs_of(log)
    assert np.isnan(runs.take(start_of(log.menu), Draw(0, 3), np.arange(4)).seconds).all()
    assert not runs.timed


def test_an_end_costs_nothing_and_is_worth_the_answer_in_hand(log_of):
    log = log_of(np.full(5, 0.5))
    runs, rows = runs_of(log), np.arange(15)
    place = Place((4,))
    assert not runs.take(place, Stop(leg=0), rows).cost.any()
    expected = runs.leg(0).quality[:, :4].max(axis=1)  # the verifier is sound: a right one among four is found
    assert np.array_equal(runs.quality(place, Stop(leg=0), rows), expected)


@given(deals=st.integers(1, 6))
@settings(max_examples=6, deadline=None)
def test_runs_of_one_prompt_weigh_as_one_prompt(log_of, deals):
    """Of prompts whose samples are all alike a replay says the same, however many orders were dealt."""
    log = log_of(np.array([1.0, 0.0, 1.0, 0.0, 0.0]))
    found = replay(runs_of(log, deals=deals), ByFixedPlan(FixedPlan(legs=((0, (1, 2)),))))
    assert found.by_prompt("quality").tolist() == [1, 0, 1, 0, 0]
    assert found.by_prompt("cost").tolist() == [1, 2, 1, 2, 2]
