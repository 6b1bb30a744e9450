"""The arithmetic of the rules of choice, against hand-computed cases and brute force."""

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.strategies.search.ab_mcts import Nix
from howhard.strategies.search.mcts import allowance, puct, uct
from howhard.strategies.search.particles import effective, logit, softmax, systematic, temper
from howhard.strategies.search.rebase import shares

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


# UCT and PUCT


def test_uct_adds_the_exploration_of_the_textbook_formula():
    score = uct(0.6, visits=4, in_flight=0, parent_visits=20, parent_in_flight=0, c=1.4)
    assert score == pytest.approx(0.6 + 1.4 * math.sqrt(math.log(20) / 4))


def test_samples_in_flight_count_as_visits_and_leave_the_value_alone():
    waiting = uct(0.6, visits=3, in_flight=1, parent_visits=15, parent_in_flight=5, c=1.4)
    assert waiting == uct(0.6, visits=4, in_flight=0, parent_visits=20, parent_in_flight=0, c=1.4)
    assert waiting < uct(0.6, visits=3, in_flight=0, parent_visits=20, parent_in_flight=0, c=1.4)


def test_wu_uct_is_this_with_another_constant():
    ours = uct(0.6, visits=3, in_flight=2, parent_visits=15, parent_in_flight=5, c=math.sqrt(2) * 0.7)
    assert ours == pytest.approx(0.6 + 0.7 * math.sqrt(2 * math.log(20) / 5))


def test_puct_weighs_exploration_by_the_prior():
    score = puct(0.5, prior=0.25, visits=2, in_flight=1, parent_visits=15, parent_in_flight=1, c=1.25)
    assert score == pytest.approx(0.5 + (math.log((16 + 19653) / 19652) + 1.25) * 0.25 * 4 / 4)


@pytest.mark.parametrize("visits, allowed", [(0, 2), (1, 2), (2, 3), (4, 4), (9, 6), (100, 20)])
def test_a_branch_widens_with_the_root_of_its_visits(visits, allowed):
    assert allowance(visits, 2.0, 0.5) == allowed


def test_without_an_exponent_every_branch_has_the_same_number_of_steps():
    assert {allowance(v, 4.0, 0.0) for v in range(50)} == {4}


# REBASE


@settings(max_examples=60, deadline=None)
@given(SCORES, st.integers(1, 64), st.floats(0.05, 2))
def test_shares_sum_up_to_the_budget_and_are_within_one_of_the_exact_ones(scores, total, temperature):
    got = shares(total, scores, [1] * len(scores), temperature)
    exact = [total * w for w in softmax(scores, temperature)]
    assert sum(got) == total
    assert all(abs(g - e) < 1 for g, e in zip(got, exact, strict=True))


def test_twenty_equal_branches_share_eight_samples_where_plain_rounding_gives_none():
    assert shares(8, [0.5] * 20, [1] * 20, 0.2) == [1] * 8 + [0] * 12
    assert sum(round(8 / 20) for _ in range(20)) == 0


def test_copies_weigh_as_so_many_equal_branches_would():
    assert shares(12, [0.9, 0.4, 0.4, 0.4], [1] * 4, 0.5) == [6, 2, 2, 2]
    assert shares(12, [0.9, 0.4], [1, 3], 0.5) == [6, 6]


def test_shares_by_hand():
    # exp(0), exp(-1), exp(-2) over their sum: .665, .245, .090 of 10 = 6.65, 2.45, 0.90
    assert shares(10, [0.8, 0.6, 0.4], [1, 1, 1], 0.2) == [7, 2, 1]


# particles


@settings(max_examples=80, deadline=None)
@given(SCORES, st.integers(1, 40), st.floats(0, 1, exclude_max=True))
def test_systematic_resampling_keeps_every_count_within_floor_and_ceiling(scores, n, uniform):
    weights = softmax([logit(s) for s in scores])
    chosen = systematic(weights, n, uniform)
    assert len(chosen) == n
    assert chosen == sorted(chosen)
    for i, w in enumerate(weights):
        assert math.floor(n * w - 1e-9) <= chosen.count(i) <= math.ceil(n * w + 1e-9)


def test_systematic_resampling_is_unbiased():
    weights, n, steps = [0.5, 0.2, 0.25, 0.05], 5, 4000
    counts = [0] * 4
    for k in range(steps):
        for i in systematic(weights, n, (k + 0.5) / steps):
            counts[i] += 1
    assert [c / steps for c in counts] == pytest.approx([n * w for w in weights], abs=0.01)


def test_a_particle_without_weight_is_never_drawn():
    weights = softmax([-math.inf, 0.0, -math.inf])
    assert weights == [0, 1, 0]
    assert systematic(weights, 4, 0.999) == [1] * 4
    assert systematic([1.0, 0.0], 3, 0.9999999) == [0] * 3


def test_logit_is_finite_at_the_ends_and_odd_around_a_half():
    assert logit(0.5) == 0
    assert logit(0.9) == pytest.approx(math.log(9))
    assert logit(0.1) == pytest.approx(-logit(0.9))
    assert math.isfinite(logit(0.0))
    assert math.isfinite(logit(1.0))


def test_effective_size_is_the_number_of_equal_weights():
    assert effective([0.25] * 4) == pytest.approx(4)
    assert effective([1.0, 0, 0, 0]) == pytest.approx(1)


def test_the_entropic_temperature_by_hand():
    one_counts = [1.0, 0.0, 0.0, 0.0]  # ESS 1 of 4
    assert temper(one_counts, 1, 10) == pytest.approx(4 * 0.9)
    assert temper(one_counts, 5, 10) == 1  # half of the steps are over
    assert temper([0.25] * 4, 1, 10) == 1  # all count
    assert temper([0.5, 0.5, 0, 0], 1, 10) == 1  # half of them count: not fewer
    # A higher temperature spreads the weights.
    logs = [5.0, 0.0, 0.0, 0.0]
    assert effective(softmax(logs, 3.6)) > effective(softmax(logs))


# AB-MCTS


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_beliefs_one_by_one_equal_the_formula_for_all_at_once(scores):
    prior, n = Nix(), len(scores)
    belief = prior
    for score in scores:
        belief = belief.seen(score)
    mean = math.fsum(scores) / n
    spread = math.fsum((s - mean) ** 2 for s in scores)
    kappa, nu = prior.kappa + n, prior.nu + n
    scale = prior.nu * prior.tau2 + spread + n * prior.kappa * (prior.m - mean) ** 2 / kappa
    assert (belief.kappa, belief.nu) == (kappa, nu)
    assert belief.m == pytest.approx((prior.kappa * prior.m + n * mean) / kappa)
    assert belief.tau2 == pytest.approx(scale / nu)


def test_trials_in_flight_are_observations_of_the_mean():
    belief = Nix().seen(0.9).seen(0.4)
    by_hand = belief.seen(belief.m).seen(belief.m).seen(belief.m)
    pending = belief.pending(3)
    assert (pending.m, pending.kappa, pending.nu) == pytest.approx((by_hand.m, by_hand.kappa, by_hand.nu))
    assert pending.tau2 == pytest.approx(by_hand.tau2)
    assert belief.pending(0) == belief


def test_draws_have_the_mean_and_the_spread_of_the_belief():
    belief, rng = Nix(0.4, kappa=5, nu=30, tau2=0.2), random.Random(7)
    draws = [belief.draw(rng) for _ in range(20_000)]
    mean = math.fsum(draws) / len(draws)
    variance = math.fsum((d - mean) ** 2 for d in draws) / len(draws)
    assert mean == pytest.approx(0.4, abs=0.01)
    assert variance == pytest.approx(0.2 / 5 * 30 / 28, rel=0.06)  # of Student's t with 30 degrees of freedom


def test_seeded_draws_repeat():
    draws = [[Nix().draw(random.Random(3)) for _ in range(2)] for _ in range(2)]
    assert len({*itertools.chain.from_iterable(draws)}) == 1
