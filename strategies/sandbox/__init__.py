"""Runs untrusted Python: a program in one sealed process, its tests in another, a verdict between them.

    sandbox = Sandbox()
    execution = await sandbox.run("def f(x): return x + 1", Tests((Test("f(1)", "2"),), calls=("f",)))
    execution.outcome, str(execution.isolation)       # "passed", "bubblewrap: a real user of its own, no network, ..."

The program never sees a test: it is asked for `f(1)` over a pipe and answers with plain data. What is compared, and
with what, stands in the judge's process. See `sandbox.py` for the whole, `inside.py` for the side that is sealed in.
"""

from .records import Execution, Isolation, Limits, Outcome, Test, TestResult, Tests
from .sandbox import MECHANISMS, Sandbox

__all__ = [
    "MECHANISMS",
    "Execution",
    "Isolation",
    "Limits",
    "Outcome",
    "Sandbox",
    "Test",
    "TestResult",
    "Tests",
]
