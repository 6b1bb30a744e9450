"""Plans: what a request does next, given what it has shown so far.

A plan has a MENU: backends from the cheapest to the dearest, in how many samples at a time each may be drawn, searches
that may be run whole, and the ways to end: stop with the answer in hand, or give up. A request is at a NODE of the plan:
at its start, after k samples of a backend, or after a search. At every node a forest tells of each action that is open
there what it will come to, if the plan goes on from there as it does: quality, cost and seconds to go. `step` makes
Estimates of them, whose columns are actions instead of arms, and the router's own policy chooses: one rule of utility,
one guard, one set of limits. Deciding from the prompt alone is the step at the start.

Beside the forests a plan holds FIXED PLANS (draw so many, stop once settled, else so many of the next backend, ...), with
what each gave on average: the best one at an objective is what a step falls back to where the forests do not surely
know better, and what serves prompts unlike those of training.

Learned by howhard.training.plans.learn; executed by plan_run.py; replayed by howhard.training.plans.replay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..strategies.spec import SpecError
from .decision import Reason
from .estimates import ArmMeans, Estimates
from .flight import FLIGHT_VERSION, OF_SAMPLES, STAYS_AHEAD, Draws, Floats, Lead, Mask, features_of_samples, lead_of
from .joint_trees import JointForest
from .objective import Objective
from .policy import Policy

# ── what may be done ────────────────────────────────────────────────────────────────────────────────────────


class Leg(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A backend that a plan may draw from.

    stages : numbers of samples after which it is asked what to do next, ascending: (1, 2, 4, 8). Any may be drawn at
             once from the start.
    temperature, top_p, max_tokens : how the samples are drawn (SamplingParams).
    """

    backend: str
    stages: tuple[int, ...]
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if not self.stages or list(self.stages) != sorted(set(self.stages)) or self.stages[0] < 1:
            raise SpecError(
                f"stages={self.stages!r} of {self.backend!r}: they must ascend from 1 or more, as (1, 2, 4)"
            )


class Menu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a plan may do.

    legs     : the backends, the cheapest first: a plan goes from one to a later one, never back.
    searches : arms that are run whole, such as tree searches; at the start or after samples of the first backend.
    verifier : judges every complete sample as it comes; None = votes alone.
    give_up  : whether a request may be answered with nothing, at no cost, before anything is drawn.
    ahead    : how many of the next stages may be drawn at once after the first samples.
    """

    legs: tuple[Leg, ...]
    searches: tuple[str, ...] = ()
    verifier: str | None = None
    give_up: bool = False
    ahead: int = 2

    def __post_init__(self) -> None:
        names = [leg.backend for leg in self.legs]
        if not names or len(set(names)) < len(names):
            raise SpecError(f"legs of {names!r}: a plan draws from at least one backend, and names each once")
        if self.ahead < 1:
            raise SpecError(f"ahead={self.ahead!r}: at least the next stage must be open")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request stands: how many samples of each leg it has, and which search it has run (-1 = none)."""

    drawn: tuple[int, ...]
    search: int = -1

    @property
    def leg(self) -> int:
        """The leg that was drawn from last; -1 = none."""
        return max((i for i, k in enumerate(self.drawn) if k), default=-1)

    @property
    def node(self) -> "Node":
        """What of it chooses the forest; the rest is told by the features."""
        if self.search >= 0 and self.leg <= 0:
            return Node(search=self.search)
        return Node(leg=self.leg, drawn=self.drawn[self.leg]) if self.leg >= 0 else START


@dataclass(frozen=True, slots=True)
class Node:
    """A place as forests know it: after `drawn` samples of leg `leg`, after search `search`, or the start (-1, 0, -1)."""

    leg: int = -1
    drawn: int = 0
    search: int = -1


START = Node()


@dataclass(frozen=True, slots=True)
class Draw:
    """Draw from a leg until it has `total` samples."""

    leg: int
    total: int


@dataclass(frozen=True, slots=True)
class Search:
    """Run a search of the menu."""

    search: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End with the answer in hand of a leg, or of a search."""

    leg: int = -1
    search: int = -1


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End without an answer."""


Action = Draw | Search | Stop | GiveUp


def start_of(menu: Menu) -> Place:
    """Nothing drawn yet."""
    return Place((0,) * len(menu.legs))


def actions_at(menu: Menu, node: Node) -> tuple[Action, ...]:
    """Everything that may be open at a node, in a fixed order, the ends first; `is_open` says what is at a place."""
    legs, searches = range(len(menu.legs)), range(len(menu.searches))
    if node == START:
        ends: list[Action] = [GiveUp()] if menu.give_up else []
        return (*ends, *_draws(menu, legs), *(Search(s) for s in searches))
    if node.search >= 0:
        return (Stop(leg=0), Stop(search=node.search), *_draws(menu, legs[1:]))
    ends = [*(Stop(leg=i) for i in legs[: node.leg + 1]), *(Stop(search=s) for s in searches if node.leg > 0)]
    further = [k for k in menu.legs[node.leg].stages if k > node.drawn][: menu.ahead]
    more = [*(Draw(node.leg, k) for k in further), *(Search(s) for s in searches if node.leg == 0)]
    return (*ends, *more, *_draws(menu, legs[node.leg + 1 :]))


def _draws(menu: Menu, legs: range) -> list[Action]:
    return [Draw(i, k) for i in legs for k in menu.legs[i].stages]


def is_open(place: Place, action: Action) -> bool:
    """Whether an action of the node's list makes sense at this place: there is an answer to stop with."""
    if isinstance(action, Stop):
        return place.drawn[action.leg] > 0 if action.leg >= 0 else place.search == action.search
    return True


def after(place: Place, action: Action) -> Place:
    """Where an action leads; an end leads nowhere else."""
    if isinstance(action, Draw):
        drawn = tuple(action.total if i == action.leg else k for i, k in enumerate(place.drawn))
        return replace(place, drawn=drawn)
    if isinstance(action, Search):
        return replace(place, search=action.search)
    return place


def places_of(menu: Menu) -> tuple[Place, ...]:
    """Every place that can be reached, each after all that lead to it."""
    found = {start_of(menu): None}
    waiting = [start_of(menu)]
    while waiting:
        place = waiting.pop()
        for action in actions_at(menu, place.node):
            next_ = after(place, action)
            if next_ not in found:
                found[next_] = None
                waiting.append(next_)
    return tuple(sorted(found, key=lambda p: (p.leg if p.leg > 0 else 0, *reversed(p.drawn), p.search)))


def words_of(menu: Menu, action: Action, place: Place | None = None) -> str:
    """An action's name: "small x4", "stop with small", "small/beam_4x4", "give up"."""
    if isinstance(action, Draw):
        return f"{menu.legs[action.leg].backend} x{action.total}"
    if isinstance(action, Search):
        return menu.searches[action.search]
    if isinstance(action, Stop):
        source = menu.legs[action.leg].backend if action.leg >= 0 else menu.searches[action.search]
        return f"stop with {source}"
    return "give up"


# ── fixed plans ─────────────────────────────────────────────────────────────────────────────────────────────


class FixedPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plan that knows neither prompt nor price: what a step falls back to, and what learned plans must beat.

    legs    : (leg, stages) in order: draw stage by stage, go on to the next leg after the last stage.
    settled : end once the answer in hand is proven, or its chance to stay ahead is at least this (Beta's rule); None =
              only once it is proven.
    search  : instead of legs, a search of the menu.
    """

    legs: tuple[tuple[int, tuple[int, ...]], ...] = ()
    settled: float | None = None
    search: int = -1

    def next(self, place: Place, ahead: Floats, proven: Mask, answered: Mask) -> list[tuple[Mask, Action]]:
        """What each of n runs at a place does next: masks (n,) that add up to all, with an action each.

        ahead, proven, answered : (n,), of the answer in hand of the leg drawn from last; not looked at before.
        """
        every = np.ones(len(proven), dtype=bool)
        if self.search >= 0:
            if place.search == self.search:
                return [(every, Stop(search=self.search))]
            return [(every, Search(self.search) if place.leg < 0 and place.search < 0 else _end(place))]
        if place.leg < 0 and place.search < 0:
            leg, stages = self.legs[0]
            return [(every, Draw(leg, stages[0]))]
        done = proven if self.settled is None else proven | (answered & (ahead >= self.settled))
        if place.leg < 0:
            return [(every, _end(place))]
        onward = self._onward(place)
        return [(every, _end(place))] if onward is None else [(done, _end(place)), (~done, onward)]

    def _onward(self, place: Place) -> Draw | None:
        for leg, stages in self.legs:
            if leg < place.leg:
                continue
            further = [k for k in stages if leg > place.leg or k > place.drawn[leg]]
            if further:
                return Draw(leg, further[0])
        return None

    def words(self, menu: Menu) -> str:
        """For people: "small 4, 8, 16 until proven, then large 1"."""
        if self.search >= 0:
            return menu.searches[self.search]
        until = "until proven" if self.settled is None else f"until settled at {self.settled:g}"
        parts = [f"{menu.legs[leg].backend} {', '.join(map(str, stages))}" for leg, stages in self.legs]
        alone = len(self.legs) == 1 and len(self.legs[0][1]) == 1
        return parts[0] if alone else f"{', then '.join(parts)} {until}"


def _end(place: Place) -> Stop:
    return Stop(leg=place.leg) if place.leg >= 0 else Stop(search=place.search)


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
        return cls(lead=lead, features=features_of_samples(draws, lead), proven=draws.proven.any(axis=1))

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


def features_of(menu: Menu, state: State, log_value: Floats, log_second: Floats) -> Floats:
    """(n, columns): see `feature_names`; NaN where there is nothing to tell yet.

    *.agrees : whether the leg's (the search's) answer in hand is that of the first leg.
    log_value, log_second : (n,) of the objective, see Plan.dials.
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


class PlanFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of a plan but its arrays; the router's manifest holds one per plan.

    menu      : what it may do.   fixed : the fixed plans that it knows.
    needs     : signals that its decisions read beside answers, lengths and the menu's verifier: "logprobs",
                "confidence". A router whose backends lack one uses its next plan.
    guard     : standard errors that must be left over to leave the best fixed plan's way; infinity is None: it never is.
    unit      : mean cost of one sample of the first leg, which values and prices of time are measured in.
    seconds   : per leg, seconds of a wave = a + b * longest sample's tokens + c * all its tokens; None = never timed.
    search_seconds : mean seconds of each search, None where never timed.
    extractor, flight : versions of what reads answers and features; others may see other agreement than was learned.
    n_prompts, n_samples : what it was learned from, samples per prompt of the first leg.
    """

    menu: Menu
    fixed: tuple[FixedPlan, ...]
    needs: tuple[str, ...] = ()
    guard: float | None = 0.0
    unit: float
    seconds: tuple[tuple[float, float, float] | None, ...]
    search_seconds: tuple[float | None, ...] = ()
    extractor: str
    flight: str = FLIGHT_VERSION
    n_prompts: int
    n_samples: int


QUANTILES = (0.5, 0.9, 0.95, 0.99)
"""Of the seconds to go that deadlines are held against."""


@dataclass(frozen=True, slots=True, eq=False)
class NodeModel:
    """What the actions of one node come to.

    forest : what the leaves of K members add to the v outputs.   base : (K, v).   error : (a, a), standard error of the quality difference of two actions.
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


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A plan in memory: settings only, safe to share between threads.

    arms : of the predictor, whose estimates are the prompt's features.   fixed_means : of the fixed plans.
    """

    facts: PlanFacts
    arms: tuple[str, ...]
    nodes: Mapping[Node, NodeModel]
    fixed_means: ArmMeans

    def dials(self, objective: Objective) -> tuple[float, float]:
        """The two numbers by which forests know an objective: log(value / unit), log(1 + price_of_second / unit)."""
        unit = self.facts.unit
        return float(np.log(max(objective.value, 1e-9) / unit)), float(np.log1p(objective.price_of_second / unit))

    def best_fixed(self, objective: Objective) -> FixedPlan:
        """The fixed plan of the highest mean utility at the objective, as surely as ArmMeans.best wants."""
        return self.facts.fixed[self.fixed_means.best(objective)]

    def step(
        self,
        state: State,
        objective: Objective,
        policy: Policy,
        *,
        blind: NDArray[np.integer[Any]] | None = None,
        closed: Sequence[bool] = (),
        rng: np.random.Generator | None = None,
    ) -> Steps:
        """Say what n runs at one place do next.

        policy : chooses among the actions; its guard is held against the best fixed plan's way.
        blind  : (n,) members whose word counts, those that have not seen the prompt; None = the mean of all.
        closed : of each leg, whether its backend is down; () = none.

        Raises NoFeasibleArm at the start, as the policy does; ConfigError where time is priced, or a deadline set, and
        the log had no times.
        """
        place, menu, n = state.place, self.facts.menu, len(state)
        model, every = self.nodes[place.node], actions_at(menu, place.node)
        keep = [i for i, a in enumerate(every) if is_open(place, a) and not _is_closed(a, closed)]
        actions = tuple(every[i] for i in keep)
        value, second = self.dials(objective)
        x = features_of(menu, state, np.full(n, value), np.full(n, second))
        out = model.outputs(x)
        out = out.sum(axis=1) / out.shape[1] if blind is None else out[np.arange(n), blind]
        a = len(every)
        quality = np.clip(out[:, :a][:, keep], 0.0, 1.0)
        cost = np.maximum(out[:, a : 2 * a][:, keep], 0.0)
        seconds = np.maximum(out[:, 2 * a :][:, keep], 0.0)
        ends = np.array([isinstance(action, (Stop, GiveUp)) for action in actions])
        cost[:, ends], seconds[:, ends] = 0.0, 0.0
        quality[:, [isinstance(action, GiveUp) for action in actions]] = 0.0
        proven = self._proven(state, actions)
        quality[proven] = 1.0
        cost += state.spent[:, None]
        timed = all(s is not None for s in self.facts.seconds)
        latency = state.elapsed[:, None, None] + seconds[:, :, None] * model.tails[keep] if timed else None
        fixed = self._fixed(state, objective, actions)
        steps = self._choose(
            actions, quality, cost, latency, model.error[np.ix_(keep, keep)], fixed, objective, policy, rng, place
        )
        return self._ended(steps, state, proven, ends)

    def _proven(self, state: State, actions: Sequence[Action]) -> Mask:
        """(n, a): ends with an answer that a sound verifier proved."""
        out = np.zeros((len(state), len(actions)), dtype=bool)
        for j, action in enumerate(actions):
            if isinstance(action, Stop) and action.leg >= 0:
                hand = state.hands[action.leg]
                if hand is not None:
                    out[:, j] = hand.proven
        return out

    def _fixed(self, state: State, objective: Objective, actions: Sequence[Action]) -> NDArray[np.intp]:
        """(n,) column of what the best fixed plan would do; where that is closed, of the first end, else of the first."""
        n, leg = len(state), state.place.leg
        hand = state.hands[leg] if leg >= 0 else None
        nothing = np.zeros(n, dtype=bool)
        proven = nothing if hand is None else hand.proven
        ahead = np.zeros(n) if hand is None else hand.features[:, STAYS_AHEAD]
        answered = nothing if hand is None else hand.lead.label >= 0
        out = np.zeros(n, dtype=np.intp)
        for mask, action in self.best_fixed(objective).next(state.place, ahead, proven, answered):
            out[mask] = actions.index(action) if action in actions else 0
        return out

    def _choose(
        self,
        actions: tuple[Action, ...],
        quality: Floats,
        cost: Floats,
        latency: Floats | None,
        error: Floats,
        fixed: NDArray[np.intp],
        objective: Objective,
        policy: Policy,
        rng: np.random.Generator | None,
        place: Place,
    ) -> Steps:
        n, a = quality.shape
        names = tuple(words_of(self.facts.menu, action) for action in actions)
        later = objective if place == start_of(self.facts.menu) else objective.but(on_infeasible="fallback")
        index, propensity = np.zeros(n, dtype=np.intp), np.ones(n)
        reason, fallback = np.empty(n, dtype=object), np.zeros(n, dtype=bool)
        utility, feasible, se = np.empty((n, a)), np.ones((n, a), dtype=bool), np.zeros((n, a))
        for way in np.unique(fixed):
            rows = np.flatnonzero(fixed == way)
            se[rows] = error[way]
            estimates = Estimates(
                arms=names,
                quality=quality[rows],
                benefit_se=se[rows],
                cost=cost[rows],
                latency=None if latency is None else latency[rows],
                quantiles=() if latency is None else QUANTILES,
                fallback=names[way],
                reference=names[way],
            )
            chosen = policy.choose(estimates, later, rng=rng)
            index[rows], propensity[rows], reason[rows] = chosen.index, chosen.propensity, chosen.reason
            fallback[rows], utility[rows], feasible[rows] = chosen.fallback, chosen.utilities, chosen.feasible
        return Steps(
            actions=actions, index=index, reason=reason, fallback=fallback, quality=quality, cost=cost,
            latency=latency, utilities=utility, feasible=feasible, se=se, fixed=fixed, propensity=propensity,
        )  # fmt: skip

    def _ended(self, steps: Steps, state: State, proven: Mask, ends: Mask) -> Steps:
        """Let what needs no weighing have its way: what is proven ends; what is strange goes the fixed plan's way; and
        where nothing keeps the limits any more, the best answer in hand is the answer.
        """
        index, reason, fallback = steps.index.copy(), steps.reason.copy(), steps.fallback.copy()
        strange = ~state.familiar
        index[strange], reason[strange], fallback[strange] = steps.fixed[strange], Reason.UNFAMILIAR, True
        if state.place != start_of(self.facts.menu):
            stuck = ~steps.feasible[np.arange(len(index)), index]
            best = np.where(ends, steps.quality, -1.0).argmax(axis=1)
            index[stuck], reason[stuck] = best[stuck], Reason.LIMITS_REACHED
        done = proven.any(axis=1)
        index[done], reason[done], fallback[done] = proven.argmax(axis=1)[done], Reason.PROVEN, False
        return replace(steps, index=index, reason=reason, fallback=fallback)


def _is_closed(action: Action, closed: Sequence[bool]) -> bool:
    return bool(closed) and isinstance(action, Draw) and closed[action.leg]
