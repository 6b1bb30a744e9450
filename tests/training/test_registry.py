"""The registry over a real MLflow store."""

import os

import numpy as np
import pandas as pd
import pytest

from howhard.strategies.errors import InputError, TableError
from howhard.training import registry, tracking
from howhard.training.holdout import Holdout


@pytest.fixture
def uri(mlflow_uri):
    return mlflow_uri


@pytest.fixture
def register(uri, tmp_path):
    """Register a directory that stands for a router (nobody reads it here) so many times; the versions."""

    def go(times: int) -> list[str]:
        path = tmp_path / "router"
        path.mkdir()
        (path / "manifest.json").write_text("{}")
        (path / "quality.txt").write_text("tree")
        run_id = tracking.log_training(path, uri=uri)
        return [registry.register_router(run_id, uri=uri) for _ in range(times)]

    return go


def champion(uri):
    return registry.version_of(registry.CHAMPION, uri=uri)


def some(*keys):
    return Holdout(np.array(keys, dtype=np.uint64))


def test_a_router_is_registered_as_a_plain_directory_and_found_by_its_alias(uri, register, tmp_path):
    assert champion(uri) is None
    first, second = register(2)
    assert (first, second) == ("1", "2")
    assert champion(uri) is None
    assert registry.crown(second, "it is good", holdout=None, uri=uri) is None
    import mlflow.artifacts

    by_alias = mlflow.artifacts.download_artifacts(
        "models:/howhard-router@champion", dst_path=str(tmp_path / "alias"), tracking_uri=uri
    )
    assert sorted(os.listdir(by_alias)) == ["manifest.json", "quality.txt"]


def test_a_run_without_a_router_cannot_be_registered(uri):
    with tracking.store(uri) as client:
        run_id = client.create_run("0").info.run_id
    with pytest.raises(TableError, match="has no artifact 'router'"):
        registry.register_router(run_id, uri=uri)


def test_a_champion_carries_why_when_whose_place_and_its_holdout(uri, register, tags_of):
    first, second = register(2)
    registry.crown(first, "there is no champion yet", holdout=some(3, 2**64 - 1), uri=uri)
    registry.challenge(second, "not surely above", uri=uri)
    assert registry.version_of(registry.CHALLENGER, uri=uri) == second
    assert registry.crown(second, "not surely above", holdout=some(3), forced="the boss said so", uri=uri) == first
    assert (champion(uri), registry.version_of(registry.CHALLENGER, uri=uri)) == (second, None)
    tags = tags_of(second, uri=uri)
    assert tags["previous"] == first
    assert tags["verdict"] == "not surely above"
    assert tags["forced"].startswith("the boss said so (20")
    assert " by " in tags["promoted"]
    assert (tags["holdout"], tags["holdout_prompts"]) == (some(3).version, "1")
    assert "forced" not in tags_of(first, uri=uri)


def test_two_champions_from_one_run_keep_their_own_holdouts(uri, register):
    first, second = register(2)
    registry.crown(first, "", holdout=some(3, 2**64 - 1), uri=uri)
    registry.crown(second, "", holdout=some(4), uri=uri)
    assert registry.holdout_of(first, uri=uri).keys.tolist() == [3, 2**64 - 1]
    assert registry.holdout_of(second, uri=uri).keys.tolist() == [4]


def test_a_holdout_that_was_not_recorded_or_is_gone_or_changed_is_told_apart(uri, register, tmp_path):
    first, second = register(2)
    assert registry.holdout_of(second, uri=uri) is None
    registry.crown(first, "", holdout=some(3), uri=uri)
    path = next((tmp_path / "mlartifacts").rglob("holdout-*.parquet"))
    some(4).frame().to_parquet(path)
    with pytest.raises(TableError, match="is not the one that its tag"):
        registry.holdout_of(first, uri=uri)
    pd.DataFrame({"x": [1]}).to_parquet(path)
    with pytest.raises(TableError, match="no column `key`"):
        registry.holdout_of(first, uri=uri)
    path.unlink()
    with pytest.raises(TableError, match="is gone: promote with --force"):
        registry.holdout_of(first, uri=uri)


def test_rolling_back_goes_from_champion_to_champion_until_the_first(uri, register, tags_of):
    a, b, c = register(3)
    with pytest.raises(InputError, match="has no champion to roll back"):
        registry.rollback("", uri=uri)
    for version in (a, b, c):
        registry.crown(version, "", holdout=None, uri=uri)
    done = registry.rollback("it wrote in verse", uri=uri)
    assert (done.from_version, done.to_version, done.passed_over) == (c, b, ())
    assert champion(uri) == b
    assert tags_of(c, uri=uri)["rolled_back"].startswith("to version 2: it wrote in verse (20")
    assert registry.rollback("", uri=uri).to_version == a
    with pytest.raises(InputError, match="version 1 of howhard-router is the first champion"):
        registry.rollback("", uri=uri)
    assert champion(uri) == a


def test_after_a_rollback_the_next_champion_follows_the_one_that_serves(uri, register):
    a, b, c = register(3)
    for version in (a, b):
        registry.crown(version, "", holdout=None, uri=uri)
    registry.rollback("", uri=uri)
    assert registry.crown(c, "", holdout=None, uri=uri) == a
    assert registry.champions(uri=uri) == (a, c)
    assert registry.rollback("", uri=uri).to_version == a


def test_a_router_may_be_champion_twice(uri, register):
    a, b = register(2)
    for version in (a, b, a):
        registry.crown(version, "", holdout=None, uri=uri)
    assert [registry.rollback("", uri=uri).to_version for _ in range(2)] == [b, a]
    with pytest.raises(InputError, match="first champion"):
        registry.rollback("", uri=uri)


def test_rolling_back_passes_over_versions_that_were_deleted(uri, register):
    versions = register(4)
    for version in versions:
        registry.crown(version, "", holdout=None, uri=uri)
    with tracking.store(uri) as client:
        client.delete_model_version(registry.MODEL, "3")
        client.delete_model_version(registry.MODEL, "2")
    done = registry.rollback("", uri=uri)
    assert (done.to_version, done.passed_over) == ("1", ("3", "2"))


def test_a_champion_made_by_hand_counts_as_the_newest(uri, register):
    a, b = register(2)
    registry.crown(a, "", holdout=None, uri=uri)
    with tracking.store(uri) as client:
        client.set_registered_model_alias(registry.MODEL, registry.CHAMPION, b)
    assert registry.champions(uri=uri) == (a, b)
    assert registry.rollback("", uri=uri).to_version == a
