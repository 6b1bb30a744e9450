import pytest

from howhard.strategies.errors import TableError
from howhard.training.families import (
    alike_families,
    families_from,
    families_to,
    family_of,
    merged_by_clusters,
    merged_by_likeness,
)


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


def test_families_that_read_alike_are_found_and_merged_by_a_chain_and_others_are_not():
    texts = [f"Put the {n} objects in order from left to right: {'red blue green'[:n]}" for n in range(3, 9)]
    texts += ["Who wrote this line of verse?", "Which of these authors wrote that verse?"]
    families = ["order-a"] * 2 + ["order-b"] * 2 + ["order-c"] * 2 + ["verse"] * 2
    pairs = alike_families(families, texts)
    assert {(p.one, p.other) for p in pairs} == {("order-a", "order-b"), ("order-a", "order-c"), ("order-b", "order-c")}
    assert all(0.6 <= pair.likeness <= 1 for pair in pairs)
    assert merged_by_likeness(families, texts) == ("order-a",) * 6 + ("verse",) * 2
    assert alike_families(["one"] * 8, texts) == ()


def test_a_mapping_that_was_written_is_read_again(tmp_path):
    families = {"py, 3": "code", "rs": 'the "other"'}
    families_to(tmp_path / "f.csv", families)
    assert families_from(tmp_path / "f.csv") == families
    with pytest.raises(TableError, match="cannot be written"):
        families_to(tmp_path / "none" / "f.csv", families)
