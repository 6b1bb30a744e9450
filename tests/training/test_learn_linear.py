import dataclasses
import itertools

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from howhard.router.features import Features, FeatureSpec, SparseRows, featurize
from howhard.router.linear import Amounts, LinearComponent
from howhard.strategies.errors import TableError
from howhard.training.learn_linear import AmountsLearner, EncoderLearner, TextLearner, TwoParameterLearner, trust
from howhard.training.learners import Lesson
from howhard.training.matrix import OutcomeMatrix

SPEC = FeatureSpec(n_hashed=0, n_text=1024)
LEARNERS = [TextLearner(), TextLearner(columns=0), EncoderLearner(), TwoParameterLearner()]
KINDS = {
    "Add the apples in basket": [0.95, 0.90],
    "Combine the numbers into target": [0.85, 0.15],
    "Factor the enormous integer": [0.08, 0.05],
}


def log_odds(p):
    return np.log(p / (1 - p))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lesson_of(quality, texts, *, cost=None, tokens=None, draws=None, folds=4, embedding=True, seed=0) -> Lesson:
    quality = np.asarray(quality, float)
    n, a = quality.shape
    none = np.full(quality.shape, np.nan)
    names = tuple(str(i) for i in range(n))
    matrix = OutcomeMatrix(
        prompt_ids=names,
        texts=tuple(texts),
        groups=("",) * n,
        families=("",) * n,
        arms=tuple("abcdefgh"[:a]),
        quality=quality,
        cost=np.where(np.isnan(quality), np.nan, 1.0) if cost is None else cost,
        tokens=none if tokens is None else tokens,
        latency=none,
        draws=np.where(np.isnan(quality), np.nan, 1.0) if draws is None else draws,
    )
    x = featurize(texts, SPEC)
    if embedding:
        # A fake encoder: random directions of the words, which tell the kinds apart.
        rows = np.random.default_rng(7).normal(size=(SPEC.n_text, 16)).astype(np.float32)
        at = [slice(s, e) for s, e in itertools.pairwise(x.text.start.tolist())]
        vectors = np.stack([x.text.value[i] @ rows[x.text.index[i]] for i in at])
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        x = dataclasses.replace(x, embedding=(vectors / np.where(length > 0, length, 1)).astype(np.float32))
    fold = np.random.default_rng(seed).permutation(n) % folds
    base = np.empty((folds, a))
    for k in range(folds):
        seen = quality[fold != k]
        base[k] = log_odds((np.nansum(seen, axis=0) + 0.5) / ((~np.isnan(seen)).sum(axis=0) + 1))
    return Lesson(matrix=matrix, x=x, arms=np.zeros((a, 2)), fold=fold, base=base)


def some_texts(n, *, seed=0):
    rng = np.random.default_rng(seed)
    kinds = rng.integers(len(KINDS), size=n)
    names = list(KINDS)
    return [f"{names[k]} {rng.integers(10, 99)} of {rng.integers(10, 99)}." for k in kinds], np.array(
        [KINDS[names[k]] for k in kinds]
    )


def a_lesson(n=300, *, seed=0, keep=None, **given) -> tuple[Lesson, np.ndarray]:
    texts, truth = some_texts(n, seed=seed)
    rng = np.random.default_rng(seed + 1)
    quality = (rng.random(truth.shape) < truth).astype(float)
    if keep is not None:
        quality[~keep(rng, truth.shape)] = np.nan
    return lesson_of(quality, texts, seed=seed, **given), truth


def predicted(lesson, learned):
    return sigmoid(lesson.base[lesson.fold] + learned.out_of_fold)


def one_arm_each(rng, shape):
    return np.arange(shape[1]) == rng.integers(shape[1], size=shape[0])[:, None]


@pytest.mark.parametrize("learner", LEARNERS, ids=str)
def test_what_it_says_out_of_fold_is_what_the_member_that_has_not_seen_the_prompt_adds(learner):
    lesson, _ = a_lesson(80)
    learned = learner.fit(lesson)
    added = learned.component.added(lesson.x)
    assert added.shape == (80, 2, 4)
    assert (learned.out_of_fold == added[np.arange(80), :, lesson.fold]).all()
    assert learned.component.name == learner.name
    again = LinearComponent.read(learned.component.pack(), name=learner.name, arms=2, members=4)
    assert (again.added(lesson.x) == added).all()


@pytest.mark.parametrize("learner", LEARNERS[:3], ids=str)
def test_prompts_of_a_kind_are_told_from_those_of_another(learner):
    lesson, truth = a_lesson()
    found = predicted(lesson, learner.fit(lesson))
    assert 1 - ((found - truth) ** 2).mean() / ((truth - truth.mean(axis=0)) ** 2).mean() > 0.75
    benefit, true_benefit = found[:, 0] - found[:, 1], truth[:, 0] - truth[:, 1]
    assert np.corrcoef(benefit, true_benefit)[0, 1] > 0.8


@pytest.mark.parametrize("learner", LEARNERS, ids=str)
def test_a_member_does_not_see_the_outcomes_of_its_fold(learner):
    lesson, _ = a_lesson(80)
    changed = lesson.matrix.quality.copy()
    changed[lesson.fold == 1] = 1 - changed[lesson.fold == 1]
    other = dataclasses.replace(lesson, matrix=dataclasses.replace(lesson.matrix, quality=changed))
    # The width of the priors is chosen on all folds, so it must be the same for the member to be.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("howhard.training.learn_linear._best", lambda task, small, mix_of, tried: 0.5)
        before, after = learner.fit(lesson).component.added(lesson.x), learner.fit(other).component.added(lesson.x)
    assert (before[:, :, 1] == after[:, :, 1]).all()
    assert (before[:, :, 0] != after[:, :, 0]).any()


@pytest.mark.parametrize("learner", LEARNERS[:3], ids=str)
def test_one_arm_per_prompt_is_enough_to_learn_from(learner):
    lesson, truth = a_lesson(600, keep=one_arm_each)
    assert (np.isnan(lesson.matrix.quality).sum(axis=1) == 1).all()
    found = predicted(lesson, learner.fit(lesson))
    assert 1 - ((found - truth) ** 2).mean() / ((truth - truth.mean(axis=0)) ** 2).mean() > 0.7


def test_an_arm_with_few_outcomes_leans_on_what_the_others_say_of_the_prompts():
    texts, truth = some_texts(300)
    rng = np.random.default_rng(5)
    alike = np.stack([truth[:, 0], truth[:, 0], truth[:, 0]], axis=1)
    quality = (rng.random(alike.shape) < alike).astype(float)
    quality[20:, 2] = np.nan
    both = lesson_of(quality, texts)
    alone = lesson_of(np.where(np.arange(300)[:, None] < 20, quality[:, [2]], np.nan), texts)

    def error(lesson, column):
        return ((predicted(lesson, TextLearner().fit(lesson))[:, column] - truth[:, 0]) ** 2).mean()

    assert error(both, 2) < 0.6 * error(alone, 0)


def test_two_parameters_learn_which_arm_minds_hard_prompts_most():
    rng = np.random.default_rng(0)
    ease = rng.normal(size=400) * 2
    texts = [("easy " if e > 0 else "hard ") * max(1, round(abs(e) * 3)) for e in ease]
    quality = (rng.random((400, 2)) < sigmoid(np.array([1.0, 0.2]) * ease[:, None])).astype(float)
    lesson = lesson_of(quality, texts)
    component = TwoParameterLearner().fit(lesson).component
    minds = component.loading[0]
    assert (minds[0] > 2 * minds[1]).all()
    assert minds.mean(axis=0) == pytest.approx(1)


@pytest.mark.parametrize("learner", LEARNERS, ids=str)
def test_shuffled_outcomes_teach_it_next_to_nothing(learner):
    lesson, _ = a_lesson(400)
    rng = np.random.default_rng(3)
    quality = np.stack([rng.permutation(column) for column in lesson.matrix.quality.T], axis=1)
    shuffled = lesson_of(quality, lesson.matrix.texts)
    assert predicted(shuffled, learner.fit(shuffled)).std(axis=0).max() < 0.08


@pytest.mark.parametrize("learner", LEARNERS, ids=str)
def test_equal_lessons_give_equal_bytes(learner):
    assert learner.fit(a_lesson(60)[0]).component.pack() == learner.fit(a_lesson(60)[0]).component.pack()


@pytest.mark.parametrize("learner", LEARNERS, ids=str)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_equal_outcomes_add_next_to_nothing(learner, value):
    texts, _ = some_texts(40)
    lesson = lesson_of(np.full((40, 2), value), texts)
    added = learner.fit(lesson).component.added(lesson.x)
    assert np.isfinite(added).all()
    assert np.abs(sigmoid(lesson.base.T[None] + added) - value).max() < 0.03


@pytest.mark.parametrize("learner", LEARNERS, ids=str)
def test_prompts_that_are_all_the_same_text_get_the_arms_means(learner):
    rng = np.random.default_rng(0)
    lesson = lesson_of((rng.random((40, 2)) < 0.5).astype(float), ["the same"] * 40)
    assert np.abs(learner.fit(lesson).component.added(lesson.x)).max() < 1e-3


@pytest.mark.parametrize("learner", LEARNERS, ids=str)
def test_one_outcome_of_an_arm_and_none_of_another_are_taken(learner):
    texts, truth = some_texts(60)
    quality = np.full((60, 3), np.nan)
    quality[:, 0] = np.random.default_rng(0).random(60) < truth[:, 0]
    quality[7, 1] = 1.0
    lesson = lesson_of(quality, texts)
    added = learner.fit(lesson).component.added(lesson.x)
    assert np.isfinite(added).all()
    assert np.abs(added).max() < 12


@pytest.mark.parametrize("learner", LEARNERS, ids=str)
def test_turned_rows_give_the_answer_of_the_rows_as_they_are(learner, monkeypatch):
    lesson, _ = a_lesson(120)
    monkeypatch.setattr("howhard.training.learn_linear._best", lambda task, small, mix_of, tried: 0.5)
    turned = learner.fit(lesson).component.added(lesson.x)
    monkeypatch.setattr("howhard.training.learn_linear.SEARCH_PROMPTS", 60)
    assert learner.fit(lesson).component.added(lesson.x) == pytest.approx(turned, abs=0.02)
    assert np.abs(turned).max() > 0.5


def test_an_encoder_learner_without_embeddings_says_so():
    lesson, _ = a_lesson(20, embedding=False)
    with pytest.raises(TableError, match="name an encoder"):
        EncoderLearner().fit(lesson)


def test_the_ridge_behind_amounts_is_the_closed_form():
    rng = np.random.default_rng(0)
    n = 80
    vectors = rng.normal(size=(n, 6)).astype(np.float32)
    cost = np.exp(0.4 * vectors[:, :1] - 0.3 * vectors[:, 1:2] + rng.normal(0, 0.1, (n, 1)))
    lesson = lesson_of(np.ones((n, 1)), ["x"] * n, cost=cost, embedding=False)
    x = Features(vectors, SparseRows(np.zeros(n + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32), 1024))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("howhard.training.learn_linear._best", lambda task, small, mix_of, tried: 2.0)
        found = AmountsLearner().fit(dataclasses.replace(lesson, x=x))
    root = np.sign(vectors) * np.sqrt(np.abs(vectors))
    z = np.clip((root - root.mean(axis=0)) / (6 * root.std(axis=0)), -1, 1)
    z *= np.sqrt(0.4 / (z**2).sum(axis=1).mean())
    z -= z.mean(axis=0)
    log = np.log(cost / cost.mean())[:, 0]
    expected = np.empty(n)
    for k in range(4):
        seen = lesson.fold != k
        model = Ridge(alpha=1 / 2.0, fit_intercept=False).fit(z[seen], log[seen] - log[seen].mean())
        expected[~seen] = log[seen].mean() + model.predict(z[~seen])
    expected += np.log((cost[:, 0] / cost.mean()).mean() / np.exp(expected).mean())
    assert np.log(found.cost[:, 0]) == pytest.approx(expected, abs=0.01)


def test_amounts_average_to_what_was_logged_and_follow_the_prompt():
    rng = np.random.default_rng(0)
    texts, _ = some_texts(300)
    long = np.array(["Combine" in t for t in texts])
    tokens = np.exp(np.where(long, 6, 4)[:, None] + rng.normal(0, 0.5, (300, 2))) * [1, 5]
    lesson = lesson_of(np.ones((300, 2)), texts, cost=2 * tokens, tokens=tokens)
    learned = AmountsLearner().fit(lesson)
    assert learned.cost.mean(axis=0) == pytest.approx(1, abs=1e-6)
    assert learned.tokens[long].mean() > 3 * learned.tokens[~long].mean()
    cost, used = Amounts.read(learned.amounts.pack(), arms=2).ratios(lesson.x)
    assert cost.mean(axis=0) == pytest.approx(1, abs=0.05)
    assert np.corrcoef(np.log(used.ravel()), np.log(learned.tokens.ravel()))[0, 1] > 0.98


def test_amounts_of_arms_that_never_logged_any_are_left_at_one():
    lesson, _ = a_lesson(60)
    tokens = np.where(np.arange(2) == 0, np.random.default_rng(0).uniform(1, 9, (60, 1)), np.nan)
    learned = AmountsLearner().fit(
        dataclasses.replace(lesson, matrix=dataclasses.replace(lesson.matrix, tokens=tokens))
    )
    _, used = learned.amounts.ratios(lesson.x)
    assert (used[:, 1] == 1).all()
    assert (learned.tokens[:, 1] == 1).all()
    assert np.isfinite(learned.cost).all()


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_costs_that_never_vary_are_predicted_as_they_are(value):
    texts, _ = some_texts(40)
    lesson = lesson_of(np.ones((40, 2)), texts, cost=np.full((40, 2), value))
    cost, _ = AmountsLearner().fit(lesson).amounts.ratios(lesson.x)
    assert np.isfinite(cost).all()
    if value:
        assert cost == pytest.approx(1, abs=1e-6)


def test_more_draws_weigh_more_but_not_without_bound():
    texts, truth = some_texts(200)
    rng = np.random.default_rng(0)
    draws = np.where(np.arange(200)[:, None] < 100, 1.0, 64.0) * np.ones((1, 2))
    quality = rng.binomial(draws.astype(int), truth) / draws
    weight = trust(lesson_of(quality, texts, draws=draws).matrix)
    assert weight[:100] == pytest.approx(1)
    assert 1 < weight[100, 0] < 5
    alike = rng.binomial(64, 0.4, (200, 2)) / 64
    assert trust(lesson_of(alike, texts, draws=np.full((200, 2), 64.0)).matrix).max() == pytest.approx(
        1 / (0.1 + 0.9 / 64)
    )
    assert (trust(lesson_of(np.round(quality), texts).matrix) == 1).all()
