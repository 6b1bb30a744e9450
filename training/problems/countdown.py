"""Countdown: join given numbers to reach a target. A whole answer is easy to judge, a partial one is not.

The dial is how many numbers are given. Every number is used exactly once; each step joins two of the numbers at
hand into a whole number that is not negative.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache

from .problem import LARGEST, Problem, solution_lines

PHRASINGS: tuple[str, ...] = (
    "Use {numbers} to make {target}.",
    "Make {target} from the numbers {numbers}.",
    "Combine {numbers}, each exactly once, to reach {target}.",
    "With {numbers} and the four operations, get {target}.",
)
_LINE = re.compile(r"(\d+) ?([-+*/]) ?(\d+) ?= ?(\d+)")


def results(a: int, b: int) -> list[tuple[int, str, int, int]]:
    """List every allowed `(left, sign, right, result)` of two whole numbers, in either order."""
    low, high = min(a, b), max(a, b)
    found = [(high, "+", low, high + low), (high, "-", low, high - low), (high, "*", low, high * low)]
    if low and high % low == 0:
        found.append((high, "/", low, high // low))
    elif high and low == 0:
        found.append((low, "/", high, 0))
    return found


@lru_cache(maxsize=400_000)
def reachable(numbers: tuple[int, ...], target: int) -> bool:
    """Whether all of `numbers` (sorted ascending) can be joined into `target`.

    Brute force over pairs, remembered: at most a few milliseconds for five numbers.
    """
    if len(numbers) == 1:
        return numbers[0] == target
    seen = set()
    for i in range(len(numbers)):
        for j in range(i + 1, len(numbers)):
            if (numbers[i], numbers[j]) in seen:
                continue
            seen.add((numbers[i], numbers[j]))
            rest = numbers[:i] + numbers[i + 1 : j] + numbers[j + 1 :]
            for *_, result in results(numbers[i], numbers[j]):
                if not rest:
                    if result == target:
                        return True
                elif reachable(tuple(sorted((*rest, result))), target):
                    return True
    return False


def listed(numbers: list[int]) -> str:
    """Write numbers as English does: "3", "3 and 5", "3, 5 and 7"."""
    words = [str(n) for n in numbers]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


class Countdown:
    """`level` numbers (2 to 6) from 1 to 20 and a target up to 199, reachable by construction."""

    name = "countdown"
    levels = (2, 3, 4, 5, 6)

    def generate(self, level: int, rng: random.Random) -> Problem:
        """Join random pairs of random numbers; what comes out is the target, the joins are the solution."""
        while True:
            given = [rng.randint(1, 20) for _ in range(level)]
            left, lines = list(given), []
            while len(left) > 1:
                a = left.pop(rng.randrange(len(left)))
                b = left.pop(rng.randrange(len(left)))
                options = [
                    option
                    for option in results(a, b)
                    if option[3] <= LARGEST and option[3] > 0 and not (option[1] in "*/" and option[2] == 1)
                ]
                if not options:
                    break
                first, sign, second, result = rng.choice(options)
                if sign in "+*" and rng.random() < 0.5:
                    first, second = second, first
                lines.append(f"{first} {sign} {second} = {result}")
                left.append(result)
            if len(left) == 1 and left[0] not in given:
                break
        prompt = rng.choice(PHRASINGS).format(numbers=listed(given), target=left[0])
        return Problem(self.name, level, prompt, None, "checker", "\n".join(lines))

    def step_labels(self, problem: Problem, solution_text: str) -> list[int]:
        """A line is right when it is a true join of two numbers at hand and the target can still be reached."""
        given, target = parse(problem.prompt)
        left = list(given)
        labels: list[int] = []
        right = True
        for line in solution_lines(solution_text):
            match = _LINE.fullmatch(line)
            right = right and match is not None
            if right and match is not None:
                first, sign, second, result = int(match[1]), match[2], int(match[3]), int(match[4])
                if first in left:
                    left.remove(first)
                    right = second in left
                else:
                    right = False
                if right:
                    left.remove(second)
                    left.append(result)
                    right = is_true(first, sign, second, result) and reachable(tuple(sorted(left)), target)
            labels.append(int(right))
        return labels


def is_true(first: int, sign: str, second: int, result: int) -> bool:
    """Whether `first sign second = result` holds with whole numbers that are not negative."""
    if sign == "+":
        return first + second == result
    if sign == "-":
        return first - second == result
    if sign == "*":
        return first * second == result
    return second != 0 and first == result * second


def parse(prompt: str) -> tuple[list[int], int]:
    """Read the given numbers and the target back from a prompt of any phrasing."""
    numbers = [int(n) for n in re.findall(r"\d+", prompt)]
    if prompt.startswith("Make"):
        return numbers[1:], numbers[0]
    return numbers[:-1], numbers[-1]
