"""Threads follow affinity and quota, their waiting what else computes, and what the user has set wins."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.waiting import neighbours
from model import threads
from model.threads import NUMBER, OURS, PASSIVE, POLICY, SHORT, SPINS, _watched, affinity, free, quota, share
from pipelines.local.containers import options
from tests.daily import daily

ROOT = Path(__file__).parents[2]
# What a command does first, then torch, whose OpenMP says on the error stream with which settings it began.
COMMAND = """
from core.cli import exit_on_user_error
with exit_on_user_error():
    from dataclasses import asdict
    from model.threads import settle, wanted
    import torch
    import json
    print(json.dumps(asdict(settle()) | {"torch": torch.get_num_threads(), "wanted": wanted()}))
"""
ONE = str(min(affinity()))
pytestmark = pytest.mark.skipif(shutil.which("taskset") is None, reason="there is no taskset to bind a process with")


def environment(**given: str) -> dict[str, str]:
    """The environment of a user who has set no more than what is given."""
    inherited = {name: value for name, value in os.environ.items() if name not in (NUMBER, POLICY, SPINS, OURS)}
    return inherited | {"PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "verbose"} | given


def begun(errors: str) -> dict[str, str]:
    """What OpenMP began with."""
    return dict(re.findall(r"(\w+) = '(.*)'", errors))


def command(*before: str, code: str = COMMAND, **given: str) -> tuple[dict[str, Any], dict[str, str]]:
    line = [*before, sys.executable, "-c", code]
    done = subprocess.run(line, env=environment(**given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), begun(done.stderr)


def test_threads_follow_the_affinity_and_wait_passively() -> None:
    found, openmp = command("taskset", "-c", ONE)
    assert (found["count"], found["torch"], found["wanted"], openmp[NUMBER]) == (1, 1, 1, "1")
    assert found["reason"].startswith("1 core")
    assert (openmp[POLICY], openmp[SPINS]) == ("PASSIVE", "0")
    assert found["waiting"] == "passive"


def test_without_a_limit_there_is_one_a_core() -> None:
    found, openmp = command()
    assert (found["count"], found["torch"], openmp[NUMBER]) == (share()[0], share()[0], str(share()[0]))
    assert found["reason"] == share()[1]
    assert openmp[SPINS] == {"passive": "0", "a short spin": SHORT[SPINS]}[found["waiting"]]


@pytest.mark.full
def test_what_the_user_has_set_wins() -> None:
    found, openmp = command(OMP_NUM_THREADS="3", OMP_WAIT_POLICY="ACTIVE")
    assert (found["count"], found["wanted"], openmp[NUMBER]) == (3, 3, "3")
    assert found["reason"] == "OMP_NUM_THREADS"
    assert openmp[POLICY] == "ACTIVE"
    assert (found["waiting"], found["waiting_reason"]) == ("OMP_WAIT_POLICY=ACTIVE", "set by the user")
    found, openmp = command(GOMP_SPINCOUNT="77")
    assert (openmp[SPINS], found["waiting"]) == ("77", "GOMP_SPINCOUNT=77")
    assert found["count"] == share()[0]


def test_processes_of_one_training_share_the_cores() -> None:
    found, _ = command(LOCAL_WORLD_SIZE="64")
    assert (found["count"], found["torch"]) == (1, 1)
    assert found["reason"] == f"{share()[1]}, shared by 64 processes"


CHILD = f"""
import os, subprocess, sys
from model.threads import settle
settle()
os.environ.update(dict(word.split("=") for word in sys.argv[1:]))
subprocess.run(["taskset", "-c", "{ONE}", sys.executable, "-c", {COMMAND!r}], check=True)
"""


@pytest.mark.parametrize(("between", "reason"), daily([((), "core"), (("OMP_NUM_THREADS=5",), "OMP_NUM_THREADS")], 0))
def test_a_child_process_decides_anew_unless_somebody_has_set_it_since(between: tuple[str, ...], reason: str) -> None:
    line = [sys.executable, "-c", CHILD, *between]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["count"] == (5 if between else 1)
    assert reason in found["reason"]
    assert found["waiting"] in ("passive", "a short spin")


def test_where_torch_is_there_before_nothing_is_changed_and_that_is_said() -> None:
    found, openmp = command(code=f"import torch\n{COMMAND}")
    assert (found["count"], found["reason"], found["waiting"]) == (None, "torch was imported before", "as it began")
    assert openmp[SPINS] != "0"


def test_a_container_is_handed_what_the_user_has_set_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NUMBER, "2")
    monkeypatch.setenv(POLICY, "PASSIVE")
    monkeypatch.setenv(SPINS, "9")
    monkeypatch.setenv(OURS, f"{NUMBER}=2 {POLICY}=PASSIVE")
    assert options((1, 1), [], network=False)["environment"].keys() & {NUMBER, POLICY, SPINS, OURS} == {SPINS}
    monkeypatch.setenv(NUMBER, "4")
    assert options((1, 1), [], network=False)["environment"][NUMBER] == "4"


# --- how busy the processors are --------------------------------------------------------------------------------------


@pytest.mark.full
def test_threads_wait_passively_where_other_processes_compute() -> None:
    with neighbours(len(affinity())):
        found, openmp = command(OMP_NUM_THREADS="2")
    assert (openmp[POLICY], openmp[SPINS]) == ("PASSIVE", "0")
    assert (found["waiting"], found["waiting_reason"]) == ("passive", "other processes computed when it began")


@pytest.mark.full
def test_what_was_settled_is_not_watched_again_in_a_child() -> None:
    given = SHORT | {OURS: " ".join([*(f"{name}={value}" for name, value in SHORT.items()), "watched=1"])}
    with neighbours(len(affinity())):
        found, openmp = command(OMP_NUM_THREADS="2", **given)
    assert openmp[SPINS] == SHORT[SPINS] != PASSIVE[SPINS]
    began = "its cores were free when the command that started it began"
    assert (found["waiting"], found["waiting_reason"]) == ("a short spin", began)


def test_what_a_single_thread_settled_is_no_look_at_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PASSIVE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(OURS, " ".join(f"{name}={value}" for name, value in PASSIVE.items()))
    monkeypatch.setenv(NUMBER, "2")
    monkeypatch.setattr(threads, "free", lambda allowed: float(len(allowed) + 2))
    assert threads.settle().waiting == "a short spin"


BEFORE = """cpu  400 0 0 400 0 0 0 0 0 0
cpu0 100 0 0 100 0 0 0 0 0 0
cpu1 100 0 0 100 0 0 0 0 0 0
cpu2 100 0 0 100 0 0 0 0 0 0
cpu3 100 0 0 100 0 0 0 0 0 0
intr 1 2 3
"""
AFTER = """cpu  440 0 0 440 0 0 0 0 0 0
cpu0 100 0 0 115 5 0 0 0 0 0
cpu1 110 5 5 100 0 0 0 0 0 0
cpu2 105 0 0 110 0 0 0 5 5 0
cpu3 120 0 0 100 0 0 0 0 0 0
intr 4 5 6
"""


@pytest.mark.parametrize(
    ("allowed", "expected"), [({0}, 1), ({1}, 0), ({2}, 0.5), ({0, 1, 2}, 1.5), ({0, 1, 2, 3}, 1.5), ({0, 9}, 2)]
)
def test_processors_that_nobody_uses_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: set[int], expected: float
) -> None:
    statistics = tmp_path / "stat"
    statistics.write_text(BEFORE)
    monkeypatch.setattr("time.sleep", lambda _: statistics.write_text(AFTER))
    assert free(allowed, statistics) == pytest.approx(expected)
    assert free(allowed, tmp_path / "none") == len(allowed)


@pytest.mark.parametrize(("unused", "settings"), [(2.0, SHORT), (1.6, SHORT), (1.4, PASSIVE), (0.0, PASSIVE)])
def test_waiting_follows_from_the_processors_that_are_free(
    monkeypatch: pytest.MonkeyPatch, unused: float, settings: dict[str, str]
) -> None:
    monkeypatch.setattr("model.threads.free", lambda allowed: unused)
    assert _watched(2) == settings


# --- quotas ---------------------------------------------------------------------------------------------------------


def groups(tmp_path: Path, lines: str, files: dict[str, str]) -> float | None:
    """What is found in made-up control groups."""
    listed, mounted = tmp_path / "groups", tmp_path / "mounted"
    listed.write_text(lines)
    for name, text in files.items():
        (mounted / name).parent.mkdir(parents=True, exist_ok=True)
        (mounted / name).write_text(text)
    return quota(listed, mounted)


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),  # in a container
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),  # of the one around
        ("0::/a\n", {"a/cpu.max": "400000 100000\n", "cpu.max": "300000 100000\n"}, 3),
        ("0::/a\n", {"a/cpu.max": "max 100000\n"}, None),
        ("0::/a\n", {}, None),
        (
            "4:memory:/m\n2:cpu,cpuacct:/k/pod\n",
            {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        ("2:cpu:/k\n", {"cpu/k/cpu.cfs_quota_us": "-1", "cpu/k/cpu.cfs_period_us": "100000"}, None),
        ("2:cpuset:/\n", {"cpu.max": "200000 100000\n"}, None),
    ],
)
def test_the_quota_is_the_least_of_the_group_and_those_around_it(
    tmp_path: Path, lines: str, files: dict[str, str], expected: float | None
) -> None:
    assert groups(tmp_path, lines, files) == expected


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert quota(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(
    ("limit", "processes", "count", "reason"),
    [
        (2.0, 1, 2, "a CPU quota of 2, of 64 cores"),
        (2.5, 1, 2, "a CPU quota of 2.5, of 64 cores"),
        (0.5, 1, 1, "a CPU quota of 0.5, of 64 cores"),
        (8.0, 4, 2, "a CPU quota of 8, of 64 cores, shared by 4 processes"),
        (None, 1, 64, "64 cores"),
        (99.0, 1, 64, "64 cores"),
    ],
)
def test_a_quota_counts_where_it_is_less_than_the_cores(
    monkeypatch: pytest.MonkeyPatch, limit: float | None, processes: int, count: int, reason: str
) -> None:
    monkeypatch.setattr("model.threads.affinity", lambda: set(range(1000, 1064)))  # without siblings
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("model.threads.quota", lambda: limit)
    assert share(processes) == (count, reason)


@pytest.mark.skipif(not os.access("/sys/fs/cgroup/cpu/cgroup.procs", os.W_OK), reason="no group of its own can be made")
def test_a_process_in_a_group_with_a_quota_takes_no_more_threads(tmp_path: Path) -> None:
    group = Path("/sys/fs/cgroup/cpu") / f"defunet-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text("100000")
        found, _ = command("sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh")
    finally:
        group.rmdir()
    assert (found["count"], found["torch"]) == (1, 1)
