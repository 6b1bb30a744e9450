"""What runs in the sandbox: it gives up its rights, then loads the program and answers calls, or judges.

Sent to a bare Python as text (`python -I -S -c`), so it imports nothing of howhard; and untrusted text is handed over
only after the line that reports what was given up. Standard input carries requests, one JSON line each; a private
copy of standard output carries replies; what anybody prints goes to standard error.

Nothing that a program does here can make a verdict: all that it can send is the answer to a call.
"""

import ctypes
import json
import os
import resource
import signal
import sys

# ── giving up rights ────────────────────────────────────────────────────────────────────────────────────────

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 38, 22
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18


def _checked(result):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _tried(action, *arguments):
    try:
        action(*arguments)
        return True
    except OSError:
        return False


def _mount(source, target, kind, flags, data=None):
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    _checked(_libc.mount(*encoded, ctypes.c_ulong(flags), None if data is None else data.encode()))


def _private_mounts(work, library, disk, uid):
    """A small file system of one's own on /tmp, none to write to elsewhere; the library where anybody may read it."""
    _checked(_libc.unshare(0x00020000))  # CLONE_NEWNS
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    limits = f"mode=0755,size={disk},nr_inodes=4096"
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, limits)
    for place in ("/var/tmp", "/dev/shm"):
        if os.path.isdir(place):
            _mount("tmpfs", place, "tmpfs", _MS_RDONLY, "size=4096")
    os.mkdir(library)
    _mount(os.path.dirname(os.__file__), library, None, _MS_BIND)
    _mount(None, library, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    os.mkdir(work)
    os.chown(work, uid, uid)


def _move_library(library):
    """Find modules there from now on, those of packages that are loaded already too."""
    before = os.path.dirname(os.__file__)
    sys.path[:] = [library, os.path.join(library, "lib-dynload")]
    for module in list(sys.modules.values()):
        if hasattr(module, "__path__"):
            module.__path__ = [path.replace(before, library, 1) for path in module.__path__]
    sys.path_importer_cache.clear()


def _limit(limits):
    seconds = int(limits["seconds"]) + 2
    soft = {
        resource.RLIMIT_AS: limits["memory"],
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: limits["disk"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_MEMLOCK: 0,
    }
    if limits["processes"] is not None:
        soft[resource.RLIMIT_NPROC] = limits["processes"]
    for name, most in soft.items():
        hard = resource.getrlimit(name)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(name, (most, most))


def _landlock(readable, writable):
    """Let files be read under `readable` alone and written under `writable` alone; returns the kernel's version."""
    version = _checked(_libc.syscall(444, None, ctypes.c_size_t(0), 1))
    known = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    everything = (1 << known) - 1
    reading = 0b1101  # execute, read a file, list a directory
    file_rights = 0b111 | (1 << 14) | (1 << 15)

    class Ruleset(ctypes.Structure):
        _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]

    class Beneath(ctypes.Structure):
        _pack_ = 1
        _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]

    ruleset = Ruleset(everything, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    made = _checked(_libc.syscall(444, ctypes.byref(ruleset), ctypes.c_size_t(size), 0))
    for paths, rights in ((readable, reading), (writable, everything)):
        for path in paths:
            if not os.path.exists(path):
                continue
            parent = os.open(path, os.O_PATH)
            allowed = rights if os.path.isdir(path) else rights & file_rights
            rule = Beneath(allowed & everything, parent)
            _checked(_libc.syscall(445, made, 1, ctypes.byref(rule), 0))
            os.close(parent)
    _checked(_libc.syscall(446, made, 0))
    os.close(made)
    return version


def _seccomp(code):
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]

    program = Program(len(code) // 8, code)
    _checked(_libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0))


def seal(settings):
    """Give up all rights that `settings` name, and return what was given up; see Mechanism for what they mean."""
    held = {"mounts": False, "landlock": 0, "seccomp": False, "uid": None}
    work, uid = settings["work"], settings["uid"]
    parent = os.getppid()
    if settings["mounts"]:
        library = settings["library"]
        held["mounts"] = _tried(_private_mounts, work, library, settings["limits"]["disk"], uid)
        _tried(lambda: _checked(_libc.unshare(0x40000000 | 0x08000000)))  # CLONE_NEWNET, CLONE_NEWIPC: beside seccomp
        if held["mounts"]:
            _move_library(library)
    if held["mounts"] or settings["directory"]:
        os.chdir(work)
    else:
        os.chdir("/")
    os.umask(0o077)
    _limit(settings["limits"])
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    held["uid"] = os.getresuid()[0]
    if len({*os.getresuid(), *os.getresgid()}) > 1 and uid is not None:
        raise SystemExit("the user could not be changed")
    if sys.platform == "linux":
        _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        if os.getppid() != parent:
            raise SystemExit("the parent has gone")
    writable = held["mounts"]
    if settings["landlock"]:
        readable = [*sys.path, "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/dev/null", "/dev/urandom"]
        try:
            held["landlock"] = _landlock(readable, [work] if writable else [])
        except OSError:
            writable = False
    writable = writable or settings["directory"]
    code = settings["filter"] if writable else settings["filter_without_writing"]
    if code is not None:
        _seccomp(bytes.fromhex(code))
        held["seccomp"] = True
    held["writable"] = writable
    return held


# ── plain data ──────────────────────────────────────────────────────────────────────────────────────────────


def encoded(value):
    """Turn plain data into what JSON holds; subclasses become what they derive from. Raises TypeError for all else."""
    if value is None or isinstance(value, (bool, str, int, float)):
        for kind in (str, int, float):
            if isinstance(value, kind) and not isinstance(value, bool):
                return kind(value)
        return value
    if isinstance(value, list):
        return [encoded(item) for item in value]
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [encoded(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encoded(key), encoded(item)] for key, item in value.items()]}
    if isinstance(value, (bytes, bytearray)):
        return {type(value).__name__: value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    raise TypeError(f"a {type(value).__name__} is not plain data")


def decoded(value):
    """The inverse of `encoded`. Raises ValueError, TypeError, KeyError or AttributeError for what it never makes."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, items),) = value.items()
    if kind == "dict":
        return {decoded(key): decoded(item) for key, item in items}
    if kind == "complex":
        return complex(float(items[0]), float(items[1]))
    if kind in ("bytes", "bytearray"):
        return {"bytes": bytes, "bytearray": bytearray}[kind].fromhex(items)
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](decoded(item) for item in items)


def _words(exc):
    return f"{type(exc).__name__}: {exc}"[:400]


# ── the program's side ──────────────────────────────────────────────────────────────────────────────────────


def answer_calls(requests, reply):
    """Load the program that the first line holds, then answer one call a line until the pipe closes."""
    namespace = {"__name__": "program", "__builtins__": __builtins__}
    try:
        exec(compile(json.loads(requests.readline()), "<program>", "exec"), namespace)
    except Exception as exc:
        reply({"broken": _words(exc)})
        return
    reply({"loaded": True})
    for line in requests:
        call = json.loads(line)
        try:
            if call["f"] not in namespace:
                raise NameError(f"the program defines no {call['f']!r}")
            arguments = [decoded(value) for value in call["a"]]
            named = {name: decoded(value) for name, value in call["k"].items()}
            answer = {"value": encoded(namespace[call["f"]](*arguments, **named))}
            json.dumps(answer)
        except Exception as exc:
            answer = {"raised": [type(exc).__name__, str(exc)[:400]]}
        reply(answer)


# ── the judge's side ────────────────────────────────────────────────────────────────────────────────────────


def _raised(name, message):
    """The exception of a builtin name that the program raised; RuntimeError for one of its own making."""
    kind = getattr(__import__("builtins"), str(name), None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(message)
        except TypeError:  # UnicodeDecodeError and its like want more arguments
            pass
    return RuntimeError(f"{name}: {message}")


def judge(requests, reply):
    """Run the tests that the first line holds, and say of each how it went. Every line begins with the nonce."""
    task = json.loads(requests.readline())
    nonce = task["nonce"]

    def say(kind, content):
        reply(content, before=f"{nonce} {kind} ")

    def proxy(name):
        def call(*arguments, **named):
            say(
                "call",
                {
                    "f": name,
                    "a": [encoded(value) for value in arguments],
                    "k": {key: encoded(value) for key, value in named.items()},
                },
            )
            line = requests.readline()
            try:
                answer = json.loads(line)
                if "value" in answer:
                    return decoded(answer["value"])
                kind, message = answer["raised"]
            except Exception:
                raise RuntimeError("the program answered with something that is not data") from None
            raise _raised(kind, message)

        call.__name__ = name
        return call

    proxies = {name: proxy(name) for name in task["calls"]}
    namespace = {"__name__": "tests", "__builtins__": __builtins__}
    exec(compile(task["prelude"], "<prelude>", "exec"), namespace)
    namespace.update(proxies)
    for source, expected in task["tests"]:
        say("result", _tested(source, expected, namespace))
    say("done", None)


def _short(text):
    return text if len(text) <= 200 else text[:197] + "..."


def _tested(source, expected, namespace):
    """[whether it passed, what was wrong]."""
    try:
        if expected is None:
            exec(compile(source, "<test>", "exec"), namespace)
            return [True, ""]
        value = eval(compile(source, "<test>", "eval"), namespace)
    except AssertionError as exc:
        return [False, _short(source.strip()) + " does not hold" + (f": {_short(str(exc))}" if str(exc) else "")]
    except Exception as exc:
        return [False, f"{_short(source.strip())} raised {_words(exc)}"]
    try:
        right = bool(value == eval(expected, namespace))
    except Exception:
        right = repr(value) == expected.strip()
    shown = _short(repr(value))
    return [right, "" if right else f"{_short(source.strip())} returned {shown}, expected {_short(expected.strip())}"]


# ── the beginning ───────────────────────────────────────────────────────────────────────────────────────────


def main():
    """Seal this process, report, and do what it is for."""
    settings = json.loads(sys.argv[1])
    requests, replies = os.fdopen(os.dup(0), "r", encoding="utf-8", newline="\n"), os.dup(1)
    os.dup2(2, 1)
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.argv[:] = ["program"]
    os.environ.clear()

    def reply(content, *, before=""):
        data = (before + json.dumps(content) + "\n").encode("ascii")
        while data:
            data = data[os.write(replies, data) :]

    reply(seal(settings))
    del settings
    {"program": answer_calls, "judge": judge}[requests.readline().strip()](requests, reply)


if __name__ == "__main__":
    main()
