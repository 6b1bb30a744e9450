"""The ceiling for plans: known chances have closed forms, and nobody who knows less does better."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.router.flight import Draws
from howhard.router.plan import FixedPlan, Leg, Menu
from howhard.strategies.errors import ConfigError
from howhard.training.plans.ceiling import ByCeiling, best_ways, beta_prior, chances_of
from howhard.training.plans.replay import ByFixedPlan, Replayed, replay
from howhard.training.plans.runs import Runs
from howhard.training.plans.trajectories import SampleLog, Samples

PROBABILITY = st.floats(0.01, 0.99)
PRICE = st.floats(0.1, 5.0)


def known(p: float, k: int) -> np.ndarray:
    """A chance of success that no failure changes."""
    return np.full((1, k), p)


def cost(c: float) -> np.ndarray:
    return np.array([c])


FREE = cost(0.0)


@given(p=PROBABILITY, c=PRICE, value=st.floats(0.5, 100.0), k=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_one_backend_is_drawn_from_until_success_where_that_is_worth_its_price_and_never_otherwise(p, c, value, k):
    ways = best_ways([known(p, k)], [cost(c)], [FREE], value, give_up=True)

    closed = max(0.0, (p * value - c) * (1 - (1 - p) ** k) / p)
    assert ways.worth[0] == pytest.approx(closed, abs=1e-9)
    assert (ways.first[0] == -1) == (p * value < c)


def test_without_a_prompt_to_pay_samples_are_drawn_one_at_a_time():
    ways = best_ways([known(0.3, 6)], [cost(1.0)], [FREE], 10.0)

    assert ways.entry[0, 0] == 1
    assert ways.legs[0][0, 1:6].tolist() == [2, 3, 4, 5, 6]
    assert ways.legs[0][0, 6] == 0


def test_a_prompt_that_is_dear_is_paid_once_for_a_wave():
    ways = best_ways([known(0.3, 6)], [cost(0.1)], [cost(50.0)], 1000.0)

    assert ways.entry[0, 0] == 6


def test_who_may_not_give_up_draws_at_least_once():
    ways = best_ways([known(0.1, 6)], [cost(1.0)], [FREE], 2.0)

    assert ways.worth[0] == pytest.approx(0.1 * 2.0 - 1.0)
    assert ways.legs[0][0, 1] == 0


def test_only_the_given_stages_are_asked_at():
    ways = best_ways([known(0.3, 8)], [cost(1.0)], [FREE], 10.0, stages=[(1, 4, 8)])

    assert ways.entry[0, 0] == 1
    assert ways.legs[0][0, [1, 4, 8]].tolist() == [4, 8, 0]


@given(
    p=PROBABILITY, q=PROBABILITY, c=PRICE, d=PRICE, value=st.floats(0.5, 60.0), k=st.integers(1, 5), m=st.integers(1, 4)
)
@settings(max_examples=60, deadline=None)
def test_two_backends_come_to_the_best_of_small_up_to_i_then_large_up_to_j(p, q, c, d, value, k, m):
    ways = best_ways([known(p, k), known(q, m)], [cost(c), cost(d)], [FREE, FREE], value, give_up=True)

    def drawn(p: float, c: float, n: int) -> float:
        return (p * value - c) * (1 - (1 - p) ** n) / p

    every = [drawn(p, c, i) + (1 - p) ** i * drawn(q, d, j) for i, j in itertools.product(range(k + 1), range(m + 1))]
    assert ways.worth[0] == pytest.approx(max(every), abs=1e-9)


@given(chances=st.lists(st.floats(0.0, 0.9), min_size=1, max_size=6), c=PRICE, prompt=PRICE, value=st.floats(0.5, 60.0))
@settings(max_examples=60, deadline=None)
def test_no_order_of_waves_does_better_whatever_the_chances(chances, c, prompt, value):
    ways = best_ways([np.array([chances])], [cost(c)], [cost(prompt)], value, give_up=True)

    def worth(waves: tuple[int, ...]) -> float:
        total, alive, at = 0.0, 1.0, 0
        for w in waves:
            fails = float(np.prod(1 - np.array(chances[at : at + w])))
            total += alive * (value * (1 - fails) - prompt - c * w)
            alive, at = alive * fails, at + w
        return total

    k = len(chances)
    orders = [w for n in range(k + 1) for w in itertools.product(range(1, k + 1), repeat=n) if sum(w) <= k]
    assert ways.worth[0] == pytest.approx(max(map(worth, orders)), abs=1e-6)


def test_the_prior_is_the_one_that_the_counts_were_drawn_from():
    rng = np.random.default_rng(0)
    p = rng.beta(0.5, 1.5, 40_000)

    a, b = beta_prior(rng.binomial(16, p), 16)

    assert (a, b) == (pytest.approx(0.5, rel=0.06), pytest.approx(1.5, rel=0.06))


def test_chances_fall_with_every_failure_and_rise_with_what_was_told():
    chances = chances_of(np.array([0, 8, 16]), 16, (0.5, 1.5), 10)

    assert (np.diff(chances, axis=1) < 0).all()
    assert (np.diff(chances, axis=0) > 0).all()


# ── on runs ─────────────────────────────────────────────────────────────────────────────────────────────────


def world(p: np.ndarray, legs: tuple[Leg, ...], rng: np.random.Generator, *, give_up: bool = True) -> Runs:
    """Prompts that succeed with chance p (n,) under every backend, whose samples cost ten times more leg by leg."""
    n = len(p)

    def samples(leg: Leg, price: float) -> Samples:
        shape = (n, leg.stages[-1])
        proven = rng.random(shape) < p[:, None]
        tokens = rng.integers(5, 15, shape).astype(float)
        unknown = np.full(shape, np.nan)
        draws = Draws(
            complete=np.ones(shape, dtype=bool),
            label=rng.integers(0, 5, shape),
            score=proven.astype(float),
            proven=proven,
            logprob=unknown,
            confidence=unknown,
            tokens=tokens,
        )
        return Samples(draws, proven.astype(float), price * tokens, np.zeros(n), tokens, np.zeros(n), np.zeros(n))

    log = SampleLog(
        menu=Menu(legs=legs, verifier="check", give_up=give_up),
        prompt_ids=tuple(map(str, range(n))),
        legs=tuple(samples(leg, 10.0**i) for i, leg in enumerate(legs)),
        searches=(),
        left_out=0,
    )
    return Runs(log, np.zeros((n, 1)), np.ones(n, dtype=bool), deals=2, seed=1, seconds=(None,) * len(legs))


ONE = (Leg(backend="small", stages=(1, 2, 4, 8, 16)),)
TWO = (*ONE, Leg(backend="large", stages=(1, 2, 4, 8)))


def utility(played: Replayed, value: float) -> float:
    return float(played.quality.mean() - played.cost.mean() / value)


@pytest.mark.parametrize("value", [15.0, 50.0, 200.0, 1000.0, 5000.0])
@pytest.mark.parametrize("legs", [ONE, TWO])
def test_the_ceiling_is_above_every_cap_on_the_same_runs(value, legs):
    rng = np.random.default_rng(3)
    runs = world(rng.beta(0.4, 0.8, 600), legs, rng)
    caps = [tuple(range(1, n + 1)) for n in (1, 2, 4, 8, 16)]

    ceiling = utility(replay(runs, ByCeiling.of(runs, value)), value)

    best = max(utility(replay(runs, ByFixedPlan(FixedPlan(legs=((0, cap),)))), value) for cap in caps)
    assert ceiling > best - 0.002
    if value == 50.0:
        assert ceiling > best + 0.03


def test_where_all_prompts_are_alike_there_is_nothing_to_know():
    rng = np.random.default_rng(3)
    runs = world(np.full(600, 0.3), ONE, rng)

    ceiling = utility(replay(runs, ByCeiling.of(runs, 100.0)), 100.0)

    whole = FixedPlan(legs=((0, tuple(range(1, 17))),))
    assert ceiling == pytest.approx(utility(replay(runs, ByFixedPlan(whole)), 100.0), abs=0.015)


def test_nothing_is_drawn_once_an_answer_is_proven():
    rng = np.random.default_rng(3)
    runs = world(np.full(200, 0.5), ONE, rng)

    played = replay(runs, ByCeiling.of(runs, 1000.0))

    proven = runs.leg(0).draws.proven
    first = np.where(proven.any(axis=1), proven.argmax(axis=1) + 1, proven.shape[1])
    drawn = np.array([tokens[:k].sum() for tokens, k in zip(runs.leg(0).draws.tokens, first, strict=True)])
    assert played.tokens == pytest.approx(drawn)


def test_a_menu_without_giving_up_is_kept_to():
    rng = np.random.default_rng(3)
    runs = world(np.full(50, 0.02), ONE, rng, give_up=False)

    assert (replay(runs, ByCeiling.of(runs, 1.0)).tokens > 0).all()


def test_one_sample_per_prompt_leaves_no_half_to_learn_from():
    rng = np.random.default_rng(3)
    runs = world(np.full(50, 0.5), (Leg(backend="small", stages=(1,)),), rng)

    with pytest.raises(ConfigError, match="'small' has 1 sample per prompt"):
        ByCeiling.of(runs, 10.0)
