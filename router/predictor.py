"""From a prompt's features to estimates of every arm.

Quality is put together from components (components.py), each saying what the prompt adds to an arm's average; what it
costs and takes is a multiple of the arm's mean. Here the parts are joined, packed into files and read again;
howhard.training.fit fits them. A row of the estimates depends on its own prompt alone, to the last bit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..strategies.errors import ArtifactError, InputError, nearest
from .artifact import Manifest, pack_arrays, read_artifact, unpack_arrays
from .components import Component
from .estimates import ArmMeans, Estimates, FixedArms, Floats
from .familiarity import Familiarity
from .features import Features, FeatureSpec, SparseRows, featurize
from .joint_trees import JointTreesComponent
from .linear import Amounts, LinearComponent
from .neighbours import NeighboursComponent
from .success import SuccessModel
from .trees import TreesComponent

ARRAYS = "predictor.npz"
WEIGHT = "weight_"
"""Arrays of this prefix hold the two weights of the components that are named behind it."""


def _neighbours(files: Mapping[str, bytes], *, name: str, arms: int, members: int) -> Component:
    return NeighboursComponent.read(files, name=name)


READERS: dict[str, Callable[..., Component]] = {
    "cells": _neighbours,
    "encoder": LinearComponent.read,
    "joint_trees": JointTreesComponent.read,
    "neighbours": _neighbours,
    "text": LinearComponent.read,
    "trees": TreesComponent.read,
    "trees_per_arm": TreesComponent.read,
    "two_parameter": LinearComponent.read,
}
"""What makes a component of that name from the files, for so many arms and members."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictor:
    """Components and arrays in memory; settings only, safe to share between threads.

        z[n, a, k] = intercept_a + slope_a * sum_c (shared_c * mean_c[n, k] + own_c * (added_c[n, a, k] - mean_c[n, k]))
        mean_c     = mean over the arms of added_c
        quality    = mean over the members k of sigmoid(z)

    components  : the ones that carry weight, () = every prompt has the arms' means. All have K members.
    weights     : (c, 2) >= 0: shared and own, what a component counts for all arms alike and for their differences.
    intercept   : (a,), log-odds. slope : (a,) >= 0.
    success     : what of the calibrated quality follows from the distribution of the chance of success; None = nothing.
    inflation   : (a, a) >= 0, symmetric: factor on the members' spread of the difference of two arms.
    floor       : (a, a) >= 0, symmetric: standard error of the difference that no agreement of the members removes.
    strange_se  : (a, a) >= 0, symmetric: standard error of the differences on every unfamiliar prompt.
    familiarity : what the training prompts looked like; None = every prompt counts as familiar.
    means       : what the arms gave on average in training.
    tokens      : (a,), mean tokens of the arms, NaN where never logged.
    amounts     : how many times its mean an arm spends on a prompt.
    latency     : (a, q), seconds at `quantiles` where the arm spends its mean cost, NaN for an arm never timed; None
                  where none was.
    """

    features: FeatureSpec
    arms: tuple[str, ...]
    fallback: str
    reference: str
    quantiles: tuple[float, ...] = ()
    components: tuple[Component, ...]
    weights: Floats
    intercept: Floats
    slope: Floats
    success: SuccessModel | None = None
    inflation: Floats
    floor: Floats
    strange_se: Floats
    familiarity: Familiarity | None
    means: ArmMeans
    tokens: Floats
    amounts: Amounts
    latency: Floats | None = None

    @classmethod
    def load(cls, directory: str | Path) -> "Predictor":
        """Read a router directory. Raises ArtifactError when anything about it is wrong."""
        return cls.from_artifact(*read_artifact(directory))

    @classmethod
    def from_artifact(cls, manifest: Manifest, files: Mapping[str, bytes]) -> "Predictor":
        """Make the predictor that a manifest and its files describe."""
        return cls.of(
            files,
            features=manifest.features,
            arms=manifest.arms,
            fallback=manifest.fallback,
            reference=manifest.reference,
            quantiles=manifest.quantiles,
        )

    @classmethod
    def of(
        cls,
        files: Mapping[str, bytes],
        *,
        features: FeatureSpec,
        arms: tuple[str, ...],
        fallback: str,
        reference: str,
        quantiles: tuple[float, ...] = (),
    ) -> "Predictor":
        """Make a predictor from the files of `pack`, no directory needed; other files are not looked at.

        Raises ArtifactError for a missing file or array, a shape that does not fit, or a value out of range.
        """
        if ARRAYS not in files:
            raise ArtifactError(f"the router lacks {ARRAYS}: train it anew")
        arrays = unpack_arrays(files[ARRAYS], what=ARRAYS)
        a, q = len(arms), len(quantiles)
        shapes = {"members": (), "intercept": (a,), "slope": (a,), "fixed": (3, a), "tokens": (a,)}
        shapes |= dict.fromkeys(("inflation", "floor", "strange_se", "quality_se"), (a, a))
        if q:
            shapes["latency"] = (a, q)
        names = sorted(n.removeprefix(WEIGHT) for n in arrays if n.startswith(WEIGHT))
        for name, shape in [*shapes.items(), *((WEIGHT + n, (2,)) for n in names)]:
            _check(arrays.get(name), name, shape, nan_ok=name in _MAY_BE_NAN, least=_LEAST.get(name, 0.0))
        members = int(arrays["members"])
        return cls(
            features=features,
            arms=arms,
            fallback=fallback,
            reference=reference,
            quantiles=quantiles,
            components=tuple(_component(n, files, features, a, members) for n in names),
            weights=np.array([arrays[WEIGHT + n] for n in names]).reshape(-1, 2),
            success=SuccessModel.of(arrays, arms=a),
            familiarity=Familiarity.of(arrays, features),
            amounts=_amounts(files, features, a),
            latency=arrays["latency"] if q else None,
            means=ArmMeans(
                quality=arrays["fixed"][0],
                cost=arrays["fixed"][1],
                seconds=arrays["fixed"][2],
                quality_se=arrays["quality_se"],
            ),
            **{n: arrays[n] for n in shapes if n not in ("members", "latency", "fixed", "quality_se")},
        )

    def pack(self) -> dict[str, bytes]:
        """The files that `of` makes the same predictor from."""
        members = self.member_quality(_blank(self.features)).shape[2]
        arrays: dict[str, Any] = {
            "members": float(members),
            **{n: getattr(self, n) for n in ("intercept", "slope", "tokens")},
            "fixed": np.stack([self.means.quality, self.means.cost, self.means.seconds]),
            "quality_se": self.means.quality_se,
            **{n: getattr(self, n) for n in ("inflation", "floor", "strange_se")},
            **{WEIGHT + c.name: w for c, w in zip(self.components, self.weights, strict=True)},
        }
        if self.latency is not None:
            arrays["latency"] = self.latency
        arrays = {n: np.asarray(v, dtype=np.float64) for n, v in arrays.items()}
        if self.success is not None:
            arrays |= self.success.arrays()
        if self.familiarity is not None:
            arrays |= self.familiarity.arrays()
        files = {ARRAYS: pack_arrays(**arrays)}
        for part in (self.amounts, *self.components):
            files |= part.pack()
        return files

    def member_quality(self, x: Features) -> Floats:
        """Quality (n, a, K) by each member; K = 1 without a component."""
        z = np.zeros((len(x), len(self.arms), 1))
        for (shared, own), component in zip(self.weights.tolist(), self.components, strict=True):
            added = component.added(x)
            mean = added.sum(axis=1, keepdims=True) / len(self.arms)
            z = z + (own * added + (shared - own) * mean)
        quality = sigmoid(self.intercept[:, None] + self.slope[:, None] * z)
        return quality if self.success is None else self.success.apply(quality)

    def predict(self, x: Features) -> Estimates:
        """Estimate every arm for prompts, whose features are those of `self.features`.

        difference_se of two arms = inflation * standard deviation over the members of their difference, and not below
                                    the floor; strange_se on unfamiliar prompts
        cost, tokens = the arm's mean * the predicted ratio
        latency      = quantiles of the arm * the predicted ratio of its cost: a longer answer takes longer
        """
        by_member = self.member_quality(x)
        members = by_member.shape[2]
        # Sums over the members, which lie side by side: a row's are the same in any batch.
        quality = by_member.sum(axis=2) / members
        off = by_member - quality[:, :, None]
        apart = off[:, :, None, :] - off[:, None, :, :]
        error = np.einsum("nijk,nijk->nij", apart, apart)
        error = np.maximum(self.inflation * np.sqrt(error / max(members - 1, 1)), self.floor)
        dearer, longer = self.amounts.ratios(x)
        familiar = None
        if self.familiarity is not None:
            familiar = ~self.familiarity.strange(x)
            error[~familiar] = self.strange_se
        return Estimates(
            arms=self.arms,
            quality=quality,
            benefit_se=error[:, :, self.arms.index(self.fallback)],
            cost=self.means.cost * dearer,
            latency=None if self.latency is None else self.latency * dearer[:, :, None],
            quantiles=self.quantiles,
            fallback=self.fallback,
            reference=self.reference,
            tokens=None if np.isnan(self.tokens).all() else self.tokens * longer,
            fixed=FixedArms(means=self.means, difference_se=error),
            familiar=familiar,
        )

    def predict_texts(self, texts: Sequence[str]) -> Estimates:
        """Estimate every arm for prompts given as text."""
        return self.predict(featurize(texts, self.features))


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + e^-x), of log-odds within -30..30."""
    return 1.0 / (1.0 + np.exp(np.minimum(np.maximum(-x, -30.0), 30.0)))


_MAY_BE_NAN = frozenset(("fixed", "tokens", "latency"))
_LEAST = {"intercept": -np.inf, "members": 1.0}


def _component(name: str, files: Mapping[str, bytes], features: FeatureSpec, arms: int, members: int) -> Component:
    """Read a component and try it on an empty prompt, so that what does not fit is found here, not at a request."""
    if name not in READERS:
        raise ArtifactError(f"{ARRAYS}: this howhard has no component {name!r}{nearest(name, READERS)}: train anew")
    component = READERS[name](files, name=name, arms=arms, members=members)
    try:
        found = component.added(_blank(features)).shape
    except (InputError, ValueError, IndexError) as exc:
        raise ArtifactError(f"component {name!r} does not read the router's features ({exc}): train anew") from exc
    if found != (1, arms, members):
        raise ArtifactError(f"component {name!r} gives {found}, not {(1, arms, members)}: train the router anew")
    return component


def _amounts(files: Mapping[str, bytes], features: FeatureSpec, arms: int) -> Amounts:
    """Read what tells costs and tokens, and try it on an empty prompt."""
    amounts = Amounts.read(files, arms=arms)
    try:
        amounts.ratios(_blank(features))
    except (InputError, ValueError, IndexError) as exc:
        raise ArtifactError(f"the amounts do not read the router's features ({exc}): train the router anew") from exc
    return amounts


def _blank(features: FeatureSpec) -> Features:
    """Features of one prompt, all of them 0."""
    empty = SparseRows(np.zeros(2, np.int64), np.empty(0, np.int32), np.empty(0, np.float32), features.n_text)
    embedding = None if features.encoder is None else np.zeros((1, features.encoder.dimension), dtype=np.float32)
    return Features(np.zeros((1, len(features.names)), dtype=np.float32), empty, embedding)


def _check(
    array: NDArray[Any] | None, name: str, shape: tuple[int | None, ...], *, nan_ok: bool = False, least: float = 0.0
) -> None:
    if array is None:
        raise ArtifactError(f"{ARRAYS} lacks {name}: train the router anew")
    fits = array.ndim == len(shape) and all(w in (None, s) for w, s in zip(shape, array.shape, strict=True))
    if array.dtype != np.float64 or not fits:
        raise ArtifactError(f"{ARRAYS}: {name} is {array.dtype} {array.shape}: it must be float64 {shape}")
    ok = np.isfinite(array) | np.isnan(array) if nan_ok else np.isfinite(array)
    if not ok.all() or (array < least).any():
        raise ArtifactError(f"{ARRAYS}: {name} holds a value that is not finite, or below {least:g}: train it anew")
