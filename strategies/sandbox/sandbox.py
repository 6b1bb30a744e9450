"""The sandbox: a program and its tests, each in a sealed process, and this one carrying messages between them.

The program's process answers calls; the judge's process makes them, compares, and ends every line with the nonce that
only it was told. This process reads neither arguments nor answers, so nothing that a program sends is ever unpacked
outside a sandbox.
"""

import asyncio
import functools
import json
import logging
import os
import secrets
import subprocess
import threading
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ..errors import ConfigError, WorldError, nearest
from . import cgroups, uids
from .mechanisms import Bubblewrap, Mechanism, NotHeld, OwnProcess, Place, RealUser
from .records import Execution, Isolation, Limits, Outcome, Test, TestResult, Tests
from .sealed import Gone, Sealed

logger = logging.getLogger(__name__)

MECHANISMS: dict[str, type[Mechanism]] = {kind.name: kind for kind in (Bubblewrap, RealUser, OwnProcess)}
"""By name, the strongest first. "process" does not isolate and is never used unless it is allowed by name."""

_START_SECONDS = 30.0
_PROBE = ("import statistics\ndef f(): return statistics.mean([1, 2])", Tests((Test("f()", "1.5"),), ("f",)))


@dataclass(slots=True)
class _Slot:
    """What a running process occupies, used again by the next one once nothing counts in it any more."""

    lease: uids.Lease | None
    cgroup: cgroups.Cgroup | None

    @property
    def place(self) -> Place:
        uid = None if self.lease is None else self.lease.uid
        return Place(uid, () if self.cgroup is None else tuple(self.cgroup.doors))

    def free(self) -> None:
        if self.cgroup is not None:
            self.cgroup.remove()
        if self.lease is not None:
            self.lease.release()


@dataclass(slots=True)
class _Slots:
    """Slots that nobody uses, and those in which something would not die. Threads may share it."""

    idle: list[_Slot] = field(default_factory=list)
    stuck: list[_Slot] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> _Slot | None:
        with self.lock:
            for place, slot in enumerate(self.idle):
                if slot.cgroup is None or slot.cgroup.empty:
                    return self.idle.pop(place)
            return None

    def give_back(self, slot: _Slot) -> None:
        with self.lock:
            self.idle.append(slot)

    def free(self) -> None:
        with self.lock:
            while self.idle:
                self.idle.pop().free()


@dataclass(slots=True)
class _InLoop:
    """What belongs to one event loop."""

    gate: asyncio.Semaphore
    choosing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sandbox:
    """Runs programs against tests, each in processes of its own that are killed whole.

    limits      : of every program.
    allow       : mechanisms that may be used, the first that works here is; "bubblewrap" and "uid" isolate, "process"
                  (the same user) does not and must be named to be used.
    concurrency : programs at one time, in each event loop; None = as many as there are cores.

    Where none of them works, it refuses. May serve any number of event loops and callers; a cancelled caller's
    program is killed. `close` gives cgroups and user ids back; so does the garbage collector.
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        allow: Sequence[str] = ("bubblewrap", "uid"),
        concurrency: int | None = None,
    ) -> None:
        if not allow:
            raise ConfigError(f"allow is empty: name at least one of {', '.join(MECHANISMS)}")
        for name in allow:
            if name not in MECHANISMS:
                raise ConfigError(f"allow names {name!r}{nearest(name, MECHANISMS)}")
        if concurrency is not None and concurrency < 1:
            raise ConfigError(f"concurrency={concurrency!r}: it must be at least 1, or None for one per core")
        self.limits = limits or Limits()
        self.allow = tuple(allow)
        self.concurrency = concurrency or os.cpu_count() or 1
        self._chosen: Mechanism | None = None
        self._slots = _Slots()
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _InLoop] = weakref.WeakKeyDictionary()
        self._finalizer = weakref.finalize(self, self._slots.free)

    def __repr__(self) -> str:
        return f"Sandbox(limits={self.limits!r}, allow={self.allow!r}, concurrency={self.concurrency!r})"

    async def isolation(self) -> Isolation:
        """Say how programs are isolated here, trying it out. Raises ConfigError where none of `allow` works."""
        mechanism = await self._mechanism()
        return (await self._execute(mechanism, *_PROBE, self.limits.seconds)).isolation

    async def run(self, program: str, tests: Tests) -> Execution:
        """Run a program's tests; never raises for anything that the program does.

        Raises ConfigError where no mechanism of `allow` works here, WorldError where a process can't be started.
        """
        mechanism = await self._mechanism()
        async with self._in_loop().gate:
            return await self._execute(mechanism, program, tests, self.limits.seconds)

    def close(self) -> None:
        """Give back cgroups and user ids that no program uses any more."""
        self._slots.free()

    # ── how ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _in_loop(self) -> _InLoop:
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            self._loops[loop] = _InLoop(asyncio.Semaphore(self.concurrency))
        return self._loops[loop]

    async def _mechanism(self) -> Mechanism:
        async with self._in_loop().choosing:
            if self._chosen is None:
                self._chosen = await self._choose()
            return self._chosen

    async def _choose(self) -> Mechanism:
        why: list[str] = []
        for name in self.allow:
            mechanism = MECHANISMS[name]()
            try:
                mechanism.check()
                tried = await self._execute(mechanism, *_PROBE, _START_SECONDS)
            except (NotHeld, WorldError) as exc:
                why.append(f"{name}: {exc}")
                self._slots.free()  # the next mechanism's are of another kind
                continue
            if tried.outcome == "passed":
                logger.info("programs run in: %s", tried.isolation)
                return mechanism
            why.append(f"{name}: a program that should pass did not: {tried.results[0].message}")
        hint = "" if "process" in self.allow else "; or allow 'process' by name, for text that you trust"
        raise ConfigError(f"no isolation can be had for running programs ({'; '.join(why)}){hint}")

    async def _execute(self, mechanism: Mechanism, program: str, tests: Tests, limit: float) -> Execution:
        async with self._started(mechanism) as first, self._started(mechanism) as second:
            isolation, _ = await asyncio.gather(self._sealed(mechanism, *first), self._sealed(mechanism, *second))
            candidate, judge = first[0], second[0]
            run = _Run(candidate, judge, tests)
            begin = time.perf_counter()
            try:
                async with asyncio.timeout(limit):
                    outcome = await run.perform(program)
            except TimeoutError:
                outcome = "timeout"
                run.give_up(f"no verdict within {limit:g} s")
            seconds = time.perf_counter() - begin
        return Execution(
            outcome=outcome,
            results=run.all_results(),
            output=candidate.output,
            seconds=seconds,
            isolation=isolation,
        )

    @asynccontextmanager
    async def _started(self, mechanism: Mechanism) -> AsyncIterator[tuple[Sealed, _Slot]]:
        """A process that is to be sealed; at the end nothing of it is left."""
        slot = self._slots.take() or self._new_slot(mechanism)
        settings = json.dumps(mechanism.settings(slot.place, self.limits))
        command = mechanism.command(slot.place, settings, self.limits)
        try:
            sealed = Sealed(
                command, cgroup=slot.cgroup, lease=slot.lease, most=self.limits.output, waits=mechanism.waits
            )
        except OSError as exc:
            self._slots.give_back(slot)
            raise WorldError(f"a process for a program can't be started: {exc}") from exc
        try:
            await sealed.connect()
            yield sealed, slot
        finally:
            ending = asyncio.ensure_future(self._end(sealed, slot))
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:
                await ending  # killing goes on, whoever is cancelled
                raise

    async def _end(self, sealed: Sealed, slot: _Slot) -> None:
        if await sealed.end():
            self._slots.give_back(slot)
        else:
            self._slots.stuck.append(slot)
            logger.error("something of a program could not be killed: user id %s stays taken", slot.place.uid)

    async def _sealed(self, mechanism: Mechanism, process: Sealed, slot: _Slot) -> Isolation:
        """Wait until a process has given up its rights. Raises WorldError where it could not, or not enough of them."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                held = await process.report()
        except (Gone, TimeoutError) as exc:
            raise WorldError(f"a sealed process did not start: {exc or 'too slow'}") from exc
        try:
            return mechanism.isolation(held, slot.place, self.limits)
        except NotHeld as exc:
            raise WorldError(f"{mechanism.name}: {exc}") from exc

    def _new_slot(self, mechanism: Mechanism) -> _Slot:
        lease = None
        if mechanism.own_uid:
            try:
                lease = uids.lease()
            except OSError as exc:
                raise WorldError(str(exc)) from exc
        return _Slot(lease, self._new_cgroup())

    def _new_cgroup(self) -> cgroups.Cgroup | None:
        if not _cgroups_work():
            return None
        try:
            # The launcher and bubblewrap's own process count too.
            return cgroups.make(memory=self.limits.memory, processes=self.limits.processes + 2)
        except OSError as exc:
            logger.warning("no cgroup for a program: %s", exc)
            return None


@functools.cache
def _cgroups_work() -> bool:
    """Whether a group can be made here, and a process put into it."""
    try:
        made = cgroups.make(memory=1 << 28, processes=8)
    except OSError as exc:
        logger.info("no cgroup can be made: %s", exc)
        return False
    try:
        enter = "; ".join(f"echo $$ > '{door}' || exit 1" for door in made.doors)
        return subprocess.run(["/bin/sh", "-c", enter], capture_output=True, check=False).returncode == 0
    finally:
        made.remove()


class _Run:
    """The messages of one execution."""

    def __init__(self, candidate: Sealed, judge: Sealed, tests: Tests) -> None:
        self._candidate, self._judge = candidate, judge
        self._tests = tests
        self._results: list[TestResult] = []
        self._why = "the test was not reached"

    async def perform(self, program: str) -> Outcome:
        nonce = secrets.token_hex(16)
        self._candidate.send("program")
        self._candidate.send_json(program)
        try:
            loaded = await self._candidate.line()
        except Gone as exc:
            return self._lost(exc)
        if loaded.startswith('{"broken": '):
            self.give_up(f"the program does not load: {loaded[12:-2][:400]}")
            return "error"
        self._judge.send("judge")
        self._judge.send_json(
            {
                "nonce": nonce,
                "prelude": self._tests.prelude,
                "calls": self._tests.calls,
                "tests": [(test.source, test.expected) for test in self._tests.tests],
            }
        )
        while True:
            try:
                word, kind, content = (await self._judge.line()).split(" ", 2)
            except (Gone, ValueError):
                self.give_up("the tests ended before their verdict: " + self._judge.output.strip()[-200:])
                return "failed"
            if not secrets.compare_digest(word, nonce):
                self.give_up("a line that the judge did not write stood in its pipe")
                return "failed"
            if kind == "call":
                self._candidate.send(content)
                try:
                    self._judge.send(await self._candidate.line())
                except Gone as exc:
                    return self._lost(exc)
            elif kind == "result":
                passed, message = json.loads(content)
                self._results.append(TestResult(bool(passed), str(message)))
            else:
                complete = len(self._results) == len(self._tests.tests)
                return "passed" if complete and all(result.passed for result in self._results) else "failed"

    def _lost(self, exc: Gone) -> Outcome:
        if self._candidate.too_much:
            self.give_up("the program wrote more than it may")
            return "output"
        self.give_up(f"the program's process ended before the tests did ({exc})")
        return "died"

    def give_up(self, why: str) -> None:
        """Say why the tests that have no result yet have failed."""
        self._why = why

    def all_results(self) -> tuple[TestResult, ...]:
        """One per test."""
        missing = len(self._tests.tests) - len(self._results)
        return (*self._results, *(TestResult(False, self._why) for _ in range(missing)))
