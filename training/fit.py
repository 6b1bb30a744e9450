"""Fit a router's predictor to logged outcomes, and write the directory that a router loads.

The prompts are dealt into folds. Every component of the quality (learners.py) is fitted once without each fold, so that
together its members predict every training prompt without having seen it; on those out-of-fold predictions the
components are weighed and calibrated (stacking.py), the uncertainty and the guard are learned (guard.py), and the
objective's value is chosen. howhard.router.predictor defines what is written, and reads it with numpy alone.
"""

import dataclasses
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ..router.artifact import BackendFacts, Manifest, TrainingFacts, write_artifact
from ..router.encoder import open_encoder
from ..router.estimates import ArmMeans, Estimates, FixedArms
from ..router.features import Features, FeatureSpec, featurize, identified
from ..router.objective import Objective
from ..router.plan import Plan, plan_name
from ..router.policy import Policy, PolicySpec, UtilityPolicy
from ..router.predictor import Predictor
from ..router.success import SuccessModel
from ..strategies import ArmSpec, VerifierSpec
from ..strategies.errors import ConfigError, TableError, nearest
from .arm_features import arm_features
from .embedding_cache import CachedEncoder
from .fit_success import fit_success
from .folds import Split, fold_of
from .guard import FEWEST_FAMILIES, GuardReport, GuardSettings, learn_uncertainty
from .learn_joint_trees import JointTreesLearner
from .learn_linear import AmountsLearner, EncoderLearner, LearnedAmounts, TextLearner, TwoParameterLearner
from .learn_neighbours import NeighboursLearner, cells_learner
from .learn_trees import TreesLearner
from .learners import Learned, Learner, Lesson
from .matrix import OutcomeMatrix
from .provenance import PROMPTS_FILE, code_version, data_version, pack_prompts
from .stacking import Stack, mean_log_odds, sharpened, stack
from .threads import one_thread

Progress = Callable[[int, int], None]

QUANTILES = (0.5, 0.9, 0.95, 0.99)
"""Of latency: the median, which time is priced on, and the tails that deadlines ask for."""

COMPONENTS = ("text", "encoder", "two_parameter", "neighbours", "cells", "joint_trees", "trees", "trees_per_arm")
"""Every component that can be fitted; "encoder" is passed over where the features have no embedding."""

FAMILY_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How a predictor is fitted. The defaults were chosen by out-of-fold error on the public tables of shared/data.

    components : names out of COMPONENTS, for choice: what out-of-fold predictions give no weight is not kept.
    folds      : of the prompts; as many members of every component, each blind to one fold. 2 or more.
    joint_trees, trees : how boosted trees are grown.
    guard      : how uncertainty and the strength of the guard are learned.
    tolerance  : quality that may be given up against the best fixed arm where `value` is chosen; `margin` standard
                 errors of that difference must be left to spare, because the cheapest of many points is chosen, and
                 flatters itself.
    policy     : what decides on the estimates; stored in the manifest. None = the highest utility under the guard of
                 the strength that was learned.
    features   : what is read off a prompt.
    split      : how the folds are made. "group" leaves whole families out: estimates, uncertainty and value are then
                 those for families never seen, for routers that will meet little else.
    seed       : of everything random; equal seeds and data give equal bytes.
    """

    components: tuple[str, ...] = ("text", "encoder", "neighbours", "joint_trees")
    folds: int = 4
    joint_trees: JointTreesLearner = field(default_factory=JointTreesLearner)
    trees: TreesLearner = field(default_factory=TreesLearner)
    guard: GuardSettings = field(default_factory=GuardSettings)
    tolerance: float = 0.01
    margin: float = 0.5
    policy: PolicySpec | None = None
    features: FeatureSpec = field(default_factory=FeatureSpec)
    split: Split = "prompt"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.components:
            if name not in COMPONENTS:
                raise ConfigError(f"components: there is no {name!r}{nearest(name, COMPONENTS)}")
        if not self.components or len(set(self.components)) < len(self.components):
            every = ", ".join(COMPONENTS)
            raise ConfigError(f"components={self.components!r}: name at least one of {every}, each once")
        if self.folds < 2:
            raise ConfigError(f"folds={self.folds!r}: it must be at least 2")
        if self.split not in ("prompt", "group"):
            raise ConfigError(f"split={self.split!r}: a router's folds are made by 'prompt' or by 'group'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A predictor, and what fitting learned about it.

    predictor  : of the very class, and from the very bytes (`files`), that a router loads.
    validation : out-of-fold estimates of the training prompts: each by the members that did not see it.
    fold       : (n,) of the training prompts.
    value      : of a correct answer: the cheapest point within the tolerance of the best fixed arm on validation.
    values     : the least and the greatest value that were looked at.
    policy     : what decides on the estimates, with the guard that was learned.
    weights    : of every component that was tried, the mean of its two, 0 where it was left out.
    gain       : log loss per outcome that the components take off that of the arms' means; 0 = nothing was learned.
    guard      : what was seen when the guard was chosen.
    unit, n_prompts, data_version : of the training table.
    """

    predictor: Predictor
    files: dict[str, bytes]
    validation: Estimates
    fold: np.ndarray
    value: float
    values: tuple[float, float]
    policy: PolicySpec
    weights: dict[str, float]
    gain: float
    guard: GuardReport
    unit: str
    n_prompts: int
    data_version: str
    settings: FitSettings

    def predict(self, prompts: OutcomeMatrix, features: Features) -> Estimates:
        """Estimate the outcomes of new prompts (the forecaster's side of evaluate.py)."""
        return self.predictor.predict(features)


@dataclass(frozen=True, slots=True)
class RouterForecaster:
    """The router's own predictor, in the form in which baselines are compared (see baselines.Forecaster)."""

    settings: FitSettings = field(default_factory=FitSettings)
    name: str = "router"
    specs: Mapping[str, ArmSpec | None] = field(default_factory=dict)
    verifiers: Mapping[str, VerifierSpec] = field(default_factory=dict)

    def fit(self, train: OutcomeMatrix, features: Features, *, seed: int) -> Fitted:
        """Fit on the training prompts; the seed is that of the settings."""
        return fit(train, settings=self.settings, specs=self.specs, verifiers=self.verifiers, features=features)


def features_of(texts: Sequence[str], spec: FeatureSpec) -> Features:
    """Features of the prompts of a table: those of `featurize`, embeddings from the cache on disk where it has them."""
    encoder = None if spec.encoder is None else CachedEncoder(open_encoder(spec.encoder))
    return featurize(texts, spec, encoder)


def fit(
    matrix: OutcomeMatrix,
    *,
    settings: FitSettings | None = None,
    specs: Mapping[str, ArmSpec | None] | None = None,
    verifiers: Mapping[str, VerifierSpec] | None = None,
    features: Features | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Fit a predictor to a table of outcomes.

    specs     : arm -> its ArmSpec, where known: their backend, kind, n and verifier become features of the arm.
    verifiers : name -> VerifierSpec, where known: they say which arms have a sound verifier, and so cannot lose by more
                samples.
    features  : `features_of(matrix.texts, settings.features)` where the caller has it already.
    progress  : called with the steps done so far and their number.

    Raises TableError for fewer than two arms, an arm without a single outcome, a quality outside [0, 1], or too few
    prompts to hold any out.
    """
    with one_thread():
        return _fit(matrix, settings or FitSettings(), specs or {}, verifiers or {}, features, progress)


def _fit(
    matrix: OutcomeMatrix,
    settings: FitSettings,
    specs: Mapping[str, ArmSpec | None],
    verifiers: Mapping[str, VerifierSpec],
    features: Features | None,
    progress: Progress | None,
) -> Fitted:
    _check(matrix, settings)
    settings = dataclasses.replace(settings, features=identified(settings.features))
    x = features_of(matrix.texts, settings.features) if features is None else features
    learners = _learners(settings, x)
    by_family = settings.split == "prompt" and len(set(matrix.families)) >= FEWEST_FAMILIES
    steps = iter(range(1, 100))
    total = len(learners) * (3 if by_family else 2) + 3

    def step() -> None:
        if progress is not None:
            progress(next(steps), total)

    step()
    arms = arm_features(matrix, specs, verifiers)

    def lesson_of(split: Split, folds: int, seed: int = settings.seed) -> Lesson:
        fold = fold_of(matrix.families, split=split, folds=folds, seed=seed, clusters=matrix.clusters)
        base = np.stack([mean_log_odds(matrix.quality[fold != k]) for k in range(int(fold.max()) + 1)])
        return Lesson(matrix=matrix, x=x, arms=arms.table, rising=arms.rising, fold=fold, base=base, seed=seed)

    lesson = lesson_of(settings.split, settings.folds)
    if lesson.members < 2:
        raise TableError("all prompts fell into one fold: give more prompts")
    amounts_learner = AmountsLearner(columns=_named(settings.features))
    amounts = amounts_learner.fit(lesson)
    step()
    learned: list[Learned] = []
    for learner in learners:
        learned.append(learner.fit(lesson))
        step()
    out_of_fold = [one.out_of_fold for one in learned]
    weighed = stack(out_of_fold, matrix.quality, lesson.fold)

    def again(lesson: Lesson) -> list[np.ndarray]:
        """What the components that count add out of fold, fitted on other folds; 0 for those that do not."""
        added = []
        for learner, weight in zip(learners, weighed.weights, strict=True):
            added.append(learner.fit(lesson).out_of_fold if weight.any() else np.zeros(matrix.quality.shape))
            step()
        return added

    dealt_anew = again(lesson_of(settings.split, settings.folds, settings.seed + 1))
    stacked = sharpened(weighed, out_of_fold, dealt_anew, matrix.quality, members=lesson.members)
    success = fit_success(matrix, stacked.quality, specs=specs, verifiers=verifiers)

    # Whole families left out: what the predictions are worth on prompts that are like none of the training prompts.
    family_quality = family_cost = family_fold = None
    if settings.split == "group":
        family_quality, family_cost, family_fold = stacked.quality, amounts.cost, lesson.fold
    elif by_family:
        apart = lesson_of("group", FAMILY_FOLDS)
        family_quality, family_fold = weighed.of(again(apart)), apart.fold
        family_cost = amounts_learner.fit(apart).cost
    mean_cost = matrix.arm_cost
    draft = _draft(matrix, settings, stacked, learned, success, amounts)
    by_member = draft.member_quality(x)
    quality = _applied(success, stacked.quality)
    uncertainty = learn_uncertainty(
        matrix,
        x,
        fold=lesson.fold,
        quality=quality,
        members=by_member,
        cost=mean_cost * amounts.cost,
        family_quality=None if family_quality is None else _applied(success, family_quality),
        family_cost=None if family_cost is None else mean_cost * family_cost,
        family_fold=family_fold,
        settings=settings.guard,
        seed=settings.seed,
    )
    files = dataclasses.replace(
        draft,
        inflation=uncertainty.inflation,
        floor=uncertainty.floor,
        strange_se=uncertainty.strange_se,
        familiarity=uncertainty.familiarity,
    ).pack()
    predictor = Predictor.of(
        files,
        features=draft.features,
        arms=draft.arms,
        fallback=draft.fallback,
        reference=draft.reference,
        quantiles=draft.quantiles,
    )
    policy = settings.policy or UtilityPolicy(guard=uncertainty.guard)
    error = uncertainty.difference_se(by_member)
    validation = Estimates(
        arms=matrix.arms,
        quality=quality,
        benefit_se=error[:, :, matrix.best_arm],
        cost=mean_cost * amounts.cost,
        latency=None if predictor.latency is None else predictor.latency * amounts.cost[:, :, None],
        quantiles=predictor.quantiles,
        fallback=predictor.fallback,
        reference=predictor.reference,
        fixed=FixedArms(means=predictor.means, difference_se=error),
        tokens=None if np.isnan(predictor.tokens).all() else predictor.tokens * amounts.tokens,
        familiar=~uncertainty.strange,
    )
    grid = value_grid(matrix)
    value = choose_value(validation, matrix, settings=settings, policy=policy)
    step()
    return Fitted(
        predictor=predictor,
        files={**files, PROMPTS_FILE: pack_prompts(matrix.texts)},
        validation=validation,
        fold=lesson.fold,
        value=value,
        values=(float(grid[0]), float(grid[-1])),
        policy=policy,
        weights={learner.name: float(w.mean()) for learner, w in zip(learners, stacked.weights, strict=True)},
        gain=stacked.gain,
        guard=uncertainty.report,
        unit=matrix.unit,
        n_prompts=len(matrix),
        data_version=data_version(matrix),
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
    plans: Sequence[Plan] = (),
) -> Manifest:
    """Write the directory that Router.load reads; it must not exist yet, or be empty.

    dataset   : what it was trained on, in a few words. metrics : figures on held-out prompts.
    objective : the default one; None = the value that fitting chose, without limits.
    plans     : that decide in flight, the best first; see Manifest.plans.
    specs, verifiers : arm -> ArmSpec and name -> VerifierSpec, so that the router can run its arms; an arm without one
                came from an imported table and can be chosen, but not run. backends : what they were when trained.
    """
    specs = specs or {}
    predictor = fitted.predictor
    manifest = Manifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        howhard_version=code_version(),
        features=predictor.features,
        arms=predictor.arms,
        specs=tuple(specs.get(a) for a in predictor.arms),
        backends=dict(backends or {}),
        verifiers=dict(verifiers or {}),
        reference=predictor.reference,
        fallback=predictor.fallback,
        objective=objective or Objective(value=fitted.value),
        policy=fitted.policy,
        currency=fitted.unit,
        quantiles=predictor.quantiles,
        training=TrainingFacts(
            n_prompts=fitted.n_prompts,
            dataset=dataset,
            data_version=fitted.data_version,
            values=fitted.values,
            metrics=dict(metrics or {}),
        ),
        plans=tuple(plan.facts for plan in plans),
    )
    packed = [plan.pack(plan_name(i)) for i, plan in enumerate(plans)]
    return write_artifact(directory, manifest, dict(ChainMap(fitted.files, *packed)))


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
    policy     : what picks; None = that of the settings, or the highest utility without a guard.
    """
    policy = policy or settings.policy or UtilityPolicy()
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


# ── the parts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _check(matrix: OutcomeMatrix, settings: FitSettings) -> None:
    if len(matrix.arms) == 1:
        raise TableError(f"the table has one arm, {matrix.arms[0]!r}: a router chooses among two or more")
    for j, arm in enumerate(matrix.arms):
        known = matrix.quality[:, j][~np.isnan(matrix.quality[:, j])]
        if not len(known):
            raise TableError(f"arm {arm!r} has no outcome in the table: leave it out")
        if known.min() < 0 or known.max() > 1:
            bad = known.min() if known.min() < 0 else known.max()
            raise TableError(f"arm {arm!r} has a quality of {bad:g}: it must lie in [0, 1]")
    least = 2 * settings.folds
    if len(matrix) < least:
        raise TableError(f"{len(matrix)} prompts: at least {least} are needed to fit a router and check it")


def _named(features: FeatureSpec) -> int:
    """How many of the dense columns have a meaning of their own; hashed ones, which the text holds too, come last."""
    return len(features.names) - features.n_hashed


def _learners(settings: FitSettings, x: Features) -> list[Learner]:
    named = _named(settings.features)
    every: dict[str, Learner] = {
        "text": TextLearner(columns=named),
        "encoder": EncoderLearner(),
        "two_parameter": TwoParameterLearner(columns=named),
        "neighbours": NeighboursLearner(),
        "cells": cells_learner(),
        "joint_trees": settings.joint_trees,
        "trees": dataclasses.replace(settings.trees, per_arm=False),
        "trees_per_arm": dataclasses.replace(settings.trees, per_arm=True),
    }
    return [every[name] for name in settings.components if name != "encoder" or x.embedding is not None]


def _applied(success: SuccessModel | None, quality: np.ndarray) -> np.ndarray:
    return quality if success is None else success.apply(quality)


def _draft(
    matrix: OutcomeMatrix,
    settings: FitSettings,
    stacked: Stack,
    learned: Sequence[Learned],
    success: SuccessModel | None,
    amounts: LearnedAmounts,
) -> Predictor:
    """The predictor without its uncertainty: every prompt familiar, and no doubt about any difference."""
    a = len(matrix.arms)
    kept = [(one.component, w) for one, w in zip(learned, stacked.weights, strict=True) if w.any()]
    kept.sort(key=lambda pair: pair[0].name)  # the order in which they are read, so that sums agree to the last bit
    latency = _latency(matrix, amounts.cost)
    timed = ~np.isnan(matrix.latency).all(axis=0)
    seconds, tokens = np.full(a, np.nan), np.full(a, np.nan)
    counted = ~np.isnan(matrix.tokens).all(axis=0)
    if timed.any():
        seconds[timed] = np.nanmedian(matrix.latency[:, timed], axis=0)
    if counted.any():
        tokens[counted] = np.nanmean(matrix.tokens[:, counted], axis=0)
    return Predictor(
        features=settings.features,
        arms=matrix.arms,
        fallback=matrix.arms[matrix.best_arm],
        reference=matrix.arms[int(np.argmin(matrix.arm_cost))],
        quantiles=() if latency is None else QUANTILES,
        components=tuple(component for component, _ in kept),
        weights=np.array([w for _, w in kept]).reshape(-1, 2),
        intercept=stacked.intercept,
        slope=stacked.slope,
        success=success,
        inflation=np.zeros((a, a)),
        floor=np.zeros((a, a)),
        strange_se=np.zeros((a, a)),
        familiarity=None,
        means=ArmMeans(quality=matrix.arm_quality, cost=matrix.arm_cost, seconds=seconds, quality_se=matrix.quality_se),
        tokens=tokens,
        amounts=amounts.amounts,
        latency=latency,
    )


def _latency(matrix: OutcomeMatrix, dearer: np.ndarray) -> np.ndarray | None:
    """Quantiles (a, q) of each arm's measured seconds over the predicted ratio of its cost; None where none was timed.

    dearer : (n, a), out of fold. What is left of the time when the predicted length of the answer is taken out of it.
    """
    if np.isnan(matrix.latency).all():
        return None
    residual = matrix.latency / dearer
    timed = [column[~np.isnan(column)] for column in residual.T]
    return np.stack([np.quantile(t, QUANTILES) if len(t) else np.full(len(QUANTILES), np.nan) for t in timed])
