import dataclasses

import numpy as np
import pytest

from howhard.strategies.errors import ArtifactError
from howhard.training import provenance
from howhard.training.provenance import PROMPTS_FILE, code_version, data_version, pack_prompts, prompt_keys, trained_on


def test_equal_tables_have_one_version_in_whatever_order_they_came(make_world):
    matrix = make_world(40).matrix
    assert data_version(matrix) == data_version(make_world(40).matrix)
    assert data_version(matrix.rows(np.arange(40)[::-1])) == data_version(matrix)
    assert data_version(matrix.columns(matrix.arms[::-1])) == data_version(matrix)


@pytest.mark.parametrize("name", ["quality", "cost", "tokens", "latency", "draws"])
def test_every_figure_of_a_table_counts_for_its_version(make_world, name):
    matrix = make_world(40, seconds=True).matrix
    changed = getattr(matrix, name).copy()
    changed[3, 1] = np.nan if np.isfinite(changed[3, 1]) else 1.0
    assert data_version(dataclasses.replace(matrix, **{name: changed})) != data_version(matrix)


def test_texts_and_groups_count_for_a_tables_version_too(make_world):
    matrix = make_world(40).matrix
    for field in ("texts", "groups", "families"):
        moved = (getattr(matrix, field)[-1], *getattr(matrix, field)[:-1])
        assert data_version(dataclasses.replace(matrix, **{field: moved})) != data_version(matrix)


def test_the_code_version_names_the_commit_of_a_checkout_and_none_elsewhere(monkeypatch, tmp_path):
    code_version.cache_clear()
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    released = code_version()
    assert "+" not in released
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(provenance, "_git", lambda *words: "abc" if words[0] == "rev-parse" else " M router/x.py")
    code_version.cache_clear()
    assert code_version() == f"{released}+gabc.dirty"
    monkeypatch.setattr(provenance, "_git", lambda *words: "abc" if words[0] == "rev-parse" else "")
    code_version.cache_clear()
    assert code_version() == f"{released}+gabc"
    code_version.cache_clear()


def test_a_checkout_without_git_still_has_a_version(monkeypatch, tmp_path):
    code_version.cache_clear()
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    monkeypatch.setenv("PATH", "")
    assert "+" not in code_version()
    code_version.cache_clear()


def test_a_router_knows_its_training_prompts_again_however_they_are_spaced():
    files = {PROMPTS_FILE: pack_prompts(["Add 1 and 2", "naïve\nÜber 3", "\ud800"])}
    asked = ["add  1 and 2", "Add 1 and 3", "NAÏVE über 3", "", "\ud800"]
    assert trained_on(files, prompt_keys(asked)).tolist() == [True, False, True, False, True]
    assert trained_on({}, prompt_keys(asked)) is None
    with pytest.raises(ArtifactError, match=r"prompts\.npz"):
        trained_on({PROMPTS_FILE: b"zip?"}, prompt_keys(asked))


def test_prompts_that_ask_different_things_keep_different_keys():
    assert len(set(prompt_keys(["1 + 2", "1 - 2", "12", "1.2", "1 2"]).tolist())) == 5
