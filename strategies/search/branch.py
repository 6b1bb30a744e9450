"""What a search grows and what its rule says: branches, asks for more of them, and the protocol of a rule.

Data only; how branches are drawn and judged is in `engine.py`, which of them to go on from is in each rule's file.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..base import Candidate, Generation, Prefix
from ..running import candidate
from .tree import State

UNJUDGED = 0.5
"""What a branch without a score is worth to rules that reckon with scores: an even chance. The result says so."""


@dataclass(slots=True, eq=False)
class Branch:
    """A partial or finished solution: what was drawn since the prompt, step by step.

    index    : its number in the order of launch; the root is 0.
    used     : completion tokens on the way here.
    state    : see Node.state.
    open     : whether further steps may be drawn from it.
    copies   : samples that led here.    drawn : step samples drawn from here.
    visits, total : for rules that count: samples backed up through here, and the sum of their values.
    kept     : set by the rule.
    """

    index: int
    prefix: Prefix
    parent: "Branch | None" = None
    steps: tuple[Generation, ...] = ()
    used: int = 0
    state: State = "partial"
    open: bool = True
    rollout: bool = False
    score: float | None = None
    step_scores: tuple[float, ...] | None = None
    feedback: str | None = None
    proven: bool = False
    copies: int = 1
    drawn: int = 0
    children: list["Branch"] = field(default_factory=list)
    visits: int = 0
    total: float = 0.0
    kept: bool = False

    @property
    def depth(self) -> int:
        """Steps from the root."""
        return len(self.steps)

    @property
    def finished(self) -> bool:
        """Whether the solution came to its own end."""
        return self.state == "finished"

    @property
    def going(self) -> bool:
        """Whether it is a solution or may become one: neither failed nor cut."""
        return self.state in ("partial", "finished")

    @property
    def rank(self) -> tuple[float, int]:
        """Sorts the best first; ties go to the branch that was launched first, those without a score come last."""
        return (math.inf if self.score is None else -self.score, self.index)

    @property
    def worth(self) -> float:
        """The score; UNJUDGED without one, 0 for what was cut: an answer that never ends is none."""
        if self.state == "cut":
            return 0.0
        return UNJUDGED if self.score is None else self.score

    @property
    def mean(self) -> float:
        """Mean value of the samples backed up through here; its own worth before there are any."""
        return self.total / self.visits if self.visits else self.worth

    def way(self) -> Iterable["Branch"]:
        """The branch itself, its parent, and so on to the root."""
        branch: Branch | None = self
        while branch is not None:
            yield branch
            branch = branch.parent

    def candidate(self) -> Candidate:
        """What the strategy weighs: the whole way as one sample."""
        if not self.steps:  # the root: nothing was drawn
            nothing = Generation(text="", finish_reason="cancelled", completion_tokens=0, prompt_tokens=0)
            return candidate(nothing)
        whole = dataclasses.replace(_joined(self.steps), text=self.prefix.answer)
        if not self.finished and whole.finish_reason == "stop":
            whole = dataclasses.replace(whole, finish_reason="length")
        own = candidate(whole, text=self.prefix.answer)
        return dataclasses.replace(
            own, score=self.score, steps=self.step_scores, feedback=self.feedback, proven=self.proven
        )


def _joined(steps: Sequence[Generation]) -> Generation:
    """Make one generation of consecutive ones: prompt of the first, end of the last."""

    def chained(name: str) -> tuple | None:
        parts = [getattr(step, name) for step in steps]
        return None if None in parts else tuple(itertools.chain.from_iterable(parts))

    return dataclasses.replace(
        steps[-1],
        completion_tokens=sum(step.completion_tokens for step in steps),
        prompt_tokens=steps[0].prompt_tokens,
        cached_tokens=steps[0].cached_tokens,
        token_ids=chained("token_ids"),
        prompt_token_ids=steps[0].prompt_token_ids,
        logprobs=chained("logprobs"),
        confidences=chained("confidences"),
        reasoning="".join(step.reasoning for step in steps),
        seconds=sum(step.seconds for step in steps),
    )


def most_visited(root: Branch) -> list[Branch]:
    """All partial solutions: those on the way of the most visits first, from its end, then the others by score."""
    way, branch = [root], root
    while partial := [child for child in branch.children if child.state == "partial"]:
        branch = max(partial, key=lambda b: (b.visits, b.mean, -b.index))
        way.append(branch)
    others = [root]
    for branch in others:
        others += [child for child in branch.children if child.state == "partial"]
    return list(dict.fromkeys([*reversed(way), *sorted(others, key=lambda b: b.rank)]))


# ── what a rule says ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Ask:
    """Draw n steps from a branch."""

    branch: Branch
    n: int


@dataclass(frozen=True, slots=True)
class Grown:
    """What came of an ask: where each sample led, in launch order. Samples that said the same led to one branch."""

    branch: Branch
    children: tuple[Branch, ...]


class Rule(Protocol):
    """Chooses from which branches to go on: the state of one search, made anew for each.

    unit  : what the rule calls a round, for people: "level" or "round".
    ended : why there was nothing left to ask.
    """

    unit: str
    ended: str

    def ask(self) -> Sequence[Ask]:
        """What to draw next, the most important first, every branch once and open; nothing = the search is over.

        Where the budget does not hold all of it, first each n is lowered, then asks are left out from the end.
        """
        ...

    def tell(self, grown: Sequence[Grown]) -> None:
        """What was drawn: for each ask that the budget held, in order. Sets `kept` of the new branches."""
        ...

    def partials(self) -> Sequence[Branch]:
        """Unfinished solutions that could still be written to their end, the most promising first."""
        ...
