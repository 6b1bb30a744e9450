"""Users of their own for programs: ids that no account has and that no two running programs share.

A lease is a Unix socket in the abstract name space: the kernel gives a name to one holder, and takes it back when
the holder dies. Needs root.
"""

import contextlib
import os
import signal
import socket
from pathlib import Path

FIRST, COUNT = 61200, 256  # in the range that systemd keeps for users made up on the spot


class Lease:
    """One user id, held until `release`."""

    def __init__(self, uid: int, held: socket.socket) -> None:
        self.uid = uid
        self._held = held

    def release(self) -> None:
        """Give it back."""
        self._held.close()

    def kill_all(self) -> bool:
        """Kill every process of this user; whether there was any."""
        found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._owns(entry)]
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        return bool(found)

    def _owns(self, entry: Path) -> bool:
        try:
            status = (entry / "status").read_text()
        except OSError:  # it has ended
            return False
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        return fields["Uid"].split()[0] == str(self.uid) and not fields["State"].startswith("Z")


def lease() -> Lease:
    """Take the first id that is free on this machine. Raises OSError where all are taken."""
    for uid in range(FIRST, FIRST + COUNT):
        held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0))
        try:
            held.bind(f"\0howhard-sandbox-{uid}")
        except OSError:
            held.close()
            continue
        return Lease(uid, held)
    raise OSError(f"all {COUNT} user ids for sandboxes are taken on this machine")
