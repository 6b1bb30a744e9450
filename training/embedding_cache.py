"""Embeddings on disk, so that a second fit encodes nothing.

One SQLite file, only ever added to; rows are keyed by what the encoder is (weights, precision, characters read) and by
the hash of the text, so that one file serves all routers and logs. It can be deleted at any time. Written in small
transactions: what was encoded before a crash is kept, and nothing is half written. Several processes may use it.
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..router.encoder import Encoder, EncoderSpec
from ..strategies.errors import ConfigError

_TABLE = (
    "CREATE TABLE IF NOT EXISTS embeddings"
    " (encoder TEXT, text BLOB, embedding BLOB NOT NULL, PRIMARY KEY (encoder, text)) WITHOUT ROWID"
)
_AT_ONCE = 256  # texts encoded, then written
_WAIT_S = 60.0  # for another process that writes


def default_path() -> Path:
    """Return where embeddings are kept unless a setting says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "howhard" / "embeddings.sqlite"


class CachedEncoder:
    """An encoder that encodes each text once, whatever process asks.

    encoder : gives what is not there yet.
    path    : file of the cache; made, with its directory, when first asked. None: `default_path()`.
    """

    def __init__(self, encoder: Encoder, path: str | Path | None = None) -> None:
        self._encoder = encoder
        self._path = default_path() if path is None else Path(path)

    @property
    def spec(self) -> EncoderSpec:
        """Which embeddings."""
        return self._encoder.spec

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings (n, dimension), the same to the last bit as the encoder's own.

        Raises ConfigError where the file is not a cache, or can't be written.
        """
        keys = [_key(text) for text in texts]
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        rows = np.empty((len(first), self.spec.dimension), dtype=np.float32)
        place = {key: j for j, key in enumerate(first)}
        with self._database() as database:
            missing = []
            for key, j in place.items():
                found = database.execute(
                    "SELECT embedding FROM embeddings WHERE encoder = ? AND text = ?", (self.spec.key, key)
                ).fetchone()
                if found is None:
                    missing.append(key)
                    continue
                if len(found[0]) != 4 * self.spec.dimension:
                    raise sqlite3.DatabaseError(f"{len(found[0])} bytes instead of {4 * self.spec.dimension}")
                rows[j] = np.frombuffer(found[0], dtype="<f4")
            for i in range(0, len(missing), _AT_ONCE):
                some = missing[i : i + _AT_ONCE]
                new = self._encoder.encode([texts[first[key]] for key in some])
                with database:
                    database.executemany(
                        "INSERT OR IGNORE INTO embeddings VALUES (?, ?, ?)",
                        [(self.spec.key, k, e.astype("<f4").tobytes()) for k, e in zip(some, new, strict=True)],
                    )
                rows[[place[key] for key in some]] = new
        return rows[[place[key] for key in keys]]

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=_WAIT_S)) as database:
                database.execute(_TABLE)
                yield database
        except (sqlite3.Error, OSError) as exc:
            raise ConfigError(
                f"{self._path} can't be used as a cache of embeddings ({exc}): delete the file, it will be made anew, "
                "or name another place"
            ) from exc


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
