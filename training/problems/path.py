"""A path in a small graph: looking ahead is what a small model can't do, and checking is easy.

The dial is the number of towns. Roads form a tree with a few extra edges; the solution names one road per line.
"""

from __future__ import annotations

import random
import re
import string
from collections import deque
from itertools import pairwise

from .problem import Problem, solution_lines

PHRASINGS: tuple[str, ...] = (
    "Roads: {roads}. Find a path from {start} to {goal}.",
    "Go from {start} to {goal} without visiting a town twice. The roads are {roads}.",
    "There are roads {roads}. Which roads lead from {start} to {goal}?",
    "From {start}, reach {goal} using these roads: {roads}.",
)
_ROAD = re.compile(r"\b([A-Z]) ?- ?([A-Z])\b")
_ENDS = re.compile(r"[Ff]rom ([A-Z])\b(?:, reach| to) ([A-Z])\b")
_STEP = re.compile(r"([A-Z]) ?- ?([A-Z])")

Graph = dict[str, set[str]]


def shortest_path(graph: Graph, start: str, goal: str) -> list[str] | None:
    """Breadth-first search; the towns from `start` to `goal`, or None where there is no way."""
    before: dict[str, str | None] = {start: None}
    queue = deque([start])
    while queue:
        town = queue.popleft()
        if town == goal:
            way: list[str] = []
            at: str | None = town
            while at is not None:
                way.append(at)
                at = before[at]
            return way[::-1]
        for near in sorted(graph.get(town, ())):
            if near not in before:
                before[near] = town
                queue.append(near)
    return None


def parse(prompt: str) -> tuple[Graph, str, str]:
    """Read roads (both ways), start and goal back from a prompt of any phrasing."""
    graph: Graph = {}
    for a, b in _ROAD.findall(prompt):
        graph.setdefault(a, set()).add(b)
        graph.setdefault(b, set()).add(a)
    ends = _ENDS.search(prompt)
    if ends is None:
        raise ValueError(f"not a path prompt: {prompt!r}")
    return graph, ends[1], ends[2]


class Path:
    """`level` towns (4 to 14) with `level - 1 + level // 4` roads; start and goal lie two or more roads apart."""

    name = "path"
    levels = (4, 6, 8, 10, 12, 14)

    def generate(self, level: int, rng: random.Random) -> Problem:
        """Grow a random tree, add extra roads, and choose the ends; the reference solution is a shortest path."""
        while True:
            towns = rng.sample(string.ascii_uppercase, level)
            roads: list[tuple[str, str]] = []
            graph: Graph = {town: set() for town in towns}
            for index in range(1, level):
                # Attaching to one of the last few towns makes long branches, so that looking ahead matters.
                other = towns[rng.randrange(max(0, index - 3), index)]
                roads.append((towns[index], other))
            while len(roads) < level - 1 + level // 4:
                a, b = rng.sample(towns, 2)
                if (a, b) not in roads and (b, a) not in roads:
                    roads.append((a, b))
            for a, b in roads:
                graph[a].add(b)
                graph[b].add(a)
            start, goal = rng.sample(towns, 2)
            way = shortest_path(graph, start, goal)
            if way is not None and len(way) >= 3:
                break
        rng.shuffle(roads)
        written = ", ".join(f"{a} - {b}" if rng.random() < 0.5 else f"{b} - {a}" for a, b in roads)
        prompt = rng.choice(PHRASINGS).format(roads=written, start=start, goal=goal)
        lines = [f"{a} - {b}" for a, b in pairwise(way)]
        return Problem(self.name, level, prompt, None, "checker", "\n".join(lines))

    def step_labels(self, problem: Problem, solution_text: str) -> list[int]:
        """A line is right when it goes on along a road to a new town from which the goal can still be reached."""
        graph, at, goal = parse(problem.prompt)
        visited = {at}
        labels: list[int] = []
        right = True
        for line in solution_lines(solution_text):
            match = _STEP.fullmatch(line)
            right = right and match is not None and at != goal
            if right and match is not None:
                right = match[1] == at and match[2] in graph[at] and match[2] not in visited
                if right:
                    at = match[2]
                    visited.add(at)
                    rest = {a: near - (visited - {at}) for a, near in graph.items()}
                    right = shortest_path(rest, at, goal) is not None
            labels.append(int(right))
        return labels
