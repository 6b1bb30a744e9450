import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.router.familiarity import Familiarity
from howhard.router.features import Features, FeatureSpec, featurize
from howhard.strategies.errors import ConfigError
from howhard.training.folds import fold_of
from howhard.training.guard import (
    STRANGE_SE,
    Gain,
    GuardSettings,
    Uncertainty,
    learn_uncertainty,
    pairwise_error,
    systematic,
)
from howhard.training.matrix import OutcomeMatrix

SPEC = FeatureSpec(n_hashed=16)
TOPICS = (
    "How many apples are left in basket {} when {} sailors eat?",
    "Sort these: pear, fig, plum, {} and {}.",
    "def f(x): return x * {} + {}\nWhat does f(2) return?",
    "Is it true that {} divides {} without remainder?",
    "Translate the numerals {} and {} to French words!",
    "Navigate: walk {} steps forward; turn left; walk {} steps. Are you back?",
    "{} + {} - (3 * 4) =",
    "Who wrote chapter {} of volume {}, and why was it banned?",
)


def prompts_of(count: int, *, topics: int = 8, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """`count` prompts of each topic, and the number of the topic."""
    rng = np.random.default_rng(seed)
    topic = np.repeat(np.arange(topics), count)
    return [TOPICS[t].format(*rng.integers(10, 99, size=2)) for t in topic], topic


def matrix_of(texts: list[str], topic: np.ndarray, quality: np.ndarray, cost: tuple[float, ...]) -> OutcomeMatrix:
    shape = quality.shape
    nothing = np.where(np.isnan(quality), np.nan, 1.0)
    names = tuple(f"topic-{chr(97 + t)}" for t in topic)
    return OutcomeMatrix(
        prompt_ids=tuple(f"p{i:04d}" for i in range(shape[0])),
        texts=tuple(texts),
        groups=names,
        families=names,
        arms=tuple(f"arm-{j}" for j in range(shape[1])),
        quality=quality,
        cost=nothing * np.asarray(cost),
        tokens=np.full(shape, np.nan),
        latency=np.full(shape, np.nan),
        draws=nothing,
    )


def world(
    family_says: float, *, topics: int = 8, fold_says: float = 1.0
) -> tuple[OutcomeMatrix, Features, Uncertainty, np.ndarray]:
    """Half of the prompts are better off with arm 1, half with arm 0, by .6; what the predictions say of it is given.

    family_says, fold_says : correlation of what models say that saw no prompt of the family, or none of the fold, with
    what is true.
    """
    texts, topic = prompts_of(60, topics=topics)
    rng = np.random.default_rng(3)
    truth = 0.5 + 0.3 * rng.choice([-1, 1], size=len(texts))[:, None] * np.array([-1, 1])
    quality = (rng.random(truth.shape) < truth).astype(float)
    matrix = matrix_of(texts, topic, quality, (1.0, 1.0))
    x = featurize(texts, SPEC)
    found = learn_uncertainty(
        matrix,
        x,
        fold=fold_of(matrix.families, split="prompt", folds=4, seed=0),
        quality=0.5 + fold_says * (truth - 0.5),
        family_quality=0.5 + family_says * (truth - 0.5),
        family_fold=fold_of(matrix.families, split="group", folds=8, seed=0),
    )
    return matrix, x, found, topic


def test_the_guard_is_infinite_where_left_out_families_go_the_other_way():
    _, _, found, _ = world(-1.0)
    assert found.report.strange_strength == math.inf
    assert (found.strange_se == STRANGE_SE * (1 - np.eye(2))).all()
    assert found.guard == 0.25  # known families are predicted well, and keep what they gain
    report = found.report
    assert report.hits is not None
    assert report.hits > 0.9
    assert report.in_distribution.mean > 0.2
    assert report.unflagged is not None
    assert report.left_out is not None
    assert report.unflagged.mean < -0.2 < report.left_out.mean
    assert "Unfamiliar ones go to that arm. Of 8 families" in report.text()


def test_the_guard_stays_small_where_left_out_families_agree():
    _, _, found, _ = world(1.0)
    assert found.report.strange_strength == 0.25
    assert found.strange_se.max() < 0.3
    assert found.report.left_out is not None
    assert found.report.left_out.mean > 0.2
    assert "Unfamiliar ones are held to 0.25 times the error" in found.report.text()


@pytest.mark.parametrize(("gap", "infinite"), [(0.8, True), (0.1, False)])
def test_a_family_on_which_the_other_arm_fails_altogether_makes_the_guard_infinite(gap, infinite):
    """Left-out families are predicted right, and gain a little: but the next one may be as the last one here is."""
    texts, topic = prompts_of(40)
    better = np.where(np.arange(len(texts)) % 2, 0.05, -0.05)
    truth = 0.5 + np.where((topic == 7)[:, None], [gap / 2, -gap / 2], better[:, None] * np.array([-1, 1]))
    matrix = matrix_of(texts, topic, truth, (1.0, 1.0))
    found = learn_uncertainty(
        matrix,
        featurize(texts, SPEC),
        fold=fold_of(matrix.families, split="prompt", folds=4, seed=0),
        quality=truth,
        family_quality=truth,
        family_fold=fold_of(matrix.families, split="group", folds=8, seed=0),
    )
    assert math.isinf(found.report.strange_strength) == infinite


def test_the_guard_is_strong_where_known_families_are_predicted_the_wrong_way():
    _, _, found, _ = world(-1.0, fold_says=-0.6)
    assert found.report.strength > 0.25
    assert found.report.in_distribution.mean > -0.02


def test_with_too_few_families_strange_prompts_go_to_the_fallback_arm():
    _, _, found, _ = world(1.0, topics=3)
    assert found.report.strange_strength == math.inf
    assert found.strange_se[0, 1] == STRANGE_SE
    assert found.report.hits is None
    assert found.report.share == 0.05
    assert "Too few families of prompts (3)" in found.report.text()


def test_false_alarms_on_new_prompts_of_known_families_are_as_stated():
    _, _, found, _ = world(1.0)
    new = featurize(prompts_of(200, seed=9)[0], SPEC)
    n = len(new)
    share = found.report.share
    assert found.familiarity.strange(new).mean() < share + 3 * math.sqrt(share * (1 - share) / n) + 0.01
    assert found.strange.mean() <= share


@pytest.mark.parametrize("text", ["Write a poem about the sea.", "", "你好，请写一首关于大海的诗。"])
def test_a_prompt_of_another_kind_is_strange_to_a_router_of_templates(text):
    _, _, found, _ = world(1.0)
    assert found.familiarity.strange(featurize([text], SPEC)).all()


def test_one_arm_per_prompt_is_enough():
    texts, topic = prompts_of(40)
    rng = np.random.default_rng(5)
    truth = np.where((topic % 2)[:, None], [0.9, 0.2], [0.2, 0.9])
    quality = (rng.random(truth.shape) < truth).astype(float)
    quality[np.arange(len(texts)), rng.integers(2, size=len(texts))] = np.nan
    matrix = matrix_of(texts, topic, quality, (1.0, 1.0))
    fold = fold_of(matrix.families, split="prompt", folds=4, seed=0)
    found = learn_uncertainty(matrix, featurize(texts, SPEC), fold=fold, quality=truth)
    assert 0 < found.floor[0, 1] < 0.15  # no prompt was given to both, but every topic was
    assert found.report.in_distribution.mean == pytest.approx(0.35, abs=0.15)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_differences_are_as_uncertain_as_the_formula_says(seed):
    rng = np.random.default_rng(seed)
    a, members = 3, 4
    error = rng.uniform(size=(a, a))
    table = dict.fromkeys(("inflation", "floor", "strange_se"), error + error.T)
    for array in table.values():
        np.fill_diagonal(array, 0.0)
    template = world_of_nothing()
    found = Uncertainty(
        **table,
        familiarity=template.familiarity,
        strange=np.array([False, True]),
        guard=1.0,
        report=template.report,
    )
    quality = rng.uniform(size=(2, a, members))
    se = found.difference_se(quality)
    for i in range(a):
        for j in range(a):
            spread = np.std(quality[0, i] - quality[0, j], ddof=1)
            assert se[0, i, j] == pytest.approx(max(table["floor"][i, j], table["inflation"][i, j] * spread))
    np.testing.assert_array_equal(se[1], table["strange_se"])


def world_of_nothing() -> Uncertainty:
    texts, topic = prompts_of(4, topics=2)
    matrix = matrix_of(texts, topic, np.full((8, 2), 0.5), (1.0, 1.0))
    return learn_uncertainty(matrix, featurize(texts, SPEC), fold=np.arange(8) % 2, quality=np.full((8, 2), 0.5))


def test_prompts_that_are_all_alike_make_a_description_that_can_be_read_again():
    texts, topic = ["Add 1 and 2."] * 24, np.zeros(24, dtype=int)
    matrix = matrix_of(texts, topic, np.full((24, 2), 0.5), (1.0, 1.0))
    found = learn_uncertainty(matrix, featurize(texts, SPEC), fold=np.arange(24) % 4, quality=np.full((24, 2), 0.5))
    again = Familiarity.of(found.familiarity.arrays(), SPEC)
    assert again is not None
    assert again.strange(featurize(["Add 1 and 2.", "Write a poem about the sea."], SPEC)).tolist() == [False, True]
    assert not found.strange.any()


def test_members_that_differ_more_are_trusted_less_and_their_typical_error_is_the_one_seen():
    texts, topic = prompts_of(40)
    rng = np.random.default_rng(1)
    truth = rng.uniform(size=(len(texts), 2))
    matrix = matrix_of(texts, topic, truth, (1.0, 2.0))
    members = rng.normal(size=(len(texts), 2, 4))
    wrong = truth + np.where(topic % 2, 0.2, -0.2)[:, None] * np.array([0, 1])
    fold = np.arange(len(texts)) % 4
    found = learn_uncertainty(matrix, featurize(texts, SPEC), fold=fold, quality=wrong, members=members)
    error = 2 * found.floor[0, 1]
    assert error == pytest.approx(0.2, abs=0.01)
    spread = (members[:, 0] - members[:, 1]).std(axis=1, ddof=1)
    assert np.sqrt(((found.inflation[0, 1] * spread) ** 2).mean()) == pytest.approx(error)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 4), st.floats(-1, 1)), min_size=2, max_size=40))
def test_the_systematic_part_is_what_the_formula_says(rows):
    cell, residual = np.array([c for c, _ in rows]), np.array([r for _, r in rows])
    total = 0.0
    for c in set(cell.tolist()):
        mine = residual[cell == c]
        if len(mine) > 1:
            total += len(mine) / len(rows) * (mine.mean() ** 2 - mine.var(ddof=1) / len(mine))
    assert systematic([residual], cell) == pytest.approx(total, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(-1, 1)), min_size=2, max_size=40))
def test_arms_of_different_prompts_are_compared_by_the_means_of_their_cells(rows):
    cell, first, value = (np.array(column) for column in zip(*rows, strict=True))
    total = 0.0
    for c in set(cell.tolist()):
        one, two = value[(cell == c) & first], value[(cell == c) & ~first]
        if len(one) > 1 and len(two) > 1:
            noise = one.var(ddof=1) / len(one) + two.var(ddof=1) / len(two)
            total += (len(one) + len(two)) / len(rows) * ((one.mean() - two.mean()) ** 2 - noise)
    found = systematic([np.where(first, value, np.nan), np.where(first, np.nan, value)], cell)
    assert found == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("sparse", [False, True])
def test_noise_alone_is_no_error_of_the_prediction(sparse):
    texts, topic = prompts_of(250)
    rng = np.random.default_rng(2)
    truth = np.full((len(texts), 2), 0.5)
    quality = (rng.random(truth.shape) < truth).astype(float)
    if sparse:
        quality[np.arange(len(texts)), rng.integers(2, size=len(texts))] = np.nan
    matrix = matrix_of(texts, topic, quality, (1.0, 1.0))
    assert pairwise_error(truth, matrix.quality, topic)[0, 1] < 0.06
    biased = truth + np.array([0.0, 0.3])
    assert pairwise_error(biased, matrix.quality, topic)[0, 1] == pytest.approx(0.3, abs=0.06)


def test_the_lower_end_lies_as_many_errors_below_as_is_set():
    assert Gain(mean=0.1, error=0.02).low(GuardSettings(errors=2.0)) == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strange_share": 0.0}, "strange_share"),
        ({"centres": 0}, "centres"),
        ({"strengths": ()}, "strengths"),
        ({"strengths": (1.0, 0.5)}, "strengths"),
        ({"strengths": (0.0, 0.5)}, "strengths"),
        ({"strengths": (1.0, math.inf)}, "strengths"),
        ({"tolerance": -1.0}, "tolerance"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        GuardSettings(**wrong)


def test_nothing_is_acted_on_where_no_gain_is_sure():
    """Predictions that say nothing: the differences they see are noise, and the fallback arm serves every prompt."""
    rng = np.random.default_rng(3)
    n, a = 80, 3
    quality = (rng.random((n, a)) < [0.4, 0.5, 0.6]).astype(float)
    matrix = OutcomeMatrix(
        prompt_ids=tuple(map(str, range(n))),
        texts=tuple(f"prompt {i}" for i in range(n)),
        groups=("",) * n,
        families=("",) * n,
        arms=("x", "y", "z"),
        quality=quality,
        cost=np.tile([1.0, 2.0, 3.0], (n, 1)),
        tokens=np.ones((n, a)),
        latency=np.full((n, a), np.nan),
        draws=np.ones((n, a)),
    )
    found = learn_uncertainty(
        matrix,
        featurize(matrix.texts, FeatureSpec(n_hashed=16, n_text=1024)),
        fold=np.arange(n) % 4,
        quality=np.clip(quality.mean(axis=0) + rng.normal(0, 0.3, (n, a)), 0, 1),
        settings=GuardSettings(strengths=(0.25, 0.5)),
    )
    assert found.report.strength == np.inf
    assert (found.floor[~np.eye(a, dtype=bool)] == STRANGE_SE).all()
    assert "no gain over the best fixed arm is sure" in found.report.text()
