"""The benchmarks of large cohorts measure what they say."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import scale_plan
from benchmarks.scale import GIB, exponent, verdict
from core.files import read_json
from tests.conftest import Project
from tools.sample import make_sample

ROOT = Path(__file__).resolve().parents[1]


def run(*line: object, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", *map(str, line)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@given(st.floats(0.1, 10), st.floats(0.2, 3), st.integers(10, 1000), st.integers(2, 100))
def test_the_exponent_of_a_power_is_the_power(factor: float, power: float, few: int, times: int) -> None:
    many = few * times
    assert exponent((few, factor * few**power), (many, factor * many**power)) == pytest.approx(power)


def test_nothing_has_no_exponent() -> None:
    assert math.isnan(exponent((10, 0.0), (100, 5.0)))


def record(seconds: float, memory: float = 0.1) -> dict[str, float]:
    return {"processor_seconds": seconds, "memory_bytes": memory * GIB}


def test_what_grows_too_fast_or_is_too_large_is_named() -> None:
    found = {
        700: {"ingest": record(1), "train": record(1)},
        7_000: {"ingest": record(2), "train": record(2)},
        70_000: {"ingest": record(20 * 10**0.2), "train": record(20, 2.5)},
    }
    assert verdict(found) == [
        "ingest: exponent of processor time 1.20, above 1.05",
        "train: 2.50 GiB, above 2",
    ]
    found[70_000] = {"ingest": record(20), "train": record(20)}
    assert verdict(found)[0].startswith("every step: exponent of processor time at most 1.05 from 7,000 to 70,000")


@given(st.floats(0, 100), st.floats(1e-4, 1), st.integers(1, 64), st.integers(64, 10**6))
def test_a_plan_is_the_measured_line(fixed: float, each: float, pods: int, images: int) -> None:
    cost = scale_plan.Cost.of(100, fixed + 100 * each, 1000, fixed + 1000 * each)
    assert (cost.fixed, cost.each) == (pytest.approx(fixed, abs=1e-6), pytest.approx(each))
    plan = scale_plan.Plan(images, pods, cells=1)
    wall, cores = scale_plan.seconds(plan, "ingest", cost)
    assert wall == pytest.approx(cost.fixed + cost.each * images / pods)
    assert cores == pytest.approx(pods * wall)  # every pod imports the same
    assert scale_plan.seconds(plan, "validate", cost)[0] == pytest.approx(cost.fixed + cost.each * images)


def test_usage_is_of_the_module_and_its_children(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "held = bytearray(200 << 20)\n"
        "held[::4096] = b'x' * len(held[::4096])\n"
        "time.sleep(0.3)\n"
        "spin = 'import time\\nwhile time.process_time() < 0.5: pass'\n"
        "subprocess.run([sys.executable, '-c', spin])\n"
        "raise SystemExit(int(sys.argv[1]))\n"
    )
    (tmp_path / "eats.py").write_text(code)
    line = [sys.executable, "-m", "benchmarks.usage", "record.json", "eats"]
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": ""}
    failed = subprocess.run([*line, "3"], cwd=tmp_path, env=environment)
    assert failed.returncode == 3
    assert not (tmp_path / "record.json").exists()
    subprocess.run([*line, "0"], cwd=tmp_path, env=environment, check=True)
    used = read_json(tmp_path / "record.json")
    assert used["memory_bytes"] > 200 << 20
    assert used["resident_bytes"] >= used["memory_bytes"] * 0.9
    assert 0.5 < used["processor_seconds"] < 10


@pytest.mark.full
@pytest.mark.timeout(700)
def test_every_step_is_measured_once(tmp_path: Path) -> None:
    line = ["benchmarks.scale", "--pixels", 32, "--scale", 0.1, "--size", 60, "--size", 90]
    line += ["--work", tmp_path / "work", "--out", tmp_path / "all.json"]
    done = run(*line, "--cluster", 1000, "--pods", 4)
    assert done.returncode == 0, done.stderr
    sizes = json.loads((tmp_path / "all.json").read_text())["sizes"]
    names = ["ingest", "validate", "preprocess", "train", "evaluate", "report"]
    assert {size: list(used) for size, used in sizes.items()} == {"60": names, "90": names}
    assert sizes["90"]["ingest"]["source_files"] > 90 * 3
    assert all(used["memory_bytes"] > 10 << 20 for used in sizes["90"].values())
    assert "1,000 X-rays, pods of one core" in " ".join(done.stdout.split())
    assert "S3 requests of ingest" in done.stdout
    again = run(*line)
    assert json.loads((tmp_path / "all.json").read_text())["sizes"] == sizes  # nothing ran again
    assert again.returncode == 0


@pytest.mark.full
def test_dvc_add_is_measured_with_files_and_archives(tmp_path: Path) -> None:
    make_sample(tmp_path / "cohort", montgomery=4, shenzhen=6, scale=0.1)
    done = run("benchmarks.pinning", tmp_path / "cohort", "--parts", 2, "--out", tmp_path / "figures.json")
    assert done.returncode == 0, done.stderr
    files, archives = json.loads((tmp_path / "figures.json").read_text())["ways"]
    assert (files["way"], archives["way"]) == ("files", "archives")
    assert (files["files"], archives["files"]) == (36, 2)
    assert "times as much processor time for files" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"cohort", ".cohort.lock", "figures.json"}


@pytest.mark.full
def test_training_from_files_is_compared_with_training_from_memory(untrained: Project) -> None:
    line = untrained.line("train", untrained.arrays, untrained.split, "--rounds", 2, "--steps", 2)
    line[2] = "benchmarks.resident"
    told = untrained.do(line)
    assert "from files / in memory: " in told
    assert "the 6 losses of each side are equal" in told
