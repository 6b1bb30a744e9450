from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.router.familiarity import Familiarity, rooted
from howhard.router.features import Features, FeatureSpec, featurize
from howhard.strategies.errors import ArtifactError

SPEC = FeatureSpec(n_hashed=0)
WIDTH = len(SPEC.names)
WORDS = [
    "how",
    "many",
    "apples",
    "did",
    "the",
    "12",
    "sailors",
    "count",
    "before",
    "noon",
    "in",
    "3",
    "ports",
    "while",
    "the",
    "sea",
    "was",
    "calm",
]


def made(seed: int, *, centres: int = 3) -> Familiarity:
    rng = np.random.default_rng(seed)
    table = [rng.normal(size=WIDTH), rng.uniform(0.5, 2, size=WIDTH), rng.normal(size=(centres, WIDTH))]
    table += [rng.uniform(0.1, 2, size=(centres, WIDTH)), rng.uniform(1, 9, size=centres)]
    return Familiarity(*(t.astype(np.float32) for t in table))


def texts(seed: int, count: int) -> Features:
    rng = np.random.default_rng(seed)
    return featurize([" ".join(rng.choice(WORDS, size=rng.integers(1, 30))) for _ in range(count)], SPEC)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), centres=st.integers(1, 5))
def test_distance_is_that_from_the_likeliest_centre_by_brute_force(seed, centres):
    familiar, x = made(seed, centres=centres), texts(seed, 4)
    root = np.sign(x.dense) * np.sqrt(np.abs(x.dense.astype(float)))
    z = np.clip((root - familiar.mean) * familiar.weight, -6, 6)
    for i, found in enumerate(familiar.distance(x)):
        scores = []
        for centre, width, limit in zip(familiar.centres, familiar.widths, familiar.limits, strict=True):
            square = (((z[i] - centre) / width) ** 2).mean()
            scores.append((square + np.log(width.astype(float) ** 2).mean(), square / limit))
        assert found == pytest.approx(min(scores)[1], rel=1e-3)
    assert familiar.strange(x).tolist() == (familiar.distance(x) > 1).tolist()


def test_roots_keep_the_sign():
    assert rooted(np.array([[4.0, -9.0, 0.0]])).tolist() == [[2.0, -3.0, 0.0]]


def test_one_wild_feature_is_bounded():
    familiar = made(0)
    wild = replace(texts(0, 1), dense=np.full((1, WIDTH), 1e30, dtype=np.float32))
    bound = (((6 + np.abs(familiar.centres)) / familiar.widths) ** 2).mean(axis=1) / familiar.limits
    assert 0 < familiar.distance(wild)[0] <= bound.max()


def test_a_row_is_the_same_to_the_last_bit_alone_and_in_a_crowd():
    familiar, x = made(1, centres=7), texts(1, 50)
    crowd = familiar.distance(x)
    assert [familiar.distance(x[np.array([i])])[0] for i in range(50)] == crowd.tolist()


def test_limits_are_multiplied():
    familiar, x = made(2), texts(2, 5)
    np.testing.assert_allclose(familiar.limited(4.0).distance(x), familiar.distance(x) / 4, rtol=1e-6)


def test_arrays_make_the_same_familiarity_again():
    familiar, x = made(3), texts(3, 6)
    again = Familiarity.of({**familiar.arrays(), "of_others": np.zeros(3)}, SPEC)
    assert again is not None
    assert (again.distance(x) == familiar.distance(x)).all()
    assert Familiarity.of({"of_others": np.zeros(3)}, SPEC) is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seen_mean", None, "lacks seen_mean"),
        ("seen_weight", np.ones(3, np.float32), "seen_weight is float32"),
        ("seen_centres", np.ones((3, WIDTH)), "seen_centres is float64"),
        ("seen_centres", np.ones((0, WIDTH), np.float32), "not empty"),
        ("seen_limits", np.ones(2, np.float32), "one row for every centre"),
        ("seen_limits", np.array([1, 0, 1], np.float32), "above 0"),
        ("seen_widths", np.full((3, WIDTH), np.nan, np.float32), "not finite"),
    ],
)
def test_damaged_arrays_are_refused(name, value, message):
    arrays = {n: a for n, a in {**made(4).arrays(), name: value}.items() if a is not None}
    with pytest.raises(ArtifactError, match=message):
        Familiarity.of(arrays, SPEC)
