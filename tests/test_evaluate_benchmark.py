"""The benchmark of scoring: that both ways score the same predictions alike, and all is shown. No time is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.evaluate import Cell, differences, parts, read_cell
from core.params import read_params
from model.metrics import confusion, overlap_metrics
from tests.conftest import Project, refused

ROOT = Path(__file__).parents[1]
PARTS = ["confusion", "distances", "ROC area", "whole cell"]


@pytest.fixture(scope="module")
def cell() -> Cell:
    return read_cell(None, 8, 64, read_params(ROOT / "params.yaml"))


def test_predictions_are_those_of_a_network_that_has_learnt(cell: Cell) -> None:
    dice = overlap_metrics(confusion(cell.predicted, cell.masks["original"]))["dice"]
    assert ((dice > 0.8) & (dice < 0.999)).all()
    assert len({mask.tobytes() for mask in cell.predicted}) == 8
    sure = (cell.probabilities < 0.01) | (cell.probabilities > 0.99)
    assert sure.mean() > 0.5
    assert (cell.masks["dilated"] >= cell.masks["original"]).all()
    assert [chosen.sum() for chosen in cell.groups] == [8, 4, 4, 4, 2, 2, 4, 2, 2]


def test_both_ways_find_the_same(cell: Cell) -> None:
    assert list(parts(cell)) == PARTS
    found = differences(cell)
    assert found["confusion"] == 0
    assert found["distances"] < 1e-4
    assert found["ROC area"] < 1e-4
    assert found["whole cell"] < 1e-4


def test_a_difference_is_seen(cell: Cell) -> None:
    wrong = Cell(**vars(cell) | {"predicted": np.zeros_like(cell.predicted)})
    before, now = parts(cell)["confusion"][0](), parts(wrong)["confusion"][1]()
    assert np.abs(before["tp"] - now["tp"]).max() > 100


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "benchmarks.evaluate", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.full
def test_every_figure_is_printed_and_written(tmp_path: Path) -> None:
    out = tmp_path / "evaluate.json"
    done = command("--images", 4, "--size", 32, "--rounds", 2, "--out", out)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert list(found["parts"]) == PARTS
    for row in found["parts"].values():
        for way in ("before", "now", "ratio"):
            assert row[way]["least"] <= row[way]["median"] <= row[way]["most"]
        ratios = [old / new for old, new in zip(row["before"]["rounds"], row["now"]["rounds"], strict=True)]
        assert row["ratio"]["rounds"] == pytest.approx(ratios)
    verdict = found["verdict"]
    assert verdict["met"] == (found["parts"]["whole cell"]["ratio"]["median"] >= verdict["target"] == 6)
    assert found["network_ms"] > 0
    for text in (*PARTS, "times faster", "target 6", "ms a picture", "4 pictures of 32 x 32", str(out.name)):
        assert text in done.stdout


@pytest.mark.full
def test_a_cohort_is_taken_too_and_one_that_is_too_small_is_refused(prepared: Project, tmp_path: Path) -> None:
    cell = read_cell(prepared.arrays, 6, 512, read_params(ROOT / "params.yaml"))
    assert cell.images.shape == (6, 32, 32)
    assert "lower --images" in refused(command("--arrays", prepared.arrays, "--out", tmp_path / "x.json"))
    assert "not a trained model" in refused(command("--images", 4, "--size", 32, "--model", tmp_path / "none"))
