"""Replay plans on a samples log: what each run would have done, step by step, and what it came to.

The very `Plan.step` that serves requests decides here, for all runs at a place at once. Whatever else decides what a
request does next - a fixed plan, a stop rule, a router that looks at the prompt alone - is replayed on the same runs.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...router.flight import STAYS_AHEAD
from ...router.objective import Objective
from ...router.plan import Action, FixedPlan, GiveUp, Place, Plan, State, Stop, after, start_of
from ...router.policy import Policy
from .runs import Runs

Moves = list[tuple[np.ndarray, Action]]
"""What each of n runs at a place does: masks (n,) that add up to all, with an action each."""


class Mover(Protocol):
    """Decides what runs do next."""

    def moves(self, state: State, rows: np.ndarray) -> Moves:
        """For n runs at one place; rows : (n,) of the runs."""
        ...


@dataclass(frozen=True, slots=True)
class ByPlan:
    """A learned plan at an objective.

    policy : see Plan.step; None = the best fixed plan's way always.
    blind : (n_prompts,) member to listen to for each prompt; None = all.   prompt : (t,) of the runs.
    """

    plan: Plan
    objective: Objective
    policy: Policy | None
    prompt: np.ndarray
    blind: np.ndarray | None = None

    def moves(self, state: State, rows: np.ndarray) -> Moves:
        """See Mover."""
        blind = None if self.blind is None else self.blind[self.prompt[rows]]
        steps = self.plan.step(state, self.objective, self.policy, blind=blind)
        return [(steps.index == j, steps.actions[j]) for j in np.unique(steps.index)]


@dataclass(frozen=True, slots=True)
class ByFixedPlan:
    """A fixed plan."""

    plan: FixedPlan

    def moves(self, state: State, rows: np.ndarray) -> Moves:
        """See Mover."""
        leg = state.place.leg
        hand = state.hands[leg] if leg >= 0 else None
        nothing = np.zeros(len(state), dtype=bool)
        if hand is None:
            return self.plan.next(state.place, np.zeros(len(state)), nothing, nothing)
        return self.plan.next(state.place, hand.features[:, STAYS_AHEAD], hand.proven, hand.lead.label >= 0)


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """What each run came to, (t,) each, and the way it took.

    visited : the rows that were at each place.   moved : the rows that did each action there, ends included.
    """

    quality: np.ndarray
    cost: np.ndarray
    tokens: np.ndarray
    seconds: np.ndarray
    prompt: np.ndarray
    moved: dict[tuple[Place, Action], np.ndarray]
    visited: dict[Place, np.ndarray]

    @property
    def ended(self) -> dict[tuple[Place, Action], np.ndarray]:
        """The rows that ended at each place, by what they ended with."""
        return {at: rows for at, rows in self.moved.items() if isinstance(at[1], (Stop, GiveUp))}

    def by_prompt(self, name: str) -> np.ndarray:
        """Mean over the runs of each prompt, (n,)."""
        values = getattr(self, name)
        count = np.bincount(self.prompt)
        return np.bincount(self.prompt, values) / count


def replay(runs: Runs, mover: Mover, rows: np.ndarray | None = None) -> Replayed:
    """Let runs go from the start to their ends.

    rows : (t,) of the runs to replay; None = all; what the others came to is NaN.
    """
    t = len(runs)
    totals = {name: np.full(t, np.nan) for name in ("quality", "cost", "tokens", "seconds")}
    spent = {name: np.zeros(t) for name in ("cost", "tokens", "seconds")}
    waiting: dict[Place, np.ndarray] = {start_of(runs.log.menu): np.arange(t) if rows is None else np.asarray(rows)}
    moved: dict[tuple[Place, Action], np.ndarray] = {}
    visited: dict[Place, np.ndarray] = {}
    while waiting:
        place, at = waiting.popitem()
        visited[place] = np.concatenate([visited.get(place, np.empty(0, np.intp)), at])
        state = runs.state(place, at, spent["cost"][at], spent["seconds"][at])
        for mask, action in mover.moves(state, at):
            if not mask.any():
                continue
            mine, key = at[mask], (place, action)
            moved[key] = np.concatenate([moved.get(key, np.empty(0, np.intp)), mine])
            if isinstance(action, (Stop, GiveUp)):
                totals["quality"][mine] = runs.quality(place, action, mine)
                for name, total in spent.items():
                    totals[name][mine] = total[mine]
                continue
            took = runs.take(place, action, mine)
            spent["cost"][mine] += took.cost
            spent["tokens"][mine] += took.tokens
            spent["seconds"][mine] += took.seconds
            next_ = after(place, action)
            waiting[next_] = np.concatenate([waiting.get(next_, np.empty(0, np.intp)), mine])
    return Replayed(prompt=runs.prompt, moved=moved, visited=visited, **totals)
