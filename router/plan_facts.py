"""What a plan may do and what it falls back to, as data: menus, places, actions, fixed plans, a manifest's PlanFacts.

A plan has a MENU: backends from the cheapest to the dearest, in how many samples at a time each may be drawn, searches
that may be run whole, and the ways to end: stop with the answer in hand, or give up. A request stands at a PLACE, whose
NODE says which forest knows what the ACTIONS that are open there come to (plan.py).
"""

import math
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from ..strategies.base import SamplingParams
from ..strategies.errors import nearest
from ..strategies.spec import SpecError, restated
from .flight import FLIGHT_VERSION, Floats, Mask
from .objective import Objective

MAX_SAMPLES = 1024
"""Most samples of one leg: what is compared pair by pair grows with their square."""

MAX_STAGES = 256
"""Most stages of all legs of a menu: every one has forests of its own, with an output for nearly every other."""

# ── what may be done ────────────────────────────────────────────────────────────────────────────────────────


class Leg(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A backend that a plan may draw from.

    stages : numbers of samples after which it is asked what to do next, ascending: (1, 2, 4, 8). Any may be drawn at
             once from the start.
    temperature, top_p, max_tokens : how the samples are drawn (SamplingParams).

    Raises SpecError for stages that do not ascend, or end above MAX_SAMPLES, and for a setting out of range.
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
        if self.stages[-1] > MAX_SAMPLES:
            raise SpecError(f"stages of {self.backend!r}: {self.stages[-1]} samples, at most {MAX_SAMPLES} are drawn")
        with restated():
            SamplingParams(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


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
        if len(set(self.searches)) < len(self.searches):
            raise SpecError(f"searches={self.searches!r}: a plan names each once")
        several = sum(len(leg.stages) for leg in self.legs)
        if several > MAX_STAGES:
            raise SpecError(f"legs: {several} stages in all, a plan has at most {MAX_STAGES}: leave some out")
        if self.ahead < 1:
            raise SpecError(f"ahead={self.ahead!r}: at least the next stage must be open")

    @property
    def words(self) -> str:
        """For people: "small 1-32, large 1-8, small/beam_4x4, verifier check"."""
        legs = [
            f"{leg.backend} {'-'.join(map(str, dict.fromkeys(leg.stages[:: len(leg.stages) - 1 or 1])))}"
            for leg in self.legs
        ]
        return ", ".join([*legs, *self.searches, *([f"verifier {self.verifier}"] if self.verifier else [])])


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
    """A place as forests know it: after `drawn` samples of leg `leg`, after search `search`, or the start."""

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


def nodes_of(menu: Menu) -> tuple[Node, ...]:
    """Every node of a plan of this menu, in the order in which its files hold them."""
    drawn = (Node(leg=i, drawn=k) for i, leg in enumerate(menu.legs) for k in leg.stages)
    return (START, *(Node(search=s) for s in range(len(menu.searches))), *drawn)


def words_of(menu: Menu, action: Action) -> str:
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
    search  : instead of legs, a search of the menu.   With neither, it gives up.
    """

    legs: tuple[tuple[int, tuple[int, ...]], ...] = ()
    settled: float | None = None
    search: int = -1

    def next(self, place: Place, ahead: Floats, proven: Mask, answered: Mask) -> list[tuple[Mask, Action]]:
        """What each of n runs at a place does next: masks (n,) that add up to all, with an action each.

        ahead, proven, answered : (n,), of the answer in hand of the leg drawn from last; not looked at before.
        """
        every, leg = np.ones(len(proven), dtype=bool), place.leg
        if leg < 0 and place.search < 0:
            if self.search >= 0:
                return [(every, Search(self.search))]
            return [(every, Draw(self.legs[0][0], self.legs[0][1][0]) if self.legs else GiveUp())]
        end = Stop(leg=leg) if leg >= 0 else Stop(search=place.search)
        if self.search >= 0 and self.search == place.search:
            end = Stop(search=self.search)
        onward = None if leg < 0 or self.search >= 0 else self._onward(leg, place.drawn[leg])
        if onward is None:
            return [(every, end)]
        done = proven if self.settled is None else proven | (answered & (ahead >= self.settled))
        return [(done, end), (~done, onward)]

    def _onward(self, leg: int, drawn: int) -> Draw | None:
        """The first stage of its own that lies beyond `drawn` samples of a leg."""
        for own, stages in self.legs:
            for k in stages:
                if own > leg or (own == leg and k > drawn):
                    return Draw(own, k)
        return None

    def words(self, menu: Menu) -> str:
        """For people: "small 4, 8, 16 until proven, then large 1"."""
        if self.search >= 0:
            return menu.searches[self.search]
        if not self.legs:
            return "give up"
        until = "until proven" if self.settled is None else f"until settled at {self.settled:g}"
        parts = [f"{menu.legs[leg].backend} {', '.join(map(str, stages))}" for leg, stages in self.legs]
        alone = len(self.legs) == 1 and len(self.legs[0][1]) == 1
        return parts[0] if alone else f"{', then '.join(parts)} {until}"


SIGNALS = ("logprobs", "confidence")
"""What backends may or may not tell of a sample: see strategies.running.gives_logprobs and gives_confidence."""


# ── what a manifest says of a plan ──────────────────────────────────────────────────────────────────────────


class PlanFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of a plan but its arrays; the router's manifest holds one per plan.

    menu      : what it may do.   fixed : the fixed plans that it knows.
    needs     : signals (SIGNALS) that its decisions read beside answers, lengths and the menu's verifier. A router
                whose backends lack one uses its next plan.
    guard     : standard errors that must be left over to leave the best fixed plan's way; None = it is never left.
    trusted   : least and greatest value of a correct answer, in units, at which the best fixed plan's way is left:
                beyond them nothing was gained on prompts left out. A greatest of None = no end; all None = everywhere.
    trusted_waiting : whether it is left where time is priced.
    unit      : mean cost of one sample of the first leg, which values and prices of time are measured in.
    seconds   : per leg, seconds of a wave = a + b * longest sample's tokens + c * all its tokens; None = never timed.
    search_seconds : mean seconds of each search, None where never timed.
    extractor, flight : versions of what reads answers and features; others may see other agreement than was learned.
    n_prompts, n_samples : what it was learned from, samples per prompt of the first leg.

    Raises SpecError for a value out of range, or one that does not fit the menu.
    """

    menu: Menu
    fixed: tuple[FixedPlan, ...]
    needs: tuple[str, ...] = ()
    guard: float | None = 0.0
    trusted: tuple[float, float | None] | None = None
    trusted_waiting: bool = True
    unit: float
    seconds: tuple[tuple[float, float, float] | None, ...]
    search_seconds: tuple[float | None, ...] = ()
    extractor: str
    flight: str = FLIGHT_VERSION
    n_prompts: int
    n_samples: int

    def __post_init__(self) -> None:
        unknown = [name for name in self.needs if name not in SIGNALS]
        if unknown:
            raise SpecError(f"plans: needs {unknown[0]!r}{nearest(unknown[0], SIGNALS)}")
        if self.guard is not None and not (math.isfinite(self.guard) and self.guard >= 0):
            raise SpecError(f"plans: guard={self.guard!r}: it must be a finite number of standard errors >= 0, or null")
        low, high = self.trusted or (0.0, None)
        if not 0 <= low <= (math.inf if high is None else high):
            raise SpecError(f"plans: trusted={self.trusted!r}: it must be a least and a greatest value, >= 0")
        if not (math.isfinite(self.unit) and self.unit > 0):
            raise SpecError(f"plans: unit={self.unit!r}: it must be a finite cost above 0")
        for name, found, due in (
            ("seconds", self.seconds, self.menu.legs),
            ("search_seconds", self.search_seconds, self.menu.searches),
        ):
            if len(found) != len(due):
                raise SpecError(f"plans: {name} has {len(found)} entries, the menu {len(due)}: one for each")
        times = [
            *(x for shape in self.seconds for x in shape or ()),
            *(x for x in self.search_seconds if x is not None),
        ]
        if not all(math.isfinite(x) and x >= 0 for x in times):
            raise SpecError(
                f"plans: seconds={self.seconds!r}, search_seconds={self.search_seconds!r}: all must be >= 0"
            )
        if not self.fixed:
            raise SpecError("plans: fixed is empty: a plan has at least one fixed plan to fall back to")
        for plan in self.fixed:
            _check_fixed(plan, self.menu)

    def trusts(self, objective: Objective) -> bool:
        """Whether the best fixed plan's way may be left at an objective."""
        low, high = self.trusted or (0.0, None)
        within = low <= objective.value / self.unit <= (math.inf if high is None else high)
        return within and (self.trusted_waiting or not objective.price_of_second)

    @property
    def timed(self) -> bool:
        """Whether it is known how long everything takes that the plan may do."""
        return None not in self.seconds and None not in self.search_seconds


def _check_fixed(plan: FixedPlan, menu: Menu) -> None:
    """Raise SpecError for a fixed plan that asks for what the menu has not."""
    if plan.search >= len(menu.searches):
        raise SpecError(f"plans: fixed plan {plan!r} runs a search that the menu has not")
    if plan.search < 0 and not plan.legs and not menu.give_up:
        raise SpecError(f"plans: fixed plan {plan!r} does nothing, and the menu lets no request be given up")
    legs = [leg for leg, _ in plan.legs]
    if legs != sorted(set(legs)) or any(not 0 <= leg < len(menu.legs) for leg in legs):
        raise SpecError(f"plans: fixed plan {plan!r}: its legs must ascend, and be legs of the menu")
    for leg, stages in plan.legs:
        if not stages or list(stages) != sorted(set(stages)) or not set(stages) <= set(menu.legs[leg].stages):
            raise SpecError(f"plans: fixed plan {plan!r}: its stages must ascend, and be stages of the menu's leg")
