"""Remainders of products, answered in one go: no steps to check, nothing in the prompt to check against.

The dial is the size of the factors: the easy end is a small table, the hard end is out of
reach of the embedded models. In between a model is right more often than it is wrong in any one way, so votes help.
"""

from __future__ import annotations

import random
import re

from .problem import Problem, solution_lines

PHRASINGS: tuple[str, ...] = (
    "What is {a} times {b} modulo {m}?",
    "Multiply {a} by {b} and give the remainder after dividing by {m}.",
    "Find the remainder of {a} * {b} when divided by {m}.",
)
MODULUS = 11
LARGEST_FACTOR: dict[int, int] = {1: 9, 2: 15, 3: 25, 4: 40, 5: 70, 6: 120, 7: 199}
"""Level -> largest factor."""
_ANSWER = re.compile(r"Answer: ?(\d+)")


class Remainder:
    """Two factors and a modulus; the solution is the answer alone."""

    name = "remainder"
    levels = tuple(LARGEST_FACTOR)

    def generate(self, level: int, rng: random.Random) -> Problem:
        """Draw both factors from 2 to the level's largest."""
        largest = LARGEST_FACTOR[level]
        a, b = rng.randint(2, largest), rng.randint(2, largest)
        prompt = rng.choice(PHRASINGS).format(a=a, b=b, m=MODULUS)
        answer = str(a * b % MODULUS)
        return Problem(self.name, level, prompt, answer, "numeric", f"Answer: {answer}")

    def step_labels(self, problem: Problem, solution_text: str) -> list[int]:
        """One line is right when it gives the reference; any further line is wrong."""
        labels = []
        for index, line in enumerate(solution_lines(solution_text)):
            match = _ANSWER.fullmatch(line)
            labels.append(int(index == 0 and match is not None and match[1] == problem.reference))
        return labels
