import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.strategies.errors import ConfigError, TableError
from howhard.training.folds import fold_of, sides


def test_a_group_split_never_shares_a_family_between_folds():
    rng = np.random.default_rng(0)
    for seed in range(20):
        families = [f"f{i}" for i in rng.integers(9, size=200)]
        fold = fold_of(families, split="group", folds=4, seed=seed)
        assert all(
            len({int(k) for k, f in zip(fold, families, strict=True) if f == name}) == 1 for name in set(families)
        )
        assert np.bincount(fold).min() > 20


def test_a_prompt_split_makes_folds_of_equal_size():
    sizes = np.bincount(fold_of(["x"] * 23, split="prompt", folds=5, seed=1))
    assert sorted(sizes.tolist()) == [4, 4, 5, 5, 5]


def test_fewer_families_than_folds_make_fewer_folds_and_one_family_is_an_error():
    assert set(fold_of(["a", "b", "b"], split="group", folds=5, seed=0).tolist()) == {0, 1}
    with pytest.raises(TableError, match=r"needs two families of prompts or more, the table has 1 \('a'\)"):
        fold_of(["a", "a"], split="group", folds=5, seed=0)
    with pytest.raises(TableError, match="2 prompts cannot make 5 folds"):
        fold_of(["a", "a"], split="prompt", folds=5, seed=0)
    with pytest.raises(ConfigError, match="split='groups'; did you mean 'group'"):
        fold_of(["a", "a"], split="groups", folds=2, seed=0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("uvwxyz"), st.integers(0, 30)), min_size=8),
    st.sampled_from(["prompt", "group", "time"]),
    st.integers(2, 4),
)
def test_a_cluster_lies_in_one_fold_of_every_split(prompts, split, folds):
    families, clusters, days = zip(*prompts, strict=True)
    times = np.datetime64("2026-01-01") + np.array(days)
    try:
        fold = fold_of(families, split=split, folds=folds, seed=3, clusters=clusters, times=times)
    except TableError:
        return
    for name in set(clusters):
        assert len({int(k) for k, c in zip(fold, clusters, strict=True) if c == name}) == 1
    judged = [judge for _, judge in sides(fold, split)]
    assert all(judge.any() for judge in judged)
    assert np.sum(judged, axis=0).max() == 1
    assert all(learn.any() and not (learn & judge).any() for learn, judge in sides(fold, split))


def test_families_stay_whole_but_for_clusters_that_lie_mostly_elsewhere():
    families = ["a"] * 5 + ["b"] * 5
    clusters = ["twin", "1", "2", "3", "4", "twin", "twin", "5", "6", "7"]
    fold = fold_of(families, split="group", folds=2, seed=0, clusters=clusters)
    assert len(set(fold[1:5].tolist())) == 1
    assert len({*fold[5:].tolist(), int(fold[0])}) == 1


def test_by_time_each_fold_is_judged_by_what_was_learned_before_it():
    days = np.random.default_rng(0).permutation(60)
    times = np.datetime64("2026-01-01") + days
    fold = fold_of(["x"] * 60, split="time", folds=3, seed=0, times=times)
    parts = list(sides(fold, "time"))
    assert [int(judge.sum()) for _, judge in parts] == [15, 15, 15]
    assert [int(learn.sum()) for learn, _ in parts] == [15, 30, 45]
    assert all(times[learn].max() < times[judge].min() for learn, judge in parts)


def test_by_time_a_cluster_waits_for_its_latest_prompt():
    times = np.datetime64("2026-01-01") + np.arange(12)
    clusters = ["twin", *map(str, range(10)), "twin"]
    fold = fold_of(["x"] * 12, split="time", folds=2, seed=0, clusters=clusters, times=times)
    assert fold[0] == fold[11] == 2


def test_prompts_of_one_moment_are_never_parted_by_time():
    times = np.datetime64("2026-01-01") + np.repeat([0, 1, 2], [20, 2, 2])
    fold = fold_of(["x"] * 24, split="time", folds=2, seed=0, times=times)
    assert fold.tolist() == [0] * 20 + [1] * 2 + [2] * 2


def test_a_split_by_time_needs_times():
    times = np.array(["2026-01-01", "NaT", "2026-01-02"], dtype="datetime64[D]")
    with pytest.raises(TableError, match="1 of 3 have none: map a column to `time`"):
        fold_of("xxx", split="time", folds=2, seed=0, times=times)
    with pytest.raises(TableError, match="3 of 3 have none"):
        fold_of("xxx", split="time", folds=2, seed=0)
    with pytest.raises(TableError, match=r"2 different times cannot make 2 folds.*lower folds to 1"):
        fold_of("xx", split="time", folds=2, seed=0, times=times[[0, 2]])


def test_too_few_clusters_are_told_from_too_few_prompts():
    with pytest.raises(TableError, match=r"4 prompts \(2 that are not alike\) cannot make 3 folds"):
        fold_of("xxxx", split="prompt", folds=3, seed=0, clusters="aabb")
