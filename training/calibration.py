"""How far estimates can be trusted: calibration per arm, and whether a predicted benefit comes true.

Nothing here decides or fits. A calibration error means little by itself (with ten bins a PERFECT forecaster shows .10
on 100 prompts), so each stands beside the range that a perfect forecaster would show on these very prompts.
"""

from dataclasses import dataclass

import numpy as np

from .curves import Interval, PairedMeans, interval
from .matrix import OutcomeMatrix

BINS = 10
SIMULATIONS = 200
LEAST_SPREAD = 0.003
"""Standard deviation of predicted benefits below which nothing was predicted, and a slope would be one of noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Prompts of similar predicted quality.

    predicted, observed : means. low, high : where the observed mean of a perfect forecaster lies, 95 times of 100.
    """

    n: int
    predicted: float
    observed: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BenefitBin:
    """Prompts (and arms) of similar predicted benefit: the mean predicted, and the mean realised with its interval.

    Both are measured from the arm's mean benefit: that one arm is better than another on average is no insight.
    """

    n: int
    predicted: float
    realised: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCalibration:
    """Calibration of one arm's quality.

    error    : sum over bins of (n_b / n) |mean observed - mean predicted|.
    perfect  : mean and 95 % range of the same figure if every prediction were the true probability: chance alone.
    bins     : of equal size, by predicted quality.
    """

    arm: str
    error: float
    perfect: Interval
    bins: tuple[ReliabilityBin, ...]

    @property
    def in_order(self) -> bool:
        """Whether the error is no larger than chance gives a perfect forecaster in 97.5 of 100 tables."""
        return self.error <= self.perfect.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Benefit:
    """Predicted against realised differences of quality to the best fixed arm, all other arms pooled.

    slope : of realised on predicted, an intercept for each arm and fold; 1 = right, below 1 = overconfident. None where
            the predictions hardly differ between prompts: then no benefit is predicted, and none can be wrong.
    arms  : the same of each arm alone.
    bins  : of equal size by predicted benefit, with bootstrap intervals.
    """

    slope: Interval | None
    arms: dict[str, Interval | None]
    bins: tuple[BenefitBin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecasting:
    """How good the quality estimates are, whatever is decided on them.

    brier_skill   : 1 - mean squared error / that of each arm's own mean. 0 = knows no more than the means.
    benefit_skill : the same of the differences to the best fixed arm, on which the router acts.
    """

    brier_skill: Interval
    benefit_skill: Interval
    arms: tuple[ArmCalibration, ...]
    benefit: Benefit


def forecasting(
    matrix: OutcomeMatrix, predicted: np.ndarray, fold: np.ndarray, best: int, means: PairedMeans, *, seed: int = 0
) -> Forecasting:
    """Judge predictions of quality (n, a) of a complete table; `best` is the column that benefits are measured from.

    fold : int (n,), which model made each row: models differ in the arms' means, which must not pass for insight.
    """
    y = matrix.quality

    def skill(error: np.ndarray, base: np.ndarray) -> Interval:
        left = means.ratio(error.sum(axis=1), base.sum(axis=1))
        return Interval(1 - left.mean, 1 - left.high, 1 - left.low)

    d, d_hat = y - y[:, [best]], predicted - predicted[:, [best]]
    rng = np.random.default_rng(seed)
    return Forecasting(
        brier_skill=skill((predicted - y) ** 2, (y.mean(axis=0) - y) ** 2),
        benefit_skill=skill((d_hat - d) ** 2, (d.mean(axis=0) - d) ** 2),
        arms=tuple(
            calibration_of(arm, predicted[:, j], y[:, j], matrix.draws[:, j], rng) for j, arm in enumerate(matrix.arms)
        ),
        benefit=benefit_of(matrix.arms, d_hat, d, fold, best, means),
    )


def calibration_of(
    arm: str, predicted: np.ndarray, observed: np.ndarray, draws: np.ndarray, rng: np.random.Generator
) -> ArmCalibration:
    """Calibration of one arm, (n,) each, beside SIMULATIONS tables of a forecaster that is right.

    Of single graded draws (0 or 1) its outcomes are drawn from the predictions; that is exact, however much it knows.
    Other qualities (means of several draws, grades between 0 and 1) vary by what the prompts have in them that a
    forecaster need not know to be calibrated: there the residuals of the same bin, centred, are dealt out.
    """
    n = len(predicted)
    cell = _bins(predicted)
    k = int(cell.max()) + 1
    size = np.bincount(cell, minlength=k)
    order = np.argsort(cell, kind="stable")
    start = np.concatenate([[0], np.cumsum(size)])[:-1]

    def gaps(outcome: np.ndarray) -> np.ndarray:
        return np.bincount(cell, outcome - predicted, minlength=k)

    single = bool((np.isnan(draws) | (draws == 1)).all() and np.isin(observed, (0.0, 1.0)).all())
    residual = observed - predicted
    centred = residual - (np.bincount(cell, residual, minlength=k) / size)[cell]
    chance = np.clip(predicted, 0.0, 1.0)
    by_chance = np.empty((SIMULATIONS, k))
    for s in range(SIMULATIONS):
        if single:
            made = (rng.random(n) < chance).astype(float)
        else:
            made = predicted + centred[order[start[cell] + rng.integers(size[cell])]]
        by_chance[s] = gaps(made)
    found = gaps(observed)
    errors = np.abs(by_chance).sum(axis=1) / n
    low, high = np.percentile(by_chance / size, [2.5, 97.5], axis=0)
    said, seen = (np.bincount(cell, v, minlength=k) / size for v in (predicted, observed))
    bins = tuple(
        ReliabilityBin(n=int(m), predicted=float(p), observed=float(o), low=float(p + lo), high=float(p + hi))
        for m, p, o, lo, hi in zip(size, said, seen, low, high, strict=True)
    )
    return ArmCalibration(
        arm=arm,
        error=float(np.abs(found).sum() / n),
        perfect=interval(errors.mean(), errors),
        bins=bins,
    )


def benefit_of(
    arms: tuple[str, ...], predicted: np.ndarray, realised: np.ndarray, fold: np.ndarray, best: int, means: PairedMeans
) -> Benefit:
    """Slope and bins of realised on predicted differences (n, a) to the arm in column `best`."""
    others = [j for j in range(len(arms)) if j != best]
    x, y = _centred(predicted, fold), _centred(realised, fold)

    def slope(columns: list[int]) -> Interval | None:
        if not columns or x[:, columns].std() < LEAST_SPREAD:
            return None
        return means.ratio((x * y)[:, columns].sum(axis=1), (x * x)[:, columns].sum(axis=1))

    bins = []
    if others:
        said, seen = x[:, others], y[:, others]
        cell = _bins(said.ravel()).reshape(said.shape)
        for b in range(int(cell.max()) + 1):
            inside = (cell == b).astype(float)
            n = inside.sum(axis=1)
            mean = float((inside * said).sum() / n.sum())
            bins.append(
                BenefitBin(n=int(n.sum()), predicted=mean, realised=means.ratio((inside * seen).sum(axis=1), n))
            )
    return Benefit(slope=slope(others), arms={arms[j]: slope([j]) for j in others}, bins=tuple(bins))


def _bins(predicted: np.ndarray) -> np.ndarray:
    """Bin (n,) of each prediction, BINS of equal size; equal predictions share one, so there may be fewer."""
    edges = np.unique(np.quantile(predicted, np.arange(1, BINS) / BINS))
    return np.unique(np.searchsorted(edges, predicted, side="right"), return_inverse=True)[1]


def _centred(values: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Values (n, a) minus the mean of their column in their fold."""
    size = np.bincount(fold)
    sums = np.zeros((len(size), values.shape[1]))
    np.add.at(sums, fold, values)
    return values - (sums / np.maximum(size, 1)[:, None])[fold]
