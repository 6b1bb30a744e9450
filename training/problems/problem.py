"""What a generated problem is, and what a family of problems promises.

Knows nothing of any one family, of models or of routing. The families live beside it, one per file, and are
gathered in howhard.training.problems.families.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol

LARGEST = 199
"""The largest whole number that a prompt or a reference solution may contain (the tokenizer's last number)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One verifiable problem in plain English.

    family, level : which generator made it and at which setting of its difficulty dial (larger is harder).
    prompt : the text that a model reads.
    reference : the right answer, or None where many answers are right and the prompt alone allows a check.
    grader : "checker" (any valid solution, see howhard.strategies.verifiers.checkers) or "numeric".
    solution : one right solution, a step per line; what the embedded models are trained to write.
    """

    family: str
    level: int
    prompt: str
    reference: str | None
    grader: str
    solution: str


class Family(Protocol):
    """A generator with a difficulty dial and an exact judge of every step."""

    @property
    def name(self) -> str:
        """The family's name, as in `Problem.family`."""
        ...

    @property
    def levels(self) -> tuple[int, ...]:
        """The settings of the dial, easiest first."""
        ...

    def generate(self, level: int, rng: random.Random) -> Problem:
        """Make one problem; the same `rng` state makes the same problem."""
        ...

    def step_labels(self, problem: Problem, solution_text: str) -> list[int]:
        """Judge every non-empty line of `solution_text`: 1 while the text so far can still become right, else 0.

        Labels never rise again: after the first wrong line all are 0. The last label of a complete solution
        is 1 exactly when the solution is right.
        """
        ...


def solution_lines(text: str) -> list[str]:
    """Give the non-empty lines of a solution, stripped."""
    return [line.strip() for line in text.split("\n") if line.strip()]
