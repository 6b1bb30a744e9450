"""The problems of a comparison, the same for every side, and what a side's texts are worth.

Problems are howhard's own generators' (other seeds than those that the models were trained and measured with), so that
every text can be graded exactly. Sides see ids and prompts only.
"""

import json
import random
from pathlib import Path

from howhard.strategies.answers import extract
from howhard.training.graders import get_grader
from howhard.training.problems.families import FAMILIES
from howhard.training.problems.problem import Problem


def make(cell: str, n: int, seed: int = 777) -> list[Problem]:
    """`n` different problems of a cell such as "chain-14"."""
    family, _, level = cell.rpartition("-")
    rng = random.Random(f"rivals/{cell}/{seed}")
    found: dict[str, Problem] = {}
    while len(found) < n:
        problem = FAMILIES[family].generate(int(level), rng)
        found.setdefault(problem.prompt, problem)
    return list(found.values())


def write(problems: list[Problem], path: Path) -> None:
    """What the sides are shown."""
    lines = [json.dumps({"id": i, "prompt": problem.prompt}) for i, problem in enumerate(problems)]
    path.write_text("\n".join(lines) + "\n")


def grade(problems: list[Problem], texts: dict[int, str]) -> list[float]:
    """1 for each right text, by the text alone, for all sides alike; a missing one is wrong."""
    graders = {name: get_grader(name) for name in {p.grader for p in problems}}
    marks = []
    for i, problem in enumerate(problems):
        text = texts.get(i, "")
        answer = extract(text) or None
        marks.append(graders[problem.grader].grade(problem.prompt, text, answer, problem.reference))
    return marks
