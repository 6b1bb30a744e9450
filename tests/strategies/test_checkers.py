"""The exact checkers accept every right solution and never a wrong one."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.strategies.verifiers.checkers import CHECKERS, countdown, path
from howhard.training.problems.families import FAMILIES, fresh_problems

PROBLEMS = fresh_problems(240, seed=11, families=["countdown", "path"])
ROADS = "Roads: A - B, C - B, C - D, B - D. Find a path from A to D."


@pytest.mark.parametrize("family", list(FAMILIES))
def test_each_check_accepts_its_own_family_and_leaves_the_others_alone(family):
    for problem in fresh_problems(40, seed=3, families=[family]):
        for name, check in CHECKERS.items():
            assert check(problem.prompt, problem.solution) is (True if name == family else None)


@given(index=st.integers(0, len(PROBLEMS) - 1), seed=st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_a_mutated_solution_is_accepted_only_where_the_solver_calls_every_line_right(index, seed):
    problem, rng = PROBLEMS[index], random.Random(seed)
    words = problem.solution.split(" ")
    for _ in range(rng.randint(1, 3)):
        place, other = rng.randrange(len(words)), rng.randrange(len(words))
        words[place], words[other] = rng.choice(
            [(words[other], words[place]), (words[other], words[other]), (str(rng.randrange(60)), words[other])]
        )
    mutated = " ".join(words)
    verdict = CHECKERS[problem.family](problem.prompt, mutated)
    assert isinstance(verdict, bool)
    if verdict:
        assert all(FAMILIES[problem.family].step_labels(problem, mutated))


@given(prompt=st.text(max_size=60), solution=st.text(max_size=80))
@settings(max_examples=150, deadline=None)
def test_garbage_is_wrong_or_not_of_the_kind_and_never_an_error(prompt, solution):
    for check in CHECKERS.values():
        assert check(prompt, solution) is None
    assert not countdown("Use 3, 5 and 7 to make 36.", solution)
    assert not path(ROADS, solution)


@pytest.mark.parametrize(
    "solution",
    [
        "5 + 7 = 12\n12 * 3 = 36",
        "7+5=12\n\n 3 * 12 = 36 \n",
        "5 + 7 = 12\n12 * 3 = 36\nAnswer: 36",
    ],
)
def test_countdown_accepts_spacing_order_and_a_closing_answer(solution):
    assert countdown("Use 3, 5 and 7 to make 36.", solution) is True


@pytest.mark.parametrize(
    "solution",
    [
        "",
        "Answer: 36",
        "36",
        "5 + 7 = 12",
        "5 + 7 = 12\n12 * 3 = 36\nAnswer: 35",
        "5 + 7 = 12\n12 * 3 = 36\n36 - 0 = 36",
        "5 * 7 = 35\n35 + 1 = 36",
        "12 * 3 = 36",
        "5 + 7 = 13\n13 * 3 = 36",
        "3 - 5 = -2\n-2 + 7 = 5",
        "7 / 0 = 36",
    ],
)
def test_countdown_refuses_what_is_unfinished_untrue_or_uses_other_numbers(solution):
    assert countdown("Use 3, 5 and 7 to make 36.", solution) is False


def test_countdown_uses_a_number_as_often_as_it_is_given():
    assert countdown("Use 4 and 4 to make 16.", "4 * 4 = 16") is True
    assert countdown("Use 4 and 3 to make 16.", "4 * 4 = 16") is False


@pytest.mark.parametrize(
    ("solution", "right"),
    [
        ("A - B\nB - D", True),
        ("A - B\nB - C\nC - D", True),
        ("A-B\nB-D", True),
        ("A - B", False),
        ("B - D", False),
        ("A - D", False),
        ("A - B\nC - D", False),
        ("A - B\nB - A\nA - B\nB - D", False),
        ("A - B\nB - D\nD - C", False),
        ("", False),
    ],
)
def test_path_follows_roads_both_ways_to_the_goal_and_no_further(solution, right):
    assert path(ROADS, solution) is right
