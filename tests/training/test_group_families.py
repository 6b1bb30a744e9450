import pytest

from howhard.strategies.errors import TableError
from howhard.training.families import families_from, family_of, merged_by_clusters


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


def test_a_mapping_is_read_from_json_and_from_csv(tmp_path):
    (tmp_path / "f.json").write_text('{"py": "code", "rs": "code"}')
    (tmp_path / "f.csv").write_text("\ufeffgroup,family\npy,code\nrs,code\n")
    assert families_from(tmp_path / "f.json") == families_from(tmp_path / "f.csv") == {"py": "code", "rs": "code"}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("f.csv", "a,b\n1,2\n", "columns group and family are needed, there are: a, b"),
        ("f.csv", "group,family\npy,\n", "row 0: group 'py', family '': both need a name"),
        ("f.csv", "group,family\npy,a\npy,b\n", "row 1: group 'py' is in 'a' and in 'b'"),
        ("f.csv", "group,family\n", "names no group"),
        ("f.json", "[1]", "an object"),
        ("f.json", "{", "no mapping"),
        ("f.json", '{"py": 3}', "row 0: group 'py', family 3"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(TableError, match=words):
        families_from(tmp_path / name)
    with pytest.raises(TableError, match="cannot be read"):
        families_from(tmp_path / "none.csv")
