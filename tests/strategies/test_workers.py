"""Worker processes that are killed when they are late."""

import sys

import pytest

from howhard.strategies.errors import WorldError
from howhard.strategies.workers import Worker


def asked(answer, reference):
    return {"task": "regex", "answer": answer, "reference": reference}


def test_a_worker_answers_is_killed_when_it_is_late_and_replaced():
    worker = Worker(timeout=0.5, mathematics=False)
    try:
        assert worker.ask(asked("1987", r"19\d\d")) == {"right": True}
        first = worker._process.pid
        assert worker.ask(asked("a" * 40 + "b", r"^(a+)+$")) is None
        assert worker.ask(asked("x", "(")) == {
            "error": "not a regular expression: missing ), unterminated subpattern at position 0"
        }
        assert worker._process.pid != first
    finally:
        worker.close()
    assert worker._process is None


def test_a_worker_that_cannot_start_says_so(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorldError, match="a worker process could not be started"):
        Worker(timeout=1, mathematics=False).ask(asked("a", "a"))
