"""A container's CPU quota counts, not the node's cores: threads, processes, and how fast a training step is."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.waiting import FREE, SIDES, Side
from model.threads import NUMBER, affinity
from tests.model.test_threads import environment

ROOT = Path(__file__).parents[2]
GROUPS = Path("/sys/fs/cgroup")
PERIOD = 100_000  # microseconds
Limit = Callable[[float], list[str]]
# What asks how many there are: OpenMP, torch, torch.compile, OpenCV, Arrow and the steps' pools.
COUNTS = """
from core.cli import exit_on_user_error
with exit_on_user_error():
    import json
    import torch, torch._inductor.config, pyarrow
    import core.images, cv2
    from core.parallel import cores
    from model.threads import quota, wanted
    counts = {"torch": torch.get_num_threads(), "compile": torch._inductor.config.compile_threads, "pools": cores()}
    print(json.dumps(counts | {"engines": wanted(), "cv2": cv2.getNumThreads(), "arrow": pyarrow.cpu_count()}))
"""


def make_group(name: str, cpus: float) -> Path:
    """Make a control group of version 2 or 1 with a quota; OSError where the machine does not let one."""
    amount = int(cpus * PERIOD)
    if (GROUPS / "cgroup.controllers").exists():
        if "cpu" not in (GROUPS / "cgroup.subtree_control").read_text().split():
            (GROUPS / "cgroup.subtree_control").write_text("+cpu")
        group, files = GROUPS / name, {"cpu.max": f"{amount} {PERIOD}"}
    else:
        group, files = GROUPS / "cpu" / name, {"cpu.cfs_period_us": str(PERIOD), "cpu.cfs_quota_us": str(amount)}
    group.mkdir()
    for file, text in files.items():
        (group / file).write_text(text)
    return group


@pytest.fixture
def limit() -> Iterator[Limit]:
    """Return what makes a group with a quota, and the words that start a command in it: ``limit(cpus)``."""
    groups: list[Path] = []

    def limited(cpus: float) -> list[str]:
        name = f"defunet-quota-{os.getpid()}-{len(groups)}"
        try:
            groups.append(make_group(name, cpus))
        except OSError as error:
            pytest.skip(f"no control group with a quota can be made here: {error}")
        return ["sh", "-c", f'echo $$ > {groups[-1]}/cgroup.procs && exec "$@"', "sh"]

    yield limited
    for group in groups:
        group.rmdir()


@pytest.mark.full
@pytest.mark.parametrize(("cpus", "processes"), [(1.0, ""), (0.5, ""), (1.0, "2")])
def test_everything_counts_the_quota(limit: Limit, cpus: float, processes: str) -> None:
    given = environment(**({"LOCAL_WORLD_SIZE": processes} if processes else {}))
    line = [*limit(cpus), sys.executable, "-c", COUNTS]
    done = subprocess.run(line, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found.values()) == {1}, found


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.skipif(len(affinity()) < 2, reason="a quota of one CPU limits nothing on a machine of one")
def test_a_training_step_within_a_quota_is_not_held_up_by_its_own_threads(
    limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a thread for each core of the node, the quota stops them while they wait for each other."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(SIDES, "a thread a core", {NUMBER: "2"})
    before, arguments = limit(1.0), ["--size", "64"]
    sides = [Side(FREE, arguments), Side(FREE, arguments, before), Side("a thread a core", arguments, before)]
    try:
        for side in sides:
            side.turn(0)
        turns = [[side.turn(1) for side in sides] for _ in range(3)]
    finally:
        for side in sides:
            side.close()
    # Half of two cores can do half; a pod with two threads in a quota of one CPU did 0.14 of a pod with one.
    assert statistics.median(limited / unlimited for unlimited, limited, _ in turns) > 0.25, turns
    assert statistics.median(limited / crowded for _, limited, crowded in turns) > 1.1, turns
