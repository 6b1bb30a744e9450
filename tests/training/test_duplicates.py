import pytest

from howhard.strategies.errors import TableError
from howhard.training.duplicates import clusters_of, same_text


def test_texts_that_differ_in_case_or_white_space_are_one_cluster_named_after_its_first_id():
    texts = ["What is 2 + 2?", "unlike", " what is\n2 + 2? ", "WHAT IS 2 + 2?"]
    assert clusters_of(["d", "a", "c", "b"], texts) == ("b", "a", "b", "b")


@pytest.mark.parametrize(
    ("one", "other"),
    [("2 + 2", "2 - 2"), ("1.5", "15"), ("( [ ]", "( [ ] )"), ("not True", "not ( True )"), ("a<b", "a>b"), ("«", "»")],
)
def test_punctuation_digits_and_operators_tell_prompts_apart(one, other):
    assert same_text(one) != same_text(other)


def test_other_scripts_fold_as_they_do_there():
    assert same_text("ΟΔΟΣ") == same_text("οδος")
    assert same_text("STRASSE 7") == same_text("straße\u30007")
    assert same_text("e\u0301") == same_text("é")
    assert same_text("二加二") != same_text("二加三")


def test_what_the_log_joins_is_one_cluster_through_any_chain():
    ids, texts = ["a", "b", "c", "d"], ["py 1", "rs 1", "RS  1", "py 2"]
    assert clusters_of(ids, texts, [None, None, None, None]) == ("a", "b", "b", "d")
    assert clusters_of(ids, texts, ["one", "one", None, None]) == ("a", "a", "a", "d")


def test_adding_prompts_renames_no_cluster_that_they_do_not_join():
    assert clusters_of(["m", "n"], ["x", "y"]) == clusters_of(["m", "n", "a"], ["x", "y", "z"])[:2]


def test_lengths_that_differ_are_refused():
    with pytest.raises(TableError, match="2 prompt ids, 1 texts"):
        clusters_of(["a", "b"], ["x"])


def test_a_prompt_of_a_megabyte_and_an_empty_one_have_clusters():
    assert clusters_of(["a", "b", "c"], ["x y " * 250_000, "", "X  Y " * 250_000]) == ("a", "b", "a")
