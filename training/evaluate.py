"""What routing would have saved, on outcomes that the router has not seen, beside everything it must beat.

`evaluate` cross-fits: each fold's prompts are estimated by models that saw only the other folds, and `value` is chosen
on out-of-fold predictions inside those other folds. `evaluate_router` judges a ready router on a held-out log. Both
give an `Evaluation`: plain figures with paired bootstrap intervals, for report.py to print and draw.

All rows share one set of bootstrap weights, by prompt, or by family where whole families were left out.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from ..router.estimates import Estimates
from ..router.features import Features, FeatureSpec, featurize
from ..router.objective import Objective
from ..router.policy import Policy
from ..strategies.errors import TableError
from .baselines import Forecaster, oracle_picks, shuffled, standard_baselines, stitch
from .curves import Interval, aiq, hull_cost, hull_points, hull_quality, interval, resampling_weights
from .fit import FitSettings, RouterForecaster, choose_value, value_grid
from .folds import Split, fold_of
from .matrix import OutcomeMatrix, best_fixed
from .threads import one_thread

Progress = Callable[[int, int], None]

FEW_FAMILIES = 8
"""With fewer families than this a bootstrap over families is rough, and the evaluation says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    kind       : "arm", "router", "baseline", "control" or "oracle".
    quality, cost, utility : means per prompt; utility = Evaluation.value * quality - cost.
    tokens     : completion and verifier tokens; None where an arm's were not logged.
    latency    : seconds; None where an arm's were never measured. Where only some prompts were measured it is the
                 arms' mean latencies weighted by the shares.
    over_best  : quality minus the best fixed arm's; cost_ratio = cost / the best fixed arm's.
    over_hull  : quality minus that of the mix of fixed arms at the same cost.
    aiq        : of the curve over all values, None for single points.
    shares     : of each arm in the picks.
    """

    name: str
    kind: str
    quality: Interval
    cost: Interval
    utility: Interval
    tokens: Interval | None
    latency: Interval | None
    over_best: Interval
    cost_ratio: Interval
    over_hull: Interval
    aiq: Interval | None
    shares: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecasting:
    """How good the quality estimates are, whatever is decided on them.

    brier_skill         : 1 - mean squared error / that of each arm's own mean. 0 = knows no more than the means.
    benefit_skill       : the same of the differences to the best fixed arm, on which the router acts.
    calibration_error   : mean over arms of the gap between predicted and observed means in ten bins of equal size.
    perfect_calibration_error : what a perfect forecaster would show on as many prompts, by chance alone.
    """

    brier_skill: Interval
    benefit_skill: Interval
    calibration_error: float
    perfect_calibration_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything that a report prints or draws.

    split       : "prompt", "group", or "holdout" for a ready router.
    value       : of a correct answer, in `unit`: the median of the values chosen on the folds' validation prompts.
    best_arm    : fixed arm of the highest mean quality on these very prompts: the hardest rival.
    router_aiq_over_hull : AIQ of the router's curve minus the fixed arms' hull's, paired.
    cost_below_hull : router's cost / the cost of the mix of fixed arms with the router's quality.
    oracle_gap  : share of the way from the best fixed arm's utility to the peeking oracle's; `true_oracle_gap` to the
                  oracle that knows the prompts' success probabilities from other samples; None without samples.
    fallback_share : share of prompts on which the guard sent the router to the fallback arm.
    curve       : the router's (value, cost, quality) points; oracle_curve the peeking oracle's.
    hull        : corners (cost, quality) of the mix of fixed arms.
    notes       : what a reader must know, in sentences.
    """

    split: str
    n_prompts: int
    n_families: int
    folds: int
    seed: int
    unit: str
    value: float
    best_arm: str
    rows: tuple[Row, ...]
    router_aiq_over_hull: Interval
    cost_below_hull: Interval
    oracle_gap: Interval
    true_oracle_gap: Interval | None
    fallback_share: float
    forecasting: Forecasting
    curve: tuple[tuple[float, float, float], ...]
    oracle_curve: tuple[tuple[float, float, float], ...]
    hull: tuple[tuple[float, float], ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def row(self, name: str) -> Row:
        """The row of that name. Raises KeyError when there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    @property
    def router(self) -> Row:
        """The router's row."""
        return self.row("router")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: NaN and infinity become null."""
        return _plain(asdict(self))


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

    estimates : of every prompt, by models that did not see its fold.
    fold      : int (n,); value : float (n,), chosen on validation prompts inside the other folds.
    """

    estimates: Estimates
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
    features = featurize(matrix.texts, settings.features) if features is None else features
    fold = fold_of(matrix.families, split=split, folds=folds, seed=seed)
    k = int(fold.max()) + 1
    value = np.empty(len(matrix))
    parts = []
    for i in range(k):
        test, train = fold == i, fold != i
        learned = matrix.rows(train)
        forecast = forecaster.fit(learned, features[train], seed=seed)
        value[test] = choose_value(forecast.validation, learned, settings=settings)
        parts.append((test, forecast.predict(matrix.rows(test), features[test])))
        if progress is not None:
            progress(i + 1, k)
    return CrossFit(estimates=stitch(parts, matrix), fold=fold, value=value)


@one_thread()
def evaluate(
    matrix: OutcomeMatrix,
    *,
    split: Split = "prompt",
    folds: int = 5,
    seed: int = 0,
    settings: FitSettings | None = None,
    value: float | None = None,
    baselines: Sequence[Forecaster] | None = None,
    halves: tuple[OutcomeMatrix, OutcomeMatrix] | None = None,
    draws: int = 1000,
    progress: Progress | None = None,
) -> Evaluation:
    """Cross-fit a router and the learned baselines on one table, and judge them on the prompts left out.

    value     : of a correct answer; None = chosen on validation prompts, for each contender: its cheapest point whose
                validation quality is within `settings.tolerance` of the best fixed arm's.
    baselines : None = the standard ones.
    halves    : the same prompts and arms from two disjoint halves of the samples, for the oracle of true
                probabilities: it chooses on one half and is paid by the other.

    Raises TableError when no prompt has outcomes of all arms, or there are too few families or prompts for the split.
    """
    started = time.perf_counter()
    settings = settings or FitSettings(seed=seed)
    whole = matrix.complete()
    features = featurize(whole.texts, settings.features)
    rivals = list(standard_baselines(len(set(whole.groups))) if baselines is None else baselines)
    if split == "group":  # a group that was left out has no mean to look up
        rivals = [r for r in rivals if r.name != "group"]
    contenders: list[Forecaster] = [RouterForecaster(settings), *rivals]
    done: dict[str, CrossFit] = {}
    total = folds * len(contenders)
    for i, forecaster in enumerate(contenders):
        done[forecaster.name] = cross_fit(
            whole,
            forecaster,
            split=split,
            folds=folds,
            seed=seed,
            settings=settings,
            features=features,
            progress=None if progress is None else lambda d, k, i=i: progress(i * folds + d * folds // k, total),
        )
    fold = done["router"].fold
    notes = _notes(matrix, whole, split, int(fold.max()) + 1, folds)
    entrants = [
        _Entrant(name, c.estimates, np.full(len(whole), value) if value is not None else c.value, settings.policy)
        for name, c in done.items()
    ]
    return _judge(
        whole,
        entrants,
        base=Objective(value=1.0),
        split=split,
        folds=int(fold.max()) + 1,
        seed=seed,
        halves=halves,
        draws=draws,
        notes=notes,
        started=started,
    )


def evaluate_splits(matrix: OutcomeMatrix, **options: Any) -> list[Evaluation | Skipped]:
    """Evaluate with random prompts left out, then with whole families left out; options as for `evaluate`.

    A table without enough families gives `Skipped` in the second place, with the reason.
    """
    return [evaluate(matrix, split="prompt", **options), families_left_out(matrix, **options)]


def families_left_out(matrix: OutcomeMatrix, **options: Any) -> Evaluation | Skipped:
    """Evaluate with whole families left out; a table without enough families gives `Skipped`, with the reason."""
    try:
        return evaluate(matrix, split="group", **options)
    except TableError as exc:
        return Skipped(split="group", reason=str(exc))


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
    halves: tuple[OutcomeMatrix, OutcomeMatrix] | None = None,
    rules: Mapping[str, Policy] | None = None,
    seed: int = 0,
    draws: int = 1000,
) -> Evaluation:
    """Judge a ready router on outcomes that it was not trained on, with its own policy and objective.

    matrix : held-out outcomes of (at least) the router's arms; others are left out.
    train  : the outcomes it was trained on; with them the learned baselines are shown too.
    value  : of a correct answer; None = the router's own objective.
    rules  : other policies that decide on the router's estimates, by the name of their row.

    Raises TableError when an arm of the router has no outcomes in the table.
    """
    started = time.perf_counter()
    held = restrict(router, matrix)
    objective = router.objective if value is None else router.objective.but(value=value)
    n = len(held)
    estimates, values = router.estimate(held.texts), np.full(n, objective.value)
    entrants = [_Entrant("router", estimates, values, router.policy)]
    entrants += [_Entrant(name, estimates, values, policy) for name, policy in (rules or {}).items()]
    if train is not None:
        spec = FeatureSpec()
        learned = train.columns(held.arms).complete()
        x, held_x = featurize(learned.texts, spec), featurize(held.texts, spec)
        for forecaster in standard_baselines(len(set(learned.groups))):
            forecast = forecaster.fit(learned, x, seed=seed)
            chosen = value
            if chosen is None:
                chosen = choose_value(forecast.validation, learned, settings=FitSettings(), policy=router.policy)
            estimates = forecast.predict(held, held_x)
            entrants.append(_Entrant(forecaster.name, estimates, np.full(n, chosen), router.policy))
    overlap = 0 if train is None else len(set(train.prompt_ids) & set(held.prompt_ids))
    notes = _notes(matrix, held, "holdout", 1, 1)
    if overlap:
        notes.append(f"{overlap} of {n} held-out prompts were in the training table: the figures flatter the router")
    return _judge(
        held,
        entrants,
        base=objective,
        split="holdout",
        folds=1,
        seed=seed,
        halves=halves,
        draws=draws,
        notes=notes,
        started=started,
    )


def restrict(router: RouterLike, matrix: OutcomeMatrix) -> OutcomeMatrix:
    """The router's arms of a table, in the router's order, on the prompts that have outcomes of all of them."""
    return matrix.columns(router.estimate(matrix.texts[:1]).arms).complete()


# ── how it is judged ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Entrant:
    """A contender's estimates of every prompt, and the value it was given for each."""

    name: str
    estimates: Estimates
    value: np.ndarray
    policy: Policy

    def picks(self, base: Objective, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Arm picked on each prompt, and whether the fallback stood in, at a value per prompt."""
        index, fallback = np.empty(len(value), dtype=np.intp), np.zeros(len(value), dtype=bool)
        rng = np.random.default_rng(0) if self.policy.random else None
        for v in np.unique(value):
            at = np.flatnonzero(value == v)
            objective = base.but(value=float(v), on_infeasible="fallback")
            choices = self.policy.choose(self.estimates[at], objective, rng=rng)
            index[at], fallback[at] = choices.index, choices.fallback
        return index, fallback


class _Means:
    """Means per prompt of weighted arms, with their bootstrap draws. Every figure of one table comes from here."""

    def __init__(self, matrix: OutcomeMatrix, weights: np.ndarray) -> None:
        self.matrix, self.weights = matrix, weights
        self.n = len(matrix)
        self._drawn_arm: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def of(self, per_prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean of (n,) or (n, k) and its draws (draws,) or (draws, k)."""
        return per_prompt.mean(axis=0), self.weights @ per_prompt

    def served(self, what: np.ndarray, arms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean of `what` (n, a) under arm weights (n, a)."""
        return self.of((what * arms).sum(axis=1))

    def measured(self, name: str, arms: np.ndarray) -> Interval | None:
        """Mean of tokens or latency under arm weights; None where an arm that is used was never measured."""
        what = getattr(self.matrix, name)
        has = ~np.isnan(what)
        used = arms.any(axis=0)
        if not used.any() or not has[:, used].any(axis=0).all():
            return None
        if has[:, used].all():
            return interval(*self.served(np.where(arms > 0, what, 0.0), arms))
        if name not in self._drawn_arm:
            filled = np.where(has, what, 0.0)
            with np.errstate(invalid="ignore", divide="ignore"):
                self._drawn_arm[name] = (
                    filled.sum(axis=0) / has.sum(axis=0),
                    (self.weights @ filled) / (self.weights @ has.astype(float)),
                )
        mean, drawn = self._drawn_arm[name]
        share, shares = self.of(arms)
        return interval(float((share * mean)[used].sum()), (shares * drawn)[:, used].sum(axis=1))


def _judge(
    matrix: OutcomeMatrix,
    entrants: list[_Entrant],
    *,
    base: Objective,
    split: str,
    folds: int,
    seed: int,
    halves: tuple[OutcomeMatrix, OutcomeMatrix] | None,
    draws: int,
    notes: list[str],
    started: float,
) -> Evaluation:
    n, a = matrix.quality.shape
    families = np.unique(np.asarray(matrix.families, dtype=str), return_inverse=True)[1]
    by_family = split == "group"
    means = _Means(matrix, resampling_weights(families if by_family else np.arange(n), draws=draws, seed=seed))
    arm_q, arm_q_drawn = means.of(matrix.quality)
    arm_c, arm_c_drawn = means.of(matrix.cost)
    best = best_fixed(arm_q, arm_c)
    router = entrants[0]
    value = float(np.median(router.value))
    low, high = float(arm_c.min()), float(arm_c.max())
    grid = value_grid(matrix)
    one_hot = np.eye(a)

    def row(
        name: str,
        kind: str,
        arms: np.ndarray,
        curve: tuple[np.ndarray, np.ndarray] | None = None,
        paid: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Row:
        """The figures of arm weights (n, a); `paid`: quality and cost per prompt, where they come from elsewhere."""
        served_q, served_c = paid or ((matrix.quality * arms).sum(axis=1), (matrix.cost * arms).sum(axis=1))
        q, q_drawn = means.of(served_q)
        c, c_drawn = means.of(served_c)
        hull = float(hull_quality(arm_c, arm_q, c))
        hull_drawn = hull_quality(arm_c_drawn, arm_q_drawn, c_drawn)
        return Row(
            name=name,
            kind=kind,
            quality=interval(q, q_drawn),
            cost=interval(c, c_drawn),
            utility=interval(value * q - c, value * q_drawn - c_drawn),
            tokens=means.measured("tokens", arms),
            latency=means.measured("latency", arms),
            over_best=interval(q - arm_q[best], q_drawn - arm_q_drawn[:, best]),
            cost_ratio=interval(_ratio(c, arm_c[best]), _ratio(c_drawn, arm_c_drawn[:, best])),
            over_hull=interval(q - hull, q_drawn - hull_drawn),
            aiq=None if curve is None else interval(_curve_aiq(curve[0]), _curves_aiq(curve[1])),
            shares={arm: float(s) for arm, s in zip(matrix.arms, arms.mean(axis=0), strict=True) if s > 0},
        )

    def _curve_aiq(points: np.ndarray) -> float:
        return aiq(points[0], points[1], low=low, high=high)

    def _curves_aiq(drawn: np.ndarray) -> np.ndarray:
        spans = zip(drawn[0], drawn[1], arm_c_drawn.min(axis=1), arm_c_drawn.max(axis=1), strict=True)
        return np.array([aiq(c, q, low=float(lo), high=float(hi)) for c, q, lo, hi in spans])

    def curve_of(picks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(cost, quality) of each value's picks, and their draws."""
        at = np.arange(n)[:, None]
        chosen = np.stack(picks, axis=1)
        q, q_drawn = means.of(matrix.quality[at, chosen])
        c, c_drawn = means.of(matrix.cost[at, chosen])
        return np.stack([c, q]), np.stack([c_drawn, q_drawn])

    rows = [row(arm, "arm", np.broadcast_to(one_hot[j], (n, a))) for j, arm in enumerate(matrix.arms)]
    router_picks, fell_back = router.picks(base, router.value)
    curves = {}
    for entrant in entrants:
        picks = router_picks if entrant is router else entrant.picks(base, entrant.value)[0]
        curves[entrant.name] = curve_of([entrant.picks(base, np.full(n, v))[0] for v in grid])
        kind = "router" if entrant is router else "baseline"
        rows.append(row(entrant.name, kind, one_hot[picks], curves[entrant.name]))
    rows.append(row("router, picks shuffled", "control", shuffled(router_picks, matrix)))
    peeking = oracle_picks(matrix, value=value)
    oracle_curve = curve_of([oracle_picks(matrix, value=v) for v in grid])
    rows.append(row("oracle (peeks)", "oracle", one_hot[peeking], oracle_curve))

    def gap(oracle_q: np.ndarray, oracle_c: np.ndarray) -> Interval:
        """Share of the way from the best fixed arm to an oracle, in utility; its outcomes per prompt are given."""
        rival = best_fixed(arm_q, arm_c, value=value)
        u = value * matrix.quality - matrix.cost
        mine, ceiling = u[np.arange(n), router_picks], value * oracle_q - oracle_c
        mean, drawn = means.of(np.stack([mine - u[:, rival], ceiling - u[:, rival]], axis=1))
        return interval(_ratio(mean[0], mean[1]), _ratio(drawn[:, 0], drawn[:, 1]))

    at = np.arange(n)
    true_gap = None
    if halves is not None:
        arms, q, c = _split_half_oracle(matrix, halves, value)
        notes.append(
            "the oracle of true probabilities knows a prompt as well as half of its samples tell, and takes only arms "
            "that half of the samples can give"
        )
        rows.append(row("oracle (true probabilities)", "oracle", arms, paid=(q, c)))
        true_gap = gap(q, c)
    router_curve, router_drawn = curves["router"]
    hull_drawn_aiq = _curves_aiq(np.stack([arm_c_drawn, arm_q_drawn]))
    mine = next(r for r in rows if r.name == "router")
    q_drawn = means.served(matrix.quality, one_hot[router_picks])[1]
    c_drawn = means.served(matrix.cost, one_hot[router_picks])[1]
    return Evaluation(
        split=split,
        n_prompts=n,
        n_families=int(families.max()) + 1,
        folds=folds,
        seed=seed,
        unit=matrix.unit,
        value=value,
        best_arm=matrix.arms[best],
        rows=tuple(rows),
        router_aiq_over_hull=interval(
            _curve_aiq(router_curve) - aiq(arm_c, arm_q, low=low, high=high), _curves_aiq(router_drawn) - hull_drawn_aiq
        ),
        cost_below_hull=interval(
            _ratio(mine.cost.mean, hull_cost(arm_c, arm_q, mine.quality.mean)),
            _ratio(c_drawn, hull_cost(arm_c_drawn, arm_q_drawn, q_drawn)),
        ),
        oracle_gap=gap(matrix.quality[at, peeking], matrix.cost[at, peeking]),
        true_oracle_gap=true_gap,
        fallback_share=float(fell_back.mean()),
        forecasting=_forecasting(matrix, router.estimates.quality, best, means),
        curve=_points(grid, router_curve),
        oracle_curve=_points(grid, oracle_curve[0]),
        hull=tuple((float(c), float(q)) for c, q in zip(*hull_points(arm_c, arm_q), strict=True)),
        notes=tuple(notes),
        seconds=time.perf_counter() - started,
    )


def _forecasting(matrix: OutcomeMatrix, predicted: np.ndarray, best: int, means: _Means) -> Forecasting:
    y = matrix.quality

    def skill(error: np.ndarray, base: np.ndarray) -> Interval:
        mean, drawn = means.of(np.stack([error.sum(axis=1), base.sum(axis=1)], axis=1))
        return interval(1 - _ratio(mean[0], mean[1]), 1 - _ratio(drawn[:, 0], drawn[:, 1]))

    d, d_hat = y - y[:, [best]], predicted - predicted[:, [best]]
    found, perfect = calibration_error(predicted, y)
    return Forecasting(
        brier_skill=skill((predicted - y) ** 2, (y.mean(axis=0) - y) ** 2),
        benefit_skill=skill((d_hat - d) ** 2, (d.mean(axis=0) - d) ** 2),
        calibration_error=found,
        perfect_calibration_error=perfect,
    )


def calibration_error(predicted: np.ndarray, observed: np.ndarray, *, bins: int = 10) -> tuple[float, float]:
    """Calibration error, and what a perfect forecaster would show on as many prompts.

        mean over arms of sum_b (n_b / n) |mean predicted - mean observed|,   bins of equal size by predicted quality
        perfect: sum_b (n_b / n) sqrt(2 / pi) * s_b / sqrt(n_b),   s_b the spread of observed - predicted in the bin

    predicted, observed : float (n, a). The second is the mean of |N(0, s_b^2 / n_b)|: noise that no forecaster avoids.
    """
    n, a = observed.shape
    found = perfect = 0.0
    for j in range(a):
        for part in np.array_split(np.argsort(predicted[:, j], kind="stable"), min(bins, n)):
            residual = observed[part, j] - predicted[part, j]
            found += len(part) / n * abs(residual.mean())
            perfect += len(part) / n * np.sqrt(2 / np.pi) * residual.std() / np.sqrt(len(part))
    return float(found / a), float(perfect / a)


def _split_half_oracle(
    matrix: OutcomeMatrix, halves: tuple[OutcomeMatrix, OutcomeMatrix], value: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose on one half of the samples, be paid by the other, both ways; arm weights (n, a), quality and cost (n,)."""
    n, a = matrix.quality.shape
    arms, quality, cost = np.zeros((n, a)), np.zeros(n), np.zeros(n)
    aligned = []
    for half in halves:
        half = half.columns(matrix.arms)
        place = {p: i for i, p in enumerate(half.prompt_ids)}
        missing = [p for p in matrix.prompt_ids if p not in place]
        if missing:
            raise TableError(f"a half of the samples lacks prompt {missing[0]!r}: derive both halves from one log")
        aligned.append(half.rows([place[p] for p in matrix.prompt_ids]))
    for chosen_on, paid_by in (aligned, aligned[::-1]):
        picks = oracle_picks(chosen_on, value=value)
        arms += np.eye(a)[picks] / 2
        quality += paid_by.quality[np.arange(n), picks] / 2
        cost += paid_by.cost[np.arange(n), picks] / 2
    return arms, quality, cost


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


def _points(grid: np.ndarray, curve: np.ndarray) -> tuple[tuple[float, float, float], ...]:
    return tuple((float(v), float(c), float(q)) for v, c, q in zip(grid, curve[0], curve[1], strict=True))


def _ratio(over: Any, under: Any) -> Any:
    """The ratio of two figures, NaN where the second is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.asarray(over, float) / np.asarray(under, float)
    ratio = np.where(np.isfinite(ratio), ratio, np.nan)
    return float(ratio) if ratio.ndim == 0 else ratio


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
