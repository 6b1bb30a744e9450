"""Learning what happened near a prompt: nobody sees their own outcome, and what can be learned is."""

import dataclasses

import numpy as np
import pytest

from howhard.router.features import Features, FeatureSpec, featurize
from howhard.router.neighbours import NeighboursComponent
from howhard.training.folds import fold_of
from howhard.training.learn_neighbours import NeighboursLearner, cells_learner, gathered
from howhard.training.learners import Learned, Lesson
from howhard.training.matrix import OutcomeMatrix

K = 4
LEARNERS = [NeighboursLearner(), NeighboursLearner(prototypes=(100,)), cells_learner()]


def lesson_of(matrix: OutcomeMatrix, x: Features | None = None) -> Lesson:
    fold = fold_of(matrix.families, split="prompt", folds=K, seed=0)
    mean = np.stack([np.nanmean(matrix.quality[fold != k], axis=0) for k in range(K)]).clip(0.02, 0.98)
    return Lesson(
        matrix=matrix,
        x=featurize(matrix.texts, FeatureSpec()) if x is None else x,
        arms=np.eye(len(matrix.arms)),
        fold=fold,
        base=np.log(mean / (1 - mean)),
    )


def log_loss(lesson: Lesson, added: np.ndarray) -> float:
    z = lesson.base[lesson.fold] + added
    q = lesson.matrix.quality
    return float(np.nanmean(np.logaddexp(0, z) - q * z))


def sparse(matrix: OutcomeMatrix) -> OutcomeMatrix:
    """One arm per prompt, dealt out in turn."""
    run = np.arange(len(matrix))[:, None] % len(matrix.arms) == np.arange(len(matrix.arms))
    return dataclasses.replace(matrix, quality=np.where(run, matrix.quality, np.nan))


def fitted(learned: Learned) -> NeighboursComponent:
    assert isinstance(learned.component, NeighboursComponent)
    return learned.component


@pytest.fixture(scope="module")
def lesson(world) -> Lesson:
    return lesson_of(world.matrix)


@pytest.mark.parametrize("learner", LEARNERS, ids=["neighbours", "few prototypes", "cells"])
def test_outcomes_nearby_predict_better_than_the_arms_means(learner, lesson):
    learned = learner.fit(lesson)
    assert log_loss(lesson, learned.out_of_fold) < 0.75 * log_loss(lesson, np.zeros((1, 1)))


@pytest.mark.parametrize("learner", LEARNERS, ids=["neighbours", "few prototypes", "cells"])
def test_no_prompt_sees_its_own_outcome_nor_those_of_its_fold(learner, lesson):
    quality = lesson.matrix.quality.copy()
    mine = lesson.fold == lesson.fold[0]
    # One row swapped first, then every outcome of the fold dealt out anew.
    one, all_ = quality.copy(), quality.copy()
    one[0] = 1 - one[0]
    all_[mine] = np.random.default_rng(0).permutation(all_[mine])
    chosen = fitted(learner.fit(lesson))
    settings = dataclasses.replace(
        learner,
        prototypes=learner.prototypes[:1],
        neighbours=(chosen.neighbours,),
        shared=(chosen.shared,),
        own=(chosen.own,),
    )
    before = settings.fit(lesson).out_of_fold
    for changed in (one, all_):
        other = dataclasses.replace(lesson, matrix=dataclasses.replace(lesson.matrix, quality=changed))
        after = settings.fit(other).out_of_fold
        assert (after[mine] == before[mine]).all()
        assert (after[~mine] != before[~mine]).any()


@pytest.mark.parametrize("learner", LEARNERS, ids=["neighbours", "few prototypes", "cells"])
def test_out_of_fold_is_what_the_loaded_component_says_by_the_blind_member(learner, lesson):
    learned = learner.fit(lesson)
    back = NeighboursComponent.read(learned.component.pack(), name=learner.name)
    added = back.added(lesson.x)
    assert (added[np.arange(len(lesson.fold)), :, lesson.fold] == learned.out_of_fold).all()


@pytest.mark.parametrize("learner", LEARNERS, ids=["neighbours", "few prototypes", "cells"])
def test_one_arm_per_prompt_is_enough_to_learn_from(learner, world):
    lesson = lesson_of(sparse(world.matrix))
    learned = learner.fit(lesson)
    assert np.isfinite(learned.out_of_fold).all()
    assert log_loss(lesson, learned.out_of_fold) < 0.85 * log_loss(lesson, np.zeros((1, 1)))


def test_where_nothing_can_be_learned_next_to_nothing_is_added(make_world):
    lesson = lesson_of(make_world(600, shuffle=True).matrix)
    for learner in (NeighboursLearner(), cells_learner()):
        added = learner.fit(lesson).out_of_fold
        assert log_loss(lesson, added) < log_loss(lesson, np.zeros((1, 1))) + 0.01


def test_prompts_that_all_look_alike_get_the_arms_means(world):
    x = featurize(world.matrix.texts, FeatureSpec())
    lesson = lesson_of(world.matrix, dataclasses.replace(x, dense=np.ones_like(x.dense)))
    learned = NeighboursLearner().fit(lesson)
    assert fitted(learned).places.shape[1] == 1
    np.testing.assert_allclose(learned.out_of_fold, 0, atol=0.05)


@pytest.mark.parametrize("quality", [0.0, 1.0])
def test_two_arms_with_all_outcomes_equal_are_learned(quality, world):
    matrix = world.matrix.columns(world.matrix.arms[:2]).rows(np.arange(12))
    learned = NeighboursLearner().fit(lesson_of(dataclasses.replace(matrix, quality=np.full((12, 2), quality))))
    assert np.isfinite(learned.out_of_fold).all()


def test_an_embedding_that_knows_more_than_the_text_is_taken(world):
    x = featurize(world.matrix.texts, FeatureSpec())
    kind = np.unique(world.matrix.groups, return_inverse=True)[1]
    rng = np.random.default_rng(0)
    embedding = (np.eye(8)[kind] + 0.05 * rng.normal(size=(len(kind), 8))).astype(np.float32)
    noise = rng.normal(size=x.dense.shape).astype(np.float32)
    learned = NeighboursLearner().fit(lesson_of(world.matrix, dataclasses.replace(x, dense=noise, embedding=embedding)))
    component = fitted(learned)
    assert component.embedding is not None
    assert component.dense is None


def test_equal_seeds_give_equal_bytes(lesson):
    first, second = (NeighboursLearner(prototypes=(100,)).fit(lesson).component.pack() for _ in range(2))
    assert first == second


def test_prototypes_of_few_positions_are_the_different_ones():
    where = np.array([[0, 1], [2, 3], [0, 1]], dtype=np.float32)
    places, home = gathered(where, 5, 0)
    assert (places[home] == where).all()
    assert len(places) == 2


def test_every_position_belongs_to_its_nearest_prototype_and_every_prototype_has_one():
    where = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    places, home = gathered(where, 40, 0)
    gap = ((where[:, None] - places) ** 2).sum(axis=2)
    np.testing.assert_allclose(gap[np.arange(500), home], gap.min(axis=1), atol=1e-5)
    assert set(home.tolist()) == set(range(len(places)))
    assert len(places) <= 40
