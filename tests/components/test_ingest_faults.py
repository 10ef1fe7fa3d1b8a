"""Disks that fill, processes that are killed, runs that meet."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from components.ingest import ingest
from tests.cohorts import put
from tests.components.test_ingest import PARAMS, tree

Command = Callable[..., subprocess.CompletedProcess[str]]
SLOW = "ChinaSet_AllFiles/CXR_png/CHNCXR_0003_1.png"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def waiting(cohort: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], bytes]]:
    """A run of ingest that has written some files and waits for one X-ray, a pipe nobody has written to yet."""
    data = (cohort / SLOW).read_bytes()
    (cohort / SLOW).unlink()
    os.mkfifo(cohort / SLOW)
    line = [sys.executable, "-m", "components.ingest", str(cohort), "--out", str(tmp_path / "raw")]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: any(tmp_path.glob(".raw.partial-*/images/shenzhen/CHNCXR_0002_0.png")))
            yield process, data
        finally:
            process.kill()


def test_a_killed_run_leaves_no_output_and_the_next_one_clears_up(
    waiting: tuple[subprocess.Popen[str], bytes], cohort: Path, tmp_path: Path
) -> None:
    process, data = waiting
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "raw").exists()
    (stale,) = tmp_path.glob(".raw.partial-*")
    (cohort / SLOW).unlink()
    (cohort / SLOW).write_bytes(data)
    assert ingest(str(cohort), PARAMS, tmp_path / "raw").sites["shenzhen"].images == 3
    assert not stale.exists()


def test_a_second_run_at_the_same_time_is_refused_and_the_first_ends_well(
    waiting: tuple[subprocess.Popen[str], bytes], cohort: Path, tmp_path: Path, command: Command
) -> None:
    process, data = waiting
    second = command("components.ingest", cohort, "--out", tmp_path / "raw")
    assert second.returncode == 1
    assert second.stderr == (
        f"error: {tmp_path}/raw: another run is writing here; wait until it ends, or choose another --out\n"
    )
    threading.Thread(target=(cohort / SLOW).write_bytes, args=(data,), daemon=True).start()
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "shenzhen: 3 X-rays" in output
    assert (tmp_path / "raw/images/shenzhen/CHNCXR_0003_1.png").read_bytes() == data


def test_an_interrupted_run_leaves_nothing(
    waiting: tuple[subprocess.Popen[str], bytes], cohort: Path, tmp_path: Path
) -> None:
    process, data = waiting
    process.send_signal(signal.SIGINT)
    # The thread that waits for the pipe ends its read first; no further X-ray is begun.
    threading.Thread(target=(cohort / SLOW).write_bytes, args=(data,), daemon=True).start()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1].startswith("interrupted: ")
    assert [path.name for path in tmp_path.iterdir() if path.name != "cohort"] == [".raw.lock"]


def noisy(cohort: Path) -> None:
    """Add 20 X-rays of about 160 kB each, since noise cannot be compressed."""
    for number in range(20):
        picture = np.random.default_rng(number).integers(0, 256, (400, 400)).astype(np.uint8)
        put(cohort / f"ChinaSet_AllFiles/CXR_png/CHNCXR_{number + 100:04}_0.png", picture)


def test_a_limit_on_file_sizes_is_told_in_one_line(cohort: Path, tmp_path: Path, command: Command) -> None:
    noisy(cohort)
    before = tree(ingest(str(cohort / "MontgomerySet"), PARAMS, tmp_path / "raw").folder)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # noqa: E731
    done = command("components.ingest", cohort, "--out", tmp_path / "raw", preexec_fn=limit)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: {tmp_path}/raw: the disk is full (File too large); nothing was changed: free some space and run again"
    )
    assert tree(tmp_path / "raw") == before
    assert list(tmp_path.glob(".raw.partial-*")) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_in_the_middle_is_told_in_one_line(cohort: Path, small_disk: Path, command: Command) -> None:
    noisy(cohort)
    done = command("components.ingest", cohort, "--out", small_disk / "raw")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: {small_disk}/raw: the disk is full (No space left on device); "
        "nothing was changed: free some space and run again"
    )
    assert [path.name for path in small_disk.iterdir()] == [".raw.lock"]
