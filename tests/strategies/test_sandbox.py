"""What the sandbox promises to those who use it honestly; attacks on it are in test_sandbox_attacks.py."""

import asyncio
import os
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from howhard.strategies.errors import ConfigError, WorldError
from howhard.strategies.sandbox import Limits, Sandbox, Test, Tests, cgroups, filters, inside, mechanisms, uids
from howhard.strategies.sandbox import sandbox as module

ADD = "def add(a, b):\n    return a + b\n"
ONE_AND_TWO = Tests((Test("add(1, 2)", "3"), Test("assert add('a', 'b') == 'ab'")), calls=("add",))


@pytest.fixture(scope="module")
def sandbox():
    opened = Sandbox(limits=Limits(seconds=5.0), concurrency=2)
    try:
        asyncio.run(opened.isolation())
    except ConfigError as exc:
        pytest.skip(str(exc))
    yield opened
    opened.close()


def run(sandbox, program, *tests, calls=("f",), prelude=""):
    pairs = tuple(Test(*test) if isinstance(test, tuple) else Test(test) for test in tests)
    return asyncio.run(sandbox.run(program, Tests(pairs, calls, prelude)))


# what comes back


def test_a_right_program_passes_and_the_result_says_how_it_was_isolated(sandbox):
    execution = asyncio.run(sandbox.run(ADD, ONE_AND_TWO))
    assert execution.outcome == "passed"
    assert execution.share_passed == 1.0
    assert execution.isolation.mechanism in ("bubblewrap", "uid")
    assert "no network" in str(execution.isolation)


def test_each_failed_test_says_what_was_wrong(sandbox):
    execution = run(
        sandbox,
        "print('loaded')\ndef f(x):\n    return [0, 2, None][x]",
        ("f(1)", "2"),
        ("f(2)", "[1, 2]"),
        ("f(3)", "0"),
        "assert f(1) == 3, 'twice'",
    )
    assert execution.outcome == "failed"
    assert execution.share_passed == 0.25
    assert [result.message for result in execution.results] == [
        "",
        "f(2) returned None, expected [1, 2]",
        "f(3) raised IndexError: list index out of range",
        "assert f(1) == 3, 'twice' does not hold: twice",
    ]
    assert execution.output == "loaded\n"


@pytest.mark.parametrize(
    "program, words",
    [
        ("def f(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
    ],
)
def test_a_program_that_does_not_load_is_an_error_and_passes_nothing(sandbox, program, words):
    execution = run(sandbox, program, ("f()", "1"), ("f()", "2"))
    assert execution.outcome == "error"
    assert execution.share_passed == 0
    assert words in execution.results[0].message


def test_a_name_that_the_program_does_not_define_is_a_failure_with_its_name(sandbox):
    execution = run(sandbox, "g = 1", ("f()", "1"))
    assert execution.results[0].message == "f() raised NameError: the program defines no 'f'"


def test_tests_that_were_not_reached_have_failed(sandbox):
    execution = run(
        sandbox,
        "import os\ndef f(x):\n    return x if x < 2 else os._exit(0)",
        *[(f"f({x})", f"{x}") for x in range(4)],
    )
    assert execution.outcome == "died"
    assert [result.passed for result in execution.results] == [True, True, False, False]


def test_helpers_of_the_tests_stay_in_their_own_process(sandbox):
    execution = run(
        sandbox,
        "def f(x):\n    try:\n        return secret\n    except NameError:\n        return x",
        ("double(f(2))", "4"),
        prelude="secret = 7\ndef double(x): return 2 * x",
    )
    assert execution.outcome == "passed"


def test_an_exception_of_the_program_reaches_the_tests_as_what_it_is(sandbox):
    expecting = """
try:
    f()
    raise AssertionError("nothing was raised")
except ValueError as exc:
    assert str(exc) == "no"
"""
    assert run(sandbox, "def f(): raise ValueError('no')", expecting).outcome == "passed"
    own = "class Mine(Exception): pass\ndef f(): raise Mine('no')"
    assert run(sandbox, own, ("f()", "1")).results[0].message == "f() raised RuntimeError: Mine: no"


def test_only_plain_data_comes_back(sandbox):
    program = "from collections import Counter\ndef f(x):\n    return {0: Counter('aab'), 1: f, 2: (i for i in [])}[x]"
    execution = run(sandbox, program, ("f(0)", "{'a': 2, 'b': 1}"), ("f(1)", "1"), ("f(2)", "[]"))
    assert [result.passed for result in execution.results] == [True, False, False]
    assert execution.results[1].message == "f(1) raised TypeError: a function is not plain data"


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.frozensets(st.integers() | st.text(), max_size=3)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers(), st.text()), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(PLAIN)
def test_plain_data_is_the_same_after_the_pipe(value):
    import json

    there = inside.decoded(json.loads(json.dumps(inside.encoded(value))))
    assert there == value
    assert repr(there) == repr(value) or isinstance(value, (set, frozenset)) or "frozenset" in repr(value)


# many at once, cancelled, in several loops


def test_programs_run_at_once_do_not_mix(sandbox):
    async def all_of_them():
        return await asyncio.gather(
            *(sandbox.run(f"def f(): return {i - i % 2}", Tests((Test("f()", f"{i}"),), ("f",))) for i in range(12))
        )

    outcomes = [execution.outcome for execution in asyncio.run(all_of_them())]
    assert outcomes == ["passed" if i % 2 == 0 else "failed" for i in range(12)]


def test_a_cancelled_caller_leaves_no_process_behind(sandbox):
    async def cancelled():
        running = asyncio.ensure_future(sandbox.run("def f():\n    while True: pass", Tests((Test("f()"),), ("f",))))
        async with asyncio.timeout(30):
            while not children():  # noqa: ASYNC110 - what it waits for is the kernel's, and has no event
                await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancelled())
    assert children() == []


def children():
    """Processes of this one that run a program."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += (task / "children").read_text().split()
    return [pid for pid in found if b"What runs in the sandbox" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_one_sandbox_serves_threads_with_loops_of_their_own(sandbox):
    outcomes = []

    def in_a_thread():
        outcomes.append(asyncio.run(sandbox.run(ADD, ONE_AND_TWO)).outcome)

    threads = [threading.Thread(target=in_a_thread) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["passed"] * 3


# refusing


def test_where_nothing_isolates_it_refuses_and_names_the_remedy(monkeypatch):
    def absent(self):
        raise mechanisms.NotHeld("not here")

    monkeypatch.setattr(mechanisms.Bubblewrap, "check", absent)
    monkeypatch.setattr(mechanisms.RealUser, "check", absent)
    with pytest.raises(
        ConfigError, match=r"no isolation can be had.*bubblewrap: not here; uid: not here.*allow 'process'"
    ):
        asyncio.run(Sandbox().run(ADD, ONE_AND_TWO))
    allowed = Sandbox(allow=("bubblewrap", "uid", "process"))
    execution = asyncio.run(allowed.run(ADD, ONE_AND_TWO))
    allowed.close()
    assert (execution.outcome, execution.isolation.mechanism) == ("passed", "process")
    assert "other processes of this user" in execution.isolation.missing
    assert "NOT held: " in str(execution.isolation)


def test_a_process_that_did_not_give_up_its_rights_gets_no_program(monkeypatch):
    def too_little(self, held, place, limits):
        raise mechanisms.NotHeld("the network is open")

    for kind in (mechanisms.Bubblewrap, mechanisms.RealUser):
        monkeypatch.setattr(kind, "isolation", too_little)
    with pytest.raises(ConfigError, match="the network is open"):
        asyncio.run(Sandbox().run(ADD, ONE_AND_TWO))


def test_mechanisms_without_what_they_must_hold_refuse():
    limits, held = Limits(), {"uid": 61200, "seccomp": False, "landlock": 0, "writable": True}
    with pytest.raises(mechanisms.NotHeld, match="the network is open"):
        mechanisms.RealUser().isolation(held, mechanisms.Place(61200), limits)
    for kind in (mechanisms.RealUser, mechanisms.Bubblewrap):
        with pytest.raises(mechanisms.NotHeld, match="runs as user 0"):
            kind().isolation({**held, "uid": 0}, mechanisms.Place(61200), limits)


def test_without_a_filter_or_a_cgroup_the_isolation_says_so():
    held = {"uid": 61200, "seccomp": False, "landlock": 0, "writable": True}
    isolation = mechanisms.Bubblewrap().isolation(held, mechanisms.Place(61200), Limits())
    assert isolation.missing == ("memory of all its processes together (no cgroup)", "system calls (seccomp)")


def test_a_missing_library_is_a_reason_not_a_crash(monkeypatch):
    filters.compiled.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "pyseccomp", None)
    with pytest.raises(filters.NoFilter, match=r"howhard\[sandbox\]"):
        filters.compiled(writing=True)
    if os.geteuid() == 0:
        with pytest.raises(mechanisms.NotHeld, match="no seccomp"):
            mechanisms.RealUser().check()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Sandbox(allow=()), "allow is empty"),
        (lambda: Sandbox(allow=("bubblewarp",)), "did you mean 'bubblewrap'"),
        (lambda: Sandbox(concurrency=0), "concurrency=0"),
        (lambda: Limits(seconds=0), r"limits.seconds=0"),
        (lambda: Limits(memory=1), "64 MiB"),
        (lambda: Limits(processes=0), "limits.processes=0"),
        (lambda: Tests((), ("f",)), "tests is empty"),
        (lambda: Tests((Test("f()"),), ("f()",)), "calls="),
        (lambda: Tests.from_json("{}"), "tests are JSON of the form"),
        (lambda: Tests.from_json('{"calls": ["f"], "tests": [[1, 2]]}'), "1 is not a string"),
    ],
)
def test_wrong_settings_are_refused_with_their_value(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_tests_survive_being_written_down():
    assert Tests.from_json(ONE_AND_TWO.to_json()) == ONE_AND_TWO


def test_what_cannot_be_started_is_an_error_of_the_world(sandbox, monkeypatch):
    monkeypatch.setattr(mechanisms, "_PYTHON", "/nowhere/python")
    with pytest.raises(WorldError, match="did not start"):
        asyncio.run(sandbox.run(ADD, ONE_AND_TWO))


# cgroups and users


def test_a_group_of_version_2_is_made_beside_ours_where_controllers_are_handed_on(tmp_path):
    parent = tmp_path / "user.slice" / "app.slice"
    (parent / "here.scope").mkdir(parents=True)
    (parent / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (parent / "here.scope" / "cgroup.subtree_control").write_text("\n")
    made = cgroups.make(memory=1000, processes=7, root=tmp_path, own="0::/user.slice/app.slice/here.scope\n")
    (directory,) = made.directories
    assert directory.parent == parent
    assert (directory / "memory.max").read_text() == "1000"
    assert (directory / "pids.max").read_text() == "7"
    assert made.doors == [str(directory / "cgroup.procs")]


def test_a_group_of_version_1_is_made_in_every_hierarchy(tmp_path):
    (tmp_path / "memory" / "mine").mkdir(parents=True)
    (tmp_path / "pids").mkdir()
    made = cgroups.make(memory=1000, processes=7, root=tmp_path, own="9:memory:/mine\n8:pids:/elsewhere\n0::/\n")
    assert [d.parent for d in made.directories] == [tmp_path / "memory" / "mine", tmp_path / "pids"]
    assert (made.directories[0] / "memory.limit_in_bytes").read_text() == "1000"
    assert (made.directories[1] / "pids.max").read_text() == "7"


def test_without_controllers_there_is_no_group(tmp_path):
    with pytest.raises(OSError, match="no group"):
        cgroups.make(memory=1000, processes=7, root=tmp_path, own="0::/\n")


def test_groups_of_owners_that_have_gone_are_removed(tmp_path):
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    (tmp_path / "pids").mkdir()
    (tmp_path / "memory").mkdir()
    stale = tmp_path / "pids" / f"howhard-{gone.pid}-abc"
    stale.mkdir()
    kept = tmp_path / "pids" / f"howhard-{os.getpid()}-abc"
    kept.mkdir()
    cgroups.make(memory=1000, processes=7, root=tmp_path, own="9:memory:/\n8:pids:/\n")
    assert not stale.exists()
    assert kept.exists()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone has abstract sockets")
def test_no_two_leases_have_one_user_and_a_released_one_is_taken_again():
    leases = [uids.lease() for _ in range(3)]
    assert len({lease.uid for lease in leases}) == 3
    freed = leases[0].uid
    for lease in leases:
        lease.release()
    again = uids.lease()
    again.release()
    assert again.uid <= freed


def test_slots_are_given_back_when_the_sandbox_is_closed(sandbox):
    asyncio.run(sandbox.run(ADD, ONE_AND_TWO))
    slots = list(sandbox._slots.idle)
    assert slots
    sandbox.close()
    assert sandbox._slots.idle == []
    assert not any(d.exists() for slot in slots if slot.cgroup for d in slot.cgroup.directories)
    assert asyncio.run(sandbox.run(ADD, ONE_AND_TWO)).outcome == "passed"
    assert module.MECHANISMS[sandbox.allow[0]] is mechanisms.Bubblewrap
