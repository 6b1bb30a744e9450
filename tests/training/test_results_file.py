"""A results file survives a kill at any byte."""

import pytest

from howhard.strategies.errors import TableError, WorldError
from howhard.training.results_file import ResultsFile


def test_what_was_appended_is_there_after_reopening(tmp_path):
    path = tmp_path / "deep" / "results.jsonl"
    with ResultsFile(path) as results:
        results.append("a", {"text": "ü\n"})
        assert "a" in results
    with ResultsFile(path) as results:
        assert results.rows == {"a": {"key": "a", "text": "ü\n"}}
        assert "b" not in results


def test_a_line_cut_at_any_byte_costs_that_line_alone(tmp_path):
    path = tmp_path / "results.jsonl"
    with ResultsFile(path) as results:
        results.append("a", {"x": 1})
        results.append("b", {"x": 2})
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        with ResultsFile(path) as results:
            assert list(results.rows) == ["a"]
            results.append("b", {"x": 2})
        assert path.read_bytes() == whole


def test_two_writers_at_once_are_refused(tmp_path):
    with ResultsFile(tmp_path / "r") as _, pytest.raises(WorldError, match="being written by another process"):
        ResultsFile(tmp_path / "r")


@pytest.mark.parametrize("line, said", [("{", "not JSON"), ("[1]", "not a line that howhard wrote")])
def test_a_file_that_holds_something_else_is_left_alone(line, said, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text(f"{line}\n")
    with pytest.raises(TableError, match=said):
        ResultsFile(path)
    assert path.read_text() == f"{line}\n"


def test_a_folder_is_no_results_file(tmp_path):
    with pytest.raises(TableError, match="cannot be written"):
        ResultsFile(tmp_path)
