"""Remainders of products, answered in one go: no steps to check, nothing in the prompt to check against.

The dial is the size of the factors (and of the modulus): the easy end is a small table, the hard end is out of
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
SIZES: dict[int, tuple[int, int]] = {
    1: (9, 7), 2: (14, 11), 3: (20, 13), 4: (30, 17), 5: (50, 23), 6: (100, 31), 7: (199, 53)}
"""Level -> (largest factor, modulus)."""
_ANSWER = re.compile(r"Answer: ?(\d+)")


class Remainder:
    """Two factors and a modulus; the solution is the answer alone."""

    name = "remainder"
    levels = tuple(SIZES)

    def generate(self, level: int, rng: random.Random) -> Problem:
        """Draw both factors from 2 to the level's largest."""
        largest, modulus = SIZES[level]
        a, b = rng.randint(2, largest), rng.randint(2, largest)
        prompt = rng.choice(PHRASINGS).format(a=a, b=b, m=modulus)
        answer = str(a * b % modulus)
        return Problem(self.name, level, prompt, answer, "numeric", f"Answer: {answer}")

    def step_labels(self, problem: Problem, solution_text: str) -> list[int]:
        """One line is right when it gives the reference; any further line is wrong."""
        labels = []
        for index, line in enumerate(solution_lines(solution_text)):
            match = _ANSWER.fullmatch(line)
            labels.append(int(index == 0 and match is not None and match[1] == problem.reference))
        return labels
