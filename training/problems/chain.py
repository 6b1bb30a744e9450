"""Arithmetic chains: many small steps, each of which fails now and then.

The dial is the number of operations; operands grow with it. All results are taken modulo 97, so that numbers
stay small however long the chain. A wrong step is easy to see and can never be repaired.
"""

from __future__ import annotations

import random
import re

from .problem import Problem, solution_lines

MODULUS = 97

PHRASINGS: tuple[tuple[str, str, str], ...] = (
    ("Work modulo 97. Start with {start}, ", ", ", ". What is the result?"),
    ("Start with {start}, then ", ", then ", ". Give the result modulo 97."),
    ("Take the number {start}. Modulo 97, ", ", ", ". What number do you have now?"),
    ("Begin at {start} and count modulo 97: ", "; ", ". Where do you end?"),
)
_WORDS = {"+": "add {}", "-": "subtract {}", "*": "multiply by {}"}
_LINE = re.compile(r"(\d+) ?([-+*]) ?(\d+) ?= ?(\d+)")
_ANSWER = re.compile(r"Answer: ?(\d+)")
_OPERATION = re.compile(r"(add|subtract|multiply by) (\d+)")
_SIGNS = {"add": "+", "subtract": "-", "multiply by": "*"}


def apply(sign: str, left: int, right: int) -> int:
    """Compute `left sign right` modulo 97; `sign` is one of + - *."""
    value = left + right if sign == "+" else left - right if sign == "-" else left * right
    return value % MODULUS


class Chain:
    """`level` operations (2 to 14) on a number, one line each, then the answer."""

    name = "chain"
    levels = (2, 4, 6, 8, 10, 12, 14)

    def __init__(self, *, gentle: bool = False) -> None:
        self.gentle = gentle

    def largest(self, level: int) -> tuple[int, int]:
        """Give the largest number to add or subtract, and the largest to multiply by.

        They grow with the square of `level`, to 96 and 16; gentle chains (for a model that is still learning what
        a chain is) stay at 33 and 9.
        """
        if self.gentle:
            return 2 * level + 5, level // 2 + 2
        return min(96, 5 + level * level // 2), 2 + level * level // 14

    def generate(self, level: int, rng: random.Random) -> Problem:
        """Make a chain of `level` operations; operands reach what `largest` says."""
        start = value = rng.randrange(1, MODULUS)
        words, lines = [], []
        addend, multiplier = self.largest(level)
        for _ in range(level):
            sign = rng.choice("++--***")
            operand = rng.randint(2, multiplier) if sign == "*" else rng.randint(1, addend)
            result = apply(sign, value, operand)
            words.append(_WORDS[sign].format(operand))
            lines.append(f"{value} {sign} {operand} = {result}")
            value = result
        head, between, tail = rng.choice(PHRASINGS)
        prompt = head.format(start=start) + between.join(words) + tail
        lines.append(f"Answer: {value}")
        return Problem(self.name, level, prompt, str(value), "numeric", "\n".join(lines))

    def corrupted(self, problem: Problem, rng: random.Random) -> str:
        """Write the solution with one wrong step, the steps after it computed rightly from the wrong number.

        The slip is a result a little off or far off, or another operand than the prompt's.
        """
        lines = problem.solution.split("\n")[:-1]
        wrong = rng.randrange(len(lines))
        value = int(lines[0].split()[0])
        for index, line in enumerate(lines):
            _, sign, operand, _, _ = line.split()
            taken = int(operand)
            if index == wrong and rng.random() < 0.15:
                taken = max(1, taken + rng.choice((-2, -1, 1, 2)))
            result = apply(sign, value, taken)
            if index == wrong and taken == int(operand):
                slip = rng.randint(1, 10) if rng.random() < 0.6 else rng.randint(1, MODULUS - 1)
                result = (result + rng.choice((-1, 1)) * slip) % MODULUS
            lines[index] = f"{value} {sign} {taken} = {result}"
            value = result
        return "\n".join([*lines, f"Answer: {value}"])

    def step_labels(self, problem: Problem, solution_text: str) -> list[int]:
        """A line is right when it is the next operation on the last result, computed rightly."""
        numbers = re.sub(r"(?i)modulo 97", "", problem.prompt)
        first = re.search(r"\d+", numbers)
        operations = _OPERATION.findall(problem.prompt)
        value = int(first.group()) if first else -1
        labels: list[int] = []
        right = True
        for index, line in enumerate(solution_lines(solution_text)):
            if index < len(operations):
                sign, operand = _SIGNS[operations[index][0]], int(operations[index][1])
                result = apply(sign, value, operand)
                match = _LINE.fullmatch(line)
                right = right and match is not None and match.groups() == (str(value), sign, str(operand), str(result))
                value = result
            else:
                match = _ANSWER.fullmatch(line)
                right = right and index == len(operations) and match is not None and match[1] == str(value)
            labels.append(int(right))
        return labels
