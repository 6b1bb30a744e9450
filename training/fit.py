"""Fit a router's predictor to logged outcomes, and write the directory that a router loads.

Quality is learned by a few bags of boosted trees POOLED over the arms, on soft targets in [0, 1]. Each bag starts from
the arms' mean qualities (its first trees know nothing but the arm), so that what it does not learn it shrinks to the
best fixed arm by itself, and each is fitted on other prompts: the prompts that it has not seen stop it early, and
together give every training prompt an out-of-fold prediction. On those the calibration, the uncertainty and the
objective's value are set. howhard.router.predictor defines what is written, and reads it without LightGBM.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ..router.artifact import BackendFacts, Manifest, TrainingFacts, write_artifact
from ..router.estimates import Estimates
from ..router.familiarity import Familiarity, rooted
from ..router.features import Features, FeatureSpec, featurize
from ..router.objective import Objective
from ..router.policy import Policy, PolicySpec, UtilityPolicy
from ..router.predictor import STRANGE_SE, Predictor, pack_predictor
from ..strategies import ArmSpec, VerifierSpec
from ..strategies.errors import ConfigError, TableError
from .clusters import k_means
from .folds import Split, fold_of
from .matrix import OutcomeMatrix
from .threads import one_thread

if TYPE_CHECKING:
    import lightgbm as lgb

Progress = Callable[[int, int], None]

ARM_COLUMNS = 12
"""Least number of columns that describe the arm, copies counted: see `_arm_features`."""

QUANTILES = (0.5, 0.9, 0.95, 0.99)
"""Of latency: the median, which time is priced on, and the tails that deadlines ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How a predictor is fitted. The defaults were chosen on the public tables of shared/data.

    bags          : models of quality, each blind to one fold of the prompts; 2 or more.
    rounds, patience, learning_rate, leaves, min_rows, l2, column_share : of the boosted trees. `rounds` is the most
                    trees per bag: a decision's time grows with bags * rounds.
    tolerance     : quality that may be given up against the best fixed arm where `value` is chosen; `margin` standard
                    errors of that difference must be left to spare, because the cheapest of many points is chosen, and
                    flatters itself.
    policy        : what decides on the estimates; stored in the manifest.
    features      : what is read off a prompt.
    split         : how the bags' folds are made. "group" leaves whole families out: estimates, uncertainty and value
                    are then those for families never seen, for routers that will meet little else.
    centres, strange_share : of familiarity: the number of centres of the training prompts (at most one for 15
                    prompts), and the share of prompts like them that counts as strange all the same. Strange prompts
                    go to the fallback arm: on whole families left out of BIG-Bench Hard this cut the loss against the
                    best fixed arm from .079 to .018, and cost .04 of the savings on prompts of known families.
    seed          : of folds and trees; equal seeds and data give equal bytes.
    """

    bags: int = 4
    rounds: int = 150
    patience: int = 20
    learning_rate: float = 0.1
    leaves: int = 31
    min_rows: int = 50
    l2: float = 10.0
    column_share: float = 0.2
    tolerance: float = 0.01
    margin: float = 0.5
    policy: PolicySpec = field(default_factory=lambda: UtilityPolicy(guard=0.5))
    features: FeatureSpec = field(default_factory=FeatureSpec)
    split: Split = "prompt"
    centres: int = 64
    strange_share: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("bags", 2),
            ("rounds", 1),
            ("patience", 1),
            ("leaves", 2),
            ("min_rows", 1),
            ("centres", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)!r}: it must be at least {least}")
        if not 0 <= self.strange_share < 1:
            raise ConfigError(f"strange_share={self.strange_share!r}: it must lie in [0, 1)")
        if self.leaves > 64:
            raise ConfigError(f"leaves={self.leaves}: the router reads trees of at most 64 leaves")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A predictor, and what fitting learned about it.

    predictor  : of the very class, and from the very bytes (`files`), that a router loads.
    validation : out-of-fold estimates of the training prompts: each by the bag that did not see it.
    value      : of a correct answer: the cheapest point within the tolerance of the best fixed arm on validation.
    slope      : share of what the trees say beyond the arms' means that was kept, in [0, 1]; 0 = nothing was learned.
    trees      : of each bag, then of the cost model.
    unit, n_prompts : of the training table.
    """

    predictor: Predictor
    files: dict[str, bytes]
    validation: Estimates
    value: float
    slope: float
    trees: tuple[int, ...]
    unit: str
    n_prompts: int
    settings: FitSettings

    def predict(self, prompts: OutcomeMatrix, features: Features) -> Estimates:
        """Estimate the outcomes of new prompts (the forecaster's side of evaluate.py)."""
        return self.predictor.predict(features.dense)


@dataclass(frozen=True, slots=True)
class RouterForecaster:
    """The router's own predictor, in the form in which baselines are compared (see baselines.Forecaster)."""

    settings: FitSettings = field(default_factory=FitSettings)
    name: str = "router"

    def fit(self, train: OutcomeMatrix, features: Features, *, seed: int) -> Fitted:
        """Fit on the training prompts; the seed is that of the settings."""
        return fit(train, settings=self.settings, features=features)


def fit(
    matrix: OutcomeMatrix,
    *,
    settings: FitSettings | None = None,
    specs: Mapping[str, ArmSpec | None] | None = None,
    features: Features | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Fit a predictor to a table of outcomes.

    specs    : arm -> its ArmSpec, where known: their backend, kind, n and verifier become features of the arm.
    features : `featurize(matrix.texts, settings.features)` where the caller has it already.
    progress : called with the models fitted so far and their number.

    Raises TableError for fewer than two arms, an arm without a single outcome, or too few prompts to hold any out.
    """
    with one_thread():
        return _fit(matrix, settings or FitSettings(), specs or {}, features, progress)


def _fit(
    matrix: OutcomeMatrix,
    settings: FitSettings,
    specs: Mapping[str, ArmSpec | None],
    features: Features | None,
    progress: Progress | None,
) -> Fitted:
    a = len(matrix.arms)
    if a < 2:
        raise TableError(f"the table has one arm, {matrix.arms[0]!r}: a router chooses among two or more")
    empty = np.isnan(matrix.quality).all(axis=0)
    if empty.any():
        raise TableError(f"arm {matrix.arms[int(empty.argmax())]!r} has no outcome in the table: leave it out")
    if len(matrix) < 2 * settings.bags:
        raise TableError(f"{len(matrix)} prompts: at least {2 * settings.bags} are needed to fit a router and check it")
    x = (featurize(matrix.texts, settings.features) if features is None else features).dense
    fold = fold_of(matrix.families, split=settings.split, folds=settings.bags, seed=settings.seed)
    bags = int(fold.max()) + 1
    if bags < 2:
        raise TableError("all prompts fell into one fold: give more prompts")
    arms = _arm_features(matrix, specs)
    models = []
    for k in range(bags):
        models.append(_Bag.fit(matrix, x, arms, fold, k, settings))
        if progress is not None:
            progress(k + 1, bags + 1)
    cost = _cost_model(matrix, x, arms, fold, settings)
    if progress is not None:
        progress(bags + 1, bags + 1)

    has = ~np.isnan(matrix.quality)
    # Out of fold, and in log-odds: what each bag knew of the arm, and what it added for the prompt.
    base, added = np.full(has.shape, np.nan), np.full(has.shape, np.nan)
    for k, bag in enumerate(models):
        base[fold == k], added[fold == k] = bag.base, bag.out_of_fold
    slope = _slope(base, added, matrix.quality, has)
    for bag in models:
        bag.shrink(slope)
    raw = _sigmoid(base + slope * added)
    knots = _calibration(raw, matrix.quality, has)
    quality = np.interp(raw, *knots)

    best = matrix.best_arm
    latency = _latency(matrix)
    familiarity, strange = _familiarity(x, fold, settings)

    def pack(inflation: np.ndarray) -> dict[str, bytes]:
        return pack_predictor(
            quality_models=[bag.text for bag in models],
            cost_model=cost.text,
            arm_features=arms,
            cost_mean=cost.mean,
            se_inflation=inflation,
            calibration=knots,
            latency=latency,
            familiarity=familiarity,
        )

    reference = matrix.arms[int(np.argmin(matrix.arm_cost))]
    names: dict[str, Any] = {"arms": matrix.arms, "fallback": matrix.arms[best], "reference": reference}
    predictor = Predictor.of(
        pack(np.ones(a)), features=settings.features, quantiles=() if latency is None else QUANTILES, **names
    )
    error = _benefit_error(quality, matrix, best)
    every_se = np.where(strange[:, None] & (np.arange(a) != best), STRANGE_SE, error)
    in_bags, _ = predictor.bag_outputs(x)
    spread = (in_bags - in_bags[:, [best]]).std(axis=2, ddof=1)
    typical = np.sqrt((spread**2).mean(axis=0))
    inflation = np.where(typical > 0, np.clip(error / np.where(typical > 0, typical, 1.0), 0.5, 50.0), 1.0)
    inflation[best] = 1.0
    files = pack(inflation)
    validation = Estimates(
        quality=quality,
        benefit_se=every_se,
        cost=cost.mean * np.exp(cost.out_of_fold),
        **names,
    )
    return Fitted(
        predictor=dataclasses.replace(predictor, se_inflation=inflation),
        files=files,
        validation=validation,
        value=choose_value(validation, matrix, settings=settings),
        slope=slope,
        trees=(*(bag.n_trees for bag in models), cost.n_trees),
        unit=matrix.unit,
        n_prompts=len(matrix),
        settings=settings,
    )


def write_router(
    directory: str | Path,
    fitted: Fitted,
    *,
    dataset: str,
    objective: Objective | None = None,
    specs: Mapping[str, ArmSpec | None] | None = None,
    backends: Mapping[str, BackendFacts] | None = None,
    verifiers: Mapping[str, VerifierSpec] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Manifest:
    """Write the directory that Router.load reads; it must not exist yet, or be empty.

    dataset   : what it was trained on, in a few words. metrics : figures on held-out prompts.
    objective : the default one; None = the value that fitting chose, without limits.
    specs, verifiers : arm -> ArmSpec and name -> VerifierSpec, so that the router can run its arms; an arm without one
                came from an imported table and can be chosen, but not run. backends : what they were when trained.
    """
    specs = specs or {}
    predictor = fitted.predictor
    manifest = Manifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        howhard_version=version("howhard"),
        features=predictor.features,
        arms=predictor.arms,
        specs=tuple(specs.get(a) for a in predictor.arms),
        backends=dict(backends or {}),
        verifiers=dict(verifiers or {}),
        reference=predictor.reference,
        fallback=predictor.fallback,
        objective=objective or Objective(value=fitted.value),
        policy=fitted.settings.policy,
        currency=fitted.unit,
        quantiles=predictor.quantiles,
        training=TrainingFacts(n_prompts=fitted.n_prompts, dataset=dataset, metrics=dict(metrics or {})),
    )
    return write_artifact(directory, manifest, fitted.files)


# ── the objective's value ────────────────────────────────────────────────────────────────────────────────────────


def value_grid(matrix: OutcomeMatrix, *, points: int = 61) -> np.ndarray:
    """Values of a correct answer from "nothing but the cheapest arm" to "whatever helps", ascending, (points,).

    From half the smallest gap between two arms' mean costs, below which no gain in quality pays, to 300 times the
    dearest arm's cost, where a gain of 1/300 pays for any arm.
    """
    cost = np.sort(matrix.arm_cost)
    gaps = np.diff(cost)[np.diff(cost) > 1e-12]
    top = float(cost[-1])
    if top <= 0:
        return np.ones(1)
    low = float(gaps.min()) / 2 if len(gaps) else top / 2
    return np.geomspace(min(low, top / 2), 300 * top, points)


def choose_value(
    validation: Estimates,
    matrix: OutcomeMatrix,
    *,
    settings: FitSettings,
    policy: Policy | None = None,
) -> float:
    """The value of a correct answer whose picks are the cheapest that keep the best fixed arm's quality.

        mean d - margin * se(d) >= -tolerance,      d = quality of the pick - quality of the best fixed arm, per prompt

    validation : estimates of `matrix`'s prompts by models that did not see them. Picks are paid what the table says,
                 without an outcome the arm's mean. Where no value comes that near, the best quality wins.
    policy     : None = that of the settings.
    """
    policy = policy or settings.policy
    filled_q = np.where(np.isnan(matrix.quality), matrix.arm_quality, matrix.quality)
    filled_c = np.where(np.isnan(matrix.cost), matrix.arm_cost, matrix.cost)
    rows = np.arange(len(matrix))
    by_family = settings.split == "group"
    unit = np.unique(np.asarray(matrix.families, dtype=str), return_inverse=True)[1] if by_family else rows
    grid, best = value_grid(matrix), matrix.best_arm
    mean, error, cost = np.empty(len(grid)), np.empty(len(grid)), np.empty(len(grid))
    rng = np.random.default_rng(settings.seed) if policy.random else None
    for i, v in enumerate(grid):
        picks = policy.choose(validation, Objective(value=float(v)), rng=rng).index
        d = filled_q[rows, picks] - filled_q[:, best]
        mean[i], cost[i] = d.mean(), filled_c[rows, picks].mean()
        error[i] = np.sqrt((np.bincount(unit, d - d.mean()) ** 2).sum()) / len(d)
    enough = mean - settings.margin * error >= -settings.tolerance
    if not enough.any():
        enough = mean >= mean.max() - 1e-12
    return float(grid[int(np.where(enough, cost, np.inf).argmin())])


# ── boosted trees ────────────────────────────────────────────────────────────────────────────────────────────────


def _parameters(settings: FitSettings, seed: int, **changes: Any) -> dict[str, Any]:
    """LightGBM's settings. One booster at a time: two, fitted from two Python threads, crashed the process."""
    return {
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": settings.min_rows,
        "lambda_l2": settings.l2,
        "feature_fraction": settings.column_share,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "max_bin": 63,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "seed": seed,
        "verbosity": -1,
        **changes,
    }


def _pooled(x: np.ndarray, arms: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows [prompt features | arm features] for prompts x arms, arms varying fastest, float32."""
    n, a = len(rows), len(arms)
    out = np.empty((n * a, x.shape[1] + arms.shape[1]), dtype=np.float32)
    out[:, : x.shape[1]] = np.repeat(x[rows], a, axis=0)
    out[:, x.shape[1] :] = np.tile(arms, (n, 1))
    return out


class _Bag:
    """Boosted trees of quality, fitted without one fold of the prompts; the first tree knows nothing but the arm.

    base, out_of_fold : log-odds (n_fold, a) of the prompts left out: of the arm alone, and what the prompt adds.
    """

    def __init__(self, text: str, base: np.ndarray, added: np.ndarray) -> None:
        self.text, self.base, self.out_of_fold = text, base, added

    @classmethod
    def fit(
        cls, matrix: OutcomeMatrix, x: np.ndarray, arms: np.ndarray, fold: np.ndarray, k: int, settings: FitSettings
    ) -> "_Bag":
        """Fit on the prompts outside of fold k, stopped by those inside."""
        import lightgbm as lgb

        a = len(arms)
        inside, outside = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        rows, held = _pooled(x, arms, inside), _pooled(x, arms, outside)
        y, y_held = matrix.quality[inside].ravel(), matrix.quality[outside].ravel()
        known, judged = ~np.isnan(y), ~np.isnan(y_held)
        seed = settings.seed * 1009 + k
        parameters = _parameters(settings, seed, objective="cross_entropy")
        first = _arm_tree(rows[known], y[known], np.tile(np.arange(a), len(inside))[known], arms, parameters)
        base = _raw(first, held, a)
        text, added = first.model_to_string(), np.zeros_like(base)
        if judged.any():
            data = lgb.Dataset(rows[known], y[known], free_raw_data=False)
            check = lgb.Dataset(held[judged], y_held[judged], reference=data, free_raw_data=False)
            booster = lgb.train(
                parameters,
                data,
                settings.rounds,
                valid_sets=[check],
                init_model=first,
                callbacks=[lgb.early_stopping(settings.patience, verbose=False)],
            )
            grown = _raw(booster, held, a) - base
            if _log_loss(base + grown, matrix.quality[outside]) < _log_loss(base, matrix.quality[outside]):
                text, added = booster.model_to_string(num_iteration=booster.best_iteration), grown
        return cls(text, base, added)

    @property
    def n_trees(self) -> int:
        """Number of trees, the arm's own included."""
        return self.text.count("\nTree=")

    def shrink(self, slope: float) -> None:
        """Multiply what the prompt adds by `slope`; at 0 the arm's own tree alone is left."""
        import lightgbm as lgb

        if slope == 1:
            return
        booster = lgb.Booster(model_str=self.text)
        if slope == 0:
            self.text = booster.model_to_string(num_iteration=1)
            return
        for tree, leaves in enumerate(_leaf_counts(self.text)):
            for leaf in range(leaves if tree else 0):
                booster.set_leaf_output(tree, leaf, slope * booster.get_leaf_output(tree, leaf))
        self.text = booster.model_to_string()


def _arm_tree(
    rows: np.ndarray, y: np.ndarray, arm: np.ndarray, arms: np.ndarray, parameters: dict[str, Any]
) -> "lgb.Booster":
    """One tree that reads the arm's features alone; a leaf is the log-odds of the mean quality of its arms.

    With up to 64 arms each has a leaf, but for arms of the very same mean, which share one. `arm` is the number of
    each row's arm in the table `arms` of their features.
    """
    import lightgbm as lgb

    a, d = len(arms), rows.shape[1] - arms.shape[1]
    blind = rows.copy()
    blind[:, :d] = 0
    own = {
        "num_leaves": max(2, min(a, 64)),
        "min_data_in_leaf": 1,
        "min_sum_hessian_in_leaf": 0.0,
        "min_data_in_bin": 1,
        "max_bin": 255,
        "lambda_l2": 0.0,
        "feature_fraction": 1.0,
        "bagging_fraction": 1.0,
    }
    booster = lgb.train({**parameters, **own}, lgb.Dataset(blind, y), 1)
    each = _pooled(np.zeros((1, d), dtype=np.float32), arms, np.zeros(1, dtype=int))
    leaf = np.asarray(booster.predict(each, pred_leaf=True, num_threads=1)).reshape(-1).astype(int)
    for i in np.unique(leaf):
        of_leaf = y[leaf[arm] == i]
        mean = (of_leaf.sum() + 0.5) / (len(of_leaf) + 1)
        booster.set_leaf_output(0, int(i), math.log(mean / (1 - mean)))
    return lgb.Booster(model_str=booster.model_to_string())


def _raw(booster: "lgb.Booster", rows: np.ndarray, a: int) -> np.ndarray:
    """Sums of the trees up to the best iteration, (n, a)."""
    return np.asarray(booster.predict(rows, raw_score=True, num_threads=1)).reshape(-1, a)


def _leaf_counts(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"^num_leaves=(\d+)$", text, flags=re.MULTILINE)]


@dataclass(frozen=True, slots=True)
class _CostModel:
    """Boosted trees of log(cost / the arm's mean cost); `out_of_fold` (n, a) is what others' trees say of a prompt.

    mean : (a,), corrected so that the exponentials of the out-of-fold predictions average to the logged mean: the
           mean of a logarithm alone would put long answers' costs too low.
    """

    text: str
    out_of_fold: np.ndarray
    mean: np.ndarray

    @property
    def n_trees(self) -> int:
        return self.text.count("\nTree=")


def _cost_model(
    matrix: OutcomeMatrix, x: np.ndarray, arms: np.ndarray, fold: np.ndarray, settings: FitSettings
) -> _CostModel:
    import lightgbm as lgb

    a = len(arms)
    mean = np.maximum(matrix.arm_cost, 1e-12)
    # A thousandth of the mean stands for a free answer, whose logarithm has no end.
    target = np.log(np.maximum(matrix.cost / mean, 1e-3))
    parameters = _parameters(settings, settings.seed, objective="regression", num_leaves=min(15, settings.leaves))
    log_ratio, rounds = np.zeros(target.shape), []
    for k in range(int(fold.max()) + 1):
        inside, outside = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        rows, held = _pooled(x, arms, inside), _pooled(x, arms, outside)
        y, y_held = target[inside].ravel(), target[outside].ravel()
        known, judged = ~np.isnan(y), ~np.isnan(y_held)
        data = lgb.Dataset(rows[known], y[known])
        if not judged.any():
            continue
        booster = lgb.train(
            parameters,
            data,
            max(1, settings.rounds // 2),
            valid_sets=[lgb.Dataset(held[judged], y_held[judged], reference=data)],
            callbacks=[lgb.early_stopping(max(1, settings.patience // 2), verbose=False)],
        )
        rounds.append(booster.best_iteration or 1)
        log_ratio[outside] = _raw(booster, held, a)
    rows, y = _pooled(x, arms, np.arange(len(x))), target.ravel()
    known = ~np.isnan(y)
    booster = lgb.train(parameters, lgb.Dataset(rows[known], y[known]), int(np.median(rounds)))
    smeared = np.nanmean(np.where(np.isnan(target), np.nan, np.exp(log_ratio)), axis=0)
    return _CostModel(booster.model_to_string(), log_ratio, mean / smeared)


# ── what is known of an arm, and how sure the predictions are ────────────────────────────────────────────────────


def _arm_features(matrix: OutcomeMatrix, specs: Mapping[str, ArmSpec | None]) -> np.ndarray:
    """Features (a, k) of the arms: rank by mean quality, mean quality, log mean cost; and their specs, where known.

    Of the specs: number of the backend, of the strategy's kind and of the verifier (in alphabetical order, 0 = none),
    and log2 of n (width times branches of a tree search). An arm whose spec is not known has -1 in all four. The
    columns are repeated until there are ARM_COLUMNS or more.
    """
    quality, cost = matrix.arm_quality, np.maximum(matrix.arm_cost, 1e-12)
    rank = np.argsort(np.argsort(quality, kind="stable"), kind="stable").astype(float)
    columns = [rank, quality, np.log(cost / cost.mean())]
    plain = {a: msgspec.to_builtins(s) for a, s in specs.items() if s and a in matrix.arms}
    if plain:
        strategies = {a: s.get("strategy", {}) for a, s in plain.items()}
        for of in (
            {a: s.get("backend") for a, s in plain.items()},
            {a: s.get("kind") for a, s in strategies.items()},
            {a: s.get("verifier") for a, s in strategies.items()},
        ):
            number = {w: i + 1 for i, w in enumerate(sorted({str(w) for w in of.values() if w is not None}))}
            columns.append(np.array([number.get(str(of[a]), 0) if a in of else -1 for a in matrix.arms], float))
        columns.append(np.array([_log2_n(strategies[a]) if a in strategies else -1 for a in matrix.arms], float))
    table = np.stack(columns, axis=1)
    # Each tree draws a share of the columns: with one copy of three, half of the trees could not tell arms apart, and
    # the differences between arms, which the router acts on, were learned worse (bbh .125 -> .137 of their variance).
    return np.tile(table, (1, -(-ARM_COLUMNS // table.shape[1])))


def _log2_n(strategy: Mapping[str, Any]) -> float:
    """Samples of a whole answer, or of a step where it searches, in powers of two."""
    return math.log2(strategy.get("n") or strategy.get("width", 1) * strategy.get("branches", 1))


def _familiarity(x: np.ndarray, fold: np.ndarray, settings: FitSettings) -> tuple[Familiarity, np.ndarray]:
    """The training prompts' familiarity, and which of them (n,) are strange to the others.

    Each prompt's distance is measured from the centres of the folds it is not in; the limit is the quantile of these
    that leaves `strange_share` beyond it.
    """
    root = rooted(x)
    mean, spread = root.mean(axis=0), root.std(axis=0)
    # A column that never varied counts as it is: where a prompt is the first to have it, that is news.
    weight = 1 / np.where(spread > 1e-6, spread, 1.0)

    def centred(rows: np.ndarray) -> Familiarity:
        frame = Familiarity(mean, weight, np.zeros((1, x.shape[1])), math.inf)
        k = min(settings.centres, max(1, len(rows) // 15))
        return dataclasses.replace(frame, centres=k_means(frame.standardised(x[rows]), k, settings.seed))

    distance = np.empty(len(x))
    for k in range(int(fold.max()) + 1):
        distance[fold == k] = centred(np.flatnonzero(fold != k)).distance(x[fold == k])
    limit = float(np.quantile(distance, 1 - settings.strange_share))
    return dataclasses.replace(centred(np.arange(len(x))), limit=limit), distance > limit


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _log_loss(log_odds: np.ndarray, y: np.ndarray) -> float:
    """Mean cross-entropy of soft targets y, NaN left out: log(1 + e^z) - y z."""
    return float(np.nanmean(np.logaddexp(0, log_odds) - y * log_odds))


def _slope(base: np.ndarray, added: np.ndarray, y: np.ndarray, has: np.ndarray) -> float:
    """Share in [0, 1] of the added log-odds that predicts unseen prompts best; 0 where nothing was learned."""
    if not added[has].any():
        return 0.0
    tried = np.linspace(0, 1, 21)
    losses = [_log_loss((base + s * added)[has], y[has]) for s in tried]
    return float(tried[int(np.argmin(losses))])


def _calibration(
    raw: np.ndarray, y: np.ndarray, has: np.ndarray, *, prior: float = 20.0
) -> tuple[np.ndarray, np.ndarray]:
    """Knots of a beta calibration of out-of-fold predictions, held to the identity by a prior of so many rows.

        sigmoid(c + a ln p - b ln(1 - p)),   a, b >= 0

    Rising by its form, and of three parameters, so that a few hundred rows cannot bend it to their noise.
    Source: Kull, Silva Filho & Flach 2017, "Beta calibration".
    """
    p = np.clip(raw[has], 1e-4, 1 - 1e-4)
    columns = np.stack([np.log(p), -np.log1p(-p), np.ones_like(p)], axis=1)
    start = np.array([1.0, 1.0, 0.0])
    ridge = prior * np.diag([1.0, 1.0, 0.25])
    theta = start.copy()
    for _ in range(30):
        q = _sigmoid(columns @ theta)
        slope = columns.T @ (q - y[has]) + ridge @ (theta - start)
        curve = (columns * (q * (1 - q))[:, None]).T @ columns + ridge
        step = np.linalg.solve(curve, slope)
        theta = theta - step
        theta[:2] = np.maximum(theta[:2], 0.0)
        if np.abs(step).max() < 1e-8:
            break
    x = np.concatenate([[0.0], _sigmoid(np.linspace(-6, 6, 49)), [1.0]])
    inner = np.clip(x, 1e-4, 1 - 1e-4)
    z = np.stack([np.log(inner), -np.log1p(-inner), np.ones_like(inner)], axis=1) @ theta
    return x, np.maximum.accumulate(_sigmoid(z))


def _benefit_error(quality: np.ndarray, matrix: OutcomeMatrix, best: int) -> np.ndarray:
    """Root mean square error (a,) of the predicted differences to the best fixed arm, the outcomes' noise taken out.

    A single outcome is noise around what was predicted, but the mean residual of a cell of n alike prompts is not:

        error^2 = sum_c (n_c / n) * (mean_c^2 - variance_c / n_c)

    over families, and over deciles of the predicted difference; the larger counts, and never less than the square of
    the standard error of the arm's mean difference.
    """
    residual = (matrix.quality - matrix.quality[:, [best]]) - (quality - quality[:, [best]])
    family = np.unique(np.asarray(matrix.families, dtype=str), return_inverse=True)[1]
    error = np.zeros(residual.shape[1])
    for j in range(residual.shape[1]):
        there = ~np.isnan(residual[:, j])
        r = residual[there, j]
        if j == best or len(r) < 2:
            continue
        predicted = (quality[:, j] - quality[:, best])[there]
        decile = np.empty(len(r), dtype=int)
        decile[np.argsort(predicted, kind="stable")] = np.arange(len(r)) * min(10, len(r) // 2) // len(r)
        least = r.var(ddof=1) / len(r)
        error[j] = math.sqrt(max(least, _systematic(r, family[there]), _systematic(r, decile)))
    return error


def _systematic(residual: np.ndarray, cell: np.ndarray) -> float:
    n = np.bincount(cell).astype(float)
    used = n >= 2
    safe = np.where(used, n, 2)
    mean = np.bincount(cell, residual) / np.maximum(n, 1)
    square = np.bincount(cell, residual**2) / np.maximum(n, 1)
    variance = np.maximum(square - mean**2, 0) * safe / (safe - 1)
    return float((n / n.sum() * (mean**2 - variance / safe))[used].sum())


def _latency(matrix: OutcomeMatrix) -> np.ndarray | None:
    """Quantiles (a, q) of each arm's measured seconds; None where no arm was timed."""
    if np.isnan(matrix.latency).all():
        return None
    timed = [column[~np.isnan(column)] for column in matrix.latency.T]
    return np.stack([np.quantile(t, QUANTILES) if len(t) else np.full(len(QUANTILES), np.nan) for t in timed])
