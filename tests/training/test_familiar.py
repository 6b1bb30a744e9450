import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.router.features import FeatureSpec, featurize
from howhard.training.clusters import k_means, squared_distances
from howhard.training.familiar import describe, left_out_distances, limit_of

SPEC = FeatureSpec(n_hashed=0)


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.floats(0, 100), min_size=2, max_size=60, unique=True),
    share=st.floats(0.01, 0.5),
)
def test_of_exchangeable_prompts_no_more_than_the_share_lies_beyond_the_limit_of_the_others(values, share):
    distance = np.array(values)
    beyond = [d > limit_of(np.delete(distance, i), share) for i, d in enumerate(distance)]
    # Where too few others are there to tell, the largest of them is the limit, and the largest of all lies beyond it.
    assert sum(beyond) <= max(1, share * len(distance) + 1e-9)


def test_a_template_is_narrow_and_free_text_is_wide():
    rng = np.random.default_rng(0)
    words = [
        "the",
        "sea",
        "of",
        "stars",
        "and",
        "old",
        "ships",
        "went",
        "under",
        "a",
        "grey",
        "sky",
        "when",
        "no",
        "one",
        "looked",
        "back",
    ]
    template = [f"Use the numbers {a} {b} {c} to make {d}." for a, b, c, d in rng.integers(10, 99, size=(60, 4))]
    free = [" ".join(rng.choice(words, size=rng.integers(3, 40))) + "?" for _ in range(60)]
    familiar = describe(featurize(template + free, SPEC).dense, centres=2, seed=0)
    of, _ = familiar.nearest_of(familiar.standardised(featurize(template + free, SPEC).dense))
    assert len(set(of[:60])) == len(set(of[60:])) == 1
    assert of[0] != of[-1]
    assert familiar.widths[of[0]].mean() < familiar.widths[of[-1]].mean()


def test_a_kind_of_prompt_that_was_left_out_lies_farther_than_one_that_was_not():
    texts = [f"Add {i} and {i + 7}." for i in range(60)] + [f"Name river {i} of the far province!" for i in range(60)]
    x = featurize(texts, SPEC).dense
    by_prompt = left_out_distances(x, np.arange(120) % 4, centres=8, seed=0)
    by_kind = left_out_distances(x, np.repeat([0, 1], 60), centres=8, seed=0)
    assert np.quantile(by_prompt, 0.95) < by_kind.min()


def test_equal_seeds_give_equal_descriptions():
    x = featurize([f"Add {i} and {i * 7}." for i in range(50)], SPEC).dense
    one, two = (describe(x, centres=4, seed=3).arrays() for _ in range(2))
    assert all((one[n] == two[n]).all() for n in one)


def test_prompts_that_are_all_alike_are_no_trouble():
    x = featurize(["Add 1 and 2."] * 20, SPEC)
    familiar = describe(x.dense, centres=64, seed=0)
    assert not familiar.strange(x).any()
    assert familiar.strange(featurize(["Write a poem about the sea."], SPEC)).all()


@pytest.mark.parametrize("k", [1, 3, 9])
def test_centres_are_means_of_their_own_rows(k):
    x = np.random.default_rng(k).normal(size=(40, 3))
    centres = k_means(x, k, seed=0, rounds=200)
    own = squared_distances(x, centres).argmin(axis=1)
    for i in range(k):
        np.testing.assert_allclose(x[own == i].mean(axis=0), centres[i], atol=1e-3)
