"""A plan's steps for people and for logs: what was seen, what is done next, and what each action would come to."""

import math

import msgspec

from .decision import ArmEstimate, Reason, table_of
from .flight import OF_SAMPLES
from .objective import Objective
from .plan import Hand, State, Steps
from .plan_facts import Menu, words_of


class Step(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One step of one request.

    action      : what is done next: "large x1", "stop with small".
    observation : what the samples have shown: "3 of 4 samples of small agree, verifier 0.97"; "" where none is drawn.
    fallback    : whether the best fixed plan's way is kept to where another looked better.
    actions     : what was predicted of every action that was open: quality of the answer at the end, cost and latency
                  of the whole request, what is spent already included.
    spent, elapsed : cost and predicted seconds so far; None = never timed.
    """

    action: str
    observation: str
    reason: Reason
    fallback: bool
    actions: tuple[ArmEstimate, ...]
    spent: float
    elapsed: float | None

    @property
    def sentence(self) -> str:
        """The reason for people."""
        return self.reason.of_step

    def __str__(self) -> str:
        return f"{self.observation}: {self.action}" if self.observation else self.action

    def explain(self) -> str:
        """The step for people: a sentence, and a line per action, the one taken marked."""
        seconds = "" if self.elapsed is None else f", {self.elapsed:.3g} s"
        lines = [str(self), f"  {self.sentence} Spent so far: {self.spent:.4g}{seconds}"]
        return "\n".join([*lines, *table_of(self.actions, self.action, "then")])

    def to_dict(self) -> dict[str, object]:
        """The step as plain JSON types, `sentence` included."""
        return {**msgspec.to_builtins(self), "sentence": self.sentence}


def told(menu: Menu, state: State, steps: Steps, objective: Objective, row: int = 0) -> Step:
    """What one run's step was, in words and numbers."""
    elapsed = float(state.elapsed[row])
    return Step(
        action=words_of(menu, steps.actions[int(steps.index[row])]),
        observation=_observed(menu, state, row),
        reason=steps.reason[row],
        fallback=bool(steps.fallback[row]),
        actions=estimates_of(menu, steps, objective, row),
        spent=float(state.spent[row]),
        elapsed=None if steps.latency is None or math.isnan(elapsed) else elapsed,
    )


def estimates_of(menu: Menu, steps: Steps, objective: Objective, row: int) -> tuple[ArmEstimate, ...]:
    """What was predicted of every action in one run; `benefit` is over the best fixed plan's action."""
    quality = steps.quality[row].tolist()
    base, seconds = quality[int(steps.fixed[row])], steps.latency_at(objective.deadline_quantile, row)
    columns = zip(
        steps.actions, quality, steps.se[row].tolist(), steps.cost[row].tolist(),
        [math.nan] * len(quality) if seconds is None else seconds.tolist(),
        steps.utilities[row].tolist(), steps.feasible[row].tolist(), strict=True,
    )  # fmt: skip
    return tuple(
        ArmEstimate(
            name=words_of(menu, action),
            quality=q,
            benefit=q - base,
            benefit_se=se,
            cost=cost,
            latency=None if math.isnan(latency) else latency,
            utility=None if math.isnan(utility) else utility,
            feasible=feasible,
        )
        for action, q, se, cost, latency, utility, feasible in columns
    )


def _observed(menu: Menu, state: State, row: int) -> str:
    parts = [
        _of_hand(leg.backend, hand, row, menu.verifier is not None)
        for leg, hand in zip(menu.legs, state.hands, strict=True)
        if hand is not None
    ]
    if state.place.search >= 0 and state.found is not None:
        answer = "found an answer" if state.found[row] >= 0 else "found no answer"
        parts.append(f"{menu.searches[state.place.search]} {answer}")
    return "; ".join(parts)


def _of_hand(backend: str, hand: Hand, row: int, verified: bool) -> str:
    """Say what one leg has shown: "2 of 2 samples of small agree, verifier 0.97"."""
    seen = dict(zip(OF_SAMPLES, hand.features[row].tolist(), strict=True))
    drawn, answered, votes, distinct = (round(seen[name]) for name in ("drawn", "answered", "votes", "distinct"))
    several = f"{drawn} sample{'s' if drawn > 1 else ''} of {backend}"
    if answered == 0:
        words = f"{several}, no answer"
    elif drawn == 1:
        words = f"1 sample of {backend}"
    elif votes == 1:
        words = f"{several}, {distinct} different answers"
    else:
        words = f"{votes} of {several} agree"
    if not verified or answered == 0:
        return words
    if hand.proven[row]:
        return f"{words}, proven"
    best, lead = seen["score_best"], seen["score_lead"]
    if math.isnan(best):
        return f"{words}, not judged"
    if best == 0.0:
        return f"{words}, none accepted"
    return f"{words}, {'not judged' if math.isnan(lead) else f'verifier {lead:.2f}'}"
