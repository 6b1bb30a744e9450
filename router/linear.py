"""Linear scores of a prompt: its hashed text, named dense columns and embedding, weighted and summed.

Two users: `LinearComponent`, one part of the quality's log-odds (components.py), and `Amounts`, the logarithm of cost
and tokens over each arm's mean. Both are a `LinearMap` and differ only in what they make of its sums.
howhard.training.learn_linear fits them.

Each row is summed by a call of its own, over its own entries, and never by a linear algebra library: a prompt's
figures are the same to the last bit by itself, in a batch, and on any number of threads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..strategies.errors import ArtifactError, InputError
from .artifact import pack_arrays, unpack_arrays
from .estimates import Floats
from .familiarity import rooted
from .features import Features

AMOUNTS = "amounts"
MAX_LOG_RATIO = 12.0
"""Amounts are held within e^-12 .. e^12 of an arm's mean."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearMap:
    """m weighted sums of a prompt's features.

        sums = offset + text' @ text_weights + dense' @ dense_weights + embedding @ embedding_weights

    with text' = value * idf, made length 1 anew, and dense' = `standardised`.

    offset            : float64 (m,).
    idf               : float32 (width,) >= 0, weight of each text column; None = text is not read, nor text_weights.
    text_weights      : float32 (width, m).
    mean, scale       : float64 (d,), of the first d dense columns; d = 0 where none is read. The scale of a column that
                        never varied in training is 0.
    dense_weights     : float32 (d, m).
    embedding_weights : float32 (e, m); None = the embedding is not read.

    All weights are exact in float16, in which they are stored.
    """

    offset: NDArray[np.float64]
    idf: NDArray[np.float32] | None = None
    text_weights: NDArray[np.float32] | None = None
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    dense_weights: NDArray[np.float32]
    embedding_weights: NDArray[np.float32] | None = None

    def __call__(self, x: Features) -> Floats:
        """Return the sums, float64 (n, m). Raises InputError for prompts whose features are not those it reads."""
        self._check(x)
        out = np.empty((len(x), len(self.offset)))
        out[:] = self.offset
        if self.idf is not None and self.text_weights is not None:
            value = x.text.value * self.idf[x.text.index]
            for i, (start, end) in enumerate(zip(x.text.start[:-1].tolist(), x.text.start[1:].tolist(), strict=True)):
                mine = value[start:end]
                length = float(np.sqrt(np.einsum("i,i->", mine, mine)))
                if length > 0:
                    rows = self.text_weights.take(x.text.index[start:end], axis=0)
                    out[i] += np.einsum("i,ij->j", mine, rows) / length
        if len(self.mean):
            # Not by `@`, whose sums depend on how many rows there are.
            out += np.einsum("nd,dj->nj", standardised(x.dense, self.mean, self.scale), self.dense_weights)
        if self.embedding_weights is not None and x.embedding is not None:
            out += np.einsum("nd,dj->nj", x.embedding, self.embedding_weights)
        return out

    def _check(self, x: Features) -> None:
        if self.idf is not None and x.text.width != len(self.idf):
            raise InputError(f"the text has {x.text.width} columns: these weights read {len(self.idf)}")
        if x.dense.shape[1] < len(self.mean):
            raise InputError(f"the prompts have {x.dense.shape[1]} dense columns: these weights read {len(self.mean)}")
        if self.embedding_weights is not None:
            width = len(self.embedding_weights)
            if x.embedding is None:
                raise InputError("these weights read an embedding, and the prompts have none: give the encoder")
            if x.embedding.shape[1] != width:
                raise InputError(f"the embedding has {x.embedding.shape[1]} columns: these weights read {width}")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `of` makes the same map from. Text columns without any weight are left out."""
        held: dict[str, NDArray[Any]] = {
            "offset": self.offset,
            "mean": self.mean,
            "scale": self.scale,
            "dense_weights": self.dense_weights.astype(np.float16),
        }
        if self.idf is not None and self.text_weights is not None:
            columns = np.flatnonzero((self.text_weights != 0).any(axis=1))
            held |= {
                "idf": self.idf,
                "text_columns": columns.astype(np.int32),
                "text_weights": self.text_weights[columns].astype(np.float16),
            }
        if self.embedding_weights is not None:
            held["embedding_weights"] = self.embedding_weights.astype(np.float16)
        return held

    @classmethod
    def of(cls, held: Mapping[str, NDArray[Any]], *, what: str) -> "LinearMap":
        """Make a map from what `arrays` gave, and check it; `what` names the file in messages.

        Raises ArtifactError for an array that is missing, of another type or shape, or not finite.
        """
        offset = checked(held, "offset", np.float64, (None,), what)
        mean = checked(held, "mean", np.float64, (None,), what)
        scale = checked(held, "scale", np.float64, (len(mean),), what)
        dense = checked(held, "dense_weights", np.float16, (len(mean), len(offset)), what)
        idf = text = embedding = None
        if "idf" in held:
            idf = checked(held, "idf", np.float32, (None,), what)
            at = checked(held, "text_columns", np.int32, (None,), what)
            stored = checked(held, "text_weights", np.float16, (len(at), len(offset)), what)
            if (idf < 0).any() or (len(at) and (at[0] < 0 or at[-1] >= len(idf) or (np.diff(at) <= 0).any())):
                raise ArtifactError(f"{what}: idf is negative, or text_columns do not ascend inside it: train anew")
            text = np.zeros((len(idf), len(offset)), dtype=np.float32)
            text[at] = stored
        if "embedding_weights" in held:
            embedding = checked(held, "embedding_weights", np.float16, (None, len(offset)), what).astype(np.float32)
        if (scale < 0).any():
            raise ArtifactError(f"{what}: scale is negative: train the router anew")
        return cls(
            offset=offset,
            idf=idf,
            text_weights=text,
            mean=mean,
            scale=scale,
            dense_weights=dense.astype(np.float32),
            embedding_weights=embedding,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearComponent:
    """A linear part of every arm's log-odds, of K members.

    name    : "text", "encoder" or "two_parameter"; its file is `name`.npz.
    scores  : r * K sums; column j * K + k is score j of member k.
    loading : float64 (r, a, K), what a member's scores mean for each arm: added = sum_j score_j * loading_j. None =
              one score per arm, r = a. A two-parameter model has r = 1: how hard the prompt is, and how much each arm
              minds.
    """

    name: str
    scores: LinearMap
    members: int
    loading: NDArray[np.float64] | None = None

    def added(self, x: Features) -> Floats:
        """Log-odds (n, a, K) that each prompt adds to each arm's base, of every member."""
        score = self.scores(x).reshape(len(x), -1, self.members)
        if self.loading is None:
            return score
        total = score[:, 0, None, :] * self.loading[0]
        for j in range(1, len(self.loading)):
            total = total + score[:, j, None, :] * self.loading[j]
        return total

    def pack(self) -> Mapping[str, bytes]:
        """The file that `read` makes the same component from."""
        held = self.scores.arrays()
        if self.loading is not None:
            held["loading"] = self.loading
        return {_file(self.name): pack_arrays(**held)}

    @classmethod
    def read(cls, files: Mapping[str, bytes], *, name: str, arms: int, members: int) -> "LinearComponent":
        """Make the component of that name, for so many arms and members.

        Raises ArtifactError where its file is missing or does not fit.
        """
        what, held = _held(files, name)
        scores = LinearMap.of(held, what=what)
        m, loading = len(scores.offset), None
        if "loading" in held:
            loading = checked(held, "loading", np.float64, (None, arms, members), what)
        per_member = arms if loading is None else len(loading)
        if not m or m != per_member * members:
            raise ArtifactError(f"{what} holds {m} sums, not those of {arms} arms and {members} members: train it anew")
        return cls(name=name, scores=scores, members=members, loading=loading)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Amounts:
    """How much more or less than on average an arm spends on a prompt.

    logs : 2 a sums: the logarithms of cost over the arm's mean cost, then of tokens over the arm's mean tokens. Their
           offsets are such that on the training prompts, out of fold, the ratios average to 1 for every arm: the mean
           of a logarithm alone would put long answers too low (smearing: Duan 1983).
    """

    logs: LinearMap

    def ratios(self, x: Features) -> tuple[Floats, Floats]:
        """Expected cost and tokens over the arm's means, (n, a) each, in e^-12 .. e^12; 1 for an arm never logged."""
        log = self.logs(x)
        ratio = np.exp(np.clip(log, -MAX_LOG_RATIO, MAX_LOG_RATIO))
        a = log.shape[1] // 2
        return ratio[:, :a], ratio[:, a:]

    def pack(self) -> Mapping[str, bytes]:
        """The file that `read` makes the same from."""
        return {_file(AMOUNTS): pack_arrays(**self.logs.arrays())}

    @classmethod
    def read(cls, files: Mapping[str, bytes], *, arms: int) -> "Amounts":
        """Make what `pack` was of. Raises ArtifactError where its file is missing or does not fit."""
        what, held = _held(files, AMOUNTS)
        logs = LinearMap.of(held, what=what)
        if len(logs.offset) != 2 * arms:
            raise ArtifactError(f"{what} holds {len(logs.offset)} sums, not two for each of {arms} arms: train it anew")
        return cls(logs=logs)


def _file(name: str) -> str:
    return f"{name}.npz"


def _held(files: Mapping[str, bytes], name: str) -> tuple[str, dict[str, NDArray[Any]]]:
    """The name of a component's file, and its arrays."""
    file = _file(name)
    if file not in files:
        raise ArtifactError(f"the router lacks {file}: train it anew")
    return file, unpack_arrays(files[file], what=file)


def standardised(dense: Floats, mean: Floats, scale: Floats) -> Floats:
    """The first len(mean) dense columns, float64: rooted, centred, scaled, and held in -1 .. 1.

    A scale of 1 / (CLIP * spread) puts what lies CLIP spreads off at the ends; a scale of 0 makes a column 0.
    """
    return np.clip((rooted(dense[:, : len(mean)]) - mean) * scale, -1.0, 1.0)


def checked(
    held: Mapping[str, NDArray[Any]], name: str, kind: Any, shape: tuple[int | None, ...], what: str
) -> NDArray[Any]:
    """Return an array of a file. Raises ArtifactError unless it is there, of that type and shape, and finite."""
    array = held.get(name)
    if array is None:
        raise ArtifactError(f"{what} lacks {name}: train the router anew")
    fits = array.ndim == len(shape) and all(w in (None, s) for w, s in zip(shape, array.shape, strict=True))
    if array.dtype != kind or not fits:
        raise ArtifactError(f"{what}: {name} is {array.dtype} {array.shape}: it must be {np.dtype(kind)} {shape}")
    if not np.isfinite(array).all():
        raise ArtifactError(f"{what}: {name} holds a value that is not finite")
    return array
