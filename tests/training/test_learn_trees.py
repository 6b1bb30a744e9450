import dataclasses

import lightgbm
import numpy as np
import pytest

from howhard.router.features import Features, FeatureSpec, featurize
from howhard.router.joint_trees import JointTreesComponent
from howhard.router.predictor import sigmoid
from howhard.router.trees import TreesComponent
from howhard.strategies import ArmSpec, BestOfNSpec, ExactCheckSpec, RewardModelSpec, SingleSpec
from howhard.strategies.errors import ArtifactError, ConfigError
from howhard.training.arm_features import arm_features
from howhard.training.folds import fold_of
from howhard.training.learn_joint_trees import JointTreesLearner, _newton
from howhard.training.learn_trees import TreesLearner
from howhard.training.learners import Learner, Lesson
from howhard.training.stacking import mean_log_odds

SPEC = FeatureSpec(n_hashed=16, n_text=1024)


def lesson_of(matrix, *, specs=None, verifiers=None, x: Features | None = None) -> Lesson:
    arms = arm_features(matrix, specs or {}, verifiers or {})
    fold = fold_of(matrix.families, split="prompt", folds=4, seed=0)
    return Lesson(
        matrix=matrix,
        x=featurize(matrix.texts, SPEC) if x is None else x,
        arms=arms.table,
        rising=arms.rising,
        fold=fold,
        base=np.stack([mean_log_odds(matrix.quality[fold != k]) for k in range(4)]),
    )


@pytest.fixture(scope="module")
def lesson(world) -> Lesson:
    return lesson_of(world.matrix)


@pytest.fixture(
    params=[
        TreesLearner(min_rows=20),
        TreesLearner(per_arm=True, min_rows=20),
        JointTreesLearner(rounds=30),
    ],
    ids=["pooled", "per arm", "joint"],
)
def learner(request) -> Learner:
    return request.param


def test_it_learns_what_a_prompt_adds(lesson, learner, world):
    added = learner.fit(lesson).out_of_fold
    quality = sigmoid(lesson.base[lesson.fold] + added)
    off = ((quality - world.truth) ** 2).mean()
    assert off < 0.4 * ((world.truth.mean(axis=0) - world.truth) ** 2).mean()


def test_a_prompts_out_of_fold_figure_is_that_of_the_member_that_did_not_see_it(lesson, learner):
    learned = learner.fit(lesson)
    every = learned.component.added(lesson.x)
    assert every.shape == (400, 3, 4)
    np.testing.assert_allclose(learned.out_of_fold, every[np.arange(400), :, lesson.fold], atol=1e-12)


def test_a_prompts_own_fold_has_no_say(lesson):
    """Some outcomes of fold 2 turned round change what the others' members say, and not what is said of fold 2."""
    settings = TreesLearner(rounds=1, min_rows=20)
    quality = lesson.matrix.quality.copy()
    before = settings.fit(lesson)
    some = np.flatnonzero(lesson.fold == 2)[:10]
    quality[some] = 1 - quality[some]
    after = settings.fit(dataclasses.replace(lesson, matrix=dataclasses.replace(lesson.matrix, quality=quality)))
    mine = lesson.fold == 2
    np.testing.assert_array_equal(before.out_of_fold[mine], after.out_of_fold[mine])
    assert (before.out_of_fold[~mine] != after.out_of_fold[~mine]).any()


def test_outcomes_that_features_cannot_tell_add_nothing(learner, make_world):
    matrix = make_world(200, shuffle=True).matrix
    constant = featurize(["what now?"] * 200, SPEC)
    learned = learner.fit(lesson_of(matrix, x=constant))
    assert np.abs(learned.component.added(constant)).max() < 0.1


def test_it_is_packed_and_read_again(lesson, learner):
    component = learner.fit(lesson).component
    files = component.pack()
    assert all(name.startswith(learner.name) for name in files)
    kind = type(component)
    again = kind.read(files, name=learner.name, arms=3, members=4)
    np.testing.assert_array_equal(again.added(lesson.x), component.added(lesson.x))
    with pytest.raises(ArtifactError, match="models, not"):
        kind.read(files, name=learner.name, arms=3, members=5)
    with pytest.raises(ArtifactError, match=r"must be float(64 \(2, k\)|32 \(leaves, 2\))"):
        kind.read(files, name=learner.name, arms=2, members=4)
    text = f"{learner.name}.txt"
    with pytest.raises(ArtifactError, match="is not text"):
        kind.read({**files, text: b"\xff"}, name=learner.name, arms=3, members=4)
    for missing in files:
        with pytest.raises(ArtifactError, match=f"lacks {missing}"):
            kind.read({n: f for n, f in files.items() if n != missing}, name=learner.name, arms=3, members=4)


def test_trees_of_another_objective_are_not_read(lesson):
    learner = TreesLearner(min_rows=20)
    files = learner.fit(lesson).component.pack()
    text = "trees.txt"
    other = files[text].replace(b"objective=cross_entropy", b"objective=regression")
    with pytest.raises(ArtifactError, match="trained with objective 'regression'"):
        TreesComponent.read({**files, text: other}, name="trees", arms=3, members=4)


def test_leaves_that_do_not_fit_their_table_are_not_read(lesson):
    learner = JointTreesLearner(rounds=5)
    component = learner.fit(lesson).component
    assert isinstance(component, JointTreesComponent)
    short = [table[:-1] for table in component.forest.tables]
    with pytest.raises(ArtifactError, match="leaves do not fit their tables"):
        JointTreesComponent.of("joint_trees", component.forest.texts, short)


def test_an_arm_without_outcomes_in_a_leaf_takes_the_step_of_all_arms():
    residual = np.array([[0.5, 0.0], [0.5, 0.0], [-0.2, -0.4]])
    weight = np.array([[0.25, 0.0], [0.25, 0.0], [0.2, 0.2]])  # the second arm was not run on the first two prompts
    step = _newton(residual, weight, np.array([0, 0, 1]), l2=1.0)
    shared = 1.0 / (0.5 + 1.0)
    assert step[0] == pytest.approx([shared + (1.0 - shared * 0.5) / 1.5, shared])
    assert step[1, 1] < step[1, 0] < 0


def test_lightgbm_reads_the_same_trees(lesson):
    component = TreesLearner(min_rows=20).fit(lesson).component
    assert isinstance(component, TreesComponent)
    added = component.added(lesson.x)
    rows = np.concatenate([np.tile(lesson.x.dense[7], (3, 1)), component.table], axis=1)
    for k, text in enumerate(component.texts):
        raw = lightgbm.Booster(model_str=text).predict(rows, raw_score=True)
        assert np.asarray(raw) == pytest.approx(added[7, :, k], abs=1e-12)


def test_a_row_is_the_same_in_a_crowd(lesson, learner):
    component = learner.fit(lesson).component
    crowd = component.added(lesson.x)
    for i in (0, 57, 399):
        np.testing.assert_array_equal(component.added(lesson.x[np.array([i])])[0], crowd[i])


SAMPLES = (1, 2, 4, 8)


@pytest.mark.parametrize("sound", [True, False])
def test_more_samples_never_look_worse_where_the_verifier_is_sound(make_world, sound):
    """Outcomes that FALL with n on every other prompt: believed of a reward model, not of an exact check."""
    world = make_world(300).matrix
    specs = {f"small/n{n}": ArmSpec(backend="small", strategy=BestOfNSpec(n=n, verifier="v")) for n in SAMPLES}
    rng = np.random.default_rng(0)
    easy = np.array(["basket" in t for t in world.texts])
    chance = np.where(easy[:, None], [0.9, 0.7, 0.5, 0.3], [0.1, 0.3, 0.5, 0.8])
    blank = np.full(chance.shape, np.nan)
    matrix = dataclasses.replace(
        world,
        arms=tuple(specs),
        quality=(rng.random(chance.shape) < chance).astype(float),
        cost=np.tile(np.array(SAMPLES, float), (300, 1)),
        tokens=blank,
        latency=blank,
        draws=np.ones(chance.shape),
    )
    verifier = ExactCheckSpec() if sound else RewardModelSpec(model="m")
    lesson = lesson_of(matrix, specs=specs, verifiers={"v": verifier})
    assert bool(lesson.rising) == sound
    added = TreesLearner(min_rows=20).fit(lesson).component.added(lesson.x)
    falls = (np.diff(added, axis=1) < -1e-9).any()
    assert falls != sound


def test_arm_features_say_what_is_known(make_world):
    matrix = make_world(50).matrix
    specs = {
        "small/best_of_8": ArmSpec(backend="small", strategy=BestOfNSpec(n=8, verifier="v")),
        "small/single": ArmSpec(backend="small", strategy=SingleSpec()),
    }
    found = arm_features(matrix, specs, {"v": ExactCheckSpec()})
    assert found.table.shape == (3, 16)
    assert found.rising == (6, 14)
    assert found.table[:, 6].tolist() == [-1, 3, -1]
    assert found.table[:, 7].tolist() == [-1, -1, 0]
    assert arm_features(matrix, {}, {}).table.shape == (3, 12)


@pytest.mark.parametrize("learner", [TreesLearner, JointTreesLearner])
def test_settings_out_of_range_are_errors_that_name_them(learner):
    with pytest.raises(ConfigError, match="leaves=65: the router reads trees of at most 64 leaves"):
        learner(leaves=65)
    with pytest.raises(ConfigError, match="rounds=0: it must be at least 1"):
        learner(rounds=0)
    with pytest.raises(ConfigError, match=r"column_share=1\.5: it must lie in \(0, 1\]"):
        learner(column_share=1.5)
    with pytest.raises(ConfigError, match="l2=-1: it must be at least 0"):
        learner(l2=-1)
