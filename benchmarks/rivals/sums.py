"""Chains of sums for an instruct model: how it is asked, what can be checked on the way, what a text is worth.

The prompt asks for a line per operation and shows two worked examples, so it is longer than a block of the prefix
cache; one wrong line spoils the answer. What guides all sides' searches is a check that needs no reference: a line that
is no true sum, or does not begin with the last result, scores 0; so far faultless ones score .5 and more, the further
the more. It does not know which operation comes next, so it is no oracle: a model that skips one passes it.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from howhard.strategies import Candidate, Request, Verdicts

_LINE = re.compile(r"(-?\d{1,7}) ?([-+*]) ?(\d{1,5}) ?= ?(-?\d{1,7})")
_ANSWER = re.compile(r"Answer: ?(-?\d{1,7})\.?")
EXAMPLES = """\
Work out the result step by step. Write one line for each operation, and then the answer, nothing else.

Start with 6. add 5, multiply by 3, subtract 14
6 + 5 = 11
11 * 3 = 33
33 - 14 = 19
Answer: 19

Start with 40. subtract 17, multiply by 2, add 38, add 9
40 - 17 = 23
23 * 2 = 46
46 + 38 = 84
84 + 9 = 93
Answer: 93

Now do this one.

"""
_WORDS = {"+": "add", "-": "subtract", "*": "multiply by"}


@dataclass(frozen=True)
class Sum:
    """One chain: what is shown, the right answer, and how many operations it has."""

    prompt: str
    answer: int
    operations: int


def make(n: int, operations: int, seed: int) -> list[Sum]:
    """`n` different chains of so many operations, with results between 1 and 299."""
    rng = random.Random(f"sums/{operations}/{seed}")
    found: dict[str, Sum] = {}
    while len(found) < n:
        start = value = rng.randint(11, 40)
        words = []
        while len(words) < operations:
            sign = rng.choice("++--*")
            operand = rng.randint(2, 4) if sign == "*" else rng.randint(5, 49)
            result = value + operand if sign == "+" else value - operand if sign == "-" else value * operand
            if 0 < result < 300:
                value = result
                words.append(f"{_WORDS[sign]} {operand}")
        prompt = f"{EXAMPLES}Start with {start}. {', '.join(words)}"
        found[prompt] = Sum(prompt, value, operations)
    return list(found.values())


def lines_of(text: str) -> list[str]:
    """The lines of an answer, without fences and blanks."""
    lines = (line.strip().strip("`") for line in text.split("\n"))
    return [line for line in lines if line]


def worth(text: str, *, partial: bool) -> float:
    """See above; a finished text must end with the last result as its answer."""
    last: int | None = None
    lines = lines_of(text)
    for place, line in enumerate(lines):
        if answer := _ANSWER.fullmatch(line):
            return float(place == len(lines) - 1 and last is not None and int(answer[1]) == last)
        found = _LINE.fullmatch(line)
        if found is None:
            return 0.0
        a, sign, b, c = int(found[1]), found[2], int(found[3]), int(found[4])
        if last is not None and a != last:
            return 0.0
        if c != (a + b if sign == "+" else a - b if sign == "-" else a * b):
            return 0.0
        last = c
    return 0.5 + 0.04 * min(len(lines), 10) if partial else 0.0


def grade(problem: Sum, text: str) -> float:
    """1 where the last line states the right answer."""
    lines = lines_of(text)
    found = _ANSWER.fullmatch(lines[-1]) if lines else None
    return float(found is not None and int(found[1]) == problem.answer)


class Sums:
    """The check as a verifier; reads no tokens."""

    name, sound = "sums", False
    prices = None

    async def score(self, request: Request, candidates: Sequence[Candidate], *, partial: bool = False) -> Verdicts:
        """Check each."""
        return Verdicts(tuple(worth(c.text, partial=partial) for c in candidates))
