"""One process in the sandbox, seen from outside: its three pipes, its end, and that nothing of it is left."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .cgroups import Cgroup
from .uids import Lease

_TAIL = 4000  # characters of output that are kept


class Gone(Exception):
    """The process has ended, or writes more than it may; nothing more is to be read from it."""


class Sealed:
    """A process of its own session, with an empty environment. Use `connect`, and `end` whatever happens.

    most  : bytes of output, and of one line of replies.
    waits : it is a launcher that waits for the real process, and ends with it.

    Raises OSError where it can't be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cgroup: Cgroup | None,
        lease: Lease | None,
        most: int,
        waits: bool,
    ) -> None:
        self._process = _opened(command)
        self._waits = waits
        self._cgroup, self._lease = cgroup, lease
        self._most = most
        self._tail = b""
        self.too_much = False
        """Whether it was ended because it wrote more than it may."""
        self._pumping: asyncio.Task[None] | None = None
        self._transports: list[asyncio.BaseTransport] = []

    async def connect(self) -> None:
        """Begin to read and write; to be called once, and `end` whatever comes of it."""
        loop = asyncio.get_running_loop()
        self._replies = asyncio.StreamReader(limit=self._most)
        output = asyncio.StreamReader()
        for reader, pipe in ((self._replies, self._process.stdout), (output, self._process.stderr)):
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await loop.connect_read_pipe(lambda protocol=protocol: protocol, pipe)
            self._transports.append(transport)
        self._requests, _ = await loop.connect_write_pipe(asyncio.Protocol, self._process.stdin)
        self._transports.append(self._requests)
        self._pumping = loop.create_task(self._pump(output))

    async def _pump(self, output: asyncio.StreamReader) -> None:
        seen = 0
        while chunk := await output.read(65536):
            seen += len(chunk)
            self._tail = (self._tail + chunk)[-4 * _TAIL :]
            if seen > self._most:
                self.too_much = True
                self.kill()
                return

    @property
    def output(self) -> str:
        """The end of what it printed."""
        return self._tail.decode("utf-8", "replace")[-_TAIL:]

    def send(self, line: str) -> None:
        """Write a line to it; nothing happens where it has ended."""
        self._requests.write(line.encode("utf-8") + b"\n")

    def send_json(self, content: object) -> None:
        """Write JSON as a line."""
        self.send(json.dumps(content))

    async def line(self) -> str:
        """Read a line of its replies. Raises Gone."""
        try:
            line = await self._replies.readuntil(b"\n")
        except asyncio.IncompleteReadError as exc:
            raise Gone("the process has ended") from exc
        except asyncio.LimitOverrunError as exc:
            self.too_much = True
            raise Gone(f"one answer is larger than {self._most} bytes") from exc
        return line[:-1].decode("utf-8", "replace")

    async def report(self) -> Mapping[str, object]:
        """Read the first line: what it has given up. Raises Gone with what it printed instead."""
        try:
            return json.loads(await self.line())
        except (Gone, ValueError) as exc:
            await asyncio.wait([self._pumping] if self._pumping else [], timeout=1.0)
            raise Gone(self.output.strip()[-500:] or "it ended without a word") from exc

    def kill(self) -> bool:
        """Kill all that is left of it; whether anything was found beside its own process group."""
        if self._process.returncode is None:  # once it is reaped, its number may be another's
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        if self._cgroup is not None:
            return self._cgroup.kill()
        return self._lease.kill_all() if self._lease is not None else False

    def _kill_waited_for(self) -> bool:
        """Kill what a launcher waits for; it then takes note of the death, which nobody else may (in a container)."""
        try:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        except OSError:
            return False
        for child in children:
            with contextlib.suppress(OSError):
                os.kill(int(child), signal.SIGKILL)
        return bool(children)

    async def end(self) -> bool:
        """Kill it whole, wait until nothing of it is left, and close the pipes. False where something stays."""
        clean = False
        waits = self._waits and self._kill_waited_for()
        try:
            for attempt in range(200):
                waits = waits and attempt < 5 and self._process.poll() is None
                left = True if waits else self.kill()
                if self._process.poll() is not None and not left:
                    clean = True
                    break
                await asyncio.sleep(min(0.001 * 2**attempt, 0.02))
            if clean and self._pumping is not None:
                await asyncio.wait([self._pumping], timeout=1.0)  # what it printed last is still in the pipe
        finally:
            if self._pumping is not None:
                self._pumping.cancel()
            for transport in self._transports:
                if isinstance(transport, asyncio.WriteTransport) and not transport.is_closing():
                    transport.abort()  # what was not written has nobody to read it
                transport.close()
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                if pipe is not None:
                    pipe.close()
        return clean


def _opened(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Fork and execute, which takes a millisecond or two."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env={},
        cwd="/",
        start_new_session=True,
    )
