import lightgbm
import msgspec
import numpy as np
import pytest

from howhard.router.artifact import pack_arrays, unpack_arrays
from howhard.router.features import featurize
from howhard.router.objective import Objective
from howhard.router.predictor import ARRAYS, Predictor
from howhard.strategies.errors import ArtifactError

TEXTS = ["add 4 and 2", "prove that 722 is the sum of 3 squares, and list them all", ""]


@pytest.fixture(scope="module")
def predictor(router_dir) -> Predictor:
    return Predictor.load(router_dir)


def test_estimates_are_what_the_formulas_say(trained, predictor):
    """Every number again, from LightGBM's own predictions and plain loops."""
    e = predictor.predict_texts(TEXTS)
    x = featurize(TEXTS, trained.manifest.features)
    arrays = unpack_arrays(trained.files[ARRAYS], what=ARRAYS)
    table = unpack_arrays(trained.files["trees.npz"], what="trees.npz")["arms"]
    texts = trained.files["trees.txt"].decode().split("tree\nversion")[1:]
    models = [lightgbm.Booster(model_str=f"tree\nversion{text}") for text in texts]
    ratio, longer = predictor.amounts.ratios(x)
    assert len(models) == arrays["members"] == 4
    assert e.latency is not None
    assert e.tokens is not None
    assert e.fixed is not None
    for i in range(len(TEXTS)):
        rows = np.array([np.concatenate([x.dense[i], a]) for a in table])
        members = []
        for model in models:
            added = np.asarray(model.predict(rows, raw_score=True))
            shared, own = arrays["weight_trees"]
            z = arrays["intercept"] + arrays["slope"] * (shared * added.mean() + own * (added - added.mean()))
            members.append(1 / (1 + np.exp(-z)))
        np.testing.assert_allclose(e.quality[i], np.mean(members, axis=0), rtol=1e-10)
        for j in range(3):
            for k in range(3):
                spread = np.std([m[j] - m[k] for m in members], ddof=1)
                wanted = max(arrays["inflation"][j, k] * spread, arrays["floor"][j, k])
                assert e.fixed.difference_se[i, j, k] == pytest.approx(wanted, abs=1e-12)
        np.testing.assert_allclose(e.benefit_se[i], e.fixed.difference_se[i, :, 2])
        np.testing.assert_allclose(e.cost[i], arrays["fixed"][1] * ratio[i])
        np.testing.assert_allclose(e.tokens[i], arrays["tokens"] * longer[i])
        np.testing.assert_allclose(e.latency[i], arrays["latency"] * ratio[i][:, None])
    assert e.fixed.means.quality.tolist() == [0.5, 0.6, 0.97]


def test_the_fallback_is_the_best_fixed_arm_of_the_objective(predictor):
    e = predictor.predict_texts(TEXTS)
    for value, arm in ((1, "small/single"), (1000, "large/single")):
        at = e.at(Objective(value=value))
        assert at.fallback == arm
        assert (at.benefit_se[:, e.arms.index(arm)] == 0).all()
        assert (at.benefit[:, e.arms.index(arm)] == 0).all()
    np.testing.assert_allclose(e.difficulty, 1 - e.quality[:, 0])


def test_it_tells_easy_from_hard(predictor):
    easy, hard = predictor.predict_texts(TEXTS[:2]).difficulty
    assert easy < 0.2 < 0.5 < hard


def test_what_is_packed_is_read_again_to_the_last_bit(trained, predictor):
    assert predictor.pack() == dict(trained.files)


def test_files_of_others_beside_it_are_not_looked_at(trained, predictor):
    beside = Predictor.from_artifact(trained.manifest, {**trained.files, "prompts.npz": b"?"})
    assert beside.predict_texts(TEXTS).quality.tolist() == predictor.predict_texts(TEXTS).quality.tolist()


def test_components_that_read_other_features_are_found_at_load(trained):
    wider = msgspec.structs.replace(
        trained.manifest, features=msgspec.structs.replace(trained.manifest.features, n_hashed=32)
    )
    with pytest.raises(ArtifactError, match="component 'trees' does not read the router's features"):
        Predictor.from_artifact(wider, trained.files)


def test_without_a_component_every_prompt_has_the_arms_means(trained):
    arrays = unpack_arrays(trained.files[ARRAYS], what=ARRAYS)
    del arrays["weight_trees"]
    bare = Predictor.from_artifact(trained.manifest, {**trained.files, ARRAYS: pack_arrays(**arrays)})
    e = bare.predict_texts(TEXTS)
    np.testing.assert_allclose(e.quality, np.tile(1 / (1 + np.exp(-arrays["intercept"])), (3, 1)))
    assert e.fixed is not None
    np.testing.assert_array_equal(e.fixed.difference_se, np.tile(arrays["floor"], (3, 1, 1)))
