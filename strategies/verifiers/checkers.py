"""Exact checks that need only the prompt's text: a Countdown solution, a path in a graph.

A check returns True only for a solution that is right, False for one that is not, and None where the prompt is
not of its kind. Knows nothing of models or references; any text is taken, garbage is simply wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

__all__ = ["CHECKERS", "countdown", "path"]

_LIST = r"(?P<numbers>\d{1,9}(?:, ?\d{1,9})*,? and \d{1,9}|\d{1,9}(?:, ?\d{1,9})+)"
_TARGET = r"(?P<target>\d{1,9})"
_COUNTDOWN = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\s*use (?:the numbers )?{_LIST} to (?:make|reach|get) {_TARGET}[.!]?\s*",
        rf"\s*make {_TARGET} from (?:the numbers )?{_LIST}[.!]?\s*",
        rf"\s*combine {_LIST},? each exactly once, to (?:make|reach|get) {_TARGET}[.!]?\s*",
        rf"\s*with {_LIST} and the four operations, (?:make|reach|get) {_TARGET}[.!]?\s*",
    )
)
_JOIN = re.compile(r"(\d{1,18}) ?([-+*/]) ?(\d{1,18}) ?= ?(\d{1,18})", re.ASCII)
_ANSWER = re.compile(r"Answer: ?(\d{1,18})", re.ASCII)

_ROADS = r"(?P<roads>[A-Z] ?- ?[A-Z](?:, ?[A-Z] ?- ?[A-Z])*)"
_PATH = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\s*Roads: {_ROADS}\. Find a path from (?P<start>[A-Z]) to (?P<goal>[A-Z])\.?\s*",
        rf"\s*Go from (?P<start>[A-Z]) to (?P<goal>[A-Z]) without visiting a town twice\. The roads are {_ROADS}\.?\s*",
        rf"\s*There are roads {_ROADS}\. Which roads lead from (?P<start>[A-Z]) to (?P<goal>[A-Z])\?\s*",
        rf"\s*From (?P<start>[A-Z]), reach (?P<goal>[A-Z]) using these roads: {_ROADS}\.?\s*",
    )
)
_ROAD = re.compile(r"([A-Z]) ?- ?([A-Z])")


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _match(patterns: tuple[re.Pattern[str], ...], prompt: str) -> re.Match[str] | None:
    return next((found for pattern in patterns if (found := pattern.fullmatch(prompt))), None)


def countdown(prompt: str, solution: str) -> bool | None:
    r"""Whether `solution` reaches the target, each given number used exactly once, a join `a + b = c` per line.

    Joins take two numbers at hand and give a whole number that is not negative; a last line "Answer: target" may
    follow. None when `prompt` is no Countdown prompt.

    >>> countdown("Use 3, 5 and 7 to make 36.", "5 + 7 = 12\n12 * 3 = 36")
    True
    """
    found = _match(_COUNTDOWN, prompt)
    if found is None:
        return None
    left = [int(number) for number in re.findall(r"\d+", found["numbers"])]
    target = int(found["target"])
    lines = _lines(solution)
    if lines and (answer := _ANSWER.fullmatch(lines[-1])):
        if int(answer[1]) != target:
            return False
        lines.pop()
    for line in lines:
        join = _JOIN.fullmatch(line)
        if join is None:
            return False
        first, second, result = int(join[1]), int(join[3]), int(join[4])
        for number in (first, second):
            if number not in left:
                return False
            left.remove(number)
        true = {
            "+": first + second == result,
            "-": first - second == result,
            "*": first * second == result,
            "/": second != 0 and second * result == first,
        }[join[2]]
        if not true:
            return False
        left.append(result)
    return left == [target]


def path(prompt: str, solution: str) -> bool | None:
    r"""Whether `solution` walks from start to goal along the prompt's roads, one `A - B` per line, no town twice.

    Roads run both ways. None when `prompt` is no path prompt.

    >>> path("Roads: A - B, C - B. Find a path from A to C.", "A - B\nB - C")
    True
    """
    found = _match(_PATH, prompt)
    if found is None:
        return None
    roads = {frozenset(ends) for ends in _ROAD.findall(found["roads"])}
    at, visited = found["start"], {found["start"]}
    for line in _lines(solution):
        step = _ROAD.fullmatch(line)
        if step is None or step[1] != at or step[2] in visited or frozenset((step[1], step[2])) not in roads:
            return False
        at = step[2]
        visited.add(at)
    return at == found["goal"]


CHECKERS: Mapping[str, Callable[[str, str], bool | None]] = {"countdown": countdown, "path": path}
"""Name -> check; the names are those of the problem families that can be checked so."""
