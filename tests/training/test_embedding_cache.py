import sqlite3
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from howhard.router.encoder import EncoderSpec
from howhard.router.features import FeatureSpec, featurize
from howhard.strategies.errors import ConfigError
from howhard.training.embedding_cache import CachedEncoder, default_path


class Counting:
    """An encoder that counts what it encodes, and may fail: stands for one that takes long."""

    def __init__(self, *, fingerprint="f1", fails_after=10**9):
        self.spec = EncoderSpec(model="counting", dimension=4, fingerprint=fingerprint)
        self.encoded, self.fails_after = [], fails_after

    def encode(self, texts):
        if len(self.encoded) + len(texts) > self.fails_after:
            raise KeyboardInterrupt
        self.encoded += texts
        seeds = [sum(map(ord, t)) + len(t) + len(self.spec.fingerprint) for t in texts]
        return np.array([np.random.default_rng(s).normal(size=4) for s in seeds], dtype=np.float32).reshape(-1, 4)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "made" / "embeddings.sqlite"


TEXTS = ["b", "a", "b", "", "\ud800 ไทย", "x" * 10**6]


def test_a_second_fit_encodes_nothing_and_sees_the_same_to_the_last_bit(path):
    plain, first, second = Counting(), Counting(), Counting()
    assert np.array_equal(CachedEncoder(first, path).encode(TEXTS), plain.encode(TEXTS))
    assert sorted(first.encoded) == sorted(set(TEXTS))
    assert (
        CachedEncoder(second, path).encode([*TEXTS[::-1], "new"]).tobytes()
        == plain.encode([*TEXTS[::-1], "new"]).tobytes()
    )
    assert second.encoded == ["new"]


def test_other_weights_do_not_find_the_embeddings_of_these(path):
    CachedEncoder(Counting(), path).encode(TEXTS)
    other = Counting(fingerprint="f22")
    assert np.array_equal(CachedEncoder(other, path).encode(["a"]), Counting(fingerprint="f22").encode(["a"]))
    assert other.encoded == ["a"]


def test_what_was_encoded_before_a_crash_is_kept(path):
    texts = [str(i) for i in range(1000)]
    with pytest.raises(KeyboardInterrupt):
        CachedEncoder(Counting(fails_after=600), path).encode(texts)
    again = Counting()
    assert np.array_equal(CachedEncoder(again, path).encode(texts), Counting().encode(texts))
    assert 400 <= len(again.encoded) < 1000


def test_several_may_fill_it_at_once(path):
    texts = [str(i) for i in range(600)]
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda i: CachedEncoder(Counting(), path).encode(texts[i * 100 :]), range(4)))
    assert all(np.array_equal(r, Counting().encode(texts[i * 100 :])) for i, r in enumerate(rows))


def test_features_take_their_embeddings_from_it(path):
    cached = CachedEncoder(Counting(), path)
    x = featurize(["a", "b"], FeatureSpec(encoder=cached.spec), cached)
    assert np.array_equal(x.embedding, Counting().encode(["a", "b"]))
    assert cached.encode([]).shape == (0, 4)


def test_a_file_that_is_no_cache_is_named_with_the_remedy(path):
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigError, match=r"embeddings\.sqlite.*delete the file"):
        CachedEncoder(Counting(), path).encode(["a"])
    path.unlink()
    CachedEncoder(Counting(), path).encode(["a"])
    with sqlite3.connect(path) as database:
        database.execute("UPDATE embeddings SET embedding = x'00'")
    database.close()
    with pytest.raises(ConfigError, match="delete the file"):
        CachedEncoder(Counting(), path).encode(["a"])


def test_the_usual_place_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "howhard" / "embeddings.sqlite"
    assert np.array_equal(CachedEncoder(Counting()).encode(["a"]), Counting().encode(["a"]))
    assert default_path().is_file()
