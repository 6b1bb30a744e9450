"""Generated problems: deterministic, solvable, spread over the dial, judged exactly line by line."""

import itertools
import random
import re

import pytest

from howhard.training.problems.countdown import reachable
from howhard.training.problems.families import FAMILIES, fresh_problems
from howhard.training.problems.path import parse
from howhard.training.problems.problem import LARGEST


@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_level_makes_problems_whose_solution_is_right_line_by_line(name):
    family = FAMILIES[name]
    for level in family.levels:
        problem = family.generate(level, random.Random(level))
        assert (problem.family, problem.level) == (name, level)
        labels = family.step_labels(problem, problem.solution)
        assert labels == [1] * len(problem.solution.split("\n"))
        numbers = [int(n) for n in re.findall(r"\d+", problem.prompt + problem.solution)]
        assert max(numbers, default=0) <= LARGEST
        assert (problem.reference is None) == (problem.grader == "checker")
        if problem.reference is not None:
            assert problem.solution.endswith(f"Answer: {problem.reference}")


def test_the_same_seed_makes_the_same_problems_and_another_seed_others():
    first = fresh_problems(60, seed=5)
    assert first == fresh_problems(60, seed=5)
    assert not {p.prompt for p in first} & {p.prompt for p in fresh_problems(60, seed=6) if p.level > 4}


def test_fresh_problems_are_different_and_spread_over_families_and_levels():
    problems = fresh_problems(1000, seed=0)
    assert len({p.prompt for p in problems}) == 1000
    for name, family in FAMILIES.items():
        counts = [sum(p.family == name and p.level == level for p in problems) for level in family.levels]
        assert max(counts) - min(counts) <= 1


def test_a_family_that_is_used_up_or_unknown_is_said_so():
    with pytest.raises(ValueError, match="unknown families"):
        fresh_problems(3, seed=0, families=["chess"])


@pytest.mark.parametrize("name", list(FAMILIES))
def test_prompts_come_in_at_least_three_phrasings(name):
    family, rng = FAMILIES[name], random.Random(1)
    shapes = set()
    for _ in range(80):
        prompt = family.generate(family.levels[0], rng).prompt
        shapes.add(re.sub(r"\b([A-Z]|\d+|add|subtract|multiply by)\b", "_", prompt).split("_")[0])
    assert len(shapes) >= 3


def test_labels_never_rise_again_after_a_wrong_line():
    for problem in fresh_problems(80, seed=9):
        lines = problem.solution.split("\n")
        for wrong in range(len(lines)):
            text = "\n".join([*lines[:wrong], "nonsense", *lines[wrong + 1 :]])
            labels = FAMILIES[problem.family].step_labels(problem, text)
            assert labels == [1] * wrong + [0] * (len(lines) - wrong)


def test_a_slip_in_a_chain_is_found_where_it_happens():
    problem = FAMILIES["chain"].generate(6, random.Random(2))
    lines = problem.solution.split("\n")
    left, value = lines[3].split(" = ")
    lines[3] = f"{left} = {(int(value) + 1) % 97}"
    assert FAMILIES["chain"].step_labels(problem, "\n".join(lines)) == [1, 1, 1, 0, 0, 0, 0]


def brute_force(numbers: list[int], target: int) -> bool:
    if len(numbers) == 1:
        return numbers[0] == target
    for i, j in itertools.permutations(range(len(numbers)), 2):
        a, b = numbers[i], numbers[j]
        rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
        values = [a + b, a * b] + ([a - b] if a >= b else []) + ([a // b] if b and a % b == 0 else [])
        if any(brute_force([*rest, value], target) for value in values):
            return True
    return False


def test_the_countdown_solver_agrees_with_brute_force():
    rng = random.Random(4)
    for _ in range(120):
        numbers = [rng.randint(0, 12) for _ in range(rng.randint(1, 4))]
        target = rng.randint(0, 60)
        assert reachable(tuple(sorted(numbers)), target) == brute_force(numbers, target)


def test_a_step_on_a_path_is_right_exactly_while_some_simple_path_goes_on_from_it():
    rng = random.Random(8)
    for _ in range(40):
        problem = FAMILIES["path"].generate(6, rng)
        graph, start, goal = parse(problem.prompt)
        way, text = [start], []
        while way[-1] != goal and len(text) < 6:
            step = rng.choice(sorted(graph[way[-1]]))
            text.append(f"{way[-1]} - {step}")
            way.append(step)
            towns = sorted(set(graph) - set(way))
            ahead = (
                any(
                    all(b in graph[a] for a, b in itertools.pairwise([step, *middle, goal]))
                    for k in range(len(towns))
                    for middle in itertools.permutations([t for t in towns if t != goal], k)
                )
                if step != goal
                else True
            )
            expected = len(set(way)) == len(way) and ahead and (goal not in way[:-1])
            labels = FAMILIES["path"].step_labels(problem, "\n".join(text))
            assert labels[-1] == int(expected), (problem.prompt, text)
            if not expected:
                break
