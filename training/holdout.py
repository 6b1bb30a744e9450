"""The fixed set of prompts on which a champion and whoever wants its place are judged.

It is recorded with the champion, so that every challenger is judged on the very same prompts, however far the log has
grown since. Prompts are known by their keys (provenance.prompt_keys), so that copies of one count as one.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..strategies.errors import TableError
from .matrix import OutcomeMatrix
from .provenance import prompt_keys


@dataclass(frozen=True, slots=True, eq=False)
class Holdout:
    """Keys of the prompts, uint64 (n,), ascending, each once."""

    keys: np.ndarray

    @classmethod
    def of(cls, matrix: OutcomeMatrix) -> "Holdout":
        """All prompts of a table."""
        return cls(np.unique(prompt_keys(matrix.texts)))

    @classmethod
    def of_frame(cls, frame: pd.DataFrame) -> "Holdout":
        """What `frame` wrote. Raises TableError for any other table."""
        try:
            return cls(np.unique(np.array([int(k, 16) for k in frame["key"]], dtype=np.uint64)))
        except (KeyError, TypeError, ValueError, OverflowError) as exc:
            raise TableError(f"the table of holdout prompts has no column `key` of 16 hex digits ({exc})") from exc

    def frame(self) -> pd.DataFrame:
        """One row per prompt, column `key`: 16 hex digits."""
        return pd.DataFrame({"key": [f"{k:016x}" for k in self.keys.tolist()]})

    @property
    def version(self) -> str:
        """Hash of the keys, 16 hex digits: equal for the same prompts."""
        return hashlib.sha256(self.keys.astype("<u8").tobytes()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.keys)

    def within(self, matrix: OutcomeMatrix) -> np.ndarray:
        """Which prompts of a table, bool (n,), are among these."""
        return np.isin(prompt_keys(matrix.texts), self.keys)

    def missing(self, matrix: OutcomeMatrix) -> int:
        """How many of these prompts a table does not hold."""
        return int((~np.isin(self.keys, prompt_keys(matrix.texts))).sum())
