"""What the error rates of a verifier make of N."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from howhard.strategies.errors import ConfigError
from howhard.strategies.verifier_errors import VerifierErrors, beta_nodes

MIXED = VerifierErrors(true_positive=1.0, false_positive=0.1, p=(0.9, 0.02))


@pytest.mark.parametrize("n, precision", [(1, 0.895), (8, 0.671), (64, 0.579)])
def test_precision_falls_with_n_where_prompts_differ(n, precision):
    assert MIXED.precision(n) == pytest.approx(precision, abs=5e-4)


def test_on_one_prompt_precision_is_the_same_at_every_n():
    alone = VerifierErrors(true_positive=0.8, false_positive=0.2, p=(0.3,))
    assert {round(alone.precision(n), 12) for n in (1, 5, 50)} == {round(0.24 / 0.38, 12)}


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 6), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.2, 1.0]), st.booleans(), st.booleans()
)
def test_the_formulas_are_what_a_long_simulation_gives(n, t, f, anyway, stops):
    errors = VerifierErrors(
        true_positive=t,
        false_positive=f,
        p=(0.7, 0.1),
        value=2.0,
        loss=1.0,
        cost=0.1,
        answers_anyway=anyway,
        stops=stops,
    )
    rng, runs = random.Random(7), 6000
    worth = accepted = right_accepted = drawn = 0
    for run in range(runs):
        p, right, got, last = (0.7, 0.1)[run % 2], False, False, 0
        for draw in range(1, n + 1):
            right, last = rng.random() < p, draw
            if rng.random() < (t if right else f):
                got = True
                break
        drawn_now = last if stops else n
        drawn += drawn_now
        accepted += got
        right_accepted += got and right
        worth += (2.0 if right else -1.0) * (got or anyway) - 0.1 * drawn_now
    assert errors.p_accepted(n) == pytest.approx(accepted / runs, abs=0.03)
    assert errors.draws(n) == pytest.approx(drawn / runs, abs=0.12)
    assert errors.utility(n) == pytest.approx(worth / runs, abs=0.12)
    if accepted:
        assert errors.precision(n) == pytest.approx(right_accepted / accepted, abs=0.06)
    else:
        assert math.isnan(errors.precision(n))


def test_a_sound_verifier_has_no_optimum_and_a_lenient_one_has_an_early_one():
    assert VerifierErrors(p=(0.9, 0.02)).best_n(64) == 64
    assert VerifierErrors(false_positive=0.1, p=(0.9, 0.02), loss=3.0).best_n(64) == 1
    assert 1 < VerifierErrors(false_positive=0.02, p=(0.6, 0.01), loss=1.0).best_n(64) < 10
    assert VerifierErrors(p=(0.3,), cost=10.0).best_n(64) == 1


def test_the_warning_names_the_optimum_and_what_passing_it_costs():
    errors = VerifierErrors(false_positive=0.02, p=(0.6, 0.01))
    best = errors.best_n(64)
    words = errors.warning(64)
    assert f"n=64 is past the optimum of n={best}" in words
    assert f"precision {errors.precision(64):.3g} instead of {errors.precision(best):.3g}" in words
    assert errors.warning(best) is None
    assert errors.warning(1) is None


@settings(max_examples=15, deadline=None)
@given(st.floats(0.3, 20), st.floats(0.3, 20), st.integers(0, 30))
def test_the_quadrature_has_the_moments_of_the_beta_distribution(a, b, power):
    exact = math.exp(math.lgamma(a + power) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(a + b + power))
    assert math.fsum(w * p**power for p, w in beta_nodes(a, b)) == pytest.approx(exact, rel=1e-8)


def test_a_beta_distribution_of_prompts_is_integrated():
    a, b, n = 2.0, 3.0, 9
    errors = VerifierErrors(true_positive=0.9, false_positive=0.1, beta=(a, b))
    q = lambda p: 0.9 * p + 0.1 * (1 - p)  # noqa: E731
    density = lambda p: 12 * p * (1 - p) ** 2  # noqa: E731  # Beta(2, 3)
    accepted = quad(lambda p: density(p) * (1 - (1 - q(p)) ** n), 0, 1)[0]
    right = quad(lambda p: density(p) * 0.9 * p / q(p) * (1 - (1 - q(p)) ** n), 0, 1)[0]
    assert errors.p_accepted(n) == pytest.approx(accepted, rel=1e-9)
    assert errors.precision(n) == pytest.approx(right / accepted, rel=1e-9)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({}, "either as p=.* or as beta="),
        ({"p": (0.5,), "beta": (1.0, 1.0)}, "either as p=.* or as beta="),
        ({"p": (0.5,), "true_positive": 1.1}, r"true_positive=1\.1: a rate lies in"),
        ({"p": (1.5,)}, "probabilities lie in"),
        ({"p": (0.5,), "loss": -1}, "loss=-1: it must be a finite number >= 0"),
        ({"beta": (0.0, 1.0)}, "both parameters must be finite and above 0"),
    ],
)
def test_settings_out_of_range_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        VerifierErrors(**settings)
