"""Which data and which code made a router: short hashes for manifests, MLflow and the guard of promotion.

A router directory holds a key of every prompt that it was trained on, so that nobody judges it on those by accident.
A key tells whether a prompt that one has at hand was among them; it does not give back a text.
"""

import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..router.artifact import pack_arrays, unpack_arrays
from .matrix import OutcomeMatrix

PROMPTS_FILE = "prompts.npz"
"""The file of a router directory that holds the keys of its training prompts, 8 bytes each."""

_ROOT = Path(__file__).resolve().parents[1]


def data_version(matrix: OutcomeMatrix) -> str:
    """Hash of a table of outcomes, 16 hex digits: of texts, groups, arms and all figures, in whatever order they came.

    Equal for equal tables; another prompt, outcome, group, price or number of draws gives another version.
    """
    digest = hashlib.sha256()
    rows = sorted(range(len(matrix)), key=matrix.prompt_ids.__getitem__)
    columns = sorted(range(len(matrix.arms)), key=matrix.arms.__getitem__)
    words = [matrix.unit, *(matrix.arms[j] for j in columns)]
    words += [w for i in rows for w in (matrix.prompt_ids[i], matrix.texts[i], matrix.groups[i], matrix.families[i])]
    for word in words:
        content = word.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
    for figures in (matrix.quality, matrix.cost, matrix.tokens, matrix.latency, matrix.draws):
        ordered = np.ascontiguousarray(figures[np.ix_(rows, columns)], dtype=np.float64)
        digest.update(np.where(np.isnan(ordered), np.nan, ordered + 0.0).tobytes())  # one NaN, one zero
    return digest.hexdigest()[:16]


@cache
def code_version() -> str:
    """Version of howhard, with its git commit where it runs from a checkout: "0.2.0", "0.2.0+gb6d3492.dirty"."""
    released = version("howhard")
    # Only a checkout of our own: an installed wheel may lie inside somebody else's repository.
    if not (_ROOT / ".git").exists():
        return released
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return released
    return f"{released}+g{commit}{'.dirty' if changed else ''}"


def _git(*words: str) -> str:
    command = ["git", "-C", str(_ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def prompt_keys(texts: Sequence[str]) -> np.ndarray:
    """A key per prompt, uint64 (n,): of its text in small letters with single spaces, so that copies share it."""
    keys = (hashlib.sha256(" ".join(t.lower().split()).encode("utf-8", "surrogatepass")).digest()[:8] for t in texts)
    return np.frombuffer(b"".join(keys), dtype="<u8").astype(np.uint64)


def pack_prompts(texts: Sequence[str]) -> bytes:
    """The content of PROMPTS_FILE for a router that was trained on these prompts."""
    return pack_arrays(keys=np.unique(prompt_keys(texts)))


def trained_on(files: Mapping[str, bytes], keys: np.ndarray) -> np.ndarray | None:
    """Which of some prompts (n,), given by their keys, a router was trained on; None where it does not tell.

    files : of a router directory, as read_artifact gives them. Raises ArtifactError for a damaged file.
    """
    if PROMPTS_FILE not in files:
        return None
    known = unpack_arrays(files[PROMPTS_FILE], what=PROMPTS_FILE).get("keys", np.empty(0, np.uint64))
    return np.isin(keys, known)
