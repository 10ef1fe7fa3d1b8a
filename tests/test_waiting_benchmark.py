"""The benchmark of waiting: each side has its own settings, rounds are kept, and the verdict follows from them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.waiting import ALONE, BESIDE, BUSY, FREE, SIDES, SINGLE, SPINNING, Side, describe, neighbours, ratios
from tests.conftest import ROOT, shrunk

SMALL = shrunk(train={"width": 0.0625, "batch_size": 2})


def row(free: float, busy: float, spinning: float, beside: float, passive: float) -> dict[str, Any]:
    return {
        ALONE: {FREE: free, BUSY: busy, SPINNING: spinning, SINGLE: 10.0},
        BESIDE: {FREE: beside, BUSY: passive, SPINNING: passive / 4, SINGLE: 9.0},
    }


def test_the_verdict_is_that_of_the_median_round() -> None:
    rows = [row(19, 15, 20, 8, 10), row(10, 15, 20, 1, 1), row(20, 15, 18, 7, 12)]
    found = ratios(rows)
    assert found["alone"] == pytest.approx([0.95, 0.5, 1])
    assert found["came later"] == pytest.approx([8 / 19, 0.1, 7 / 20])
    assert found["was there"] == pytest.approx([10 / 19, 0.1, 12 / 20])
    assert found["to spinning"] == pytest.approx([4, 4, 4])
    said = [str(line) for line in describe(rows)[1:]]
    assert [line.rpartition(": ")[2] for line in said[:3]] == ["met"] * 3
    assert said[0].startswith("shipped, cores free, alone, to the best there: 0.95 (0.50 to 1.00); target 0.95")
    assert said[3] == "shipped, cores busy, beside a busy process, to spinning there: 4.00 (4.00 to 4.00)"
    said = [str(line) for line in describe([row(10, 15, 20, 3, 3)])[1:]]
    assert [line.rpartition(": ")[2] for line in said[:3]] == ["NOT met"] * 3


def test_a_neighbour_computes_until_the_block_ends() -> None:
    mine = psutil.Process()
    before = set(mine.children())
    with neighbours(2):
        busy = set(mine.children()) - before
        assert len(busy) == 2
    assert not set(mine.children()) & busy


@pytest.mark.slow
@pytest.mark.full
def test_every_side_has_its_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from tests.model.test_threads import begun

    params = tmp_path / "params.yaml"
    params.write_text(json.dumps(SMALL))
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_DISPLAY_ENV", "verbose")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")  # of whoever starts it, and not of the sides
    settings = {}
    for name in SIDES:
        side = Side(name, ["--params", str(params), "--network", "unet", "--size", "32"])
        assert side.turn(0) > 0
        side.close()
        settings[name] = begun(capfd.readouterr().err)
    spins = {name: int(each["GOMP_SPINCOUNT"]) for name, each in settings.items()}
    assert 0 == spins[BUSY] < spins[FREE] < spins[SPINNING] == 300_000
    assert settings[SINGLE]["OMP_NUM_THREADS"] == "1"
    assert settings[FREE]["OMP_NUM_THREADS"] == settings[SPINNING]["OMP_NUM_THREADS"]


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(400)
def test_rounds_are_kept_and_not_measured_again(tmp_path: Path) -> None:
    params, out = tmp_path / "params.yaml", tmp_path / "waiting.jsonl"
    params.write_text(json.dumps(SMALL))

    def run(rounds: int) -> str:
        line = [sys.executable, "-m", "benchmarks.waiting", "--network", "unet", "--size", "32", "--seconds", "0"]
        line += ["--rounds", str(rounds), "--params", str(params), "--out", str(out)]
        done = subprocess.run(line, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = run(1)
    (first,) = out.read_text().splitlines()
    assert json.loads(first).keys() >= {ALONE, BESIDE, "threads", "cpu"}
    assert all(rate > 0 for situation in (ALONE, BESIDE) for rate in json.loads(first)[situation].values())
    for text in (*SIDES, "target 0.95", "target 0.33", "unet, 32 x 32"):
        assert text in said
    assert run(1) == said
    assert out.read_text().splitlines() == [first]
    run(2)
    again, second = out.read_text().splitlines()
    assert (again, json.loads(second)["round"]) == (first, 1)
