import numpy as np
import pytest

from howhard.router.familiarity import Familiarity, rooted


@pytest.fixture
def familiar():
    rng = np.random.default_rng(0)
    return Familiarity(rng.normal(size=5), rng.uniform(0.5, 2, size=5), rng.normal(size=(3, 5)), 4.0)


def test_distance_is_that_to_the_nearest_centre_by_brute_force(familiar):
    x = np.random.default_rng(1).uniform(0, 9, size=(20, 5))
    z = np.clip((np.sqrt(x) - familiar.mean) * familiar.weight, -6, 6)
    brute = [min(((one - centre) ** 2).sum() for centre in familiar.centres) for one in z]
    assert familiar.distance(x) == pytest.approx(brute)
    assert familiar.strange(x).tolist() == [d > 4.0 for d in brute]
    far, near = familiar.distance(x).max(), familiar.distance(x).min()
    assert near < far


def test_roots_keep_the_sign():
    assert rooted(np.array([[4.0, -9.0, 0.0]])).tolist() == [[2.0, -3.0, 0.0]]


def test_one_wild_feature_is_bounded(familiar):
    wild = np.full((1, 5), 1e30)
    assert familiar.distance(wild)[0] <= ((6 + np.abs(familiar.centres)) ** 2).sum(axis=1).min()


def test_a_row_depends_on_its_own_features_alone(familiar):
    x = np.random.default_rng(2).uniform(0, 9, size=(8, 5))
    assert familiar.distance(x)[3] == pytest.approx(familiar.distance(x[3:4])[0], rel=1e-12)
