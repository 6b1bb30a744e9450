"""From a prompt's features to estimates of every arm.

Quality and cost are each predicted by boosted trees POOLED over the arms: one row is a prompt's features
followed by an arm's, so that what is learned of one arm's hard prompts serves the others. The files that a
predictor is made of are written by `pack_predictor` and read by `Predictor.of`; howhard.training fits what
goes into them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..strategies.errors import ArtifactError
from .artifact import Manifest, pack_arrays, read_artifact, unpack_arrays
from .estimates import Estimates, Floats
from .familiarity import Familiarity
from .features import FeatureSpec, featurize
from .trees import BoundForest, read_forest

COST_MODEL = "cost.txt"
ARRAYS = "arms.npz"
MAX_LOG_COST_RATIO = 12.0
STRANGE_SE = 4.0
"""Standard error of every difference on a prompt unlike the training prompts: a guard of 0.25 or more then holds the
fallback arm, whatever the trees say, unless the cost saved is worth more than any answer."""
_AS_IT_IS = frozenset({"regression", "regression_l1", "huber", "fair", "quantile", "mape"})


def quality_model(bag: int) -> str:
    """Return the file name of a bag's quality model."""
    return f"quality-{bag}.txt"


def pack_predictor(
    *,
    quality_models: Sequence[str],
    cost_model: str,
    arm_features: Floats,
    cost_mean: Floats,
    se_inflation: Floats,
    calibration: tuple[Floats, Floats],
    latency: Floats | None = None,
    familiarity: Familiarity | None = None,
) -> dict[str, bytes]:
    """Return the files of a predictor: what write_artifact takes.

    quality_models : LightGBM text, one per bag; each reads [prompt features | arm features]. Objective binary
                     or cross_entropy (its sigmoid is applied), or regression.
    cost_model     : LightGBM text, regression: log(cost / the arm's mean cost), over the same columns.
    arm_features   : (a, k). cost_mean : (a,) > 0. se_inflation : (a,) >= 0, factor on the bags' spread.
    calibration    : knots x (m,) rising, y (m,) not falling: mean of the bags -> quality; straight lines
                     between.
    latency        : (a, q) seconds at the manifest's quantiles at the arm's mean cost, NaN for an arm never
                     timed.
    familiarity    : what the training prompts looked like; None = every prompt counts as familiar.
    """
    arrays: dict[str, NDArray[Any]] = {
        "arm_features": np.asarray(arm_features, dtype=np.float64),
        "cost_mean": np.asarray(cost_mean, dtype=np.float64),
        "se_inflation": np.asarray(se_inflation, dtype=np.float64),
        "calibration_x": np.asarray(calibration[0], dtype=np.float64),
        "calibration_y": np.asarray(calibration[1], dtype=np.float64),
    }
    if latency is not None:
        arrays["latency"] = np.asarray(latency, dtype=np.float64)
    if familiarity is not None:
        arrays["seen_mean"] = np.asarray(familiarity.mean, dtype=np.float64)
        arrays["seen_weight"] = np.asarray(familiarity.weight, dtype=np.float64)
        arrays["seen_centres"] = np.asarray(familiarity.centres, dtype=np.float64)
        arrays["seen_limit"] = np.array([familiarity.limit], dtype=np.float64)
    files = {quality_model(i): text.encode() for i, text in enumerate(quality_models)}
    return {**files, COST_MODEL: cost_model.encode(), ARRAYS: pack_arrays(**arrays)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictor:
    """Trees and arrays in memory; settings only, safe to share between threads.

    scales : (bags,) factor of each bag's sigmoid, NaN where the model predicts quality as it is.
    The other arrays are those of `pack_predictor`.
    """

    features: FeatureSpec
    arms: tuple[str, ...]
    fallback: str
    reference: str
    quantiles: tuple[float, ...]
    trees: BoundForest
    scales: Floats
    cost_mean: Floats
    se_inflation: Floats
    calibration_x: Floats
    calibration_y: Floats
    latency: Floats | None
    familiarity: Familiarity | None = None

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
        """Make a predictor from the files of `pack_predictor`, no directory needed.

        Raises ArtifactError for a missing file or array, a shape that does not fit, or a value out of range.
        """
        bags = [quality_model(i) for i in range(len(files)) if quality_model(i) in files]
        missing = [n for n in (quality_model(0), COST_MODEL, ARRAYS) if n not in files]
        if missing:
            raise ArtifactError(f"the router lacks {missing[0]}: train it anew")
        names = [*bags, COST_MODEL]
        forest = read_forest([_text(files[n], n) for n in names], names=names)
        if not np.isnan(_scale(forest.objectives[-1], COST_MODEL)):
            raise ArtifactError(f"{COST_MODEL} predicts a probability: it must be a regression of the log cost")
        arrays = unpack_arrays(files[ARRAYS], what=ARRAYS)
        a, q = len(arms), len(quantiles)
        wanted = {"arm_features": (a, None), "cost_mean": (a,), "se_inflation": (a,)}
        wanted |= {"calibration_x": (None,), "calibration_y": (None,)}
        if q:
            wanted["latency"] = (a, q)
        if "seen_centres" in arrays:
            seen = len(features.names)
            wanted |= {"seen_mean": (seen,), "seen_weight": (seen,), "seen_centres": (None, seen), "seen_limit": (1,)}
        for name, shape in wanted.items():
            _check(arrays.get(name), name, shape, nan_ok=name == "latency")
        x, y = arrays["calibration_x"], arrays["calibration_y"]
        if len(x) != len(y) or not len(x) or (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
            raise ArtifactError(f"{ARRAYS}: calibration_x must rise and calibration_y not fall, with as many values")
        if (arrays["cost_mean"] <= 0).any() or (arrays["se_inflation"] < 0).any() or (y < 0).any() or (y > 1).any():
            raise ArtifactError(f"{ARRAYS}: cost_mean must be > 0, se_inflation >= 0, calibration_y in [0, 1]")
        d, k = len(features.names), arrays["arm_features"].shape[1]
        if forest.n_features != d + k:
            raise ArtifactError(
                f"the trees read {forest.n_features} features, but there are {d} of the prompt and {k} of "
                "the arm: train the router anew"
            )
        return cls(
            features=features,
            arms=arms,
            fallback=fallback,
            reference=reference,
            quantiles=quantiles,
            trees=forest.bind(arrays["arm_features"]),
            scales=np.array([_scale(o, n) for o, n in zip(forest.objectives[:-1], bags, strict=True)]),
            cost_mean=arrays["cost_mean"],
            se_inflation=arrays["se_inflation"],
            calibration_x=x,
            calibration_y=y,
            latency=arrays["latency"] if q else None,
            familiarity=_familiarity(arrays),
        )

    def bag_outputs(self, features: Floats) -> tuple[Floats, Floats]:
        """What the trees say before calibration, for prompt features (n, d).

        Returns the quality of every bag (n, a, bags), and the log of cost over the arm's mean cost (n, a).
        """
        raw = self.trees.raw(features)
        outputs = raw[:, :, :-1]
        sigmoid = ~np.isnan(self.scales)
        if sigmoid.any():
            exponent = np.clip(outputs * np.where(sigmoid, self.scales, 0.0), -700, 700)  # exp stays finite
            outputs = np.where(sigmoid, 1.0 / (1.0 + np.exp(-exponent)), outputs)
        return outputs, raw[:, :, -1]

    def predict(self, features: Floats) -> Estimates:
        """Estimate every arm for prompt features (n, d), columns as in `self.features.names`.

        quality    = calibrated mean of the bags
        benefit_se = se_inflation * standard deviation over the bags of (arm - fallback arm), before calibration;
                     STRANGE_SE for prompts unlike the training prompts
        cost       = mean cost of the arm * exp(cost model), within e^-12 .. e^12 of the mean
        latency    = quantiles of the arm * predicted cost / mean cost: a longer answer takes longer
        """
        bags, log_ratio = self.bag_outputs(features)
        quality = np.interp(bags.mean(axis=2), self.calibration_x, self.calibration_y)
        at = self.arms.index(self.fallback)
        difference = bags - bags[:, at : at + 1]
        spread = difference.std(axis=2, ddof=1) if bags.shape[2] > 1 else np.zeros(quality.shape)
        ratio = np.exp(np.clip(log_ratio, -MAX_LOG_COST_RATIO, MAX_LOG_COST_RATIO))
        benefit_se = self.se_inflation * spread
        if self.familiarity is not None:
            strange = self.familiarity.strange(features)[:, None] & (np.arange(len(self.arms)) != at)
            benefit_se = np.where(strange, STRANGE_SE, benefit_se)
        return Estimates(
            arms=self.arms,
            quality=quality,
            benefit_se=benefit_se,
            cost=self.cost_mean * ratio,
            latency=None if self.latency is None else self.latency * ratio[:, :, None],
            quantiles=self.quantiles,
            fallback=self.fallback,
            reference=self.reference,
        )

    def predict_texts(self, texts: Sequence[str]) -> Estimates:
        """Estimate every arm for prompts given as text."""
        return self.predict(featurize(texts, self.features).dense)


def _familiarity(arrays: Mapping[str, NDArray[Any]]) -> Familiarity | None:
    """What the arrays say of the training prompts; None for a router that was written without it."""
    if "seen_centres" not in arrays:
        return None
    if not len(arrays["seen_centres"]):
        raise ArtifactError(f"{ARRAYS}: seen_centres is empty: train the router anew")
    limit = float(arrays["seen_limit"][0])
    return Familiarity(arrays["seen_mean"], arrays["seen_weight"], arrays["seen_centres"], limit)


def _scale(objective: str, name: str) -> float:
    """Factor of the sigmoid that a model's objective applies to its raw sum; NaN for none."""
    kind, *settings = objective.split()
    if kind == "cross_entropy" and not settings:
        return 1.0
    if kind == "binary":
        return float(dict(s.split(":") for s in settings if ":" in s).get("sigmoid", "1"))
    if kind in _AS_IT_IS and "sqrt" not in settings:
        return float("nan")
    raise ArtifactError(
        f"{name} was trained with objective {objective!r}: howhard reads binary, cross_entropy, "
        f"{', '.join(sorted(_AS_IT_IS))}"
    )


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        raise ArtifactError(f"{name} is not text: train the router anew") from exc


def _check(array: NDArray[Any] | None, name: str, shape: tuple[int | None, ...], *, nan_ok: bool) -> None:
    if array is None:
        raise ArtifactError(f"{ARRAYS} lacks {name}: train the router anew")
    fits = array.ndim == len(shape) and all(w in (None, s) for w, s in zip(shape, array.shape, strict=True))
    if array.dtype != np.float64 or not fits:
        raise ArtifactError(f"{ARRAYS}: {name} is {array.dtype} {array.shape}: it must be float64 {shape}")
    ok = np.isfinite(array) | np.isnan(array) if nan_ok else np.isfinite(array)
    if not ok.all() or (nan_ok and (array < 0).any()):
        raise ArtifactError(f"{ARRAYS}: {name} holds a value that is not finite, or negative")
