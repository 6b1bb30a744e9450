import lightgbm
import numpy as np
import pytest

from howhard.router.artifact import unpack_arrays
from howhard.router.features import featurize
from howhard.router.predictor import ARRAYS, Predictor
from howhard.strategies.errors import InputError

TEXTS = ["add 4 and 2", "prove that 722 is the sum of 3 squares, and list them all", ""]


@pytest.fixture(scope="module")
def predictor(router_dir) -> Predictor:
    return Predictor.load(router_dir)


def test_estimates_are_what_the_formulas_say(trained, predictor):
    """Every number again, from LightGBM's own predictions and plain loops."""
    e = predictor.predict_texts(TEXTS)
    x = featurize(TEXTS, trained.manifest.features).dense
    arrays = unpack_arrays(trained.files[ARRAYS], what=ARRAYS)
    models = {n: lightgbm.Booster(model_str=b.decode()) for n, b in trained.files.items() if n.endswith(".txt")}
    assert e.latency is not None
    for i in range(len(TEXTS)):
        rows = np.array([np.concatenate([x[i], a]) for a in arrays["arm_features"]])
        bags = np.array([models[f"quality-{k}.txt"].predict(rows) for k in range(4)])  # with the sigmoid
        ratio = np.exp(np.asarray(models["cost.txt"].predict(rows)))
        mean = bags.mean(axis=0)
        np.testing.assert_allclose(
            e.quality[i], np.interp(mean, arrays["calibration_x"], arrays["calibration_y"]), rtol=1e-10
        )
        spread = (bags - bags[:, [2]]).std(axis=0, ddof=1)
        np.testing.assert_allclose(e.benefit_se[i], arrays["se_inflation"] * spread, atol=1e-12)
        np.testing.assert_allclose(e.cost[i], arrays["cost_mean"] * ratio, rtol=1e-10)
        np.testing.assert_allclose(e.latency[i], arrays["latency"] * ratio[:, None], rtol=1e-10)


def test_the_fallback_has_no_doubt_about_itself(predictor):
    e = predictor.predict_texts(TEXTS)
    at = e.arms.index(e.fallback)
    assert (e.benefit_se[:, at] == 0).all()
    assert (e.benefit[:, at] == 0).all()
    np.testing.assert_allclose(e.difficulty, 1 - e.quality[:, 0])


def test_one_prompt_is_estimated_as_in_a_crowd(predictor):
    crowd = predictor.predict_texts(TEXTS * 50)
    for i, text in enumerate(TEXTS):
        alone = predictor.predict_texts([text])
        np.testing.assert_array_equal(alone.quality[0], crowd.quality[i])
        np.testing.assert_array_equal(alone.cost[0], crowd.cost[i])


def test_it_tells_easy_from_hard(predictor):
    easy, hard = predictor.predict_texts(TEXTS[:2]).difficulty
    assert easy < 0.2 < 0.5 < hard


def test_features_of_another_width_are_refused(predictor):
    with pytest.raises(InputError, match="features of a prompt"):
        predictor.predict(np.zeros((1, 3)))
