"""Confine a decoder's process with a seccomp filter: no network, no new processes, no writing to files."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from contextlib import suppress

# System calls that Python and the decoders need after their modules are loaded. All others fail with EPERM.
ALLOWED = """
    access brk clock_getres clock_gettime clock_nanosleep close dup dup2 exit exit_group faccessat faccessat2
    fadvise64 fstat fstatfs futex get_robust_list getcwd getdents64 getegid geteuid getgid getpid getppid
    getrandom getrusage gettid gettimeofday getuid ioctl lseek lstat madvise membarrier mmap mprotect mremap
    memfd_create munmap nanosleep newfstatat pipe2 poll ppoll pread64 preadv pselect6 read readlink readlinkat readv
    restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn sched_getaffinity sched_yield
    select set_robust_list set_tid_address setitimer sigaltstack stat statfs statx sysinfo times uname write
    writev
"""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CLONE_THREAD = 0x10000
# Commands that copy a descriptor or read and set its flags; other commands can send signals.
FCNTL = (fcntl.F_DUPFD, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL, fcntl.F_DUPFD_CLOEXEC)


def available() -> bool:
    """Return whether this kernel has seccomp filters."""
    if sys.platform != "linux":
        return False
    from seccompy import supported

    return bool(supported())


def confine() -> bool:
    """Install the filter in this process permanently; return False if seccomp filters are not available."""
    if not available():
        return False
    from seccompy import Action, ArgCmp, CmpOp, Filter, FilterFlag, SeccompError

    rules = Filter(default=Action.ERRNO | errno.EPERM, flags=FilterFlag.TSYNC)

    def allow(name: str, *conditions: ArgCmp) -> None:
        with suppress(ValueError):  # 64-bit Arm lacks some older system calls
            rules.allow(name, args=conditions)

    try:
        for name in ALLOWED.split():
            allow(name)
        allow("tgkill", ArgCmp(0, CmpOp.EQ, os.getpid()))  # as abort() does
        allow("prlimit64", ArgCmp(2, CmpOp.EQ, 0))  # to read a limit
        for command in FCNTL:
            allow("fcntl", ArgCmp(1, CmpOp.EQ, command))
        allow("openat", ArgCmp(2, CmpOp.MASKED_EQ, 0, WRITES))
        allow("open", ArgCmp(1, CmpOp.MASKED_EQ, 0, WRITES))
        # Allow threads but no processes. glibc falls back from clone3 to clone, whose flags a filter can read.
        allow("clone", ArgCmp(0, CmpOp.MASKED_EQ, CLONE_THREAD, CLONE_THREAD))
        rules.errno("clone3", errno.ENOSYS)
        rules.load()
    except SeccompError:  # libseccomp does not support this processor
        return False
    return True
