"""What is asked of a sandbox and what comes back: limits, tests, executions, and how the program was isolated."""

import json
import math
from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError

Outcome = Literal["passed", "failed", "error", "timeout", "died", "output"]
"""How an execution ended.

passed : every test passed, and the judge said so itself.
failed : the tests ran, and one of them failed or more.
error : the program could not be loaded: a syntax error, or an exception before anything was called.
timeout : there was no verdict when the time was over.
died : the program's process ended before the tests did, whatever its exit code.
output : it printed, or returned in one answer, more than the limit.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Most that one program may take.

    seconds   : from the moment the program is handed over to the verdict, all tests together.
    memory    : bytes: of address space for each process, and of all of them together where a cgroup can be had.
    disk      : bytes in its private directory, which is all that it can write to.
    processes : processes and threads at one time.
    output    : bytes printed, and bytes of one answer.
    """

    seconds: float = 5.0
    memory: int = 512 * 1024 * 1024
    disk: int = 16 * 1024 * 1024
    processes: int = 16
    output: int = 1024 * 1024

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ConfigError(f"limits.seconds={self.seconds!r}: it must be a finite number above 0")
        if self.memory < 64 * 1024 * 1024:
            raise ConfigError(f"limits.memory={self.memory!r}: Python alone takes 64 MiB (67108864) of address space")
        for name in ("disk", "processes", "output"):
            if getattr(self, name) < 1:
                raise ConfigError(f"limits.{name}={getattr(self, name)!r}: it must be at least 1")


@dataclass(frozen=True, slots=True)
class Test:
    """One test, as Python source.

    source   : with `expected`: an expression, for instance `add(1, 2)`; without: statements that raise on failure.
    expected : an expression that the value must equal, or else the text that it must print as (`repr`).
    """

    __test__ = False  # not a class for pytest to collect

    source: str
    expected: str | None = None

    def __str__(self) -> str:
        return self.source if self.expected is None else f"{self.source} == {self.expected}"


@dataclass(frozen=True, slots=True)
class Tests:
    """Tests of one program, run in order in one namespace.

    calls   : names of the program's functions that tests call; arguments and results are plain data: None, numbers,
              strings, bytes, lists, tuples, sets, dicts. Everything else of the program stays out of the tests' reach.
    prelude : source that is run before the tests, in their process: imports, helpers.
    """

    __test__ = False

    tests: tuple[Test, ...]
    calls: tuple[str, ...]
    prelude: str = ""

    def __post_init__(self) -> None:
        if not self.tests:
            raise ConfigError("tests is empty: a program that no test looks at would pass")
        if not self.calls or not all(name.isidentifier() for name in self.calls):
            raise ConfigError(f"calls={self.calls!r}: name the functions of the program that the tests call")

    def to_json(self) -> str:
        """As text, to be kept as the reference of a prompt; see `from_json`."""
        tests = [[test.source, test.expected] for test in self.tests]
        return json.dumps({"calls": self.calls, "prelude": self.prelude, "tests": tests})

    @classmethod
    def from_json(cls, text: str) -> "Tests":
        """Read what `to_json` wrote. Raises ConfigError for anything else."""
        try:
            content = json.loads(text)
            tests = tuple(
                Test(_text(source), None if value is None else _text(value)) for source, value in content["tests"]
            )
            return cls(tests, tuple(_text(name) for name in content["calls"]), _text(content.get("prelude", "")))
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ConfigError(
                'tests are JSON of the form {"calls": ["f"], "prelude": "...", "tests": [["f(1)", "2"]]}, and this is '
                f"{text[:80]!r} ({type(exc).__name__}: {exc})"
            ) from exc


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


@dataclass(frozen=True, slots=True)
class TestResult:
    """How one test went; `message` says what was wrong, "" where nothing was."""

    __test__ = False

    passed: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class Isolation:
    """How a program was kept apart.

    mechanism : "bubblewrap", "uid" or "process".
    held      : what is kept from it, in words.
    missing   : what this machine could not hold; () = nothing is missing.
    """

    mechanism: str
    held: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.mechanism}: {', '.join(self.held)}"
        return f"{text}; NOT held: {', '.join(self.missing)}" if self.missing else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One program's run.

    results : one per test, in order; tests that were not reached have failed, and say why.
    output  : the end of what the program printed (at most 4,000 characters); never part of the verdict.
    seconds : from handing the program over to the verdict; starting the processes is not counted.
    """

    outcome: Outcome
    results: tuple[TestResult, ...]
    output: str
    seconds: float
    isolation: Isolation

    @property
    def share_passed(self) -> float:
        """Tests passed, of all; 0 where the program could not be loaded."""
        return sum(result.passed for result in self.results) / len(self.results)
