"""The outcomes of the nearest prompts: formula against brute force, one prompt against many, files against damage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.router.artifact import pack_arrays, unpack_arrays
from howhard.router.features import Features, SparseRows
from howhard.router.neighbours import Directions, NeighboursComponent, added_by
from howhard.strategies.errors import ArtifactError

A, K, M, D, R = 3, 4, 300, 9, 5


def features(n: int, seed: int, *, embedding: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, D)).astype(np.float32) * 3
    none = SparseRows(np.zeros(n + 1, dtype=np.int64), np.empty(0, np.int32), np.empty(0, np.float32), 8)
    return Features(dense, none, rng.normal(size=(n, embedding)).astype(np.float32) if embedding else None)


def directions(d: int, seed: int, *, root: bool) -> Directions:
    rng = np.random.default_rng(seed)
    mean, weight, turn = rng.normal(size=d), rng.random(d), rng.normal(size=(d, R))
    return Directions(mean.astype(np.float32), weight.astype(np.float32), turn.astype(np.float32), root)


def component(*, k: int = 7, embedding: int = 0, name: str = "neighbours") -> NeighboursComponent:
    rng = np.random.default_rng(1)
    number = rng.integers(0, 4, size=(M, A, K)).astype(float)
    return NeighboursComponent(
        name=name,
        dense=directions(D, 2, root=True),
        embedding=directions(embedding, 3, root=False) if embedding else None,
        places=rng.normal(size=(2 * R if embedding else R, M)).astype(np.float32),
        outcomes=np.stack([number * rng.random((M, A, K)), number], axis=1),
        base=rng.normal(size=(A, K)),
        neighbours=k,
        shared=5.0,
        own=2.0,
    )


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def test_what_is_added_is_the_documented_formula_over_the_nearest_prototypes():
    c, x = component(), features(5, 0)
    assert c.dense is not None
    added = c.added(x)
    for i in range(5):
        root = np.sign(x.dense[i]) * np.sqrt(np.abs(x.dense[i]))
        here = np.clip((root - c.dense.mean) * c.dense.weight, -6, 6) @ c.dense.turn
        near = np.argsort(((c.places.T - here) ** 2).sum(axis=1))[:7]
        s, n = c.outcomes[near, 0].sum(axis=0), c.outcomes[near, 1].sum(axis=0)
        for k in range(K):
            b = sigmoid(c.base[:, k])
            expected = ((n[:, k] * b).sum() + 5 * b.mean()) / (n[:, k].sum() + 5)
            seen = (s[:, k].sum() + 5 * b.mean()) / (n[:, k].sum() + 5)
            likely = sigmoid(c.base[:, k] + logit(seen) - logit(expected))
            wanted = logit((s[:, k] + 2 * likely) / (n[:, k] + 2)) - c.base[:, k]
            np.testing.assert_allclose(added[i, :, k], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [1, 7, M])
@pytest.mark.parametrize("embedding", [0, 6])
def test_a_prompt_gets_the_same_bits_alone_and_among_others(k, embedding):
    c, x = component(k=k, embedding=embedding), features(600, 4, embedding=embedding)
    together = c.added(x)
    for i in (0, 1, 255, 256, 511, 599):
        assert (c.added(x[np.array([i])])[0] == together[i]).all()
    some = np.array([599, 3, 256])
    assert (c.added(x[some]) == together[some]).all()


def test_one_neighbour_gives_the_shrunk_mean_of_the_own_cell():
    c, x = component(k=1), features(4, 5)
    here = c.position(x)
    cell = ((here[:, :, None] - c.places) ** 2).sum(axis=1).argmin(axis=1)
    sums = c.outcomes[cell]
    np.testing.assert_allclose(c.added(x), added_by(sums[:, 0], sums[:, 1], c.base, shared=5.0, own=2.0))


def test_no_prompts_give_no_rows():
    assert component().added(features(0, 0)).shape == (0, A, K)


rates = st.floats(0.02, 0.98)


@settings(max_examples=60, deadline=None)
@given(
    base=st.lists(rates, min_size=2, max_size=4),
    numbers=st.lists(st.integers(0, 30), min_size=4, max_size=4),
    seen=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    shared=st.floats(0.1, 50),
    own=st.floats(0.1, 50),
)
def test_shrunk_success_stays_a_probability_and_outcomes_as_expected_add_nothing(base, numbers, seen, shared, own):
    a = len(base)
    b = np.array(base)
    z = logit(b)[:, None]
    n = np.array(numbers[:a], dtype=float)
    surprising = added_by((n * np.array(seen[:a]))[:, None], n[:, None], z, shared=shared, own=own)
    assert np.isfinite(surprising).all()
    expected = added_by((n * b)[:, None], n[:, None], z, shared=shared, own=own)
    np.testing.assert_allclose(expected, 0, atol=1e-9)


def test_an_arm_without_outcomes_nearby_moves_with_the_others():
    z = logit(np.array([[0.5], [0.5]]))
    added = added_by(np.array([[9.0], [0.0]]), np.array([[10.0], [0.0]]), z, shared=2.0, own=2.0)
    assert added[0, 0] > added[1, 0] > 0.5


@pytest.mark.parametrize("embedding", [0, 6])
def test_files_make_the_same_component(embedding):
    c, x = component(embedding=embedding, name="cells"), features(20, 6, embedding=embedding)
    back = NeighboursComponent.read({"other.npz": b"", **c.pack()}, name="cells")
    assert back.name == "cells"
    assert (back.added(x) == c.added(x)).all()
    assert back.pack() == c.pack()


def damaged(**changed: object) -> dict[str, bytes]:
    arrays = unpack_arrays(component().pack()["neighbours.npz"], what="neighbours.npz")
    return {"neighbours.npz": pack_arrays(**{n: a for n, a in {**arrays, **changed}.items() if a is not None})}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "lacks neighbours.npz"),
        ({"neighbours.npz": b"PK"}, "not a file of plain arrays"),
        (damaged(places=None), "lacks places"),
        (damaged(base=None), "lacks base"),
        (damaged(settings=None), "lacks settings"),
        (damaged(dense_turn=None), "places is"),
        (damaged(dense_mean=np.zeros(2, np.float32)), "dense_mean is"),
        (damaged(places=np.zeros((R, M))), "must be finite float32"),
        (damaged(places=np.full((R, M), np.nan, np.float32)), "must be finite"),
        (damaged(outcomes=np.zeros((M, 2, A))), "outcomes is"),
        (damaged(outcomes=np.ones((M, 2, A, K)) * np.array([2.0, 1.0])[:, None, None]), "more success than"),
        (damaged(base=np.zeros(A)), "base is"),
        (damaged(settings=np.array([0.0, 1.0, 1.0])), "0 of 300 prototypes"),
        (damaged(settings=np.array([301.0, 1.0, 1.0])), "301 of 300 prototypes"),
        (damaged(settings=np.array([3.0, 0.0, 1.0])), "strengths 0 and 1"),
    ],
)
def test_damaged_files_are_refused_in_words(files, says):
    with pytest.raises(ArtifactError, match=says):
        NeighboursComponent.read(files)


@pytest.mark.parametrize("embedding", [0, 5])
def test_an_encoder_that_is_missing_or_another_one_is_told(embedding):
    with pytest.raises(ArtifactError, match="an embedding of 6 numbers"):
        component(embedding=6).added(features(1, 0, embedding=embedding))
