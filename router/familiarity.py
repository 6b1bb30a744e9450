"""Is a prompt like those that the router was trained on?

The training prompts are described by centres, each with its own width in every feature: prompts made from one template
lie close together, and what is a small step among free texts is far from them. A prompt is strange when it lies farther
from its centre than nearly all prompts of that kind do. What is then done about it is predictor.py's and the policy's
business; howhard.training.familiar fits it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..strategies.errors import ArtifactError
from .estimates import Floats
from .features import Features, FeatureSpec

CLIP = 6.0
_PREFIX = "seen_"


def rooted(dense: Floats) -> NDArray[np.float32]:
    """Signed square roots: counts then differ by their spread, and one long text does not rule."""
    x = np.asarray(dense, dtype=np.float32)
    return np.copysign(np.sqrt(np.abs(x)), x)


@dataclass(frozen=True, slots=True, eq=False)
class Familiarity:
    """Centres of the training prompts in standardised feature space, and how far from each is strange. All float32.

    mean, weight : (d,) of the rooted dense features: z = clip((rooted(x) - mean) * weight, -CLIP, CLIP).
    centres      : (k, d), in z. widths : (k, d) > 0, standard deviation in z of the prompts around each centre.
    limits       : (k,) > 0, distance from each centre beyond which a prompt is strange.
    """

    mean: NDArray[np.float32]
    weight: NDArray[np.float32]
    centres: NDArray[np.float32]
    widths: NDArray[np.float32]
    limits: NDArray[np.float32]
    _table: NDArray[np.float32] = field(init=False, repr=False)
    _own: NDArray[np.float32] = field(init=False, repr=False)
    _penalty: NDArray[np.float32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # ((z - c) / w)^2 = z^2 / w^2 - 2 z c / w^2 + c^2 / w^2, averaged over the features: the parts without z.
        precision = self.widths**-2.0 / np.float32(self.widths.shape[1])
        rows = np.concatenate([precision, -2 * self.centres * precision], axis=1)
        object.__setattr__(self, "_table", np.ascontiguousarray(rows, dtype=np.float32))
        object.__setattr__(self, "_own", (self.centres**2 * precision).sum(axis=1))
        object.__setattr__(self, "_penalty", 2 * np.log(self.widths).mean(axis=1))

    def standardised(self, dense: Floats) -> NDArray[np.float32]:
        """Return z (n, d) of dense features (n, d)."""
        return np.clip((rooted(dense) - self.mean) * self.weight, -CLIP, CLIP)

    def nearest_of(self, z: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """The centre (n,) that each row z (n, d) most likely belongs to, and its distance (n,) from it.

        distance = mean over features of ((z - centre) / width)^2
        nearest  = argmin of distance + mean over features of log width^2        (Gaussians with diagonal covariance)
        """
        # Not by `@`: its sums depend on how many prompts there are, and for one prompt waking the threads of a linear
        # algebra library takes longer than the sums.
        to_each = np.einsum("nd,kd->nk", np.concatenate([z * z, z], axis=1), self._table) + self._own
        of = (to_each + self._penalty).argmin(axis=1)
        return of, np.maximum(to_each[np.arange(len(of)), of], np.float32(0))

    def distance(self, x: Features) -> NDArray[np.float32]:
        """Distance (n,) of each prompt from its centre, as a share of that centre's limit: strange above 1."""
        of, distance = self.nearest_of(self.standardised(x.dense))
        return distance / self.limits[of]

    def strange(self, x: Features) -> NDArray[np.bool_]:
        """Which prompts (n,) are unlike the training prompts."""
        return self.distance(x) > 1

    def limited(self, factor: float) -> "Familiarity":
        """The same with every limit multiplied."""
        return replace(self, limits=self.limits * np.float32(factor))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `of` makes the same familiarity from; every name begins with "seen_"."""
        return {f"{_PREFIX}{f.name}": getattr(self, f.name) for f in fields(self) if f.init}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], spec: FeatureSpec) -> "Familiarity | None":
        """Read what `arrays` gave; None where nothing of it is there. Other arrays are ignored.

        Raises ArtifactError for a missing array, a shape that does not fit the features, or a value out of range.
        """
        names = [f"{_PREFIX}{f.name}" for f in fields(cls) if f.init]
        if not any(n in arrays for n in names):
            return None
        d = len(spec.names)
        shapes = [(d,), (d,), (None, d), (None, d), (None,)]
        for name, shape in zip(names, shapes, strict=True):
            array = arrays.get(name)
            if array is None:
                raise ArtifactError(f"the router lacks {name}: train it anew")
            fits = array.ndim == len(shape) and all(w in (None, s) for w, s in zip(shape, array.shape, strict=True))
            if array.dtype != np.float32 or not fits or not array.size:
                raise ArtifactError(f"{name} is {array.dtype} {array.shape}: it must be float32 {shape}, not empty")
            if not np.isfinite(array).all():
                raise ArtifactError(f"{name} holds a value that is not finite")
        mean, weight, centres, widths, limits = (arrays[n] for n in names)
        if not len(centres) == len(widths) == len(limits) or (widths <= 0).any() or (limits <= 0).any():
            raise ArtifactError(f"{_PREFIX}widths and {_PREFIX}limits must be above 0, with one row for every centre")
        return cls(mean, weight, centres, widths, limits)
