"""Contenders' estimates against outcomes that they have not seen: every figure of an evaluation.

Who the contenders are and how they were fitted is evaluate.py's; here they only decide and are paid. All figures of one
evaluation share one set of bootstrap weights, by prompt, or by family where whole families were left out, so that
every difference is paired.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..router.estimates import Estimates
from ..router.objective import Objective
from ..router.policy import Policy
from ..strategies.errors import TableError
from .against import Against, RivalPicks, compare_picks
from .baselines import oracle_picks, shuffled
from .calibration import Forecasting, forecasting
from .curves import (
    Interval,
    PairedMeans,
    aiq,
    hull_cost,
    hull_points,
    hull_quality,
    interval,
    ratio,
    resampling_weights,
)
from .fit import value_grid
from .flagging import Flagging, flagging
from .matrix import OutcomeMatrix, best_fixed
from .sanity import Sanity

LAMBDAS = (0.1, 0.3)
"""Prices of compute at which routers are judged; see AtPrice."""

COST_ERRORS = (0.7, 1.5)
"""Factors by which the costs may turn out other than logged."""


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
class Standing:
    """A contender at one price of compute; all in units of quality, see AtPrice.

    gain    : utility minus that of the best fixed arm.
    ahead   : the ROUTER's utility minus this contender's, paired; above 0 = the router is better.
    quality : mean; cost : mean / the dearest arm's.
    """

    name: str
    kind: str
    gain: Interval
    ahead: Interval
    quality: float
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AtPrice:
    """The contest at one price of compute.

        utility = quality - price * cost / (mean cost of the dearest arm)

    price      : lambda. value : of a correct answer in the table's unit, dearest / lambda.
    best_arm   : the fixed arm of the highest utility AT THIS PRICE on these very prompts: the hardest rival.
    standings  : of the router first, then everything that it must beat.
    over_fallback : the router's utility minus that of its fallback, the best fixed arm by the TRAINING prompts: what it
                 adds to what could be known. On families never seen another arm may turn out best.
    over_hull  : the router's quality minus that of the mix of fixed arms at the same cost.
    oracle_gap : share of the way from the best fixed arm to the peeking oracle; true_oracle_gap to the oracle of true
                 probabilities, None without samples.
    cost_errors : factor -> the router's gain where every cost turns out to be that many times what it learned from.
    fallback_share : share of prompts on which the best fixed arm of the training prompts stood in.
    flagging   : what the flag of unfamiliar prompts does; None for a router that has none.
    drawn      : bootstrap draws of the router's gain, for simultaneous intervals.
    """

    price: float
    value: float
    best_arm: str
    standings: tuple[Standing, ...]
    over_fallback: Interval
    over_hull: Interval
    oracle_gap: Interval
    true_oracle_gap: Interval | None
    cost_errors: dict[float, Interval]
    fallback_share: float
    flagging: Flagging | None
    drawn: np.ndarray = field(repr=False, compare=False)

    @property
    def router(self) -> Standing:
        """The router's standing."""
        return self.standings[0]

    def standing(self, name: str) -> Standing:
        """The standing of that name. Raises KeyError when there is none."""
        for s in self.standings:
            if s.name == name:
                return s
        raise KeyError(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything that a report prints or draws.

    split       : "prompt", "group", "time", or "holdout" for a ready router.
    prices      : the contest at each lambda.
    value       : of a correct answer, in `unit`: the median of the values chosen on the folds' validation prompts. The
                  rows and all that follows are of this value.
    best_arm    : fixed arm of the highest mean quality on these very prompts.
    router_aiq_over_hull : AIQ of the router's curve minus the fixed arms' hull's, paired.
    cost_below_hull : router's cost / the cost of the mix of fixed arms with the router's quality.
    cost_at_quality : cost of the router's curve where it has the best fixed arm's quality / that arm's cost;
                  quality_at_cost : quality of the curve at that arm's cost minus that arm's quality.
    oracle_gap  : share of the way from the best fixed arm's utility to the peeking oracle's; `true_oracle_gap` to the
                  oracle that knows the prompts' success probabilities from other samples; None without samples.
    fallback_share : share of prompts on which the guard sent the router to the fallback arm.
    curve       : the router's (value, cost, quality) points; oracle_curve the peeking oracle's.
    hull        : corners (cost, quality) of the mix of fixed arms.
    against     : another router's picks on the same prompts, where given.
    sanity      : what needs further fits: None where it was not asked for.
    notes       : what a reader must know, in sentences.
    """

    split: str
    n_prompts: int
    n_families: int
    folds: int
    seed: int
    unit: str
    prices: tuple[AtPrice, ...]
    value: float
    best_arm: str
    rows: tuple[Row, ...]
    router_aiq_over_hull: Interval
    cost_below_hull: Interval
    cost_at_quality: Interval
    quality_at_cost: Interval
    oracle_gap: Interval
    true_oracle_gap: Interval | None
    fallback_share: float
    forecasting: Forecasting
    curve: tuple[tuple[float, float, float], ...]
    oracle_curve: tuple[tuple[float, float, float], ...]
    hull: tuple[tuple[float, float], ...]
    against: Against | None = None
    sanity: Sanity | None = None
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

    def at(self, price: float) -> AtPrice:
        """The contest at that lambda. Raises KeyError when it was not asked for."""
        for p in self.prices:
            if p.price == price:
                return p
        raise KeyError(price)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: NaN and infinity become null; bootstrap draws are left out."""
        found = plain(asdict(self))
        for price in found["prices"]:
            del price["drawn"]
        return found


# ── contenders ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """The prompts that one model estimated: their rows (positions), its estimates, and what decides on them."""

    rows: np.ndarray
    estimates: Estimates
    policy: Policy


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entrant:
    """A contender: estimates of every prompt, and the value of a correct answer that it was given for each.

    parts : one per model, together every prompt once: each model has a fallback arm and a guard of its own.
    value : (n,), chosen for each prompt without it.
    """

    name: str
    parts: Sequence[Part]
    value: np.ndarray

    def picks(self, base: Objective, value: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Arm picked on each prompt, and whether the fallback stood in, at a value (per prompt)."""
        n = len(self.value)
        value = np.broadcast_to(value, n)
        index, fallback = np.empty(n, dtype=np.intp), np.zeros(n, dtype=bool)
        for part in self.parts:
            rng = np.random.default_rng(0) if part.policy.random else None
            for v in np.unique(value[part.rows]):
                inside = value[part.rows] == v
                estimates = part.estimates if inside.all() else part.estimates[np.flatnonzero(inside)]
                objective = base.but(value=float(v), on_infeasible="fallback")
                choices = part.policy.choose(estimates, objective, rng=rng)
                index[part.rows[inside]], fallback[part.rows[inside]] = choices.index, choices.fallback
        return index, fallback

    def fallbacks(self, objective: Objective) -> np.ndarray:
        """(n,), the column of the fallback arm of each prompt's model at an objective."""
        found = np.empty(len(self.value), dtype=np.intp)
        for part in self.parts:
            estimates = part.estimates.at(objective)
            found[part.rows] = estimates.index(estimates.fallback)
        return found

    @property
    def quality(self) -> np.ndarray:
        """(n, a), predicted."""
        return self._whole("quality")

    @property
    def familiar(self) -> np.ndarray | None:
        """(n,) bool; None where it isn't known of every prompt."""
        return None if any(p.estimates.familiar is None for p in self.parts) else self._whole("familiar")

    @property
    def fold(self) -> np.ndarray:
        """(n,) int, the part of each prompt."""
        fold = np.empty(len(self.value), dtype=int)
        for k, part in enumerate(self.parts):
            fold[part.rows] = k
        return fold

    def _whole(self, name: str) -> np.ndarray:
        first = getattr(self.parts[0].estimates, name)
        whole = np.empty((len(self.value), *first.shape[1:]), dtype=first.dtype)
        for part in self.parts:
            whole[part.rows] = getattr(part.estimates, name)
        return whole


def price_of(matrix: OutcomeMatrix, price: float) -> float:
    """The value of a correct answer that stands for a lambda: the dearest arm's mean cost / lambda."""
    return float(matrix.arm_cost.max()) / price


def utilities_at(matrix: OutcomeMatrix, entrant: Entrant, prices: Sequence[float], *, base: Objective) -> np.ndarray:
    """What a contender gets on each prompt at each lambda, in units of quality (see AtPrice): float (prices, n)."""
    found = np.empty((len(prices), len(matrix)))
    at, dearest = np.arange(len(matrix)), float(matrix.arm_cost.max())
    for i, price in enumerate(prices):
        picks = entrant.picks(base, price_of(matrix, price))[0]
        found[i] = matrix.quality[at, picks] - price / dearest * matrix.cost[at, picks]
    return found


def fixed_at(matrix: OutcomeMatrix, prices: Sequence[float]) -> np.ndarray:
    """The same of the arm that is the best fixed one at each lambda, (prices, n)."""
    dearest = float(matrix.arm_cost.max())
    found = []
    for price in prices:
        best = best_fixed(matrix.arm_quality, matrix.arm_cost, value=price_of(matrix, price))
        found.append(matrix.quality[:, best] - price / dearest * matrix.cost[:, best])
    return np.stack(found)


def resampled(matrix: OutcomeMatrix, *, by_family: bool, draws: int, seed: int) -> PairedMeans:
    """Bootstrap means over the prompts (those that ask the same thing together), or over their families."""
    units = np.asarray(matrix.families if by_family else matrix.clusters, dtype=str)
    return PairedMeans(resampling_weights(units, draws=draws, seed=seed))


# ── judging ──────────────────────────────────────────────────────────────────────────────────────────────────────


def judge(
    matrix: OutcomeMatrix,
    entrants: Sequence[Entrant],
    *,
    base: Objective,
    split: str,
    folds: int,
    seed: int,
    lambdas: Sequence[float] = LAMBDAS,
    unflagged: Entrant | None = None,
    halves: tuple[OutcomeMatrix, OutcomeMatrix] | None = None,
    rival: RivalPicks | None = None,
    draws: int = 1000,
    notes: Sequence[str] = (),
    started: float | None = None,
) -> Evaluation:
    """Judge contenders on a complete table; the router is the first of them.

    unflagged : the router again, every prompt taken for familiar.
    """
    started = time.perf_counter() if started is None else started
    means = resampled(matrix, by_family=split == "group", draws=draws, seed=seed)
    pair = None if halves is None else _aligned(matrix, halves)
    notes = list(notes)
    if pair is not None:
        notes.append(
            "the oracle of true probabilities knows a prompt as well as half of its samples tell, and takes only arms "
            "that half of the samples can give"
        )
    contest = _Contest(matrix, entrants, base, means, pair)
    router = entrants[0]
    value = float(np.median(router.value))
    rows, curves = contest.rows(value)
    arm_c, arm_q, arm_c_drawn, arm_q_drawn = contest.arms
    best = best_fixed(arm_q, arm_c)
    picks, fell_back = router.picks(base, router.value)
    low, high = float(arm_c.min()), float(arm_c.max())
    curve, drawn = curves["router"]
    hull_drawn_aiq = contest.drawn_aiq(np.stack([arm_c_drawn, arm_q_drawn]))
    mine = next(r for r in rows if r.name == "router")
    at = np.arange(len(matrix))
    q_drawn, c_drawn = (means.of(what[at, picks])[1] for what in (matrix.quality, matrix.cost))
    return Evaluation(
        split=split,
        n_prompts=len(matrix),
        n_families=len(set(matrix.families)),
        folds=folds,
        seed=seed,
        unit=matrix.unit,
        prices=tuple(contest.at(price, unflagged) for price in lambdas) if arm_c.max() > 0 else (),
        value=value,
        best_arm=matrix.arms[best],
        rows=rows,
        router_aiq_over_hull=interval(
            aiq(curve[0], curve[1], low=low, high=high) - aiq(arm_c, arm_q, low=low, high=high),
            contest.drawn_aiq(drawn) - hull_drawn_aiq,
        ),
        cost_below_hull=interval(
            ratio(mine.cost.mean, hull_cost(arm_c, arm_q, mine.quality.mean)),
            ratio(c_drawn, hull_cost(arm_c_drawn, arm_q_drawn, q_drawn)),
        ),
        cost_at_quality=interval(
            ratio(hull_cost(curve[0], curve[1], arm_q[best]), arm_c[best]),
            ratio(_by_draw(hull_cost, drawn, arm_q_drawn[:, best]), arm_c_drawn[:, best]),
        ),
        quality_at_cost=interval(
            hull_quality(curve[0], curve[1], arm_c[best]) - arm_q[best],
            _by_draw(hull_quality, drawn, arm_c_drawn[:, best]) - arm_q_drawn[:, best],
        ),
        oracle_gap=contest.gap(value, picks, *contest.peeking(value), best_fixed(arm_q, arm_c, value=value)),
        true_oracle_gap=None
        if pair is None
        else contest.gap(value, picks, *contest.honest(value), best_fixed(arm_q, arm_c, value=value)),
        fallback_share=float(fell_back.mean()),
        forecasting=forecasting(matrix, router.quality, router.fold, best, means, seed=seed),
        curve=_points(contest.grid, curve),
        oracle_curve=_points(contest.grid, curves["oracle (peeks)"][0]),
        hull=tuple((float(c), float(q)) for c, q in zip(*hull_points(arm_c, arm_q), strict=True)),
        against=None if rival is None else contest.against(rival, lambdas, by_family=split == "group", seed=seed),
        notes=tuple(notes),
        seconds=time.perf_counter() - started,
    )


class _Contest:
    """A table, its bootstrap, and the contenders: what the figures have in common."""

    def __init__(
        self,
        matrix: OutcomeMatrix,
        entrants: Sequence[Entrant],
        base: Objective,
        means: PairedMeans,
        pair: tuple[OutcomeMatrix, OutcomeMatrix] | None,
    ) -> None:
        self.matrix, self.entrants, self.base, self.means, self.pair = matrix, entrants, base, means, pair
        (q, q_drawn), (c, c_drawn) = means.of(matrix.quality), means.of(matrix.cost)
        self.arms = c, q, c_drawn, q_drawn
        self.grid = value_grid(matrix)
        self._at = np.arange(len(matrix))
        self._drawn_arm: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    # — the table at one value —

    def rows(self, value: float) -> tuple[tuple[Row, ...], dict[str, tuple[np.ndarray, np.ndarray]]]:
        """Every row, each contender at the values chosen for it, and the curves by name."""
        m = self.matrix
        n, a = m.quality.shape
        one_hot = np.eye(a)
        rows = [self._row(arm, "arm", np.broadcast_to(one_hot[j], (n, a)), value) for j, arm in enumerate(m.arms)]
        curves = {}
        for i, entrant in enumerate(self.entrants):
            picks = entrant.picks(self.base, entrant.value)[0]
            curves[entrant.name] = self._curve([entrant.picks(self.base, float(v))[0] for v in self.grid])
            kind = "baseline" if i else "router"
            rows.append(self._row(entrant.name, kind, one_hot[picks], value, curves[entrant.name]))
        picks = self.entrants[0].picks(self.base, self.entrants[0].value)[0]
        rows.append(self._row("router, picks shuffled", "control", shuffled(picks, m), value))
        peeking = oracle_picks(m, value=value)
        curves["oracle (peeks)"] = self._curve([oracle_picks(m, value=float(v)) for v in self.grid])
        rows.append(self._row("oracle (peeks)", "oracle", one_hot[peeking], value, curves["oracle (peeks)"]))
        if self.pair is not None:
            arms, q, c = _split_half_oracle(m, self.pair, value)
            rows.append(self._row("oracle (true probabilities)", "oracle", arms, value, paid=(q, c)))
        return tuple(rows), curves

    def _row(
        self,
        name: str,
        kind: str,
        arms: np.ndarray,
        value: float,
        curve: tuple[np.ndarray, np.ndarray] | None = None,
        paid: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Row:
        """The figures of arm weights (n, a); `paid`: quality and cost per prompt, where they come from elsewhere."""
        m, arm = self.matrix, self.arms
        served_q, served_c = paid or ((m.quality * arms).sum(axis=1), (m.cost * arms).sum(axis=1))
        q, q_drawn = self.means.of(served_q)
        c, c_drawn = self.means.of(served_c)
        best = best_fixed(arm[1], arm[0])
        low, high = float(arm[0].min()), float(arm[0].max())
        return Row(
            name=name,
            kind=kind,
            quality=interval(q, q_drawn),
            cost=interval(c, c_drawn),
            utility=interval(value * q - c, value * q_drawn - c_drawn),
            tokens=self._measured("tokens", arms),
            latency=self._measured("latency", arms),
            over_best=interval(q - arm[1][best], q_drawn - arm[3][:, best]),
            cost_ratio=interval(ratio(c, arm[0][best]), ratio(c_drawn, arm[2][:, best])),
            over_hull=self._over_hull(q, c, q_drawn, c_drawn),
            aiq=None
            if curve is None
            else interval(aiq(curve[0][0], curve[0][1], low=low, high=high), self.drawn_aiq(curve[1])),
            shares={a: float(s) for a, s in zip(m.arms, arms.mean(axis=0), strict=True) if s > 0},
        )

    def _over_hull(self, q: float, c: float, q_drawn: np.ndarray, c_drawn: np.ndarray) -> Interval:
        arm_c, arm_q, arm_c_drawn, arm_q_drawn = self.arms
        hull_drawn = hull_quality(arm_c_drawn, arm_q_drawn, c_drawn)
        return interval(q - float(hull_quality(arm_c, arm_q, c)), q_drawn - hull_drawn)

    def _curve(self, picks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(cost, quality) of each value's picks, and their draws."""
        chosen, at = np.stack(picks, axis=1), self._at[:, None]
        q, q_drawn = self.means.of(self.matrix.quality[at, chosen])
        c, c_drawn = self.means.of(self.matrix.cost[at, chosen])
        return np.stack([c, q]), np.stack([c_drawn, q_drawn])

    def drawn_aiq(self, drawn: np.ndarray) -> np.ndarray:
        """AIQ of each draw of a curve (2, draws, points), over that draw's own cost axis."""
        arm_c_drawn = self.arms[2]
        spans = zip(drawn[0], drawn[1], arm_c_drawn.min(axis=1), arm_c_drawn.max(axis=1), strict=True)
        return np.array([aiq(c, q, low=float(lo), high=float(hi)) for c, q, lo, hi in spans])

    def _measured(self, name: str, arms: np.ndarray) -> Interval | None:
        """Mean of tokens or latency under arm weights; None where an arm that is used was never measured."""
        what = getattr(self.matrix, name)
        has = ~np.isnan(what)
        used = arms.any(axis=0)
        if not used.any() or not has[:, used].any(axis=0).all():
            return None
        if has[:, used].all():
            return self.means.interval((np.where(arms > 0, what, 0.0) * arms).sum(axis=1))
        if name not in self._drawn_arm:
            filled = np.where(has, what, 0.0)
            weights = self.means.weights
            self._drawn_arm[name] = (
                ratio(filled.sum(axis=0), has.sum(axis=0)),
                ratio(weights @ filled, weights @ has.astype(float)),
            )
        mean, drawn = self._drawn_arm[name]
        share, shares = self.means.of(arms)
        return interval(float((share * mean)[used].sum()), (shares * drawn)[:, used].sum(axis=1))

    # — the contest at one price —

    def at(self, price: float, unflagged: Entrant | None) -> AtPrice:
        """Everybody at one lambda."""
        m, means, at = self.matrix, self.means, self._at
        value = price_of(m, price)
        arm_c, arm_q = self.arms[:2]
        best = best_fixed(arm_q, arm_c, value=value)
        scale = price / float(arm_c.max())
        u = m.quality - scale * m.cost
        router = self.entrants[0]
        picks, fell_back = router.picks(self.base, value)
        mine, fixed = u[at, picks], u[:, best]

        def standing(name: str, kind: str, quality: np.ndarray, cost: np.ndarray) -> Standing:
            got = quality - scale * cost
            return Standing(
                name=name,
                kind=kind,
                gain=means.interval(got - fixed),
                ahead=means.interval(mine - got),
                quality=float(quality.mean()),
                cost=float(cost.mean() * scale / price),
            )

        def of_picks(name: str, kind: str, index: np.ndarray) -> Standing:
            return standing(name, kind, m.quality[at, index], m.cost[at, index])

        found = [of_picks("router", "router", picks)]
        found += [of_picks(e.name, "baseline", e.picks(self.base, value)[0]) for e in self.entrants[1:]]
        found += [standing(arm, "arm", m.quality[:, j], m.cost[:, j]) for j, arm in enumerate(m.arms)]
        dealt = shuffled(picks, m)
        control = ((m.quality * dealt).sum(axis=1), (m.cost * dealt).sum(axis=1))
        found.append(standing("router, picks shuffled", "control", *control))
        peeking = self.peeking(value)
        found.append(standing("oracle (peeks)", "oracle", *peeking))
        true_gap = None
        if self.pair is not None:
            honest = self.honest(value)
            found.append(standing("oracle (true probabilities)", "oracle", *honest))
            true_gap = self.gap(value, picks, *honest, best)
        (q, q_drawn), (c, c_drawn) = means.of(m.quality[at, picks]), means.of(m.cost[at, picks])
        familiar = router.familiar
        flags = None
        if unflagged is not None and familiar is not None:
            trusted = u[at, unflagged.picks(self.base, value)[0]]
            flags = flagging(m, ~familiar, mine - fixed, trusted - fixed, means)
        return AtPrice(
            price=price,
            value=value,
            best_arm=m.arms[best],
            standings=tuple(found),
            over_fallback=means.interval(mine - u[at, router.fallbacks(self.base.but(value=value))]),
            over_hull=self._over_hull(q, c, q_drawn, c_drawn),
            oracle_gap=self.gap(value, picks, *peeking, best),
            true_oracle_gap=true_gap,
            cost_errors={f: self._cost_error(picks, scale, f) for f in COST_ERRORS},
            fallback_share=float(fell_back.mean()),
            flagging=flags,
            drawn=means.of(mine - fixed)[1],
        )

    def _cost_error(self, picks: np.ndarray, scale: float, factor: float) -> Interval:
        """The router's gain where costs turn out `factor` times as high, over the arm that is best fixed then."""
        m = self.matrix
        u = m.quality - factor * scale * m.cost
        return self.means.interval(u[self._at, picks] - u[:, int(u.mean(axis=0).argmax())])

    def peeking(self, value: float) -> tuple[np.ndarray, np.ndarray]:
        """Quality and cost (n,) of the oracle that peeks at the outcomes."""
        picks = oracle_picks(self.matrix, value=value)
        return self.matrix.quality[self._at, picks], self.matrix.cost[self._at, picks]

    def honest(self, value: float) -> tuple[np.ndarray, np.ndarray]:
        """Quality and cost (n,) of the oracle of true probabilities."""
        assert self.pair is not None
        return _split_half_oracle(self.matrix, self.pair, value)[1:]

    def gap(self, value: float, picks: np.ndarray, quality: np.ndarray, cost: np.ndarray, best: int) -> Interval:
        """Share of the way from a fixed arm to an oracle, in utility; the oracle's outcomes per prompt are given."""
        u = value * self.matrix.quality - self.matrix.cost
        return self.means.ratio(u[self._at, picks] - u[:, best], value * quality - cost - u[:, best])

    def against(self, rival: RivalPicks, lambdas: Sequence[float], *, by_family: bool, seed: int) -> Against:
        """The router against another router's picks."""
        router, m = self.entrants[0], self.matrix
        scale = 1.0 / float(self.arms[0].max())
        picks = {price: router.picks(self.base, price_of(m, price))[0] for price in lambdas}
        return compare_picks(
            m, rival, picks, scale=scale, by_family=by_family, draws=len(self.means.weights), seed=seed
        )


def _split_half_oracle(
    matrix: OutcomeMatrix, pair: tuple[OutcomeMatrix, OutcomeMatrix], value: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose on one half of the samples, be paid by the other, both ways; arm weights (n, a), quality and cost (n,)."""
    n, a = matrix.quality.shape
    arms, quality, cost = np.zeros((n, a)), np.zeros(n), np.zeros(n)
    for chosen_on, paid_by in (pair, pair[::-1]):
        picks = oracle_picks(chosen_on, value=value)
        arms += np.eye(a)[picks] / 2
        quality += paid_by.quality[np.arange(n), picks] / 2
        cost += paid_by.cost[np.arange(n), picks] / 2
    return arms, quality, cost


def _aligned(matrix: OutcomeMatrix, halves: tuple[OutcomeMatrix, OutcomeMatrix]) -> tuple[OutcomeMatrix, OutcomeMatrix]:
    """The halves' prompts and arms in the order of the table."""
    aligned = []
    for half in halves:
        half = half.columns(matrix.arms)
        place = {p: i for i, p in enumerate(half.prompt_ids)}
        missing = [p for p in matrix.prompt_ids if p not in place]
        if missing:
            raise TableError(f"a half of the samples lacks prompt {missing[0]!r}: derive both halves from one log")
        aligned.append(half.rows([place[p] for p in matrix.prompt_ids]))
    return aligned[0], aligned[1]


def _by_draw(of: Any, drawn: np.ndarray, at: np.ndarray) -> np.ndarray:
    """A hull's figure for each draw of a curve (2, draws, points), draw by draw to bound the memory."""
    return np.array([float(of(c, q, x)) for c, q, x in zip(drawn[0], drawn[1], at, strict=True)])


def _points(grid: np.ndarray, curve: np.ndarray) -> tuple[tuple[float, float, float], ...]:
    return tuple((float(v), float(c), float(q)) for v, c, q in zip(grid, curve[0], curve[1], strict=True))


def plain(value: Any) -> Any:
    """Plain JSON types: keys are text, NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
