"""Choose an arm: estimates and an objective come in, choices go out.

Nothing here predicts, runs or logs. `choose` decides for many prompts at once; a plan (plan.py) has it choose among
actions, again and again as samples come in. A policy is settings only, and is data: configs and manifests hold it as it
is.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..strategies.errors import ConfigError, InputError, NoFeasibleArm, nearest
from ..strategies.spec import SpecError
from .decision import Reason
from .estimates import Estimates, Floats
from .objective import Objective, guarded_gain

Mask = NDArray[np.bool_]


# ── the arithmetic ──────────────────────────────────────────────────────────────────────────────────────────


def utilities(estimates: Estimates, objective: Objective) -> Floats:
    """Utility (n, a) of every arm on every prompt.

        U = value * quality - cost - price_of_second * median seconds

    NaN where time has a price and the arm's latency was never measured. Raises ConfigError where time has a
    price and no arm's latency was measured.
    """
    u = objective.value * estimates.quality - estimates.cost
    return u - objective.price_of_second * estimates.seconds if objective.price_of_second else u


def within_limits(estimates: Estimates, objective: Objective, allowed: Mask | None = None) -> Mask:
    """Which arms (n, a) keep every hard limit and are allowed.

    allowed : (a,) or (n, a), None = every arm. An arm whose latency was never measured does not keep a
              deadline.
    """
    ok = np.ones(estimates.quality.shape, dtype=bool)
    if allowed is not None:
        ok &= allowed
    if objective.max_cost is not None:
        ok &= estimates.cost <= objective.max_cost
    if objective.min_quality is not None:
        ok &= estimates.quality >= objective.min_quality
    if objective.deadline is not None:
        ok &= estimates.latency_at(objective.deadline_quantile) <= objective.deadline  # NaN compares as False
    return ok


# ── what comes out ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choices:
    """One choice per prompt, and what it was made on.

    index      : (n,) int, column of the arm chosen.
    utility    : (n,) of the arm chosen, NaN where time is priced but the arm's was not measured.
    propensity : (n,) chance in (0, 1] with which the arm was chosen.
    reason     : (n,) object array of Reason.
    fallback   : (n,) bool, the arm stands in for one that could not be taken or did not convince.
    utilities, feasible : (n, a), of every arm.
    """

    index: NDArray[np.intp]
    utility: Floats
    propensity: Floats
    reason: NDArray[np.object_]
    fallback: Mask
    utilities: Floats
    feasible: Mask

    def __len__(self) -> int:
        return len(self.index)


class Policy(Protocol):
    """What the router and the evaluation need of a policy."""

    @property
    def label(self) -> str:
        """Name, version and settings, for decisions and logs."""
        ...

    @property
    def random(self) -> bool:
        """Whether `choose` draws, and so needs an `rng`."""
        ...

    def choose(
        self,
        estimates: Estimates,
        objective: Objective,
        *,
        allowed: Mask | None = None,
        rng: np.random.Generator | None = None,
    ) -> Choices:
        """Choose an arm for every prompt."""
        ...


# ── the policies ────────────────────────────────────────────────────────────────────────────────────────────


class UtilityPolicy(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="kind",
    tag="utility",
    forbid_unknown_fields=True,
):
    """Take the arm of highest utility within the hard limits; ties go to the cheaper arm, then to the first.

    The fallback arm is the best fixed one at the objective (`Estimates.at`).

    guard   : >= 0; an arm other than the fallback must have `guarded_gain` > 0 at this many standard errors.
              0 = no guard. Where the fallback arm itself breaks a limit there is nothing to guard for.
    epsilon : in [0, 1]; with this chance an arm is drawn evenly among those within the limits instead. Its
              propensity is epsilon / (arms within the limits), plus 1 - epsilon for the arm that would have
              been taken anyway.
    """

    guard: float = 0.0
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.guard) and self.guard >= 0):
            raise SpecError(f"guard={self.guard!r}: it must be a finite number of standard errors >= 0")
        if not 0 <= self.epsilon <= 1:
            raise SpecError(f"epsilon={self.epsilon!r}: it must lie in [0, 1]")

    @property
    def label(self) -> str:
        """Name, version and settings."""
        return f"utility/1 guard={self.guard:g} epsilon={self.epsilon:g}"

    @property
    def random(self) -> bool:
        """Whether `choose` needs an `rng`."""
        return self.epsilon > 0

    def propensities(self, estimates: Estimates, objective: Objective, *, allowed: Mask | None = None) -> Floats:
        """Chance (n, a) with which each arm is chosen; every row adds to 1."""
        estimates = estimates.at(objective)
        scored = _scored(estimates, objective, allowed)
        greedy, _ = self._greedy(estimates, objective, scored)
        return self._propensities(greedy, scored)

    def choose(
        self,
        estimates: Estimates,
        objective: Objective,
        *,
        allowed: Mask | None = None,
        rng: np.random.Generator | None = None,
    ) -> Choices:
        """Choose an arm for every prompt.

        allowed : (a,) or (n, a) bool, arms open to choice; None = all.
        rng     : needed when epsilon > 0.

        Raises NoFeasibleArm where no arm keeps the limits and the objective asks for an error.
        """
        estimates = estimates.at(objective)
        scored = _scored(estimates, objective, allowed)
        index, guarded = self._greedy(estimates, objective, scored)
        rows = np.arange(len(index))
        reason = np.empty(len(index), dtype=object)
        reason.fill(Reason.BEST_UTILITY)  # np.full would turn the enum into a plain str
        reason[scored.open.sum(axis=1) == 1] = Reason.ONLY_FEASIBLE
        reason[guarded] = Reason.GUARDED
        if estimates.familiar is not None:
            reason[guarded & ~estimates.familiar] = Reason.UNFAMILIAR
        propensity = np.ones(len(index))
        explored = np.zeros(len(index), dtype=bool)
        if self.epsilon > 0:
            if rng is None:
                raise ConfigError(f"epsilon={self.epsilon:g} draws at random: hand an rng to choose()")
            chances = self._propensities(index, scored)
            explored = (rng.random(len(index)) < self.epsilon) & ~scored.stuck
            # The k-th open arm of a row, k drawn evenly: the place where the running count first reaches k +
            # 1.
            k = rng.integers(np.maximum(scored.open.sum(axis=1), 1))
            drawn = (scored.open.cumsum(axis=1) > k[:, None]).argmax(axis=1)
            index = np.where(explored, drawn, index)
            reason[explored] = Reason.EXPLORED
            propensity = chances[rows, index]
        return _choices(index, propensity, reason, guarded & ~explored, scored)

    def _greedy(self, estimates: Estimates, objective: Objective, scored: "_Scored") -> tuple[NDArray[np.intp], Mask]:
        """The arm taken without exploration, and where the guard turned a better-looking one down."""
        index = _argmax(scored.utilities, estimates.cost, scored.open)
        at = estimates.index(estimates.fallback)
        index = np.where(scored.stuck, at, index)
        guarded = np.zeros(len(index), dtype=bool)
        if self.guard > 0:
            seconds = estimates.seconds if objective.price_of_second else np.zeros_like(estimates.cost)
            gain = guarded_gain(
                benefit=estimates.benefit,
                benefit_se=estimates.benefit_se,
                extra_cost=estimates.cost - estimates.cost[:, at : at + 1],
                extra_seconds=seconds - seconds[:, at : at + 1],
                objective=objective,
                guard=self.guard,
            )
            sure = scored.open & ~(gain <= 0)
            sure[:, at] = scored.open[:, at]
            held = np.where(scored.open[:, at], _argmax(scored.utilities, estimates.cost, sure), index)
            guarded = (held == at) & (index != at)
            index = held
        return index, guarded

    def _propensities(self, greedy: NDArray[np.intp], scored: "_Scored") -> Floats:
        taken = np.zeros(scored.open.shape)
        taken[np.arange(len(greedy)), greedy] = 1.0
        even = scored.open / np.maximum(scored.open.sum(axis=1, keepdims=True), 1)
        return np.where(scored.stuck[:, None], taken, (1 - self.epsilon) * taken + self.epsilon * even)


class ThresholdPolicy(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="kind",
    tag="threshold",
    forbid_unknown_fields=True,
):
    """Take one of three arms by the prompt's difficulty: below `easy`, below `hard`, and from there on.

    The field's rule of thumb, for comparison and for those who want it: it looks at neither cost nor benefit,
    only at the objective's hard limits. Where the arm breaks one, the nearest of the three that keeps them is
    taken (the easier one first).

    easy, hard : difficulties in [0, 1], easy <= hard.
    arms       : names of three arms, for instance ("small/single", "small/best_of_4", "small/beam_4x4").
    """

    easy: float = 0.3
    hard: float = 0.7
    arms: tuple[str, str, str]

    def __post_init__(self) -> None:
        if not 0 <= self.easy <= self.hard <= 1:
            raise SpecError(f"easy={self.easy!r}, hard={self.hard!r}: it must be that 0 <= easy <= hard <= 1")
        if len(self.arms) != 3:
            raise SpecError(f"arms={self.arms!r}: a threshold policy has three arms, for easy, middling and hard")

    @property
    def label(self) -> str:
        """Name, version and settings."""
        return f"threshold/1 easy={self.easy:g} hard={self.hard:g} arms={','.join(self.arms)}"

    @property
    def random(self) -> bool:
        """Never: it draws nothing."""
        return False

    def choose(
        self,
        estimates: Estimates,
        objective: Objective,
        *,
        allowed: Mask | None = None,
        rng: np.random.Generator | None = None,
    ) -> Choices:
        """Choose an arm for every prompt; arguments as for `UtilityPolicy.choose`, `rng` is not used."""
        unknown = [a for a in self.arms if a not in estimates.arms]
        if unknown:
            raise ConfigError(f"arms: {unknown[0]!r} is not an arm of this router{nearest(unknown[0], estimates.arms)}")
        estimates = estimates.at(objective)
        columns = np.array([estimates.arms.index(a) for a in self.arms])
        own = np.zeros(len(estimates.arms), dtype=bool)
        own[columns] = True
        scored = _scored(estimates, objective, allowed, own)
        level = (estimates.difficulty >= self.easy).astype(np.intp) + (estimates.difficulty >= self.hard)
        # Each level's arms in the order in which they are tried.
        order = np.array([[0, 1, 2], [1, 0, 2], [2, 1, 0]])[level]
        tried = scored.open[np.arange(len(level))[:, None], columns[order]]
        place = tried.argmax(axis=1)
        index = columns[order[np.arange(len(level)), place]]
        index = np.where(scored.stuck, estimates.index(estimates.fallback), index)
        reason = np.array([Reason.EASY, Reason.MIDDLING, Reason.HARD], dtype=object)[level]
        limited = (place > 0) & ~scored.stuck
        reason[limited] = Reason.LIMITED
        return _choices(index, np.ones(len(index)), reason, limited, scored)


PolicySpec = UtilityPolicy | ThresholdPolicy


# ── shared by the policies ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    """utilities (n, a); open (n, a): may be chosen; stuck (n,): no arm is, so the fallback is taken."""

    utilities: Floats
    open: Mask
    stuck: Mask


def _scored(estimates: Estimates, objective: Objective, allowed: Mask | None, own: Mask | None = None) -> _Scored:
    """Score every arm; `own` (a,) are the arms that the policy chooses among, None = all."""
    shape = estimates.quality.shape
    if allowed is not None and allowed.shape not in (shape, shape[1:]):
        raise InputError(f"allowed has shape {allowed.shape}: it must be {shape} or its last axis")
    may = np.broadcast_to(np.True_ if allowed is None else allowed, shape)
    candidates = may if own is None else may & own
    u = utilities(estimates, objective)
    open_ = within_limits(estimates, objective, candidates) & ~np.isnan(u)
    stuck = np.asarray(~open_.any(axis=1))
    # The fallback may break a limit, where the caller chose so; it may not be an arm that is not allowed.
    refused = stuck
    if objective.on_infeasible == "fallback":
        refused = stuck & ~may[:, estimates.index(estimates.fallback)]
    if refused.any():
        row = int(refused.argmax())
        raise NoFeasibleArm(_why_none(estimates, objective, candidates[row], row, int(refused.sum())))
    return _Scored(u, open_, stuck)


def _argmax(utility: Floats, cost: Floats, open_: Mask) -> NDArray[np.intp]:
    """Column of each row's highest utility among the open arms; ties to the lower cost, then the first."""
    u = np.where(open_, utility, -np.inf)
    best = open_ & (u == u.max(axis=1, keepdims=True))
    return np.where(best, cost, np.inf).argmin(axis=1)


def _choices(
    index: NDArray[np.intp], propensity: Floats, reason: NDArray[np.object_], fallback: Mask, scored: _Scored
) -> Choices:
    reason[scored.stuck] = Reason.INFEASIBLE
    return Choices(
        index=index,
        utility=scored.utilities[np.arange(len(index)), index],
        propensity=propensity,
        reason=reason,
        fallback=fallback | scored.stuck,
        utilities=scored.utilities,
        feasible=scored.open,
    )


def _why_none(estimates: Estimates, objective: Objective, may: Mask, row: int, count: int) -> str:
    """The message of NoFeasibleArm: the limits, which of the arms `may` (a,) comes nearest, and what to try."""
    one = estimates[row : row + 1]
    where = f" for {count} of {len(estimates)} prompts, the first in row {row}" if len(estimates) > 1 else ""
    if not may.any():
        return (
            f"no arm is open to choice{where}: every one of {', '.join(one.arms)} is not allowed, or not one of the "
            "policy's, or its backend failed or can't take the prompt. Allow one of them, or shorten the prompt."
        )

    def best(values: Floats, *, highest: bool = False) -> tuple[str, float]:
        v = np.where(may & ~np.isnan(values), values, -np.inf if highest else np.inf)
        at = int(v.argmax() if highest else v.argmin())
        return one.arms[at], float(v[at])

    found, remedy = [], []
    if objective.max_cost is not None:
        arm, x = best(one.cost[0])
        found.append(f"the cheapest, {arm!r}, is estimated at {x:.4g}")
        remedy.append("raise max_cost")
    if objective.deadline is not None:
        arm, x = best(one.latency_at(objective.deadline_quantile)[0])
        known = math.isfinite(x)
        found.append(
            f"the fastest, {arm!r}, takes an estimated {x:.4g} s" if known else "no arm's latency was measured"
        )
        remedy.append("move the deadline")
    if objective.min_quality is not None:
        arm, x = best(one.quality[0], highest=True)
        found.append(f"the best, {arm!r}, has an estimated quality of {x:.3f}")
        remedy.append("lower min_quality")
    if not found:
        return (
            f"no arm has a utility{where}: price_of_second={objective.price_of_second:g} needs latencies; "
            f"those of {', '.join(a for a, m in zip(one.arms, may, strict=True) if m)} were never measured. "
            "Set price_of_second=0, or train on a log that holds latency_s."
        )
    advice = f"{' or '.join(remedy)}, shorten the prompt, or set on_infeasible='fallback'"
    return f"no arm fits {objective.limits}{where}: {'; '.join(found)}. {advice[0].upper()}{advice[1:]}."
