"""Control groups: a limit on memory and processes of a whole run, where this process may make one.

Version 1 (a hierarchy per controller) and version 2 (one hierarchy; a delegated group, as systemd gives to users).
Nothing here knows what runs in a group.
"""

import contextlib
import logging
import os
import signal
import uuid
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "howhard-"


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One group, made of a directory for each hierarchy (one in version 2)."""

    directories: tuple[Path, ...]

    @property
    def doors(self) -> list[str]:
        """The files that a process writes its id to, to enter."""
        return [str(directory / "cgroup.procs") for directory in self.directories]

    def members(self) -> set[int]:
        """Ids of the processes in it, as this process sees them."""
        found: set[int] = set()
        for directory in self.directories:
            with contextlib.suppress(OSError):
                found.update(int(line) for line in (directory / "cgroup.procs").read_text().split())
        return found

    @property
    def empty(self) -> bool:
        """Whether nothing counts in it any more, dead processes that nobody has waited for included."""
        for directory in self.directories:
            with contextlib.suppress(OSError):
                if (directory / "pids.current").read_text().strip() != "0":
                    return False
        return True

    def kill(self) -> bool:
        """Kill whatever is in it; whether there was anything."""
        members = self.members()
        for directory in self.directories if members else ():
            with contextlib.suppress(OSError):
                (directory / "cgroup.kill").write_text("1")  # version 2, Linux 5.14
        for member in members:
            with contextlib.suppress(OSError):
                os.kill(member, signal.SIGKILL)
        return bool(members)

    def remove(self) -> None:
        """Remove it; left alone where something still runs in it."""
        for directory in self.directories:
            with contextlib.suppress(OSError):
                directory.rmdir()


def make(*, memory: int, processes: int, root: Path = _ROOT, own: str | None = None) -> Cgroup:
    """Make a group that holds at most `memory` bytes and `processes` processes and threads together.

    root, own : where the hierarchies are mounted, and what /proc/self/cgroup says; for tests.

    Raises OSError where this process may not, or where no memory or pids controller is to be had.
    """
    own = Path("/proc/self/cgroup").read_text() if own is None else own
    paths = dict(line.split(":", 2)[1:] for line in own.splitlines() if line.count(":") >= 2)
    name = f"{_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    parents = _parents(root, paths)
    made: list[Path] = []
    try:
        for parent in dict.fromkeys(parents.values()):
            _sweep(parent)
            directory = parent / name
            directory.mkdir()
            made.append(directory)
        if "" in parents:
            _write(parents[""] / name, {"memory.max": memory, "memory.swap.max": 0, "pids.max": processes})
        else:
            _write(parents["memory"] / name, {"memory.limit_in_bytes": memory})
            _write(parents["pids"] / name, {"pids.max": processes})
    except OSError:
        Cgroup(tuple(made)).remove()
        raise
    return Cgroup(tuple(made))


def _parents(root: Path, paths: dict[str, str]) -> dict[str, Path]:
    """The groups to make ours in, by controller; "" for version 2."""
    if (root / "memory").is_dir() and (root / "pids").is_dir():
        found = {}
        for controllers, path in paths.items():
            for controller in {"memory", "pids"} & set(controllers.split(",")):
                inside = root / controller / path.lstrip("/")
                found[controller] = inside if inside.is_dir() else root / controller
        if len(found) == 2:
            return found
    elif "" in paths:
        here = root / paths[""].lstrip("/")
        for parent in (here, here.parent):  # a group with processes in it may not hand controllers on
            with contextlib.suppress(OSError):
                handed_on = set((parent / "cgroup.subtree_control").read_text().split())
                if {"memory", "pids"} <= handed_on and os.access(parent, os.W_OK):
                    return {"": parent}
    raise OSError("no group with a memory and a pids controller may be made here")


def _write(directory: Path, values: dict[str, int]) -> None:
    for name, value in values.items():
        if name == "memory.swap.max" and not (directory / name).exists():
            continue  # a kernel without swap accounting
        (directory / name).write_text(str(value))


def _sweep(parent: Path) -> None:
    """Remove groups of processes that were killed before they could."""
    for left in parent.glob(f"{_PREFIX}*-*"):
        owner = left.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
            with contextlib.suppress(OSError):
                left.rmdir()
