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

from benchmarks.waiting import ALONE, BESIDE, SHIPPED, SIDES, SINGLE, SPINNING, Side, neighbours, ratios, told
from tests.conftest import ROOT, shrunk

SMALL = shrunk(train={"width": 0.0625, "batch_size": 2})


def row(shipped: float, spinning: float, single: float, beside: float) -> dict[str, Any]:
    return {
        ALONE: {SHIPPED: shipped, SPINNING: spinning, SINGLE: single},
        BESIDE: {SHIPPED: beside, SPINNING: beside / 4, SINGLE: beside},
    }


def test_the_verdict_is_that_of_the_median_round() -> None:
    rows = [row(19, 20, 10, 10), row(10, 20, 10, 1), row(19.5, 18, 13, 13)]
    found = ratios(rows)
    assert found["alone"] == pytest.approx([0.95, 0.5, 19.5 / 18])
    assert found["beside"] == pytest.approx([10 / 19, 0.1, 2 / 3])
    assert found["to spinning"] == pytest.approx([4, 4, 4])
    _, alone, beside, spinning = told(rows)
    assert alone == "shipped to the best of the others, alone: 0.95 (0.50 to 1.08); target 0.95: met"
    assert beside == "shipped, beside a busy process to alone: 0.53 (0.10 to 0.67); target 0.33: met"
    assert spinning == "shipped to spinning, beside a busy process: 4.00 (4.00 to 4.00)"
    assert str(told([row(19, 20, 21, 6)])[1]).endswith("NOT met")


def test_a_neighbour_computes_until_the_block_ends() -> None:
    mine = psutil.Process()
    before = set(mine.children())
    with neighbours(2):
        busy = set(mine.children()) - before
        assert len(busy) == 2
    assert not set(mine.children()) & busy


@pytest.mark.slow
def test_every_side_has_its_own_settings_and_the_shipped_one_waits_passively(
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
    assert {name: each["GOMP_SPINCOUNT"] for name, each in settings.items() if name != SINGLE} == {
        SHIPPED: "0",
        SPINNING: "300000",
    }
    assert settings[SINGLE]["OMP_NUM_THREADS"] == "1"
    assert settings[SHIPPED]["OMP_NUM_THREADS"] == settings[SPINNING]["OMP_NUM_THREADS"]


@pytest.mark.slow
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
