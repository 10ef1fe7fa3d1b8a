"""Set the number of OpenMP threads and their wait policy.

OpenMP reads both when torch is imported, so :func:`settle` must be called before. It only sets environment variables,
for libraries and child processes, and does not change variables that the user has set.

The number of threads depends on the machine: its cores, the process's affinity and its cgroup's CPU quota. It does not
depend on the load, because another number of threads changes the order of summation and so the weights.

The wait policy does not change results. By default an idle OpenMP thread spins for milliseconds and takes the core from
other threads, even of the same process: with one other busy process, training is several times slower. Passive threads
sleep at once, which is best on a busy machine, but waking them costs a third of the speed on an idle one. So the policy
depends on the load at the start: passive, or a short spin, which on an idle machine is as fast as a long one and does
little harm if other processes start later. ``python -m benchmarks.waiting`` measures this.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

NUMBER = "OMP_NUM_THREADS"
COMPILERS = "TORCHINDUCTOR_COMPILE_THREADS"  # processes of torch.compile, which counts affinity and no quota
POLICY, SPINS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
OURS = "DEFUNET_OMP"  # the variables that this module has set, so that a child process may change them

WATCHED = "watched"  # also in OURS: the process that has sampled the CPU load, if any
PASSIVE, SHORT = {POLICY: "PASSIVE", SPINS: "0"}, {POLICY: "PASSIVE", SPINS: "20000"}
SAMPLE = 0.2  # seconds of sampling the CPU load

SYSTEM = Path("/sys")
STATISTICS = Path("/proc/stat")
GROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Threads:
    """The result of :func:`settle`.

    Attributes:
        count: number of threads; None if torch was imported before and uses its own number.
        reason: reason for the count.
        waiting: ``passive``, ``a short spin``, or the user's setting.
        waiting_reason: reason for the wait policy.
    """

    count: int | None
    reason: str
    waiting: str
    waiting_reason: str


def settle(processes: int | None = None) -> Threads:
    """Set the number of threads and the wait policy for this process and its children.

    A second call, also in a child process, gives the same result, unless affinity or quota have changed.

    Args:
        processes: number of processes that share the cores; None: as many as ``torchrun`` has started here, or 1.
    """
    mine = _set_before()
    given = {
        name: os.environ[name] for name in (NUMBER, POLICY, SPINS) if os.environ.get(name, "") != mine.get(name, "")
    }
    if "torch" in sys.modules and OURS not in os.environ:
        kept = "torch was imported before"
        return Threads(
            None, NUMBER if NUMBER in given else kept, _policy(given) or "as it began", _by_user(given) or kept
        )
    chosen: dict[str, str] = {}
    count, reason = _number(given.get(NUMBER, "")), NUMBER
    if count is None:
        count, reason = share(processes)
        chosen[NUMBER] = str(count)
    waiting, waiting_reason = _policy(given), _by_user(given)
    watched: list[str] = []
    if not waiting:
        if count == 1:
            settings = PASSIVE
            waiting, waiting_reason = "passive", "a single thread waits for none"
        else:
            # Do not sample again: the load may now come from this process or its siblings.
            by = _sampler()
            settings = {name: mine[name] for name in PASSIVE if name in mine and by} or _watched(count)
            busy = settings == PASSIVE
            waiting = "passive" if busy else "a short spin"
            began = "it" if by in (None, os.getpid()) else "the command that started it"
            waiting_reason = f"{'other processes computed' if busy else 'its cores were free'} when {began} began"
            watched = [f"{WATCHED}={by or os.getpid()}"]
        chosen |= settings
    if mine.get(COMPILERS, "") == os.environ.get(COMPILERS, ""):
        chosen[COMPILERS] = str(max(1, processors() // _sharing(processes)))
    os.environ |= chosen | {OURS: " ".join([*(f"{name}={value}" for name, value in chosen.items()), *watched])}
    return Threads(count, reason, waiting, waiting_reason)


def wanted() -> int:
    """Return the number of threads for libraries with their own setting: OMP_NUM_THREADS, else :func:`share`."""
    return _number(os.environ.get(NUMBER, "")) or share()[0]


def asked_for() -> bool:
    """Return whether the user has set the number of threads (OMP_NUM_THREADS)."""
    return _number(os.environ.get(NUMBER, "")) is not None and NUMBER not in _set_before()


def without_ours(environment: dict[str, str]) -> dict[str, str]:
    """Return an environment without the variables of this module, for a container with its own quota."""
    mine = {*_set_before(), OURS}
    return {name: value for name, value in environment.items() if name not in mine}


def share(processes: int | None = None) -> tuple[int, str]:
    """Return the number of threads per process, at least 1, and the reason.

    Two hardware threads of a core count as one, because they share one floating-point unit.

    Args:
        processes: number of processes that share the cores; None: as many as ``torchrun`` has started here, or 1.
    """
    processes = _sharing(processes)
    allowed = affinity()
    cores = len({_siblings(number) for number in allowed})
    limit = quota()
    total = os.cpu_count() or len(allowed)
    reason = f"{cores} core{'s' * (cores > 1)}"
    if len(allowed) < total:
        reason += f" by affinity, of {total} processors"
    if limit is not None and limit < cores:
        cores, reason = max(1, math.floor(limit)), f"a CPU quota of {limit:g}, of {reason}"
    if processes > 1:
        reason += f", shared by {processes} processes"
    return max(1, cores // processes), reason


def _sharing(processes: int | None) -> int:
    return processes or int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def processors() -> int:
    """Return the number of hardware threads that this process may use, by affinity and quota, at least 1."""
    limit = quota()
    return len(affinity()) if limit is None else max(1, min(len(affinity()), math.floor(limit)))


def _watched(count: int) -> dict[str, str]:
    """Return the wait policy for ``count`` threads, after sampling the CPU load for :data:`SAMPLE` seconds."""
    return SHORT if free(affinity()) >= count - 0.5 else PASSIVE


def free(allowed: Collection[int], statistics: Path = STATISTICS) -> float:
    """Return the number of idle CPUs over the next :data:`SAMPLE` seconds, while this process sleeps.

    Returns the number of all CPUs if the system has no statistics.

    Args:
        allowed: numbers of the CPUs.
        statistics: file in the format of ``/proc/stat``.
    """
    before = _idle(allowed, statistics)
    time.sleep(SAMPLE)
    after = _idle(allowed, statistics)
    pairs = [(before[number], after[number]) for number in allowed if number in before and number in after]
    shares = [(idle - was) / max(1, total - all_) for (was, all_), (idle, total) in pairs]
    return sum(shares) + len(allowed) - len(pairs)


def _idle(allowed: Collection[int], statistics: Path) -> dict[int, tuple[int, int]]:
    """Return the idle ticks and all ticks of each CPU since boot."""
    found = {}
    with suppress(OSError, ValueError):
        for line in statistics.read_text().splitlines():
            name, *ticks = line.split()
            if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in allowed:
                every = [int(each) for each in ticks[:8]]  # guest time is included in the first two
                found[int(name[3:])] = (sum(every[3:5]), sum(every))  # idle and iowait
    return found


def affinity() -> set[int]:
    """Return the numbers of the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # systems that are not Linux


def quota(groups: Path = GROUPS, mounted: Path = SYSTEM / "fs/cgroup") -> float | None:
    """Return the CPU quota of this process's cgroup in CPUs, None if there is none.

    The minimum of the cgroup and its parents. Kubernetes and Docker limit containers this way.

    Args:
        groups: file in the format of ``/proc/self/cgroup``.
        mounted: mount point of the hierarchies: version 2, or version 1 with one folder per controller.
    """
    found: list[float] = []
    with suppress(OSError):
        for line in groups.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                found += _limits(mounted, path, "cpu.max", "")
            elif "cpu" in controllers.split(","):
                for folder in {controllers, "cpu"}:
                    found += _limits(mounted / folder, path, "cpu.cfs_quota_us", "cpu.cfs_period_us")
    return min(found, default=None)


def _limits(mounted: Path, path: str, limit: str, period: str) -> Iterator[float]:
    """Yield the quotas of a cgroup and its parents. A container sees its own cgroup as the root."""
    inner = PurePosixPath(path.lstrip("/"))
    for group in (inner, *inner.parents):
        with suppress(OSError, ValueError, ZeroDivisionError):
            folder = mounted / group
            words = (folder / limit).read_text().split() + ((folder / period).read_text().split() if period else [])
            most, every = map(float, words)  # "max 100000" is no quota; float("max") raises
            if most > 0:
                yield most / every


def _siblings(number: int) -> str:
    """Return a key that is equal for all hardware threads of one core."""
    with suppress(OSError):
        return (SYSTEM / f"devices/system/cpu/cpu{number}/topology/thread_siblings_list").read_text()
    return str(number)


def _set_before() -> dict[str, str]:
    """Return the variables that this module has set, here or in a parent process, and that are unchanged since."""
    pairs = (word.partition("=") for word in os.environ.get(OURS, "").split())
    return {name: value for name, _, value in pairs if os.environ.get(name) == value}


def _sampler() -> int | None:
    """Return the pid of the process that sampled the CPU load for this one, None if there is none."""
    pairs = (word.partition("=") for word in os.environ.get(OURS, "").split())
    return next((int(value) for name, _, value in pairs if name == WATCHED), None)


def _number(text: str) -> int | None:
    """Return the first number of ``4`` or ``4,2``; None for a value that OpenMP ignores."""
    first = text.partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else None


def _policy(given: dict[str, str]) -> str:
    return ", ".join(f"{name}={given[name]}" for name in (POLICY, SPINS) if name in given)


def _by_user(given: dict[str, str]) -> str:
    return "set by the user" if POLICY in given or SPINS in given else ""
