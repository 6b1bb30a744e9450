import pytest

from howhard.training.families import family_of, merged_by_clusters


@pytest.mark.parametrize(
    ("group", "family"),
    [
        ("logical_deduction_five_objects", "logical_deduction_objects"),
        ("countdown-4", "countdown"),
        ("path12", "path"),
        ("gsm8k", "gsm8k"),
        ("math/level 3/hard", "math_level"),
        ("007", "007"),
        ("", ""),
    ],
)
def test_siblings_that_differ_by_a_dial_are_one_family(group, family):
    assert family_of(group) == family


def test_families_that_share_problems_are_one_and_a_shared_greeting_merges_none():
    families = ["py"] * 10 + ["rs"] * 3 + ["chat"] * 12
    clusters = [f"p{i}" for i in range(10)] + ["p0", "p1", "r"] + ["p0", *(f"c{i}" for i in range(11))]
    merged = merged_by_clusters(families, clusters)
    assert merged == ("py",) * 13 + ("chat",) * 12
    assert merged_by_clusters(families, clusters, shared=0.7) == tuple(families)
