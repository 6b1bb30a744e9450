"""Judges of an answer against a reference, by name: what gives a sample its quality while outcomes are
collected.

A grader exists only offline; what judges at run time, without a reference, is a verifier
(howhard.strategies.verifiers). Code that can hang on hostile input (math-verify, regular expressions) runs in
a worker process of its own, which is killed when it is late: math-verify's own time-out is an alarm signal,
which fails off the main thread. Such workers live in howhard.strategies.workers.
"""

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, Self

from ..strategies.answers import canonical, number
from ..strategies.errors import InputError, nearest
from ..strategies.sandbox import Limits, Sandbox, Tests
from ..strategies.sandbox.source import program_of, task_of
from ..strategies.verifiers.checkers import CHECKERS
from ..strategies.verifiers.function import imported
from ..strategies.workers import Worker, demand_math_verify

GRADERS = ("exact", "numeric", "math-verify", "regex", "checker", "hidden-tests")
"""The names that `get_grader` knows, besides "numeric:TOLERANCE", "judge:FILE" and "package.module:function"."""


class Grader(Protocol):
    """Judges one answer. `needs_reference`: every prompt that it grades must come with a reference."""

    name: str
    needs_reference: bool

    def grade(self, prompt: str, text: str, answer: str | None, reference: str | None) -> float:
        """Quality in [0, 1] of a sample: 0 where it has no answer (it is not complete).

        prompt : the prompt's text; text : the whole sample; answer : what was extracted from it.
        Raises InputError when the reference, or what the grader returned, cannot be used.
        """
        ...

    def close(self) -> None:
        """End worker processes, if there are any."""
        ...


def get_grader(name: str) -> Grader:
    """Make the grader of a name.

    exact           the canonical forms of answer and reference are the same string
    (howhard.strategies.answers) numeric         both are numbers and differ by at most 1e-6 of the
    reference (or 1e-6, below 1) numeric:0.01    the same with another tolerance
    math-verify     both are the same mathematics: fractions, formulas, sets, intervals (math-verify)
    regex           the reference is a regular expression that is found in the answer
    checker         the prompt itself says what is right (howhard.strategies.verifiers.checkers); no reference
    hidden-tests    the reference holds tests (Tests.to_json), and the sample's program passes all of them in a sandbox
    judge:FILE      a model grades it, as the TOML file says; it may see the reference (howhard.training.judge_grader)
    pkg.mod:func    func(prompt=, text=, answer=, reference=) -> a number in [0, 1], or a bool; it needs no
                    reference unless it has an attribute `needs_reference` that is true

    Raises InputError for an unknown name, a tolerance that is no number, a function that cannot be imported.
    """
    kind, _, rest = name.partition(":")
    if kind == "numeric":
        return Numeric(_tolerance(name, rest) if rest or ":" in name else 1e-6)
    if kind == "judge":
        from .judge_grader import JudgeGrader

        return JudgeGrader.of_file(rest)
    if rest:
        return Imported(name)
    simple: dict[str, Callable[[], Grader]] = {
        "exact": Exact,
        "math-verify": MathVerify,
        "regex": Regex,
        "checker": Checker,
        "hidden-tests": HiddenTests,
    }
    if name not in simple:
        raise InputError(
            f"grader {name!r} is not known{nearest(name, GRADERS)}. "
            f"A function of your own is 'package.module:function'."
        )
    return simple[name]()


class _Plain:
    """A grader without anything to close; `_judge` sees only complete samples."""

    name: str
    needs_reference = True

    def grade(self, prompt: str, text: str, answer: str | None, reference: str | None) -> float:
        """See Grader."""
        if answer is None:
            return 0.0
        if reference is None and self.needs_reference:
            raise InputError(f"grader {self.name!r} needs a reference, and the prompt {_cut(prompt)} has none")
        return float(self._judge(prompt, text, answer, reference or ""))

    def _judge(self, prompt: str, text: str, answer: str, reference: str) -> float:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to end."""


class Exact(_Plain):
    """Right when the canonical forms are equal."""

    name = "exact"

    def _judge(self, prompt: str, text: str, answer: str, reference: str) -> float:
        return canonical(answer) == canonical(reference)


class Numeric(_Plain):
    """Right when the answer's number lies within a tolerance of the reference.

    The answer is a number, or holds exactly one ("42 apples").
    """

    def __init__(self, tolerance: float = 1e-6) -> None:
        self.tolerance = tolerance
        self.name = "numeric" if tolerance == 1e-6 else f"numeric:{tolerance:g}"

    def _judge(self, prompt: str, text: str, answer: str, reference: str) -> float:
        right = number(reference)
        if right is None:
            raise InputError(f"grader {self.name!r}: reference {reference!r} is not a number; use 'exact' for texts")
        given = number(answer)
        return given is not None and abs(given - right) <= self.tolerance * max(1.0, abs(right))


class Checker(_Plain):
    """Right when the check that the prompt allows says so."""

    name = "checker"
    needs_reference = False

    def _judge(self, prompt: str, text: str, answer: str, reference: str) -> float:
        for check in CHECKERS.values():
            verdict = check(prompt, text)
            if verdict is not None:
                return verdict
        raise InputError(f"grader 'checker': no checker ({', '.join(CHECKERS)}) reads the prompt {_cut(prompt)}")


class HiddenTests(_Plain):
    """Right when the sample's program passes every test of the reference, which no strategy and no verifier sees.

    Programs run in a sandbox, see howhard.strategies.sandbox; what is not isolated is not run.
    """

    name = "hidden-tests"

    def __init__(self, sandbox: Sandbox | None = None) -> None:
        self._sandbox = sandbox or Sandbox(limits=Limits(seconds=10.0))
        self._threads = ThreadPoolExecutor(self._sandbox.concurrency, thread_name_prefix="howhard-hidden-tests")

    def _judge(self, prompt: str, text: str, answer: str, reference: str) -> float:
        try:
            tests = Tests.from_json(reference)
        except InputError as exc:
            raise InputError(f"grader {self.name!r}: the reference of the prompt {_cut(prompt)}: {exc}") from exc
        run = self._sandbox.run(program_of(task_of(prompt), text), tests)
        return self._threads.submit(asyncio.run, run).result().outcome == "passed"  # whether or not a loop runs here

    def close(self) -> None:
        """End the threads, and give back what the sandbox keeps."""
        self._threads.shutdown()
        self._sandbox.close()


class Imported(_Plain):
    """Judged by a function of the user's, named "package.module:function"."""

    def __init__(self, path: str) -> None:
        self.name = path
        self._function = imported(path, what="grader")
        self.needs_reference = bool(getattr(self._function, "needs_reference", False))

    def grade(self, prompt: str, text: str, answer: str | None, reference: str | None) -> float:
        """Call the function, and check what it returns; see Grader."""
        if answer is not None and not (reference is None and self.needs_reference):
            value = self._function(prompt=prompt, text=text, answer=answer, reference=reference)
            if not isinstance(value, (bool, int, float)) or not 0 <= value <= 1:
                raise InputError(f"grader {self.name!r} returned {value!r}: it must return a number in [0, 1]")
            return float(value)
        return super().grade(prompt, text, answer, reference)


class _InWorker(_Plain):
    """Judged in a worker process; an answer that takes longer than `timeout` seconds counts as wrong."""

    task: str

    def __init__(self, *, timeout: float = 5.0) -> None:
        self._worker = Worker(timeout, mathematics=self.task == "math-verify")

    def _judge(self, prompt: str, text: str, answer: str, reference: str) -> float:
        reply = self._worker.ask({"task": self.task, "answer": answer, "reference": reference})
        if reply is None:
            return 0.0
        if "error" in reply:
            raise InputError(f"grader {self.name!r}: reference {reference!r}: {reply['error']}")
        return reply["right"]

    def close(self) -> None:
        """End the worker; the next answer would start another."""
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MathVerify(_InWorker):
    """Right when math-verify finds answer and reference to be the same mathematics."""

    name = task = "math-verify"

    def __init__(self, *, timeout: float = 5.0) -> None:
        demand_math_verify(f"grader {self.name!r}")
        super().__init__(timeout=timeout)


class Regex(_InWorker):
    """Right when the reference, a regular expression, is found in the answer (anchor it with ^ and $)."""

    name = task = "regex"


# ── small things ────────────────────────────────────────────────────────────────────────────────────────


def _tolerance(name: str, text: str) -> float:
    try:
        tolerance = float(text)
    except ValueError:
        tolerance = math.nan
    if not 0 <= tolerance < math.inf:
        raise InputError(f"grader {name!r}: the tolerance {text!r} must be a number >= 0, as in 'numeric:0.01'")
    return tolerance


def _cut(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 60 else prompt[:57] + "...")
