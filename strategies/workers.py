"""Worker processes for code that can hang on hostile input: math-verify, regular expressions of other people.

A worker is killed when it is late, which neither a thread nor math-verify's own time-out (an alarm signal, which
fails off the main thread) can do. Heavy packages are imported in the worker alone. Used by the equivalence of
mathematical answers (`equivalence.py`) and by the graders of howhard.training.
"""

import atexit
import contextlib
import importlib.util
import json
import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from .errors import ConfigError, WorldError

_MEMORY = 4 << 30  # most bytes of address space of a worker: a tower of powers ends as a MemoryError in it
_GRACE = 10  # seconds beyond its time after which a worker ends by itself, should nobody be left to kill it


def demand_math_verify(asked_by: str) -> None:
    """Raise ConfigError unless math-verify is installed; it is not imported."""
    if importlib.util.find_spec("math_verify") is None:
        raise ConfigError(f"{asked_by} needs math-verify, which is not installed: pip install 'howhard[math]'")


class Worker:
    """A Python process that answers one JSON line with another, and is killed and replaced when it is late.

    A plain subprocess, not multiprocessing: spawn would run the user's main script again. Threads take turns. It
    starts with the first question, and ends with this process at the latest.

    timeout     : seconds for one question.
    mathematics : whether it loads math-verify, for the tasks that need it.
    """

    def __init__(self, timeout: float, *, mathematics: bool) -> None:
        self._timeout, self._mathematics = timeout, mathematics
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()

    def ask(self, question: Mapping[str, str]) -> dict[str, Any] | None:
        """Return the worker's reply; None when it was late or died over the question. Blocks.

        Replies: {"right": bool}, or {"error": words} where the question itself is at fault.
        Raises WorldError where no worker can be started.
        """
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
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; "
            f"serve({int(self._timeout) + _GRACE}, {_MEMORY}, {self._mathematics})"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._process = process
        if _read_line(process, 120.0) is None:  # ready; importing is not on the clock of the first question
            self._kill()
            raise WorldError("a worker process could not be started: what it said stands on the standard error")
        atexit.register(self.close)
        return process

    def _kill(self) -> None:
        atexit.unregister(self.close)
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what was not flushed has nobody to read it
                        pipe.close()

    def close(self) -> None:
        """Kill the process; the next question would start another."""
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


# ── the worker's side ───────────────────────────────────────────────────────────────────────────────────────


def serve(seconds: int, memory: int, mathematics: bool) -> None:
    """Read questions until the pipe closes. For the worker process, which it changes for good.

    A question: {"task": "math-verify" | "same-mathematics" | "regex", "answer": ..., "reference": ...}.
    """
    import re
    import resource
    import signal

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))

    def found(answer: str, reference: str) -> bool:
        try:
            return re.search(reference, answer) is not None
        except re.error as exc:
            raise ValueError(f"not a regular expression: {exc}") from exc

    tasks = {"regex": found} | (_mathematics() if mathematics else {})
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        signal.alarm(seconds)  # its default is to end the process, also in the middle of C code
        try:
            reply = {"right": bool(tasks[question["task"]](question["answer"], question["reference"]))}
        except ValueError as exc:
            reply = {"error": str(exc)}
        except (MemoryError, RecursionError, ArithmeticError):
            reply = {"right": False}
        signal.alarm(0)
        print(json.dumps(reply), file=replies, flush=True)


def _mathematics() -> dict[str, Any]:
    import functools
    import logging

    logging.disable(logging.WARNING)  # math-verify warns that its time-out is off: ours is on
    from math_verify import parse, verify

    @functools.lru_cache(1024)
    def parsed(text: str) -> list[Any]:
        return parse(f"${text}$", parsing_timeout=None) or parse(text, parsing_timeout=None)  # type: ignore[arg-type]

    def graded(answer: str, reference: str) -> bool:
        gold = parsed(reference)
        if not gold:
            raise ValueError("math-verify reads no mathematics in it")
        return verify(gold, parsed(answer), timeout_seconds=None)

    def same(answer: str, reference: str) -> bool:
        """Like `graded`, which is not symmetric ("x = 1" against "1"), in either direction."""
        one, other = parsed(answer), parsed(reference)
        return bool(one and other) and (
            verify(one, other, timeout_seconds=None) or verify(other, one, timeout_seconds=None)
        )

    same(r"\frac{1}{2}", "x^2")  # loads what is loaded late, off the clock of the first question
    return {"math-verify": graded, "same-mathematics": same}
