"""When to stop drawing samples: one seam for every rule, the learned plans of the router included.

A rule is shown the samples drawn so far, in launch order, and says how many more to draw now; 0 stops. Rules hold
settings only and never look at the order in which samples ended: short answers end first, and would vote first.
"""

from dataclasses import dataclass, field
from typing import Protocol

from .base import Candidate, Request, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a stop rule is shown.

    candidates : the samples so far, in launch order, those that failed or were cut off included.
    groups     : for each, which answer it gave: equal numbers mean equivalent answers, numbered 0, 1, ... by first
                 appearance; None = no answer.
    weights    : for each, what its vote weighs, >= 0 (1 in a plain vote).
    planned    : most samples that may be drawn in all.
    usage, seconds : spent so far.
    """

    request: Request
    candidates: tuple[Candidate, ...]
    groups: tuple[int | None, ...]
    weights: tuple[float, ...]
    planned: int
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0


class StopRule(Protocol):
    """Decides after every wave. Holds settings only."""

    @property
    def name(self) -> str:
        """Short and stable; part of the strategy's name."""
        ...

    def more(self, seen: Seen) -> int:
        """How many more samples to draw now, at most `planned - len(candidates)`; 0 = stop. Asked first with none."""
        ...
