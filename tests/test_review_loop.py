"""From ten spoilt masks of a pinned cohort to a challenger that learned from their corrections and meets the gate."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.images import encode, read_mask
from core.params import read_yaml
from tests.project import Project

pytestmark = [pytest.mark.slow, pytest.mark.full, pytest.mark.timeout(1800)]  # two runs of the pipeline

SPOILT = 10
SMALL = {
    "preprocess": {"dilation": 48},
    "matrix": {"scenarios": ["mixed"]},
    "train": {"width": 0.125, "epochs": 30},
    "promotion": {"floor": 0.2},
}


def spoil(samples: Path) -> dict[str, np.ndarray]:
    """Turn ten masks upside down; return the true ones by id, uint8 (H, W), 0 or 1."""
    truth = {}
    for path in sorted(samples.glob("mask/*.png"))[:SPOILT]:
        mask = read_mask(path)
        truth[path.stem.removesuffix("_mask")] = mask
        path.write_bytes(encode(cv2.flip(mask, 0) * np.uint8(255)))
    assert len(truth) == SPOILT
    return truth


def test_a_challenger_learns_from_corrected_masks_and_meets_the_gate(
    pinned: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = pinned(tmp_path)
    project.set_params(SMALL)
    truth = spoil(project.root / "samples")
    project.run("git", "commit", "--quiet", "--all", "--message", "Spoil ten masks")
    project.repro()
    (splits,) = re.findall(r"splits: [0-9a-f]{64}", project.run("python", "-m", "components.promote").stdout)

    # The spoilt pictures are worked on.
    defunet = ("python", "-m", "defunet")
    project.run(*defunet, "predict", "samples/ChinaSet_AllFiles/CXR_png", "-o", "lungs", "--engine", "onnxruntime")
    names = [word for name in truth for word in ("--file", f"{name}.png")]
    where = ("--inputs", "samples/ChinaSet_AllFiles/CXR_png", "-o", "review")
    told = project.run(*defunet, "review", "export", "lungs", *where, *names).stdout
    assert told.startswith(f"{SPOILT} of ")
    manifest = json.loads((project.root / "review/manifest.json").read_text())
    for picture in manifest["pictures"]:
        corrected = truth[Path(picture["file"]).stem]
        (project.root / f"review/labels/final/{picture['id']}.png").write_bytes(encode(corrected))
    told = project.run(
        *defunet, "review", "import", "review", "--cohort", "data", "--out", "cohort", "--by", "A. Reader"
    ).stdout
    assert told.splitlines()[0].startswith(f"{SPOILT} corrected, 0 accepted")
    assert told.splitlines()[-1] == "next: make run DATA=cohort, then make promote"

    # data.dvc pins the corrected cohort, and the run reads it.
    before = read_yaml(project.root / "data.dvc")["outs"][0]["md5"]
    project.run("bash", "tools/pin-data.sh", "cohort")
    after = read_yaml(project.root / "data.dvc")["outs"][0]["md5"]
    assert after != before
    assert {"ingest", "preprocess", "train@defu_net-mixed-0", "register"} <= set(project.repro())
    for name, mask in truth.items():
        assert np.array_equal(read_mask(project.root / f"artifacts/raw/masks/shenzhen/{name}.png"), mask)

    # Both are scored on the same test images, against the corrected masks, and what was learned shows.
    judged = project.run("python", "-m", "components.promote").stdout
    assert "lung-segmentation version 2 against lung-segmentation version 1" in judged
    assert splits in judged  # no correction moves an X-ray to another split
    for rule in ("comparable", "gain"):
        (line,) = (line for line in judged.splitlines() if f" {rule} " in line)
        assert " met " in line
        assert "NOT MET" not in line
    assert "lung-segmentation version 2 is champion (before: 1)" in judged
