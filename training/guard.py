"""How sure a router's predictions are, which prompts it does not know, and how strong its guard must be.

Nothing here is assumed: the errors of predicted DIFFERENCES between arms are measured on prompts that the predicting
models did not see, for prompts of known families and for whole families left out, and the strength of the guard is the
one under which the picks on such prompts do not lose to the best fixed arm. All of it happens inside the training
prompts. The guard itself is `guarded_gain` of howhard.router.policy; this module only chooses its numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..router.estimates import ArmMeans, Estimates
from ..router.familiarity import Familiarity
from ..router.features import Features
from ..router.objective import Objective
from ..router.policy import UtilityPolicy
from ..strategies.errors import ConfigError
from .familiar import describe, left_out_distances, limit_of
from .matrix import OutcomeMatrix

FEWEST_FAMILIES = 4
"""With fewer families nothing can be learned by leaving them out: unfamiliar prompts go to the fallback arm."""

STRANGE_SE = 4.0
"""Standard error of every difference of quality where nothing is known: a guard of 0.25 or more then holds the fallback
arm, whatever is predicted, unless the cost saved is worth more than any answer."""

_PAIRED = 100
"""Prompts that both arms must have been given, or half of those that one was, for differences prompt by prompt."""

LAMBDAS = (0.03, 0.1, 0.3, 1.0)
"""Prices of compute that the guard must serve: the dearest arm's mean cost / value of a right answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """How uncertainty and guard are learned.

    strange_share : in (0, 1), the largest share of prompts like the training prompts that may count as strange. Smaller
                    shares (a fifth, two fifths) are taken where families left out lose nothing by it.
    centres       : of the training prompts, at most one for 15 of them.
    strengths     : ascending, > 0; guards that are tried on familiar prompts and, as factors of the error on families
                    left out, on strange ones.
    tolerance     : quality that the lower end of a gain may lie below 0.
    errors        : standard errors between a mean gain and its lower end.
    most          : prompts that the strengths are judged on, drawn at random where there are more.
    """

    strange_share: float = 0.05
    centres: int = 64
    strengths: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    tolerance: float = 0.002
    errors: float = 1.64
    most: int = 20_000

    def __post_init__(self) -> None:
        if not 0 < self.strange_share < 1:
            raise ConfigError(f"guard.strange_share={self.strange_share!r}: it must lie in (0, 1)")
        if self.centres < 1 or self.most < 1:
            raise ConfigError(f"guard.centres={self.centres!r}, guard.most={self.most!r}: they must be at least 1")
        rising = all(a < b for a, b in zip(self.strengths, self.strengths[1:], strict=False))
        if not self.strengths or self.strengths[0] <= 0 or not rising or not math.isfinite(self.strengths[-1]):
            raise ConfigError(f"guard.strengths={self.strengths!r}: they must rise, above 0 and finite")
        if self.tolerance < 0 or self.errors < 0:
            raise ConfigError(f"guard.tolerance={self.tolerance!r}, guard.errors={self.errors!r}: they must be >= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Mean utility over that of the best fixed arm, in quality, over the objectives; `error` its standard error."""

    mean: float
    error: float

    def low(self, settings: GuardSettings) -> float:
        """The lower end: so many standard errors below the mean."""
        return self.mean - settings.errors * self.error


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardReport:
    """What was seen when the guard was chosen; figures are of prompts that the models did not see.

    share      : stated false-alarm rate of the flag.
    strength, strange_strength : of the guard on familiar and on strange prompts; infinity = always the fallback arm.
    in_distribution : gain on prompts of known families.
    families   : number of them in the training prompts.
    hits       : share of the prompts of left-out families that the flag finds; None with too few families, as are
    left_out   : gain on left-out families, with the flag, and
    unflagged  : what it would be without (every prompt taken for familiar).
    """

    share: float
    strength: float
    strange_strength: float
    in_distribution: Gain
    families: int
    hits: float | None = None
    left_out: Gain | None = None
    unflagged: Gain | None = None

    def text(self) -> str:
        """The same in sentences."""
        if math.isinf(self.strength):
            return (
                "Guard: no gain over the best fixed arm is sure on prompts that the models did not see, so that arm "
                "serves every prompt. More prompts, or arms that differ more, would tell."
            )
        found = (
            f"Guard: {self.strength:g} standard errors on prompts like the training prompts, where it gains "
            f"{self.in_distribution.mean:+.3f} of a right answer per prompt over the best fixed arm. At most "
            f"{self.share:.0%} of these are taken for unfamiliar. "
        )
        if self.hits is None or self.left_out is None or self.unflagged is None:
            return (
                found + f"Too few families of prompts ({self.families}) to leave out: unfamiliar ones go to that arm."
            )
        what = (
            "go to that arm"
            if math.isinf(self.strange_strength)
            else f"are held to {self.strange_strength:g} times the error on families left out"
        )
        return found + (
            f"Unfamiliar ones {what}. Of {self.families} families, each left out, {self.hits:.0%} of the prompts are "
            f"found unfamiliar; the gain is {self.left_out.mean:+.3f}, and {self.unflagged.mean:+.3f} if none were."
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Uncertainty:
    """How sure the predictions are: arrays over pairs of arms (a, a) are symmetric, 0 on the diagonal.

    inflation   : factor on the members' standard deviation of the difference of two arms, familiar prompts.
    floor       : standard error of the difference below which no agreement of the members goes.
    strange_se  : standard error of the differences on every strange prompt, the guard's strength there included:
                  STRANGE_SE where they shall always go to the fallback arm.
    familiarity : which prompts are strange. strange : (n,) bool, the training prompts that are, to the other folds.
    guard       : strength of the guard, for UtilityPolicy.
    """

    inflation: np.ndarray
    floor: np.ndarray
    strange_se: np.ndarray
    familiarity: Familiarity
    strange: np.ndarray
    guard: float
    report: GuardReport

    def difference_se(self, members: np.ndarray) -> np.ndarray:
        """Standard error (n, a, a) of the differences on the training prompts.

            max(floor, inflation * standard deviation over the members of q_i - q_j);  strange_se where strange

        members : (n, a, K) qualities by the members.
        """
        n, a, count = members.shape
        spread = np.zeros((n, a, a))
        for i in range(a if count > 1 else 0):
            spread[:, i] = (members - members[:, [i]]).std(axis=2, ddof=1)
        familiar = np.maximum(self.floor, self.inflation * spread)
        return np.where(self.strange[:, None, None], self.strange_se, familiar)


def learn_uncertainty(
    matrix: OutcomeMatrix,
    x: Features,
    *,
    fold: np.ndarray,
    quality: np.ndarray,
    members: np.ndarray | None = None,
    cost: np.ndarray | None = None,
    family_quality: np.ndarray | None = None,
    family_cost: np.ndarray | None = None,
    family_fold: np.ndarray | None = None,
    settings: GuardSettings | None = None,
    seed: int = 0,
) -> Uncertainty:
    """Learn how sure the predictions are, which prompts are strange, and the guard's strength.

    x, fold   : features and fold (n,) of the training prompts.
    quality   : (n, a), each prompt by models that did not see its fold. members : (n, a, K), what the members say.
    cost      : (n, a), predicted likewise; None = the arms' means.
    family_*  : the same with whole families left out, and the fold (n,) that each prompt was left out in; None where
                the table has too few families.
    """
    settings = settings or GuardSettings()
    family = np.unique(np.asarray(matrix.families, dtype=str), return_inverse=True)[1]
    families = int(family.max()) + 1
    error = pairwise_error(quality, matrix.quality, family)
    inflation, floor = _inflation(error, members)
    distance = left_out_distances(x.dense, fold, centres=settings.centres, seed=seed)
    description = describe(x.dense, centres=settings.centres, seed=seed)
    rows = np.random.default_rng(seed).permutation(len(matrix))[: settings.most]
    top = float(np.max(matrix.arm_cost))
    tried = [max(top, 1e-12) / price for price in LAMBDAS]
    known = _Judge(matrix, quality, cost, error, tried, settings, rows, np.arange(len(matrix)))
    if family_quality is None or family_fold is None or families < FEWEST_FAMILIES:
        share = settings.strange_share
        limit = limit_of(distance, share)
        alarm = distance[rows] > limit
        strength = known.best(alarm)
        found = _Plan(
            share=share,
            limit=limit,
            strength=strength,
            strange_strength=math.inf,
            known=known.gain(alarm, strength, math.inf),
        )
        strange_error = error
    else:
        strange_error = pairwise_error(family_quality, matrix.quality, family, cells_only=True)
        away = left_out_distances(x.dense, family_fold, centres=settings.centres, seed=seed)
        unknown = _Judge(matrix, family_quality, family_cost, error, tried, settings, rows, family, strange_error)
        found = _choose(known, unknown, distance, away, settings, rows)
    strange = distance > found.limit
    never = STRANGE_SE * (1 - np.eye(len(error)))  # any other arm than the fallback, at whatever guard
    infinite = math.isinf(found.strange_strength) or math.isinf(found.strength)
    se = never if infinite else strange_error * (found.strange_strength / found.strength)
    if math.isinf(found.strength):
        floor = never
    return Uncertainty(
        inflation=inflation,
        floor=floor,
        strange_se=se,
        familiarity=description.limited(found.limit),
        strange=strange,
        guard=found.strength if math.isfinite(found.strength) else settings.strengths[0],
        report=GuardReport(
            share=found.share,
            strength=found.strength,
            strange_strength=found.strange_strength,
            in_distribution=found.known,
            families=families,
            hits=found.hits,
            left_out=found.left_out,
            unflagged=found.unflagged,
        ),
    )


# ── the strength of the guard ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A false-alarm rate, the limit of the distance that belongs to it, and the strengths; see GuardReport."""

    share: float
    limit: float
    strength: float
    strange_strength: float
    known: Gain
    hits: float | None = None
    left_out: Gain | None = None
    unflagged: Gain | None = None


def _choose(
    known: "_Judge",
    unknown: "_Judge",
    distance: np.ndarray,
    away: np.ndarray,
    settings: GuardSettings,
    rows: np.ndarray,
) -> _Plan:
    """The false-alarm rate and the strengths of the guard on familiar and on strange prompts.

    For strange prompts it is the smallest strength under which the lower end of the gain on the left-out families'
    flagged prompts is not below -tolerance, at every objective, with one more family counted in on which every prompt
    leaves the fallback arm and loses as much as any family could: what families lose has a heavy tail, of which those
    at hand need not show the end (bbh without tracking_shuffled: a gain in training, a loss of .5 on it).

        (families * lower end - worst) / (families + 1) >= -tolerance

    Of the rates the one is taken under which most is had from a prompt of a known and one of a left-out family
    together. There a prompt that the flag misses is charged what left-out families lose on the whole without a flag, at
    the lower end: the few that are missed here say little about the next ones.
    """
    nothing = np.zeros(len(rows), dtype=bool)
    families, worst = unknown.units, unknown.worst()
    found, scores = [], []
    for share in (settings.strange_share / 5, settings.strange_share / 2.5, settings.strange_share):
        limit = limit_of(distance, share)
        alarm, hit = distance[rows] > limit, away[rows] > limit
        strength = known.best(alarm)
        for strange in (*settings.strengths, math.inf):
            lows = unknown.lows(hit, strength, strange, missed=False)
            if math.isinf(strange) or ((families * lows - worst) / (families + 1) >= -settings.tolerance).all():
                break
        unflagged, hits = unknown.gain(nothing, strength, math.inf), float(hit.mean())
        plan = _Plan(
            share=share,
            limit=limit,
            strength=strength,
            strange_strength=strange,
            known=known.gain(alarm, strength, strange),
            hits=hits,
            left_out=unknown.gain(hit, strength, strange),
            unflagged=unflagged,
        )
        found.append(plan)
        scores.append(plan.known.mean + (1 - hits) * min(0.0, unflagged.low(settings)))
    return found[int(np.argmax(scores))]


class _Judge:
    """What picks under a guard gain over the best fixed arm, on prompts that the predicting models did not see."""

    def __init__(
        self,
        matrix: OutcomeMatrix,
        quality: np.ndarray,
        cost: np.ndarray | None,
        error: np.ndarray,
        values: Sequence[float],
        settings: GuardSettings,
        rows: np.ndarray,
        unit: np.ndarray,
        strange_error: np.ndarray | None = None,
    ) -> None:
        self._settings, self._arms, self._values = settings, matrix.arms, values
        self._error, self._strange = error, error if strange_error is None else strange_error
        self._quality = quality[rows]
        mean = matrix.arm_cost
        self._cost = np.broadcast_to(mean, matrix.cost.shape)[rows] if cost is None else cost[rows]
        self._paid_quality = _paid(matrix.quality, quality)[rows]
        self._paid_cost = _paid(matrix.cost, np.broadcast_to(mean, matrix.cost.shape))[rows]
        means = ArmMeans(
            quality=matrix.arm_quality,
            cost=mean,
            seconds=np.full(len(mean), np.nan),
            quality_se=matrix.quality_se,
        )
        self._best = [means.best(Objective(value=v)) for v in values]
        self._unit = np.unique(unit[rows], return_inverse=True)[1]
        self._cache: dict[tuple[bool, float], np.ndarray] = {}

    def gain(self, strange: np.ndarray, strength: float, strange_strength: float, *, missed: bool = True) -> Gain:
        """Mean over the objectives and the prompts of (utility of the pick - of the best fixed arm) / value.

        strange : (n,) bool. missed : whether the prompts that are not strange count, too; False = they gain nothing.
        """
        return self._mean(self._each(strange, strength, strange_strength, missed).mean(axis=0))

    def lows(self, strange: np.ndarray, strength: float, strange_strength: float, *, missed: bool = True) -> np.ndarray:
        """The lower end of the gain at every objective, (values,); arguments as for `gain`."""
        each = self._each(strange, strength, strange_strength, missed)
        return np.array([self._mean(gains).low(self._settings) for gains in each])

    @property
    def units(self) -> int:
        """How many units (families, where whole ones were left out) the prompts are of."""
        return int(self._unit.max()) + 1

    def worst(self) -> np.ndarray:
        """The most that a unit would lose at every objective, (values,) >= 0, if one other arm served all of it."""
        size = np.bincount(self._unit)[:, None]

        def means(outcome: np.ndarray) -> np.ndarray:
            return np.stack([np.bincount(self._unit, column) for column in outcome.T], axis=1) / size

        quality, cost = means(self._paid_quality), means(self._paid_cost)
        lost = [
            (quality[:, [at]] - quality - (cost[:, [at]] - cost) / value).max()
            for value, at in zip(self._values, self._best, strict=True)
        ]
        return np.maximum(lost, 0.0)

    def best(self, strange: np.ndarray) -> float:
        """The strength for familiar prompts of the highest gain; infinity where no gain is sure.

        A strength may lose at no objective, and the lower end of its gain must lie above 0: from few prompts little is
        learned, and the best of several gains that are noise would be acted on.

        strange : (n,) bool, prompts that go to the fallback arm.
        """
        best, most = math.inf, 0.0
        for strength in self._settings.strengths:
            gain = self.gain(strange, strength, math.inf)
            by_objective = self._each(strange, strength, math.inf, True).mean(axis=1)
            if (by_objective >= -self._settings.tolerance).all() and gain.low(self._settings) > 0 and gain.mean > most:
                best, most = strength, gain.mean
        return best

    def _mean(self, gains: np.ndarray) -> Gain:
        """Mean of gains (n,), with its standard error over the units."""
        total = np.bincount(self._unit, gains - gains.mean())
        units = len(total)
        error = math.sqrt((total**2).sum() * units / max(units - 1, 1)) / len(gains)
        return Gain(mean=float(gains.mean()), error=error)

    def _each(self, strange: np.ndarray, strength: float, strange_strength: float, missed: bool) -> np.ndarray:
        """Gains (values, n)."""
        familiar = self._gains(False, strength if missed else math.inf)
        return np.where(strange, self._gains(True, strange_strength), familiar)

    def _gains(self, strange: bool, strength: float) -> np.ndarray:
        """Gains (values, n) when every prompt is held to the guard of familiar, or of strange, prompts."""
        if math.isinf(strength):
            return np.zeros((len(self._values), len(self._quality)))
        key = (strange, strength)
        if key not in self._cache:
            self._cache[key] = np.stack([self._picked(i, strange, strength) for i in range(len(self._values))])
        return self._cache[key]

    def _picked(self, i: int, strange: bool, strength: float) -> np.ndarray:
        value, at = self._values[i], self._best[i]
        error = (self._strange if strange else self._error)[:, at]
        estimates = Estimates(
            arms=self._arms,
            quality=self._quality,
            benefit_se=np.broadcast_to(error, self._quality.shape),
            cost=self._cost,
            fallback=self._arms[at],
            reference=self._arms[at],
        )
        picks = UtilityPolicy(guard=strength).choose(estimates, Objective(value=value)).index
        rows = np.arange(len(picks))
        better = self._paid_quality[rows, picks] - self._paid_quality[:, at]
        dearer = self._paid_cost[rows, picks] - self._paid_cost[:, at]
        return better - dearer / value


def _paid(outcome: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """What each arm is worth on each prompt, (n, a), without bias where an arm was run on some prompts only.

        expected + run / share_run * (outcome - expected)

    which is the outcome itself for an arm that was run everywhere. It takes for granted that prompts were dealt to the
    arms at random. Source: Dudik, Langford & Li 2011, "Doubly robust policy evaluation and learning".
    """
    run = ~np.isnan(outcome)
    share = np.maximum(run.mean(axis=0), 1e-12)
    return expected + np.where(run, np.nan_to_num(outcome) - expected, 0.0) / share


# ── how large the errors are ─────────────────────────────────────────────────────────────────────────────────────


def pairwise_error(
    quality: np.ndarray, outcome: np.ndarray, family: np.ndarray, *, cells_only: bool = False
) -> np.ndarray:
    """Root mean square error (a, a) of the predicted differences of two arms, the outcomes' noise taken out.

    A single outcome is noise around what was predicted, but the mean residual of a cell of n alike prompts is not:

        error^2 = sum_c (n_c / n) * (mean_c^2 - variance_c / n_c)

    over families, and (unless `cells_only`) over deciles of the predicted difference; the larger counts, and never less
    than the square of the standard error of the mean difference. Where too few prompts were given to both arms, the
    mean of a cell is the difference of the arms' own means in it, each with its own variance. An arm with fewer than
    two outcomes has the largest error of the others, 1 where there is none.

    quality, outcome : (n, a), predicted and realised, NaN where an arm was not run.   family : int (n,).
    """
    a = quality.shape[1]
    residual = outcome - quality
    error = np.full((a, a), np.nan)
    np.fill_diagonal(error, 0.0)
    for i in range(a):
        for j in range(i + 1, a):
            each = [residual[:, i], residual[:, j]]
            runs = [int((~np.isnan(r)).sum()) for r in each]
            if min(runs) < 2:
                continue
            paired = int((~np.isnan(each[0] - each[1])).sum())
            if paired >= min(_PAIRED, max(2, min(runs) / 2)):
                each = [each[0] - each[1]]
            there = ~np.isnan(each).all(axis=0)
            each = [r[there] for r in each]
            cells = [family[there]]
            if not cells_only:
                cells.append(_deciles((quality[:, i] - quality[:, j])[there]))
            noise = sum(float(np.nanvar(r, ddof=1)) / int((~np.isnan(r)).sum()) for r in each)
            error[i, j] = error[j, i] = math.sqrt(max(noise, *(systematic(each, c) for c in cells)))
    most = np.nanmax(error)
    return np.where(np.isnan(error), most if most > 0 else 1.0, error)


def systematic(residuals: Sequence[np.ndarray], cell: np.ndarray) -> float:
    """Mean square of the cells' true mean residuals: sum_c (n_c / n) * (mean_c^2 - noise_c), cells of two outcomes up.

    residuals : one array (n,) of differences, mean_c being their mean and noise_c their variance / n_c; or two, NaN
                where not known, of one arm each: mean_c is then the difference of their means, noise_c the sum.
    """
    cells = int(cell.max()) + 1
    mean, noise, count, used = np.zeros(cells), np.zeros(cells), np.zeros(cells), np.ones(cells, dtype=bool)
    for sign, residual in zip((1.0, -1.0), residuals, strict=False):
        known = ~np.isnan(residual)
        at, r = cell[known], residual[known]
        n = np.bincount(at, minlength=cells).astype(float)
        own = np.bincount(at, r, minlength=cells) / np.maximum(n, 1)
        square = np.bincount(at, (r - own[at]) ** 2, minlength=cells)
        mean += sign * own
        noise += square / np.maximum(n - 1, 1) / np.maximum(n, 1)
        count += n
        used &= n >= 2
    return float((count / count.sum() * (mean**2 - noise))[used].sum())


def _deciles(predicted: np.ndarray) -> np.ndarray:
    """Tenth (n,) that each prediction lies in, by rank; fewer, of two or more, where there are few."""
    n = len(predicted)
    decile = np.empty(n, dtype=int)
    decile[np.argsort(predicted, kind="stable")] = np.arange(n) * min(10, n // 2) // n
    return decile


def _inflation(error: np.ndarray, members: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Factor on the members' spread, and the floor, (a, a) each, whose typical standard error is `error`."""
    a = len(error)
    if members is None or members.shape[2] < 2:
        return np.ones((a, a)) - np.eye(a), error
    inflation = np.zeros((a, a))
    for i in range(a):
        for j in range(i + 1, a):
            typical = math.sqrt((members[:, i] - members[:, j]).var(axis=1, ddof=1).mean())
            inflation[i, j] = inflation[j, i] = error[i, j] / typical if typical > 0 else 1.0
    return np.clip(inflation, 0.0, 50.0), error / 2
