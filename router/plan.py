"""Plans: what a request does next, given what it has shown so far.

A plan has a menu of what it may do (plan_facts.py). At every node of it, a place where a request may stand, a forest
tells of each action that is open there what it will come to, if the plan goes on from there as it does: quality, cost
and seconds to go. `step` makes Estimates of them, whose columns are actions instead of arms, and the router's own
policy chooses: one rule of utility, one guard, one set of limits. Deciding from the prompt alone is the step at the
start.

Beside the forests a plan holds FIXED PLANS (draw so many, stop once settled, else so many of the next backend, ...),
with what each gave on average: the best one at an objective is what a step falls back to where the forests do not
surely know better, and what serves prompts unlike those of training.

Learned by howhard.training.plans.learn; executed by plan_run.py; replayed by howhard.training.plans.replay.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..strategies.errors import ArtifactError, ConfigError, NoFeasibleArm
from .artifact import pack_arrays, unpack_arrays
from .decision import Reason
from .estimates import ArmMeans, Estimates
from .flight import OF_SAMPLES, STAYS_AHEAD, Draws, Floats, Lead, Mask, features_of_samples, lead_of
from .joint_trees import JointForest
from .objective import Objective
from .plan_facts import (
    START,
    Action,
    Draw,
    FixedPlan,
    GiveUp,
    Leg,
    Menu,
    Node,
    Place,
    PlanFacts,
    Search,
    Stop,
    actions_at,
    after,
    is_open,
    nodes_of,
    places_of,
    start_of,
    words_of,
)  # fmt: skip
from .policy import Choices, Policy, UtilityPolicy
from .trees import split_models

__all__ = [
    "QUANTILES",
    "START",
    "Action",
    "Draw",
    "FixedPlan",
    "GiveUp",
    "Hand",
    "Leg",
    "Menu",
    "Node",
    "NodeModel",
    "Place",
    "Plan",
    "PlanFacts",
    "Search",
    "State",
    "Steps",
    "Stop",
    "actions_at",
    "after",
    "feature_names",
    "features_of",
    "is_open",
    "nodes_of",
    "places_of",
    "plan_name",
    "prompt_features",
    "start_of",
    "words_of",
]

# ── a state, and its features ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class Hand:
    """What the samples of one leg have shown: the answer in hand, its features, and whether it is proven, (n,)."""

    lead: Lead
    features: Floats
    proven: Mask

    @classmethod
    def of(cls, draws: Draws) -> "Hand":
        """Look at samples."""
        lead = lead_of(draws)
        return cls(lead=lead, features=features_of_samples(draws, lead), proven=np.asarray(draws.proven.any(axis=1)))

    def __getitem__(self, rows: Any) -> "Hand":
        lead = Lead(*(getattr(self.lead, name)[rows] for name in Lead.__slots__))
        return Hand(lead=lead, features=self.features[rows], proven=self.proven[rows])


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """n runs at one place.

    prompt  : (n, p), what the predictor says of the prompts (`prompt_features`).   familiar : (n,).
    hands   : of each leg, None where nothing was drawn of it.   found : (n,) label of the search's answer, -1 = none.
    spent   : (n,) cost so far.   elapsed : (n,) predicted seconds so far, by the samples' tokens; NaN = not known.
    """

    place: Place
    prompt: Floats
    familiar: Mask
    hands: tuple[Hand | None, ...]
    found: NDArray[np.integer[Any]] | None
    spent: Floats
    elapsed: Floats

    def __len__(self) -> int:
        return len(self.prompt)

    def __getitem__(self, rows: Any) -> "State":
        return State(
            place=self.place,
            prompt=self.prompt[rows],
            familiar=self.familiar[rows],
            hands=tuple(None if h is None else h[rows] for h in self.hands),
            found=None if self.found is None else self.found[rows],
            spent=self.spent[rows],
            elapsed=self.elapsed[rows],
        )


def prompt_features(estimates: Estimates) -> Floats:
    """(n, 2a): what the predictor says of every arm: quality, and log of the cost over the arm's mean cost."""
    means = estimates.cost.mean(axis=0) if estimates.fixed is None else estimates.fixed.means.cost
    return np.concatenate(
        [estimates.quality, np.log(np.maximum(estimates.cost / np.maximum(means, 1e-12), 1e-6))], axis=1
    )


def feature_names(menu: Menu, arms: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns that forests read."""
    legs = [leg.backend for leg in menu.legs]
    return (
        *(f"prompt.quality.{a}" for a in arms),
        *(f"prompt.cost.{a}" for a in arms),
        *(f"{leg}.{name}" for leg in legs for name in OF_SAMPLES),
        *(f"{leg}.agrees" for leg in legs[1:]),
        *(["search.agrees"] if menu.searches else []),
        "log_value",
        "log_second",
    )


def features_of(menu: Menu, state: State, log_value: Floats | float, log_second: Floats | float) -> Floats:
    """(n, columns): see `feature_names`; NaN where there is nothing to tell yet.

    *.agrees : whether the leg's (the search's) answer in hand is that of the first leg.
    log_value, log_second : of the objective, one number or (n,), see Plan.dials.
    """
    n, legs = len(state), len(menu.legs)
    first = state.hands[0]
    width = state.prompt.shape[1] + legs * len(OF_SAMPLES) + legs - 1 + bool(menu.searches) + 2
    out = np.full((n, width), np.nan)
    at = state.prompt.shape[1]
    out[:, :at] = state.prompt
    for hand in state.hands:
        if hand is not None:
            out[:, at : at + len(OF_SAMPLES)] = hand.features
        at += len(OF_SAMPLES)
    for hand in state.hands[1:]:
        if hand is not None and first is not None:
            out[:, at] = (hand.lead.label == first.lead.label) & (hand.lead.label >= 0)
        at += 1
    if menu.searches:
        if state.found is not None and first is not None:
            out[:, at] = (state.found == first.lead.label) & (state.found >= 0)
        at += 1
    out[:, at], out[:, at + 1] = log_value, log_second
    return out


# ── the plan ────────────────────────────────────────────────────────────────────────────────────────────────


QUANTILES = (0.5, 0.9, 0.95, 0.99)
"""Of the seconds to go that deadlines are held against."""


@dataclass(frozen=True, slots=True, eq=False)
class NodeModel:
    """What the actions of one node come to.

    forest : what the leaves of K members add to the v outputs.   base : (K, v).
    error  : (a, a), standard error of the quality difference of two actions.
    tails  : (a, q), quantiles of the seconds to go, as multiples of their mean.

    Outputs, for a actions: quality (a), cost to go (a), seconds to go (a).
    """

    forest: JointForest
    base: Floats
    error: Floats
    tails: Floats

    def outputs(self, x: Floats) -> Floats:
        """(n, K, v) of every member."""
        return self.forest.summed(x) + self.base


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """What n runs at one place do next, and on what grounds.

    actions : open at the place; all arrays with `a` columns are in their order.   index : (n,) the action taken.
    reason  : (n,) object array of Reason.   fallback : (n,), the best fixed plan's way was kept to.
    quality : (n, a), expected of the answer at the end.   cost : (n, a), of the whole request, what is spent
    included.   latency : (n, a, q) seconds of it at QUANTILES; None where never timed.
    utilities, feasible : (n, a), as Choices.
    se      : (n, a), of the quality difference to the fixed plan's action.   fixed : (n,) that action.
    propensity : (n,).
    """

    actions: tuple[Action, ...]
    index: NDArray[np.intp]
    reason: NDArray[np.object_]
    fallback: Mask
    quality: Floats
    cost: Floats
    latency: Floats | None
    utilities: Floats
    feasible: Mask
    se: Floats
    fixed: NDArray[np.intp]
    propensity: Floats

    def latency_at(self, quantile: float, row: int) -> Floats | None:
        """Seconds (a,) of one run at a quantile, between QUANTILES interpolated, else the nearest; None = not timed."""
        if self.latency is None:
            return None
        above = min(max(int(np.searchsorted(QUANTILES, quantile)), 1), len(QUANTILES) - 1)
        low, high = QUANTILES[above - 1], QUANTILES[above]
        share = min(max((quantile - low) / (high - low), 0.0), 1.0)
        seconds = self.latency[row]
        return (1 - share) * seconds[:, above - 1] + share * seconds[:, above]


@dataclass(frozen=True, slots=True, eq=False)
class _Open:
    """What may be done at a place, with what its node's model says of it.

    leg   : that was drawn from last, -1 = none.   model : of the node.   keep : the actions' places in the node's list.
    ends  : which are ends.   stops : (column, leg) of the ends with a leg's answer.   gives_up : that column, if any.
    fixed, means : the fixed plans that may be followed, and what they gave.
    """

    leg: int
    model: NodeModel
    actions: tuple[Action, ...]
    names: tuple[str, ...]
    keep: NDArray[np.intp]
    ends: Mask
    stops: tuple[tuple[int, int], ...]
    gives_up: int | None
    error: Floats
    tails: Floats
    fixed: tuple[FixedPlan, ...]
    means: ArmMeans


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A plan in memory: settings only, safe to share between threads.

    arms : of the predictor, whose estimates are the prompt's features.   fixed_means : of the fixed plans.
    """

    facts: PlanFacts
    arms: tuple[str, ...]
    nodes: Mapping[Node, NodeModel]
    fixed_means: ArmMeans
    _start: Place = field(init=False, repr=False)
    _timed: bool = field(init=False, repr=False)
    _known: dict[tuple[Place, tuple[bool, ...]], _Open] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_start", start_of(self.facts.menu))
        object.__setattr__(self, "_timed", self.facts.timed)

    def start(self, estimates: Estimates) -> State:
        """Prompts of which nothing is drawn yet, by the predictor's estimates of them."""
        n = len(estimates)
        return State(
            place=self._start,
            prompt=prompt_features(estimates),
            familiar=np.ones(n, dtype=bool) if estimates.familiar is None else estimates.familiar,
            hands=(None,) * len(self.facts.menu.legs),
            found=None,
            spent=np.zeros(n),
            elapsed=np.zeros(n),
        )

    def policy(self, epsilon: float = 0.0) -> UtilityPolicy | None:
        """What chooses, with the plan's guard; None where the best fixed plan's way is never left."""
        return None if self.facts.guard is None else UtilityPolicy(guard=self.facts.guard, epsilon=epsilon)

    def dials(self, objective: Objective) -> tuple[float, float]:
        """The two numbers by which forests know an objective: log(value / unit), log(1 + price_of_second / unit)."""
        unit = self.facts.unit
        return math.log(max(objective.value, 1e-9) / unit), math.log1p(objective.price_of_second / unit)

    def best_fixed(self, objective: Objective, closed: Sequence[bool] = ()) -> FixedPlan:
        """The fixed plan of the highest mean utility at the objective, as surely as ArmMeans.best wants.

        closed : as in `step`: of plans that need nothing closed, where there are any.
        """
        open_ = self._open(self._start, tuple(closed))
        return open_.fixed[open_.means.best(objective)]

    def step(
        self,
        state: State,
        objective: Objective,
        policy: Policy | None,
        *,
        blind: NDArray[np.integer[Any]] | None = None,
        closed: Sequence[bool] = (),
        rng: np.random.Generator | None = None,
    ) -> Steps:
        """What n runs at one place do next.

        policy : chooses among the actions; its guard is held against the best fixed plan's way. None = that way is kept
                 to, whatever the forests say, as far as the limits allow; so it is at objectives that the plan does not
                 trust itself at (PlanFacts.trusts).
        blind  : (n,) members whose word counts, those that have not seen the prompt; None = the mean of all.
        closed : whether each leg's backend is down, and behind them whether each search's is; () = none.

        Raises NoFeasibleArm at the start, as the policy does; ConfigError where time is priced, or a deadline set, and
        the log had no times.
        """
        if not self._timed and (objective.price_of_second or objective.deadline is not None):
            raise ConfigError(
                "the plan was learned from a log that did not time every backend and search of its menu: leave "
                "deadline and price_of_second out, train on a log that holds latency_s of all, or load the router with "
                "plan=False"
            )
        policy = policy if self.facts.trusts(objective) else None
        n, open_ = len(state), self._open(state.place, tuple(closed))
        x = features_of(self.facts.menu, state, *self.dials(objective))
        out = open_.model.outputs(x)
        out = out.sum(axis=1) / out.shape[1] if blind is None else out[np.arange(n), blind]
        # quality, cost and seconds (3, n, a): to go, at first, and none are below 0
        quality, cost, seconds = np.maximum(out.reshape(n, 3, -1).transpose(1, 0, 2).take(open_.keep, axis=2), 0.0)
        np.minimum(quality, 1.0, out=quality)
        cost[:, open_.ends] = seconds[:, open_.ends] = 0.0
        if open_.gives_up is not None:
            quality[:, open_.gives_up] = 0.0
        proven = self._proven(state, open_)
        if proven is not None:
            quality[proven] = 1.0
        cost += state.spent[:, None]
        latency = None
        if self._timed:
            latency = state.elapsed[:, None, None] + seconds[:, :, None] * open_.tails
        fixed = self._fixed(state, open_, objective)
        steps = self._choose(state, open_, quality, cost, latency, fixed, objective, policy, rng)
        return self._ended(steps, state, open_, proven)

    def _proven(self, state: State, open_: _Open) -> Mask | None:
        """(n, a): ends with an answer that a sound verifier proved; None = there is none."""
        out = None
        for column, leg in open_.stops:
            hand = state.hands[leg]
            if hand is not None and hand.proven.any():
                out = np.zeros((len(state), len(open_.actions)), dtype=bool) if out is None else out
                out[:, column] = hand.proven
        return out

    def _open(self, place: Place, closed: tuple[bool, ...]) -> _Open:
        """What may be done at a place; the same for all runs there, so it is looked up once."""
        found = self._known.get((place, closed))
        if found is None:
            found = self._known[place, closed] = self._look(place, closed)
        return found

    def _look(self, place: Place, closed: tuple[bool, ...]) -> _Open:
        menu, model = self.facts.menu, self.nodes[place.node]
        down = (*closed, *(False,) * (len(menu.legs) + len(menu.searches) - len(closed)))
        searches_down = down[len(menu.legs) :]

        def is_closed(action: Action) -> bool:
            if isinstance(action, Draw):
                return down[action.leg]
            return isinstance(action, Search) and searches_down[action.search]

        every = actions_at(menu, place.node)
        keep = [i for i, action in enumerate(every) if is_open(place, action) and not is_closed(action)]
        if not keep:
            raise NoFeasibleArm(
                "every backend that the plan may draw from at first is down, or cannot take the prompt: shorten the "
                "prompt, or load the router with plan=False"
            )
        actions = tuple(every[i] for i in keep)
        stops = [(j, a.leg) for j, a in enumerate(actions) if isinstance(a, Stop) and a.leg >= 0]
        follow = [
            i for i, plan in enumerate(self.facts.fixed)
            if not any(down[leg] for leg, _ in plan.legs) and not (plan.search >= 0 and searches_down[plan.search])
        ]  # fmt: skip
        follow = follow or list(range(len(self.facts.fixed)))
        means = self.fixed_means
        if len(follow) < len(self.facts.fixed):
            means = ArmMeans(
                quality=means.quality[follow],
                cost=means.cost[follow],
                seconds=means.seconds[follow],
                quality_se=means.quality_se[np.ix_(follow, follow)],
            )
        return _Open(
            leg=place.leg,
            model=model,
            actions=actions,
            names=tuple(words_of(menu, action) for action in actions),
            keep=np.array(keep),
            ends=np.array([isinstance(action, (Stop, GiveUp)) for action in actions]),
            stops=tuple(stops),
            gives_up=next((j for j, a in enumerate(actions) if isinstance(a, GiveUp)), None),
            error=model.error[np.ix_(keep, keep)],
            tails=model.tails[keep],
            fixed=tuple(self.facts.fixed[i] for i in follow),
            means=means,
        )

    def _fixed(self, state: State, open_: _Open, objective: Objective) -> NDArray[np.intp]:
        """(n,) column of what the best fixed plan would do; where that is not open, the first: an end, where one is."""
        n, hand = len(state), None if open_.leg < 0 else state.hands[open_.leg]
        nothing = np.zeros(n, dtype=bool)
        proven = nothing if hand is None else hand.proven
        ahead = nothing if hand is None else hand.features[:, STAYS_AHEAD]
        answered = nothing if hand is None else hand.lead.label >= 0
        out = np.zeros(n, dtype=np.intp)
        plan = open_.fixed[open_.means.best(objective)]
        for mask, action in plan.next(state.place, ahead, proven, answered):
            if action in open_.actions:
                out[mask] = open_.actions.index(action)
        return out

    def _choose(
        self,
        state: State,
        open_: _Open,
        quality: Floats,
        cost: Floats,
        latency: Floats | None,
        fixed: NDArray[np.intp],
        objective: Objective,
        policy: Policy | None,
        rng: np.random.Generator | None,
    ) -> Steps:
        n, a = quality.shape
        if state.place != self._start:
            objective = _never_refused(objective)
        chooser = UtilityPolicy() if policy is None else policy
        se = open_.error[fixed]

        def choose(rows: Any, way: int) -> Choices:
            estimates = Estimates(
                arms=open_.names,
                quality=quality[rows],
                benefit_se=se[rows],
                cost=cost[rows],
                latency=None if latency is None else latency[rows],
                quantiles=() if latency is None else QUANTILES,
                fallback=open_.names[way],
                reference=open_.names[way],
            )
            return chooser.choose(estimates, objective, rng=rng)

        ways = fixed if n == 1 else np.unique(fixed)
        if len(ways) == 1:
            one = choose(slice(None), ways[0])
            index, propensity, reason, fallback = one.index, one.propensity, one.reason, one.fallback
            utility, feasible = one.utilities, one.feasible
        else:
            index, propensity = np.zeros(n, dtype=np.intp), np.ones(n)
            reason, fallback = np.empty(n, dtype=object), np.zeros(n, dtype=bool)
            utility, feasible = np.empty((n, a)), np.ones((n, a), dtype=bool)
            for way in ways:
                rows = np.flatnonzero(fixed == way)
                one = choose(rows, way)
                index[rows], propensity[rows], reason[rows] = one.index, one.propensity, one.reason
                fallback[rows], utility[rows], feasible[rows] = one.fallback, one.utilities, one.feasible
        if policy is None:
            kept = feasible[np.arange(n), fixed] & (index != fixed)
            index[kept], reason[kept], fallback[kept] = fixed[kept], Reason.GUARDED, True
        return Steps(
            actions=open_.actions, index=index, reason=reason, fallback=fallback, quality=quality, cost=cost,
            latency=latency, utilities=utility, feasible=feasible, se=se, fixed=fixed, propensity=propensity,
        )  # fmt: skip

    def _ended(self, steps: Steps, state: State, open_: _Open, proven: Mask | None) -> Steps:
        """Let what needs no weighing have its way: what is proven ends; what is strange goes the fixed plan's way, as
        far as that keeps the limits; and where nothing keeps them any more, the best answer in hand is the answer.
        """
        index, reason, fallback = steps.index, steps.reason, steps.fallback
        rows = np.arange(len(index))
        if not state.familiar.all():
            strange = ~state.familiar & steps.feasible[rows, steps.fixed]
            index[strange], reason[strange], fallback[strange] = steps.fixed[strange], Reason.UNFAMILIAR, True
            steps.propensity[strange] = 1.0  # whatever was drawn
        if state.place != self._start:
            stuck = ~steps.feasible[rows, index]
            if stuck.any():
                best = np.where(open_.ends, steps.quality, -1.0).argmax(axis=1)
                index[stuck], reason[stuck] = best[stuck], Reason.LIMITS_REACHED
        if proven is not None:
            done = proven.any(axis=1)
            index[done], reason[done], fallback[done] = proven.argmax(axis=1)[done], Reason.PROVEN, False
            steps.propensity[done] = 1.0
        return steps

    # ── on disk ─────────────────────────────────────────────────────────────────────────────────────────────

    def pack(self, prefix: str) -> dict[str, bytes]:
        """The files that `of` makes the same plan from: the trees of all nodes as text, and all arrays.

        prefix : what the files are called, `plan_name(i)` for the i-th plan of a manifest.
        """
        means, first = self.fixed_means, next(iter(self.nodes.values()))
        texts: list[str] = []
        arrays: dict[str, NDArray[Any]] = {
            "members": np.array(float(len(first.base))),
            "fixed": np.stack([means.quality, means.cost, means.seconds]).astype(np.float64),
            "quality_se": np.asarray(means.quality_se, dtype=np.float64),
        }
        for i, node in enumerate(nodes_of(self.facts.menu)):
            model = self.nodes[node]
            texts += model.forest.texts
            arrays |= model.forest.arrays(f"{i}_")
            for name in ("base", "error", "tails"):
                arrays[f"{i}_{name}"] = np.asarray(getattr(model, name), dtype=np.float64)
        return {f"{prefix}.txt": "".join(texts).encode(), f"{prefix}.npz": pack_arrays(**arrays)}

    @classmethod
    def of(cls, facts: PlanFacts, files: Mapping[str, bytes], arms: tuple[str, ...], prefix: str) -> "Plan":
        """Make the plan that a manifest's facts and the files of `pack` describe.

        arms : of the router.

        Raises ArtifactError for a missing file or array, a shape that does not fit, or a value out of range.
        """
        what, nodes, f = f"{prefix}.npz", nodes_of(facts.menu), len(facts.fixed)
        if what not in files:
            raise ArtifactError(f"the router lacks {what}: train it anew")
        arrays = unpack_arrays(files[what], what=what)
        _check(arrays, what, "members", (), least=1.0)
        _check(arrays, what, "fixed", (3, f), nan_ok=True)
        _check(arrays, what, "quality_se", (f, f))
        members = int(arrays["members"])
        texts = split_models(files, f"{prefix}.txt", members * len(nodes))
        width = len(feature_names(facts.menu, arms))
        models = {}
        for i, node in enumerate(nodes):
            a = len(actions_at(facts.menu, node))
            _check(arrays, what, f"{i}_base", (members, 3 * a), least=-math.inf)
            _check(arrays, what, f"{i}_error", (a, a))
            _check(arrays, what, f"{i}_tails", (a, len(QUANTILES)))
            forest = JointForest.of_arrays(
                prefix, texts[i * members : (i + 1) * members], arrays, values=3 * a, prefix=f"{i}_"
            )
            if forest.n_features != width:
                raise ArtifactError(
                    f"{prefix}.txt: the trees of node {i} read {forest.n_features} features, not {width}: they are not "
                    "of this router's arms and menu; train it anew"
                )
            named = {name: arrays[f"{i}_{name}"] for name in ("base", "error", "tails")}
            models[node] = NodeModel(forest=forest, **named)
        quality, cost, seconds = arrays["fixed"]
        means = ArmMeans(quality=quality, cost=cost, seconds=seconds, quality_se=arrays["quality_se"])
        return cls(facts=facts, arms=arms, nodes=models, fixed_means=means)


@lru_cache(maxsize=1024)
def _never_refused(objective: Objective) -> Objective:
    """For a request under way: it has an answer to end with, so that nothing is left to refuse."""
    return objective.but(on_infeasible="fallback")


def plan_name(index: int) -> str:
    """What the files of a manifest's plan are called, counted from 0: "plan_1", "plan_2", ..."""
    return f"plan_{index + 1}"


def _check(
    arrays: Mapping[str, NDArray[Any]],
    what: str,
    name: str,
    shape: tuple[int, ...],
    *,
    nan_ok: bool = False,
    least: float = 0.0,
) -> None:
    array = arrays.get(name)
    if array is None:
        raise ArtifactError(f"{what} lacks {name}: train the router anew")
    if array.dtype != np.float64 or array.shape != shape:
        raise ArtifactError(f"{what}: {name} is {array.dtype} {array.shape}: it must be float64 {shape}")
    ok = np.isfinite(array) | (np.isnan(array) & nan_ok)
    if not ok.all() or (array < least).any():
        raise ArtifactError(f"{what}: {name} holds a value that is not finite, or below {least:g}: train it anew")
