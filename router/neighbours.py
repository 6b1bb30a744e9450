"""What happened on the prompts nearest to a prompt: a component of the quality prediction (components.py).

Where a prompt lies is read off its features, turned onto their few main directions. Around it lie prototypes: the
training prompts themselves or, where they are many, centres of them, each with the outcomes of its prompts added up
per arm and member. Near 1,000 prototypes of 24 directions say as much as all of 6,500 prompts, and the distances to
them take a few microseconds. With one neighbour the prototypes are cells, and a prompt gets the mean of its own.

What the nearest say is shrunk twice, so that few outcomes are enough: the arms' common success around the prompt to
that of the arms' average, and each arm's own success to what the common one makes likely.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..strategies.errors import ArtifactError
from .artifact import pack_arrays, unpack_arrays
from .estimates import Floats
from .features import Features

CLIP = 6.0
BLOCK = 256
"""Prompts whose distances are held in memory at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """Main directions of a kind of features: position = clip((root(x) - mean) * weight, -CLIP, CLIP) @ turn.

    mean, weight : float32 (d,), of the first d columns. turn : float32 (d, r).
    root         : whether signed square roots are taken first, so that counts differ by their spread.
    """

    mean: Floats
    weight: Floats
    turn: Floats
    root: bool

    def position(self, x: Floats) -> Floats:
        """Positions, float32 (n, r), of features (n, >= d)."""
        x = x[:, : len(self.mean)]
        if self.root:
            x = np.copysign(np.sqrt(np.abs(x)), x)
        z = (x - self.mean) * self.weight
        np.minimum(np.maximum(z, -CLIP, out=z), CLIP, out=z)
        # Not by `@`: its sums depend on how many prompts it is given, and on the number of threads.
        return np.einsum("nd,dr->nr", z, self.turn)


def added_by(success: Floats, number: Floats, base: Floats, *, shared: float, own: float) -> Floats:
    """Log-odds that the outcomes near a prompt add to each arm's base, (..., a, K).

        B = (sum_a n_a b_a + shared * mean_a b_a) / (sum_a n_a + shared)       expected of these arms anywhere
        M = (sum_a s_a     + shared * mean_a b_a) / (sum_a n_a + shared)       seen here
        e_a = base_a + logit M - logit B                                      what the others make likely
        p_a = (s_a + own * sigmoid e_a) / (n_a + own)                         added_a = logit p_a - base_a

    success, number : (..., a, K), sum of qualities and how many they are, of every arm and member.
    base            : (a, K), log-odds, with b = sigmoid(base).
    shared, own     : > 0, outcomes that the arms' average, and what the other arms make likely, count for.
    """
    odds = np.exp(base)
    mean = odds / (1.0 + odds)
    return _added(success, number, base, odds, mean, shared * mean.mean(axis=0), shared=shared, own=own)


def _added(
    success: Floats,
    number: Floats,
    base: Floats,
    odds: Floats,
    mean: Floats,
    prior: Floats,
    *,
    shared: float,
    own: float,
) -> Floats:
    total = np.add.reduce(number, axis=-2) + shared
    expected = np.add.reduce(number * mean, axis=-2) + prior
    seen = np.add.reduce(success, axis=-2) + prior
    likely = odds * (seen * (total - expected) / (expected * (total - seen)))[..., None, :]
    right = success + own * (likely / (1.0 + likely))
    return np.log(right / (number + own - right)) - base


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NeighboursComponent:
    """Shrunk outcomes of the nearest prototypes, by members that are each blind to one fold.

    dense, embedding : what makes a prompt's position, one after the other; at least one is there.
    places           : float32 (r, m), positions of the prototypes.
    outcomes         : float64 (m, 2, a, K), sum and number of the qualities of a prototype's prompts outside of fold k.
    base             : float64 (a, K), log-odds of the arms' means that the log-odds are added to.
    neighbours       : prototypes that are looked at, 1..m.
    shared, own      : see `added_by`.
    """

    name: str
    dense: Directions | None
    embedding: Directions | None
    places: Floats
    outcomes: Floats
    base: Floats
    neighbours: int
    shared: float
    own: float
    _half: Floats = field(init=False, repr=False)
    _odds: Floats = field(init=False, repr=False)
    _mean: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        odds = np.exp(self.base)
        object.__setattr__(self, "_half", half_length(self.places))
        object.__setattr__(self, "_odds", odds)
        object.__setattr__(self, "_mean", odds / (1.0 + odds))

    def position(self, x: Features) -> Floats:
        """Where prompts lie, float32 (n, r)."""
        return position(x, self.dense, self.embedding)

    def added(self, x: Features) -> Floats:
        """Log-odds (n, a, K) that each prompt adds to each arm's base, of every member."""
        where = self.position(x)
        prior = self.shared * self._mean.mean(axis=0)
        out = np.empty((len(where), *self.base.shape))
        buffer = np.empty((min(len(where), BLOCK), len(self._half)), dtype=np.float32)
        for i in range(0, len(where), BLOCK):
            near = nearest(where[i : i + BLOCK], self.places, self._half, self.neighbours, buffer)
            sums = np.add.reduce(self.outcomes[near], axis=1)
            out[i : i + BLOCK] = _added(
                sums[:, 0], sums[:, 1], self.base, self._odds, self._mean, prior, shared=self.shared, own=self.own
            )
        return out

    def pack(self) -> dict[str, bytes]:
        """The files that `read` makes the same component from."""
        arrays: dict[str, NDArray[Any]] = {
            "places": self.places,
            "outcomes": self.outcomes,
            "base": self.base,
            "settings": np.array([self.neighbours, self.shared, self.own]),
        }
        for kind, of in (("dense", self.dense), ("embedding", self.embedding)):
            if of is not None:
                arrays |= {f"{kind}_mean": of.mean, f"{kind}_weight": of.weight, f"{kind}_turn": of.turn}
        return {f"{self.name}.npz": pack_arrays(**arrays)}

    @classmethod
    def read(cls, files: Mapping[str, bytes], *, name: str = "neighbours") -> "NeighboursComponent":
        """Make the component from its files. Raises ArtifactError for one missing, or arrays that do not fit."""
        what = f"{name}.npz"
        if what not in files:
            raise ArtifactError(f"the router lacks {what}: train it anew")
        arrays = unpack_arrays(files[what], what=what)
        m = arrays["places"].shape[-1] if "places" in arrays else 0
        width = 0
        directions: dict[str, Directions] = {}
        for kind in ("dense", "embedding"):
            if f"{kind}_turn" in arrays:
                d, r = (*arrays[f"{kind}_turn"].shape, 0, 0)[:2]
                for part, shape in (("mean", (d,)), ("weight", (d,)), ("turn", (d, r))):
                    _check(arrays, f"{kind}_{part}", np.float32, shape, what)
                directions[kind] = Directions(
                    *(arrays[f"{kind}_{part}"] for part in ("mean", "weight", "turn")), root=kind == "dense"
                )
                width += r
        _check(arrays, "places", np.float32, (width, m), what)
        a, members = (*arrays["base"].shape, 0, 0)[:2] if "base" in arrays else (0, 0)
        _check(arrays, "base", np.float64, (a, members), what)
        _check(arrays, "outcomes", np.float64, (m, 2, a, members), what)
        _check(arrays, "settings", np.float64, (3,), what)
        neighbours, shared, own = arrays["settings"].tolist()
        outcomes = arrays["outcomes"]
        if not (width and neighbours == int(neighbours) and 1 <= neighbours <= m and shared > 0 and own > 0):
            raise ArtifactError(
                f"{what}: {neighbours:g} of {m} prototypes, strengths {shared:g} and {own:g}: train anew"
            )
        if (outcomes < 0).any() or (outcomes[:, 0] > outcomes[:, 1] * (1 + 1e-9)).any():
            raise ArtifactError(f"{what}: outcomes holds more success than outcomes: train the router anew")
        return cls(
            name=name,
            dense=directions.get("dense"),
            embedding=directions.get("embedding"),
            places=arrays["places"],
            outcomes=outcomes,
            base=arrays["base"],
            neighbours=int(neighbours),
            shared=shared,
            own=own,
        )


def position(x: Features, dense: Directions | None, embedding: Directions | None) -> Floats:
    """Where prompts lie, float32 (n, r): by their dense features, then by their embedding.

    Raises ArtifactError when an embedding is wanted that the features lack.
    """
    parts = [] if dense is None else [dense.position(x.dense)]
    if embedding is not None:
        if x.embedding is None or x.embedding.shape[1] != len(embedding.mean):
            found = "none" if x.embedding is None else f"one of {x.embedding.shape[1]}"
            raise ArtifactError(
                f"the neighbours were learned on an embedding of {len(embedding.mean)} numbers, the features have "
                f"{found}: give the router the encoder that it was trained with"
            )
        parts.append(embedding.position(x.embedding))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def half_length(places: Floats) -> Floats:
    """Half of each prototype's squared length, (m,), of places (r, m)."""
    return 0.5 * np.einsum("rm,rm->m", places, places)


def nearest(where: Floats, places: Floats, half: Floats, k: int, buffer: Floats) -> NDArray[np.intp]:
    """Numbers (n, k) of the k prototypes nearest to each position (n, r), in no order.

    half : float32 (m,), half of each prototype's squared length. buffer : float32 (>= n, m), overwritten.
    """
    gap = buffer[: len(where)]
    np.einsum("nr,rm->nm", where, places, out=gap)
    np.subtract(half, gap, out=gap)
    if k == 1:
        return gap.argmin(axis=1)[:, None]
    if k == gap.shape[1]:
        return np.broadcast_to(np.arange(k), gap.shape)
    return np.argpartition(gap, k - 1, axis=1)[:, :k]


def _check(arrays: Mapping[str, NDArray[Any]], name: str, dtype: Any, shape: tuple[int, ...], what: str) -> None:
    array = arrays.get(name)
    if array is None:
        raise ArtifactError(f"{what} lacks {name}: train the router anew")
    if array.dtype != dtype or array.shape != shape or not np.isfinite(array).all():
        raise ArtifactError(
            f"{what}: {name} is {array.dtype} {array.shape}: it must be finite {np.dtype(dtype)} {shape}. "
            "Train the router anew"
        )
