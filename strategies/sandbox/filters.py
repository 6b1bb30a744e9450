"""System calls that a program in the sandbox does without, as a seccomp filter.

The filter is compiled here, by libseccomp through the package `pyseccomp`, and loaded in the sandbox as bytes.
"""

import errno
import functools
import os
import tempfile
from collections.abc import Iterable


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


REFUSED = _names(
    # the network; socketpair, which reaches nobody, stays
    "socket connect bind listen accept accept4 "
    # leaving the process group, so that it can be killed whole
    "setsid setpgid "
    # other processes, and other views of the machine
    "ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd unshare setns mount umount2 "
    "pivot_root chroot move_mount open_tree fsopen fsmount fspick fsconfig mount_setattr personality "
    # memory and messages that outlive a process or are counted for none
    "memfd_create memfd_secret shmget shmat shmctl msgget msgsnd msgctl semget semop semctl mq_open add_key "
    "request_key keyctl "
    # wide doors into the kernel
    "bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register init_module finit_module "
    "delete_module kexec_load kexec_file_load reboot swapon swapoff acct quotactl open_by_handle_at "
    "name_to_handle_at syslog settimeofday clock_settime sethostname setdomainname fanotify_init iopl ioperm"
)

WRITING = _names(
    "creat mknod mknodat mkdir mkdirat symlink symlinkat link linkat rename renameat renameat2 unlink unlinkat rmdir "
    "truncate setxattr lsetxattr fsetxattr chmod fchmodat chown lchown fchownat"
)
"""Refused as well, and opening any file for writing, where no private directory can be had."""


class NoFilter(Exception):
    """A filter could not be compiled; the message says why."""


@functools.cache
def compiled(*, writing: bool) -> bytes:
    """Return the filter as BPF code; with `writing` False nothing in any file system can be made or changed.

    Raises NoFilter where pyseccomp or libseccomp is missing.
    """
    try:
        import pyseccomp as seccomp
    except (ImportError, RuntimeError, OSError) as exc:  # RuntimeError: the package is there, the library is not
        raise NoFilter(f"no seccomp ({exc}): pip install 'howhard[sandbox]', and the system's libseccomp") from exc
    filter_ = seccomp.SyscallFilter(seccomp.ALLOW)
    refuse, unknown = seccomp.ERRNO(errno.EPERM), seccomp.ERRNO(errno.ENOSYS)

    def rule(action: int, names: Iterable[str], *conditions: "seccomp.Arg") -> None:
        for name in names:
            number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, name)
            if number != -1:  # -1: this architecture has no such call
                filter_.add_rule(action, number, *conditions)

    rule(refuse, REFUSED)
    rule(unknown, ["clone3", "openat2"])  # their arguments can't be read by a filter; libraries fall back to older ones
    namespaces = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
    for bit in (1 << place for place in range(32)):
        if namespaces & bit:
            rule(refuse, ["clone"], seccomp.Arg(0, seccomp.MASKED_EQ, bit, bit))
    if not writing:
        rule(refuse, WRITING)
        for place, name in ((1, "open"), (2, "openat")):
            for mask, value in (
                (os.O_ACCMODE, os.O_WRONLY),
                (os.O_ACCMODE, os.O_RDWR),
                (os.O_ACCMODE, os.O_ACCMODE),
                (os.O_CREAT, os.O_CREAT),
                (os.O_TRUNC, os.O_TRUNC),
            ):
                rule(refuse, [name], seccomp.Arg(place, seccomp.MASKED_EQ, mask, value))
    with tempfile.TemporaryFile() as file:
        filter_.export_bpf(file)
        file.seek(0)
        return file.read()
