"""The distribution of p: the closed form against sums and draws, monotony in N, one prompt against many, damage."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.router.success import BLOCK, SuccessModel
from howhard.strategies.errors import ArtifactError

# Columns: best of 8, single, best of 2, another backend's single, best of 5 of it, and an arm of no chain.
MODEL = SuccessModel(
    singles=np.array([1, 3]),
    coefficients=np.array([[0.5, 0.3, 0.1], [-1.0, 0.0, 0.2]]),
    chains=np.array([0, 2, 4]),
    draws_from=np.array([0, 0, 1]),
    samples=np.array([8.0, 2.0, 5.0]),
)
QUALITY = np.random.default_rng(0).random((700, 6))


def model(n: float, log_concentration: float = 0.0) -> SuccessModel:
    return SuccessModel(
        singles=np.array([0]),
        coefficients=np.array([[log_concentration, 0.0, 0.0]]),
        chains=np.array([1]),
        draws_from=np.array([0]),
        samples=np.array([n]),
    )


@settings(max_examples=60, deadline=None)
@given(mean=st.floats(0.01, 0.99), log_concentration=st.floats(-3, 5), n=st.integers(1, 200))
def test_best_of_n_is_one_less_the_ratio_of_beta_functions(mean, log_concentration, n):
    size = math.exp(log_concentration)
    a, b = mean * size, (1 - mean) * size
    log_failure = math.lgamma(b + n) - math.lgamma(a + b + n) - math.lgamma(b) + math.lgamma(a + b)
    got = model(1, log_concentration).best_of(np.array([[mean, 0.0]]), n)[0, 0]
    assert got == pytest.approx(1 - math.exp(log_failure), abs=1e-9)


def test_the_formula_agrees_with_draws():
    rng = np.random.default_rng(0)
    p = rng.beta(0.3 * 2, 0.7 * 2, size=200_000)
    solved = (rng.random((5, len(p))) < p).any(axis=0).mean()
    assert model(1, math.log(2)).best_of(np.array([[0.3, 0.0]]), 5)[0, 0] == pytest.approx(solved, abs=0.005)


@settings(max_examples=60, deadline=None)
@given(
    mean=st.floats(0, 1),
    c=st.tuples(st.floats(-20, 20), st.floats(-5, 5), st.floats(-5, 5)),
    ns=st.lists(st.floats(1, 300), min_size=2, max_size=6).map(sorted),
)
def test_quality_never_falls_with_n_and_starts_at_the_single_arm(mean, c, ns):
    any_model = SuccessModel(
        singles=np.array([0]),
        coefficients=np.array([c]),
        chains=np.empty(0, int),
        draws_from=np.empty(0, int),
        samples=np.empty(0),
    )
    quality = np.array([[mean]])
    curve = [any_model.best_of(quality, n)[0, 0] for n in (1, *ns)]
    assert curve[0] == pytest.approx(mean, abs=1e-12)
    assert (np.diff(curve) >= -1e-12).all()
    assert 0 <= curve[-1] <= 1


def test_between_whole_n_failure_goes_straight_in_log_n():
    at = {n: 1 - model(1).best_of(np.array([[0.2, 0.0]]), n)[0, 0] for n in (4, math.sqrt(20), 5)}
    assert at[math.sqrt(20)] == pytest.approx((at[4] + at[5]) / 2)


def test_a_mean_spread_over_few_prompts_is_worth_less_than_the_same_mean_on_all():
    quality = np.array([[0.1, 0.0]])
    assert model(1, 8).best_of(quality, 20)[0, 0] == pytest.approx(1 - 0.9**20, abs=0.01)
    assert model(1, -5).best_of(quality, 20)[0, 0] == pytest.approx(0.1, abs=0.01)


def test_chain_arms_are_replaced_and_others_kept():
    out = MODEL.apply(QUALITY)
    kept = [1, 3, 5]
    assert (out[:, kept] == QUALITY[:, kept]).all()
    for column, n, single in ((0, 8, 0), (2, 2, 0), (4, 5, 1)):
        np.testing.assert_allclose(out[:, column], MODEL.best_of(QUALITY, n)[:, single], rtol=1e-12)
    assert (out[:, 0] >= out[:, 2]).all()
    assert (out[:, 2] >= out[:, 1]).all()
    assert (np.random.default_rng(0).random((700, 6)) == QUALITY).all()


def test_a_prompt_gets_the_same_bits_alone_among_others_and_as_a_member():
    together = MODEL.apply(QUALITY)
    for i in (0, 1, 350, 699):
        assert (MODEL.apply(QUALITY[i : i + 1])[0] == together[i]).all()
    members = np.stack([QUALITY, QUALITY[::-1]], axis=2)
    assert (MODEL.apply(members)[..., 0] == together).all()
    assert (MODEL.apply(members)[..., 1] == together[::-1]).all()


def test_long_chains_on_many_prompts_are_done_in_parts():
    long = model(BLOCK / 128)
    quality = np.random.default_rng(1).random((300, 2))
    assert (long.apply(quality)[:1] == long.apply(quality[:1])).all()
    assert MODEL.apply(QUALITY[:0]).shape == (0, 6)


def test_arrays_make_the_same_model():
    arrays = {"other": np.zeros(3), **MODEL.arrays()}
    assert {a.dtype for a in arrays.values()} == {np.dtype(np.float64)}
    back = SuccessModel.of(arrays, arms=6)
    assert back is not None
    assert (back.apply(QUALITY) == MODEL.apply(QUALITY)).all()
    assert SuccessModel.of({"other": np.zeros(3)}, arms=6) is None


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("singles", None, "lacks success_singles"),
        ("chains", None, "lacks success_chains"),
        ("coefficients", None, "lacks success_coefficients"),
        ("coefficients", np.zeros((1, 3)), "coefficients is"),
        ("coefficients", np.full((2, 3), np.nan), "must be finite"),
        ("singles", np.array([1, 3]), "singles is int64"),
        ("singles", np.array([1.0, 6.0]), r"success_singles names an arm outside of 0\.\.5"),
        ("singles", np.array([1.5, 3.0]), "success_singles names"),
        ("chains", np.array([[-1.0, 0, 4]]), "success_chains names"),
        ("chains", np.array([[0.0, 2, 4]]), r"success_chains names an arm outside of 0\.\.1"),
        ("chains", np.array([[0.0, 0, 0.5]]), "less than 1"),
        ("chains", np.array([[0.0, 0, 1e6]]), "more than 4096"),
        ("chains", np.zeros(3), "chains is"),
    ],
)
def test_damaged_arrays_are_refused_in_words(name, array, says):
    arrays = {**MODEL.arrays(), f"success_{name}": array}
    with pytest.raises(ArtifactError, match=says):
        SuccessModel.of({n: a for n, a in arrays.items() if a is not None}, arms=6)
