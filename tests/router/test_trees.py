import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.router.trees import read_forest
from howhard.strategies.errors import ArtifactError, InputError


def table(seed: int, rows: int = 400, columns: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns))
    x[:, 1] = np.round(x[:, 1])  # many equal values, zeros among them
    y = 1 / (1 + np.exp(-(x[:, 0] * 2 + x[:, 1] * x[:, 2] + (x[:, 3] > 0.5))))
    x[rng.random(x.shape) < 0.1] = np.nan
    x[rng.random(x.shape) < 0.1] = 0.0
    return x, y


def boosted(x: np.ndarray, y: np.ndarray, *, rounds: int = 30, **parameters: object) -> lightgbm.Booster:
    common = {"num_leaves": 31, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1}
    return lightgbm.train(common | parameters, lightgbm.Dataset(x, y), num_boost_round=rounds)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    objective=st.sampled_from(["regression", "binary", "cross_entropy", "huber"]),
    leaves=st.integers(2, 64),
    missing=st.sampled_from([{}, {"zero_as_missing": True}, {"use_missing": False}]),
)
def test_sums_are_those_of_lightgbm(seed, objective, leaves, missing):
    x, y = table(seed)
    target = (y > 0.5).astype(float) if objective == "binary" else y
    booster = boosted(x, target, objective=objective, num_leaves=leaves, **missing)
    fresh, _ = table(seed + 1)
    forest = read_forest([booster.model_to_string()], names=["model"])
    for rows in (x, fresh):
        np.testing.assert_allclose(
            forest.raw(rows)[:, 0], np.asarray(booster.predict(rows, raw_score=True)), rtol=1e-12, atol=1e-13
        )


def test_a_value_that_equals_a_threshold_goes_left():
    x, y = table(5)
    booster = boosted(x, y, objective="regression")
    forest = read_forest([booster.model_to_string()], names=["m"])
    rows = np.nan_to_num(x[: len(forest.threshold)])
    for row, feature, threshold in zip(rows, forest.feature, forest.threshold, strict=False):
        row[feature] = threshold
    np.testing.assert_allclose(forest.raw(rows)[:, 0], np.asarray(booster.predict(rows)), rtol=1e-12, atol=1e-13)


def test_several_models_and_fixed_columns_give_what_each_gives_alone():
    x, y = table(0)
    boosters = [
        boosted(x, y, objective="cross_entropy", seed=s, bagging_fraction=0.5, bagging_freq=1) for s in range(3)
    ]
    forest = read_forest([b.model_to_string() for b in boosters], names=["a", "b", "c"])
    heads, tails = x[:20, :5], x[50:57, 5:]
    sums = forest.bind(tails).raw(heads)
    assert sums.shape == (20, 7, 3)
    for i in range(7):
        rows = np.concatenate([heads, np.repeat(tails[i : i + 1], 20, axis=0)], axis=1)
        for k, booster in enumerate(boosters):
            np.testing.assert_allclose(sums[:, i, k], np.asarray(booster.predict(rows, raw_score=True)), rtol=1e-12)


def test_many_rows_are_taken_in_pieces_without_a_seam(monkeypatch):
    x, y = table(3)
    forest = read_forest([boosted(x, y, objective="regression").model_to_string()], names=["m"])
    whole = forest.raw(x)
    monkeypatch.setattr("howhard.router.trees._CHUNK", 5000)
    assert np.array_equal(forest.raw(x), whole)


def test_a_model_that_learned_nothing_is_a_constant():
    x, y = table(1)
    booster = boosted(x, np.full(len(y), 0.25), objective="regression", rounds=3)
    np.testing.assert_allclose(read_forest([booster.model_to_string()], names=["m"]).raw(x), 0.25)


@pytest.fixture(scope="module")
def text() -> str:
    x, y = table(2)
    return boosted(x, y, objective="regression", rounds=3).model_to_string()


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda t: t[: len(t) // 2], "not a whole LightGBM"),
        (lambda t: "", "not a whole LightGBM"),
        (lambda t: t.replace("leaf_value=", "leaf_values=", 1), "lacks 'leaf_value'"),
        (lambda t: t.replace("threshold=", "threshold=1 ", 1), "values of threshold"),
        (lambda t: t.replace("leaf_value=", "leaf_value=nan ", 1), "values of leaf_value"),
        (lambda t: t.replace("split_feature=", "split_feature=9", 1), "feature that does not exist"),
        (lambda t: t.replace("left_child=", "left_child=x", 1), "damaged"),
        (lambda t: t.replace("num_leaves=31", "num_leaves=99999", 1), "99999 leaves"),
        (lambda t: t.replace("num_cat=0", "num_cat=1", 1), "categorical"),
        (lambda t: t.replace("num_class=1", "num_class=3", 1), "several classes"),
        (lambda t: t.replace("is_linear=0", "is_linear=1", 1), "linear"),
        (lambda t: t.replace("tree\n", "tree\naverage_output\n", 1), "random forest"),
    ],
)
def test_a_damaged_or_foreign_model_is_refused(text, damage, message):
    assert damage(text) != text
    with pytest.raises(ArtifactError, match=message):
        read_forest([damage(text)], names=["quality-0.txt"])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_children_that_are_no_tree_are_refused(text, data):
    head, _, rest = text.partition("left_child=")
    line, _, tail = rest.partition("\n")
    children = line.split()
    at = data.draw(st.integers(0, len(children) - 1))
    children[at] = str(data.draw(st.integers(-40, 40).filter(lambda c: str(c) != children[at])))
    with pytest.raises(ArtifactError, match="not a tree"):
        read_forest([head + "left_child=" + " ".join(children) + "\n" + tail], names=["m"])


def test_rows_of_another_width_are_refused(text):
    forest = read_forest([text], names=["m"])
    with pytest.raises(InputError, match="8 features"):
        forest.raw(np.zeros((2, 7)))
    with pytest.raises(InputError, match="of a prompt"):
        forest.bind(np.zeros((1, 2))).raw(np.zeros((2, 7)))
