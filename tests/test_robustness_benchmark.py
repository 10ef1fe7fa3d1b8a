"""Robustness curves: every corruption grows with its severity, and the file is what the page of results reads."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from benchmarks.robustness import FILE, SEVERITIES, corrupt
from tests.conftest import CELL, Trained, refused
from tools.publish.measured import CORRUPTIONS


@pytest.mark.parametrize("corruption", SEVERITIES)
def test_a_corruption_grows_and_repeats(corruption: str) -> None:
    y, x = np.mgrid[:256, :256]
    image = (128 + 100 * np.sin(x / 5) * np.cos(y / 7)).astype(np.uint8)[None]
    kept = image.copy()
    away = [np.abs(corrupt(image, corruption, n).astype(float) - image).mean() for n in range(6)]
    assert away[0] == 0
    assert all(less < more for less, more in pairwise(away))
    np.testing.assert_array_equal(corrupt(image, corruption, 3), corrupt(image, corruption, 3))
    np.testing.assert_array_equal(image, kept)


def test_the_page_knows_every_corruption() -> None:
    assert set(SEVERITIES) == set(CORRUPTIONS)


@pytest.mark.slow
@pytest.mark.full
def test_curves_of_a_trained_cell_lie_with_its_evaluation(
    trained: Trained, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project = trained.copy(tmp_path_factory.mktemp("robust"))
    line = project.line("train", project.arrays, project.model, project.split)
    line[2] = "benchmarks.robustness"
    printed = project.do([*line, "--out", "evaluations"])
    assert f"wrote evaluations/{CELL.folder}/{FILE}" in printed.replace("\n", "")
    found = pd.read_csv(project.evaluation / FILE)
    assert len(found) == len(SEVERITIES) * 6 * (1 + found["site"].nunique() - 1)
    cases = pd.read_csv(project.evaluation / "cases.csv")
    test = cases[(cases["split"] == "test") & (cases["masks"] == "original")]
    clean = found[(found["severity"] == 0) & (found["site"] == "all")]["dice"]
    assert clean.tolist() == pytest.approx([test["dice"].mean()] * len(SEVERITIES), abs=1e-5)
    other = project.line("train", project.arrays, project.root / "models/nowhere/mixed/seed-0", project.split)
    other[2] = "benchmarks.robustness"
    assert "not a trained model" in refused(project.call(other))
