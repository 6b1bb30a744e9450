import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.router.artifact import pack_arrays, unpack_arrays
from howhard.router.features import Features, FeatureSpec, SparseRows, featurize
from howhard.router.linear import Amounts, LinearComponent, LinearMap
from howhard.strategies.errors import ArtifactError, InputError

SPEC = FeatureSpec(n_hashed=0, n_text=256)
WORDS = ["add", "the", "apples", "in", "basket", "12", "and", "7,", "then", "prove", "that", "3", "rivers", "cross"]


def a_map(sums: int, *, seed: int = 0, columns: int = 5, embedding: int = 0, text: bool = True) -> LinearMap:
    rng = np.random.default_rng(seed)

    def weights(rows: int) -> np.ndarray:
        return rng.normal(size=(rows, sums)).astype(np.float16).astype(np.float32)

    return LinearMap(
        offset=rng.normal(size=sums),
        idf=rng.uniform(1, 3, SPEC.n_text).astype(np.float32) if text else None,
        text_weights=weights(SPEC.n_text) if text else None,
        mean=rng.normal(size=columns),
        scale=rng.uniform(0.1, 1, columns),
        dense_weights=weights(columns),
        embedding_weights=weights(embedding) if embedding else None,
    )


def some_features(n: int, *, seed: int = 0, embedding: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    x = featurize([" ".join(rng.choice(WORDS, size=int(k))) for k in rng.integers(0, 60, n)], SPEC)
    vectors = rng.normal(size=(n, embedding)).astype(np.float32) if embedding else None
    return Features(x.dense, x.text, vectors)


@given(
    sums=st.sampled_from([1, 2, 7, 40]), n=st.integers(1, 9), seed=st.integers(0, 99), embedding=st.sampled_from([0, 6])
)
@settings(max_examples=25, deadline=None)
def test_a_prompt_has_the_same_sums_alone_and_in_any_batch_to_the_last_bit(sums, n, seed, embedding):
    weights, x = a_map(sums, seed=seed, embedding=embedding), some_features(n, seed=seed, embedding=embedding)
    together = weights(x)
    for i in range(n):
        assert (weights(x[np.array([i])])[0] == together[i]).all()
    order = np.random.default_rng(seed).permutation(n)
    assert (weights(x[order]) == together[order]).all()


def test_sums_are_those_of_the_formula():
    weights, x = a_map(3, embedding=4), some_features(6, embedding=4)
    text = np.zeros((6, SPEC.n_text))
    for i in range(6):
        at = slice(x.text.start[i], x.text.start[i + 1])
        text[i, x.text.index[at]] = x.text.value[at] * weights.idf[x.text.index[at]]
    text /= np.maximum(np.linalg.norm(text, axis=1, keepdims=True), 1e-12)
    root = np.sqrt(x.dense[:, :5]) * np.sign(x.dense[:, :5])
    dense = np.clip((root - weights.mean) * weights.scale, -1, 1)
    expected = weights.offset + text @ weights.text_weights + dense @ weights.dense_weights
    assert weights(x) == pytest.approx(expected + x.embedding @ weights.embedding_weights, abs=1e-4)


def test_a_two_parameter_component_is_one_score_per_member_times_each_arms_loading():
    loading = np.random.default_rng(1).normal(size=(1, 4, 3))
    component = LinearComponent(name="two_parameter", scores=a_map(3), members=3, loading=loading)
    x = some_features(5)
    assert component.added(x) == pytest.approx(component.scores(x)[:, None, :] * loading[0])


def test_with_two_scores_the_loadings_add_up():
    loading = np.random.default_rng(1).normal(size=(2, 4, 3))
    component = LinearComponent(name="two_parameter", scores=a_map(6), members=3, loading=loading)
    x = some_features(5)
    score = component.scores(x).reshape(5, 2, 3)
    assert component.added(x) == pytest.approx(np.einsum("nrk,rak->nak", score, loading))


@pytest.mark.parametrize("embedding", [0, 6])
def test_a_component_that_was_packed_says_the_same_when_read(embedding):
    component = LinearComponent(name="text", scores=a_map(6, embedding=embedding), members=3)
    x = some_features(8, embedding=embedding)
    again = LinearComponent.read(component.pack(), name="text", arms=2, members=3)
    assert component.added(x).shape == (8, 2, 3)
    assert (again.added(x) == component.added(x)).all()
    assert again.pack() == component.pack()


def test_text_columns_without_a_weight_take_no_room():
    scores = a_map(6)
    few = np.where(np.arange(SPEC.n_text)[:, None] < 5, scores.text_weights, np.float32(0))
    sparse = LinearComponent(name="text", scores=dataclasses.replace(scores, text_weights=few), members=3)
    held = unpack_arrays(sparse.pack()["text.npz"], what="text.npz")
    assert held["text_weights"].shape == (5, 6)
    read = LinearComponent.read(sparse.pack(), name="text", arms=2, members=3)
    assert (read.scores.text_weights == few).all()


def test_amounts_that_were_packed_say_the_same_when_read_and_stay_within_their_limits():
    amounts = Amounts(logs=a_map(4))
    x = some_features(5)
    cost, tokens = Amounts.read(amounts.pack(), arms=2).ratios(x)
    assert cost.shape == tokens.shape == (5, 2)
    assert (np.concatenate([cost, tokens], axis=1) == np.exp(amounts.logs(x))).all()
    wild = Amounts(logs=dataclasses.replace(a_map(4), offset=np.array([1e9, -1e9, 0.0, 0.0])))
    cost, _ = wild.ratios(x)
    assert cost[:, 0] == pytest.approx(np.exp(12.0))
    assert cost[:, 1] == pytest.approx(np.exp(-12.0))


def test_prompts_with_other_features_are_refused():
    x = some_features(2)
    with pytest.raises(InputError, match="the text has 256 columns: these weights read 128"):
        narrow = dataclasses.replace(a_map(2), idf=np.ones(128, np.float32), text_weights=np.ones((128, 2), np.float32))
        narrow(x)
    with pytest.raises(InputError, match="dense columns"):
        a_map(2, columns=x.dense.shape[1] + 1)(x)
    with pytest.raises(InputError, match="the prompts have none: give the encoder"):
        a_map(2, embedding=3)(x)
    with pytest.raises(InputError, match="the embedding has 4 columns: these weights read 3"):
        a_map(2, embedding=3)(some_features(2, embedding=4))


def damaged(**changes: np.ndarray | None) -> dict[str, bytes]:
    held = LinearComponent(name="text", scores=a_map(6), members=3).scores.arrays() | changes
    return {"text.npz": pack_arrays(**{k: v for k, v in held.items() if v is not None})}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"offset": None}, "lacks offset"),
        ({"dense_weights": np.ones((5, 6), np.float32)}, "dense_weights is float32"),
        ({"scale": np.ones(4)}, r"scale is float64 \(4,\)"),
        ({"scale": -np.ones(5)}, "scale is negative"),
        ({"offset": np.full(6, np.nan)}, "not finite"),
        ({"text_columns": np.zeros(256, np.int32)}, "do not ascend"),
        ({"text_columns": np.arange(1, 257, dtype=np.int32)}, "do not ascend"),
        ({"idf": -np.ones(256, np.float32)}, "idf is negative"),
        ({"text_columns": None}, "lacks text_columns"),
        ({"loading": np.ones((1, 3, 3))}, r"loading is float64 \(1, 3, 3\)"),
        ({"loading": np.ones((1, 2, 3))}, "6 sums, not those of 2 arms and 3 members"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(changes, words):
    with pytest.raises(ArtifactError, match=words):
        LinearComponent.read(damaged(**changes), name="text", arms=2, members=3)


def test_a_missing_file_or_another_number_of_arms_is_refused():
    with pytest.raises(ArtifactError, match=r"lacks text\.npz"):
        LinearComponent.read({}, name="text", arms=2, members=3)
    with pytest.raises(ArtifactError, match="6 sums, not those of 3 arms and 3 members"):
        LinearComponent.read(damaged(), name="text", arms=3, members=3)
    with pytest.raises(ArtifactError, match="4 sums, not two for each of 3 arms"):
        Amounts.read(Amounts(logs=a_map(4)).pack(), arms=3)


def test_rows_of_text_may_be_empty_anywhere():
    rows = SparseRows(np.array([0, 0, 2, 2]), np.array([1, 4], np.int32), np.ones(2, np.float32), SPEC.n_text)
    weights = a_map(2, columns=0)
    out = weights(Features(np.zeros((3, 0), np.float32), rows))
    assert (out[[0, 2]] == weights.offset).all()
    assert (out[1] != weights.offset).all()
