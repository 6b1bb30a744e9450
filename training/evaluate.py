"""What routing would have saved, on outcomes that the router has not seen, beside everything it must beat.

`evaluate` cross-fits: each fold's prompts are estimated by models that saw only the other folds, and `value` is chosen
on out-of-fold predictions inside those other folds. `evaluate_router` judges a ready router on a held-out log. Both
give an `Evaluation` (judge.py): plain figures with paired bootstrap intervals, for report.py to print and draw.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from ..router.estimates import Estimates
from ..router.features import Features, FeatureSpec, featurize
from ..router.objective import Objective
from ..router.policy import Policy, UtilityPolicy
from ..strategies import ArmSpec, VerifierSpec
from ..strategies.errors import TableError
from .against import RivalPicks
from .baselines import Forecast, Forecaster, quick_baselines, standard_baselines, stitch
from .fit import FitSettings, Fitted, RouterForecaster, choose_value, features_of
from .folds import Split, fold_of, sides
from .judge import LAMBDAS, Entrant, Evaluation, Part, Row, fixed_at, judge, resampled, utilities_at
from .matrix import OutcomeMatrix
from .sanity import Sanity, spread, with_shuffled_outcomes
from .threads import one_thread
from .worth import FEW_FAMILIES

__all__ = [
    "CrossFit",
    "Evaluation",
    "RouterLike",
    "Row",
    "Skipped",
    "cross_fit",
    "evaluate",
    "evaluate_router",
    "evaluate_split",
    "families_left_out",
    "restrict",
]

Progress = Callable[[int, int], None]

BASELINE_GUARD = 0.5
"""Standard errors that a baseline's gain must leave above zero, for those that claim errors."""

REFITS = 3
"""Seeds of the fit that a thorough evaluation tries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A split that this table cannot have, and why."""

    split: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"split": self.split, "skipped": self.reason}


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossFit:
    """Out-of-fold estimates, and the objective's value that was chosen without each prompt's fold.

    estimates : of every prompt, by models that did not see its fold; the fallback arm is the whole table's.
    judged    : (n,) positions in the table of the prompts that were estimated: all, but for the earliest ones of a
                split by time. All else here is in their order.
    parts     : the same fold by fold, each with the fallback arm of its own training prompts, and what decides on it.
    unflagged : as `parts`, every prompt taken for familiar; None for forecasters that flag none.
    fold      : int (n,); value : float (n,), chosen on validation prompts of what each fold's model learned from.
    """

    estimates: Estimates
    judged: np.ndarray
    parts: tuple[Part, ...]
    unflagged: tuple[Part, ...] | None
    fold: np.ndarray
    value: np.ndarray


@one_thread()
def cross_fit(
    matrix: OutcomeMatrix,
    forecaster: Forecaster | None = None,
    *,
    split: Split = "prompt",
    folds: int = 5,
    seed: int = 0,
    settings: FitSettings | None = None,
    features: Features | None = None,
    progress: Progress | None = None,
) -> CrossFit:
    """Estimate every prompt with models fitted on the other folds; None = the router's own forecaster.

    With split = "group" whole families are left out, but for the inner folds, which are made as for a router that is
    to be served: it shall be seen what such a router does on families that nobody foresaw. Raises TableError when the
    table has too few families for that.
    """
    settings = settings or FitSettings(seed=seed)
    forecaster = forecaster or RouterForecaster(settings)
    features = features_of(matrix.texts, settings.features) if features is None else features
    fold = fold_of(matrix.families, split=split, folds=folds, seed=seed, clusters=matrix.clusters, times=matrix.times)
    pairs = list(sides(fold, split))
    judged = np.flatnonzero(np.any([test for _, test in pairs], axis=0))
    place = np.full(len(matrix), -1)
    place[judged] = np.arange(len(judged))
    value = np.empty(len(judged))
    parts, unflagged = [], []
    for i, (train, test) in enumerate(pairs):
        learned, left, at = matrix.rows(train), matrix.rows(test), place[test]
        forecast = forecaster.fit(learned, features[train], seed=seed)
        policy = _policy(forecast, settings)
        value[at] = choose_value(forecast.validation, learned, settings=settings, policy=policy)
        parts.append(Part(rows=at, estimates=forecast.predict(left, features[test]), policy=policy))
        if isinstance(forecast, Fitted):
            trusting = _without_flag(forecast).predict(left, features[test])
            unflagged.append(Part(rows=at, estimates=trusting, policy=policy))
        if progress is not None:
            progress(i + 1, len(pairs))
    return CrossFit(
        estimates=stitch([(p.rows, p.estimates) for p in parts], matrix.rows(judged)),
        judged=judged,
        parts=tuple(parts),
        unflagged=tuple(unflagged) or None,
        fold=fold[judged],
        value=value,
    )


def _policy(forecast: Forecast, settings: FitSettings) -> Policy:
    """What decides on a forecast: the router's own, with the guard that it learned; or the baselines' usual guard."""
    return forecast.policy if isinstance(forecast, Fitted) else settings.policy or UtilityPolicy(guard=BASELINE_GUARD)


def _without_flag(fitted: Fitted) -> Fitted:
    """The same router, for which every prompt is like those of its training."""
    return dataclasses.replace(fitted, predictor=dataclasses.replace(fitted.predictor, familiarity=None))


@one_thread()
def evaluate(
    matrix: OutcomeMatrix,
    *,
    split: Split = "prompt",
    folds: int = 5,
    seed: int = 0,
    settings: FitSettings | None = None,
    value: float | None = None,
    lambdas: Sequence[float] = LAMBDAS,
    baselines: Sequence[Forecaster] | None = None,
    halves: tuple[OutcomeMatrix, OutcomeMatrix] | None = None,
    rival: RivalPicks | None = None,
    specs: Mapping[str, ArmSpec | None] | None = None,
    verifiers: Mapping[str, VerifierSpec] | None = None,
    fold_seeds: int = 1,
    thorough: bool = False,
    draws: int = 1000,
    progress: Progress | None = None,
) -> Evaluation:
    """Cross-fit a router and the learned baselines on one table, and judge them on the prompts left out.

    value      : of a correct answer, for the table of rows; None = chosen on validation prompts, for each contender:
                 its cheapest point whose validation quality is within `settings.tolerance` of the best fixed arm's.
    lambdas    : prices of compute at which the router is held against the best fixed arm and everything else.
    baselines  : None = the standard ones.
    halves     : the same prompts and arms from two disjoint halves of the samples, for the oracle of true
                 probabilities: it chooses on one half and is paid by the other.
    rival      : another router's picks, to compare with.
    specs, verifiers : what is known of the arms, as for `fit`.
    fold_seeds : folds are made so many times, from `seed` on; the first is reported in full, of all of them mean and
                 spread of the gain.
    thorough   : also fit on shuffled outcomes, and refit with REFITS seeds. An interrupt (Ctrl-C) while further fits
                 are made leaves them out, and the evaluation says so.

    Raises TableError when no prompt has outcomes of all arms, or there are too few families or prompts for the split.
    """
    started = time.perf_counter()
    settings = settings or FitSettings(seed=seed)
    table = matrix.complete()
    features = features_of(table.texts, settings.features)
    rivals = list(standard_baselines(len(set(table.groups))) if baselines is None else baselines)
    if split == "group":  # a group that was left out has no mean to look up
        rivals = [r for r in rivals if r.name != "group"]
    own = RouterForecaster(settings, specs=specs or {}, verifiers=verifiers or {})
    contenders: list[Forecaster] = [own, *rivals]
    further = (fold_seeds - 1) * len(contenders) + (REFITS if thorough else 0)
    moving = _Moving(progress, folds * (len(contenders) + further))
    run = partial(cross_fit, split=split, folds=folds, settings=settings, features=features, progress=moving.fold)

    def contest(fold_seed: int) -> dict[str, CrossFit]:
        return {f.name: moving.over(run(table, f, seed=fold_seed)) for f in contenders}

    first = contest(seed)
    mine = first["router"]
    made = len(mine.parts)
    whole = table.rows(mine.judged)
    base = Objective(value=1.0)
    entrants = [
        Entrant(name=name, parts=c.parts, value=c.value if value is None else np.full(len(whole), value))
        for name, c in first.items()
    ]
    found = judge(
        whole,
        entrants,
        base=base,
        split=split,
        folds=made,
        seed=seed,
        lambdas=lambdas,
        unflagged=None if mine.unflagged is None else Entrant(name="unflagged", parts=mine.unflagged, value=mine.value),
        halves=halves,
        rival=rival,
        draws=draws,
        notes=_notes(matrix, table, split, made, folds),
        started=started,
    )
    if not further or not found.prices:
        return found
    return _tried_again(
        found, own, table, first, contest, run, moving,
        base=base, fold_seeds=fold_seeds, thorough=thorough, draws=draws, started=started,
    )  # fmt: skip


def _tried_again(
    found: Evaluation,
    own: RouterForecaster,
    table: OutcomeMatrix,
    first: dict[str, CrossFit],
    contest: Callable[[int], dict[str, CrossFit]],
    run: Callable[..., CrossFit],
    moving: "_Moving",
    *,
    base: Objective,
    fold_seeds: int,
    thorough: bool,
    draws: int,
    started: float,
) -> Evaluation:
    """Add what needs further fits; an interrupt keeps what is done."""
    prices = [p.price for p in found.prices]
    whole = table.rows(first["router"].judged)
    means = resampled(whole, by_family=found.split == "group", draws=draws, seed=found.seed)
    fixed = fixed_at(whole, prices)

    def gets(c: CrossFit, of: OutcomeMatrix = whole) -> np.ndarray:
        return utilities_at(of, Entrant(name="", parts=c.parts, value=c.value), prices, base=base)

    sanity, notes = Sanity(), list(found.notes)
    try:
        if thorough:
            dealt = with_shuffled_outcomes(table, seed=found.seed + 1)
            of = dealt.rows(first["router"].judged)
            gain = gets(moving.over(run(dealt, own, seed=found.seed)), of) - fixed_at(of, prices)
            shuffled = tuple((p, means.interval(g)) for p, g in zip(prices, gain, strict=True))
            sanity = dataclasses.replace(sanity, shuffled=shuffled)
            refits = [gets(first["router"])]
            for i in range(1, REFITS):
                other = dataclasses.replace(own, settings=dataclasses.replace(own.settings, seed=own.settings.seed + i))
                again = run(table, other, seed=found.seed)
                refits.append(gets(moving.over(again)))
            sanity = dataclasses.replace(sanity, refits=spread(prices, refits, fixed, {}, means))
        if fold_seeds > 1:
            tried = {name: [gets(c)] for name, c in first.items()}
            for i in range(1, fold_seeds):
                for name, c in contest(found.seed + i).items():
                    tried[name].append(gets(c))
            router = tried.pop("router")
            sanity = dataclasses.replace(sanity, folds=spread(prices, router, fixed, tried, means))
    except KeyboardInterrupt:
        notes.append("interrupted: what needs further fits is left out from there on")
    return dataclasses.replace(found, sanity=sanity, notes=tuple(notes), seconds=time.perf_counter() - started)


class _Moving:
    """Progress over many cross-fits, in folds."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def fold(self, done: int, folds: int) -> None:
        """Show `done` folds of the cross-fit at hand."""
        if self._progress is not None:
            self._progress(min(self._done + done, self._total), self._total)

    def over(self, fitted: CrossFit) -> CrossFit:
        """Count a whole cross-fit."""
        self._done += len(fitted.parts)
        return fitted


def families_left_out(matrix: OutcomeMatrix, **options: Any) -> Evaluation | Skipped:
    """As `evaluate_split` by group, beside the quick baselines alone: for training, which only wants to know."""
    return evaluate_split(matrix, "group", baselines=quick_baselines(len(set(matrix.groups))), **options)


def evaluate_split(matrix: OutcomeMatrix, split: Split, **options: Any) -> Evaluation | Skipped:
    """Evaluate, options as for `evaluate`; a table without the families or times that the split needs gives `Skipped`.

    A table that cannot have random prompts left out raises TableError: then nothing can be learned from it.
    """
    try:
        return evaluate(matrix, split=split, **options)
    except TableError as exc:
        if split == "prompt":
            raise
        return Skipped(split=split, reason=str(exc))


class RouterLike(Protocol):
    """What evaluation and promotion need of a router: its estimates of texts, its policy and its objective."""

    policy: Policy
    objective: Objective

    def estimate(self, prompts: Sequence[str], /) -> Estimates:
        """Predict every arm on every prompt."""
        ...


@one_thread()
def evaluate_router(
    router: RouterLike,
    matrix: OutcomeMatrix,
    *,
    train: OutcomeMatrix | None = None,
    value: float | None = None,
    lambdas: Sequence[float] = LAMBDAS,
    halves: tuple[OutcomeMatrix, OutcomeMatrix] | None = None,
    rules: Mapping[str, Policy] | None = None,
    rival: RivalPicks | None = None,
    seed: int = 0,
    draws: int = 1000,
) -> Evaluation:
    """Judge a ready router on outcomes that it was not trained on, with its own policy and objective.

    matrix : held-out outcomes of (at least) the router's arms; others are left out.
    train  : the outcomes it was trained on; with them the learned baselines are shown too.
    value  : of a correct answer; None = the router's own objective.
    rules  : other policies that decide on the router's estimates, by the name of their row.
    rival  : another router's picks, to compare with.

    Raises TableError when an arm of the router has no outcomes in the table.
    """
    started = time.perf_counter()
    held = restrict(router, matrix)
    objective = router.objective if value is None else router.objective.but(value=value)
    n = len(held)
    seen, values = router.estimate(held.texts), np.full(n, objective.value)

    def entrant(name: str, e: Estimates, policy: Policy, chosen: np.ndarray = values) -> Entrant:
        return Entrant(name=name, parts=[Part(rows=np.arange(n), estimates=e, policy=policy)], value=chosen)

    entrants = [entrant("router", seen, router.policy)]
    entrants += [entrant(name, seen, policy) for name, policy in (rules or {}).items()]
    if train is not None:
        spec = FeatureSpec()
        learned = train.columns(held.arms).complete()
        x, held_x = featurize(learned.texts, spec), featurize(held.texts, spec)
        for forecaster in quick_baselines(len(set(learned.groups))):
            forecast = forecaster.fit(learned, x, seed=seed)
            chosen = value
            if chosen is None:
                chosen = choose_value(forecast.validation, learned, settings=FitSettings(), policy=router.policy)
            entrants.append(entrant(forecaster.name, forecast.predict(held, held_x), router.policy, np.full(n, chosen)))
    overlap = 0 if train is None else len(set(train.prompt_ids) & set(held.prompt_ids))
    notes = _notes(matrix, held, "holdout", 1, 1)
    if overlap:
        notes.append(f"{overlap} of {n} held-out prompts were in the training table: the figures flatter the router")
    if seen.familiar is not None:
        notes.append(
            f"{100 * (1 - seen.familiar.mean()):.1f} % of these prompts are flagged as unlike the training prompts"
        )
    return judge(
        held,
        entrants,
        base=objective,
        split="holdout",
        folds=1,
        seed=seed,
        lambdas=lambdas,
        halves=halves,
        rival=rival,
        draws=draws,
        notes=notes,
        started=started,
    )


def restrict(router: RouterLike, matrix: OutcomeMatrix) -> OutcomeMatrix:
    """The router's arms of a table, in the router's order, on the prompts that have outcomes of all of them."""
    return matrix.columns(router.estimate(matrix.texts[:1]).arms).complete()


def _notes(matrix: OutcomeMatrix, whole: OutcomeMatrix, split: str, made: int, asked: int) -> list[str]:
    notes = []
    if len(whole) < len(matrix):
        notes.append(
            f"{len(matrix) - len(whole)} of {len(matrix)} prompts lack the outcome of some arm and are left out: "
            "the comparisons are paired"
        )
    families = len(set(whole.families))
    if split == "group":
        if made < asked:
            notes.append(f"only {families} families: {made} folds instead of {asked}")
        if families < FEW_FAMILIES:
            notes.append(f"intervals resample {families} families: with so few they are rough, and often too narrow")
    return notes
