"""With how many threads this process computes, and how they wait for one another: the one place that decides it.

OpenMP reads both when torch is imported, so that :func:`settle` comes before. It sets environment variables and nothing
else: libraries and child processes find them there. What the user has set stays.

The number follows from the machine: its cores, the affinity of the process, the CPU quota of its control group. How
busy the machine is does not count, because another number adds up in another order and ends with other weights.

Waiting changes no sum. By OpenMP's own choice a thread that has nothing to do spins for milliseconds and takes the core
from whoever could use it, its own fellows too: beside one busy process a training is then several times slower. Passive
threads sleep at once, which is best beside others, but to be woken costs a training that is alone a third of its speed.
So waiting follows from how busy the processors are at the start: passive, or a short spin, which alone is as fast as a
long one and beside others, should they come later, does little harm. ``python -m benchmarks.waiting`` measures all.
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
POLICY, SPINS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
OURS = "DEFUNET_OMP"  # what of the others this module has set: a child process decides anew, and asks no user

WATCHED = "watched"  # beside them: which process has looked at the processors, where one has
PASSIVE, SHORT = {POLICY: "PASSIVE", SPINS: "0"}, {POLICY: "PASSIVE", SPINS: "20000"}
SAMPLE = 0.2  # seconds for which processors are watched

SYSTEM = Path("/sys")
STATISTICS = Path("/proc/stat")
GROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Threads:
    """What was settled.

    Attributes:
        count: of threads; None where torch was there before and keeps its own number.
        reason: of the count, in words.
        waiting: ``passive``, ``a short spin``, or what the user has set.
        waiting_reason: of the waiting, in words.
    """

    count: int | None
    reason: str
    waiting: str
    waiting_reason: str


def settle(processes: int | None = None) -> Threads:
    """Settle the number of threads and their waiting for this process and its children, and say why.

    Called again, also in a child, it settles the same, but for a number that follows from another affinity or quota.

    Args:
        processes: that share the machine's cores; None for as many as ``torchrun`` has started here, or 1.
    """
    mine = _set_before()
    given = {
        name: os.environ[name] for name in (NUMBER, POLICY, SPINS) if os.environ.get(name, "") != mine.get(name, "")
    }
    if "torch" in sys.modules and OURS not in os.environ:
        kept = "torch was imported before"
        return Threads(None, NUMBER if NUMBER in given else kept, _spelt(given) or "as it began", _named(given) or kept)
    chosen: dict[str, str] = {}
    count, reason = _number(given.get(NUMBER, "")), NUMBER
    if count is None:
        count, reason = share(processes or int(os.environ.get("LOCAL_WORLD_SIZE") or 1))
        chosen[NUMBER] = str(count)
    waiting, waiting_reason = _spelt(given), _named(given)
    watched: list[str] = []
    if not waiting:
        if count == 1:
            settings = PASSIVE
            waiting, waiting_reason = "passive", "a single thread waits for none"
        else:
            # Not watched again: by now this process, or its fellows, are what is busy.
            by = _looked()
            settings = {name: mine[name] for name in PASSIVE if name in mine and by} or _watched(count)
            busy = settings == PASSIVE
            waiting = "passive" if busy else "a short spin"
            began = "it" if by in (None, os.getpid()) else "the command that started it"
            waiting_reason = f"{'other processes computed' if busy else 'its cores were free'} when {began} began"
            watched = [f"{WATCHED}={by or os.getpid()}"]
        chosen |= settings
    os.environ |= chosen | {OURS: " ".join([*(f"{name}={value}" for name, value in chosen.items()), *watched])}
    return Threads(count, reason, waiting, waiting_reason)


def wanted() -> int:
    """Return the number of threads for what has a setting of its own: OpenMP's where it is set, else :func:`share`."""
    return _number(os.environ.get(NUMBER, "")) or share()[0]


def asked_for() -> bool:
    """Return whether the user has set the number of threads (OMP_NUM_THREADS)."""
    return _number(os.environ.get(NUMBER, "")) is not None and NUMBER not in _set_before()


def without_ours(environment: dict[str, str]) -> dict[str, str]:
    """Return an environment without what this module has set: for a container, which has a quota of its own."""
    mine = {*_set_before(), OURS}
    return {name: value for name, value in environment.items() if name not in mine}


def share(processes: int = 1) -> tuple[int, str]:
    """Return how many threads each of some processes computes with, at least 1, and why.

    Two hardware threads of a core count as one: they have one unit for products between them.

    Args:
        processes: that share the cores.
    """
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


def processors() -> int:
    """Return how many jobs this process may run at once, at least 1: hardware threads by affinity, within the quota."""
    limit = quota()
    return len(affinity()) if limit is None else max(1, min(len(affinity()), math.floor(limit)))


def _watched(count: int) -> dict[str, str]:
    """Return how so many threads should wait, after watching the processors for :data:`SAMPLE` seconds."""
    return SHORT if free(affinity()) >= count - 0.5 else PASSIVE


def free(allowed: Collection[int], statistics: Path = STATISTICS) -> float:
    """Return how many of some processors nobody used in the next :data:`SAMPLE` seconds, this process sleeping.

    All of them where the system does not tell.

    Args:
        allowed: numbers of the processors.
        statistics: as ``/proc/stat`` has them.
    """
    before = _idle(allowed, statistics)
    time.sleep(SAMPLE)
    after = _idle(allowed, statistics)
    pairs = [(before[number], after[number]) for number in allowed if number in before and number in after]
    shares = [(idle - was) / max(1, total - all_) for (was, all_), (idle, total) in pairs]
    return sum(shares) + len(allowed) - len(pairs)


def _idle(allowed: Collection[int], statistics: Path) -> dict[int, tuple[int, int]]:
    """Return the ticks that processors were idle, and all of their ticks, since the machine began."""
    found = {}
    with suppress(OSError, ValueError):
        for line in statistics.read_text().splitlines():
            name, *ticks = line.split()
            if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in allowed:
                every = [int(each) for each in ticks[:8]]  # what guests had is counted in the first two
                found[int(name[3:])] = (sum(every[3:5]), sum(every))  # idle, and waiting for a disk
    return found


def affinity() -> set[int]:
    """Return the numbers of the processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # systems that are not Linux


def quota(groups: Path = GROUPS, mounted: Path = SYSTEM / "fs/cgroup") -> float | None:
    """Return the CPU quota of this process's control group in processors, None where there is none.

    The least of the group and those around it, as the kernel has it. Kubernetes and Docker limit containers so.

    Args:
        groups: the process's groups, as ``/proc/self/cgroup`` lists them.
        mounted: where the hierarchies are: version 2, or version 1 with one folder a controller.
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
    """Yield the quotas of a group and of those around it. A container sees its own at the top, under no path."""
    inner = PurePosixPath(path.lstrip("/"))
    for group in (inner, *inner.parents):
        with suppress(OSError, ValueError, ZeroDivisionError):
            folder = mounted / group
            words = (folder / limit).read_text().split() + ((folder / period).read_text().split() if period else [])
            most, every = map(float, words)  # "max 100000" is none, and no number
            if most > 0:
                yield most / every


def _siblings(number: int) -> str:
    """Return what all hardware threads of one core share."""
    with suppress(OSError):
        return (SYSTEM / f"devices/system/cpu/cpu{number}/topology/thread_siblings_list").read_text()
    return str(number)


def _set_before() -> dict[str, str]:
    """Return which variables this module has set, here or in the process that started this one, and nobody since."""
    pairs = (word.partition("=") for word in os.environ.get(OURS, "").split())
    return {name: value for name, _, value in pairs if os.environ.get(name) == value}


def _looked() -> int | None:
    """Return the number of the process whose look at the processors holds here, None where there is none."""
    pairs = (word.partition("=") for word in os.environ.get(OURS, "").split())
    return next((int(value) for name, _, value in pairs if name == WATCHED), None)


def _number(text: str) -> int | None:
    """Return the first number of ``4`` or ``4,2``; None where there is none, and OpenMP ignores the value."""
    first = text.partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else None


def _spelt(given: dict[str, str]) -> str:
    return ", ".join(f"{name}={given[name]}" for name in (POLICY, SPINS) if name in given)


def _named(given: dict[str, str]) -> str:
    return "set by the user" if POLICY in given or SPINS in given else ""
