"""Judges of an answer against a reference, by name: what gives a sample its quality while outcomes are
collected.

A grader exists only offline; what judges at run time, without a reference, is a verifier
(howhard.strategies.verifiers). Code that can hang on hostile input (math-verify, regular expressions) runs in
a worker process of its own, which is killed when it is late: math-verify's own time-out is an alarm signal,
which fails off the main thread.
"""

import contextlib
import importlib
import json
import math
import os
import re
import selectors
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self

from ..strategies.answers import canonical
from ..strategies.errors import InputError, nearest
from ..strategies.verifiers.checkers import CHECKERS

GRADERS = ("exact", "numeric", "math-verify", "regex", "checker")
"""The names that `get_grader` knows, besides "numeric:TOLERANCE" and "package.module:function"."""


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
    pkg.mod:func    func(prompt=, text=, answer=, reference=) -> a number in [0, 1], or a bool; it needs no
                    reference unless it has an attribute `needs_reference` that is true

    Raises InputError for an unknown name, a tolerance that is no number, a function that cannot be imported.
    """
    kind, _, rest = name.partition(":")
    if kind == "numeric":
        return Numeric(_tolerance(name, rest) if rest or ":" in name else 1e-6)
    if rest:
        return Imported(name)
    simple: dict[str, Callable[[], Grader]] = {
        "exact": Exact,
        "math-verify": MathVerify,
        "regex": Regex,
        "checker": Checker,
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
        right = _number(reference)
        if right is None:
            raise InputError(f"grader {self.name!r}: reference {reference!r} is not a number; use 'exact' for texts")
        given = _number(answer)
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


class Imported(_Plain):
    """Judged by a function of the user's, named "package.module:function"."""

    def __init__(self, path: str) -> None:
        self.name = path
        self._function = _imported(path)
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
        self._worker = _Worker(timeout)

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


class Regex(_InWorker):
    """Right when the reference, a regular expression, is found in the answer (anchor it with ^ and $)."""

    name = task = "regex"


# ── the worker ──────────────────────────────────────────────────────────────────────────────────────────


class _Worker:
    """A Python process that answers one JSON line with another, and is killed and replaced when it is late.

    A plain subprocess, not multiprocessing: spawn would run the user's main script again. Threads take turns.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()

    def ask(self, question: dict[str, str]) -> dict[str, Any] | None:
        """Return the worker's reply; None when it was late or died over the question."""
        with self._turn:
            process = self._process or self._start()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(question).encode() + b"\n")
                process.stdin.flush()
            except OSError:  # it died between two questions
                self._kill()
                return None
            line = _read_line(process, self._timeout)
            if line is None:
                self._kill()
                return None
            return json.loads(line)

    def _start(self) -> subprocess.Popen[bytes]:
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import _serve; _serve()"
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._process = process
        _read_line(process, 120.0)  # ready; importing is not on the clock of the first question
        return process

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what was not flushed has nobody to read it
                        pipe.close()

    def close(self) -> None:
        """Kill the process."""
        with self._turn:
            self._kill()


def _read_line(process: subprocess.Popen[bytes], timeout: float) -> bytes | None:
    """Read one line, or None when the process is late or gone. Replies are short: a read holds all of one."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(timeout):
            return None
    return os.read(process.stdout.fileno(), 65536) or None


def _serve() -> None:
    """The worker's side: read questions until the pipe closes."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    import logging

    logging.disable(logging.WARNING)  # math-verify warns that its time-out is off: ours is on
    from math_verify import parse, verify

    def same_mathematics(answer: str, reference: str) -> bool:
        gold, given = (
            parse(f"${t}$", parsing_timeout=None) or parse(t, parsing_timeout=None)  # type: ignore[arg-type]
            for t in (reference, answer)
        )
        if not gold:
            raise ValueError("math-verify reads no mathematics in it")
        return verify(gold, given, timeout_seconds=None)

    def found(answer: str, reference: str) -> bool:
        try:
            return re.search(reference, answer) is not None
        except re.error as exc:
            raise ValueError(f"not a regular expression: {exc}") from exc

    tasks = {"math-verify": same_mathematics, "regex": found}
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            reply = {"right": bool(tasks[question["task"]](question["answer"], question["reference"]))}
        except ValueError as exc:
            reply = {"error": str(exc)}
        print(json.dumps(reply), file=replies, flush=True)


# ── small things ────────────────────────────────────────────────────────────────────────────────────────

_NUMBERS = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def _number(text: str) -> float | None:
    """The number that a text is, or the only one that it holds."""
    for candidate in _candidates(text):
        with contextlib.suppress(ValueError):
            value = float(candidate)
            return value if math.isfinite(value) else None
    return None


def _candidates(text: str) -> Iterator[str]:
    yield canonical(text)
    found = _NUMBERS.findall(text)
    if len(found) == 1:
        yield found[0].replace(",", "")


def _tolerance(name: str, text: str) -> float:
    try:
        tolerance = float(text)
    except ValueError:
        tolerance = math.nan
    if not 0 <= tolerance < math.inf:
        raise InputError(f"grader {name!r}: the tolerance {text!r} must be a number >= 0, as in 'numeric:0.01'")
    return tolerance


def _imported(path: str) -> Callable[..., Any]:
    module_name, _, attribute = path.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)  # a command's own folder is not on the path, and that is where users keep graders
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as exc:
        raise InputError(
            f"grader {path!r} cannot be imported: {exc}. Name it 'package.module:function'; modules are "
            "looked for in the current folder and in the installed packages."
        ) from exc
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise InputError(f"grader {path!r} is a {type(found).__name__}: it must be a function")
    return found


def _cut(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 60 else prompt[:57] + "...")
