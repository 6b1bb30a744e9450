"""The problem families of the embedded models, and fresh problems of all of them.

Each family lives in a file of its own; what a problem is, in howhard.training.problems.problem.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from .chain import Chain
from .countdown import Countdown
from .path import Path
from .problem import Family, Problem
from .remainder import Remainder

__all__ = ["FAMILIES", "Family", "Problem", "fresh_problems"]

FAMILIES: dict[str, Family] = {family.name: family for family in (Chain(), Countdown(), Path(), Remainder())}


def fresh_problems(n: int, seed: int, families: Sequence[str] | None = None) -> list[Problem]:
    """Make `n` problems spread evenly over families and, within each, over levels; no prompt occurs twice.

    The same arguments make the same problems in the same order. Small tables (remainders of one-digit factors)
    hold few different prompts: where a cell is used up, the next cell of the same family takes its turn.
    Raises ValueError for an unknown family.
    """
    names = list(FAMILIES) if families is None else list(families)
    unknown = [name for name in names if name not in FAMILIES]
    if unknown or not names:
        raise ValueError(f"unknown families {unknown}: choose from {', '.join(FAMILIES)}")
    rng = random.Random(f"howhard/{seed}")
    turn = dict.fromkeys(names, 0)
    problems: list[Problem] = []
    seen: set[str] = set()
    while len(problems) < n:
        family = FAMILIES[names[len(problems) % len(names)]]
        fresh = None
        for _ in range(4 * len(family.levels)):
            level = family.levels[turn[family.name] % len(family.levels)]
            turn[family.name] += 1
            tries = (family.generate(level, rng) for _ in range(50))
            fresh = next((problem for problem in tries if problem.prompt not in seen), None)
            if fresh is not None:
                break
        if fresh is None:
            raise ValueError(f"family {family.name!r} has no more different prompts after {len(problems)} problems")
        seen.add(fresh.prompt)
        problems.append(fresh)
    return problems
