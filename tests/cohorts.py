"""A small cohort in the publishers' layouts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

MONTGOMERY_READING = "Patient's Sex: F\nPatient's Age: 033Y\nnormal\n"
SHENZHEN_READING = "male 45yrs\nSTB in the right upper field\n"


def xray(height: int, width: int, seed: int, dtype: type = np.uint8) -> np.ndarray:
    """A grey picture (H, W) with a bright frame round two dark lungs."""
    picture = np.random.default_rng(seed).integers(100, 140, (height, width))
    picture[lungs(height, width) > 0] -= 80
    return (picture * (np.iinfo(dtype).max // 255)).astype(dtype)


def lungs(height: int, width: int, sides: str = "left right") -> np.ndarray:
    """A mask (H, W), uint8 of 0 and 255; the patient's left lung is on the right of the picture."""
    mask = np.zeros((height, width), np.uint8)
    for side, x in (("right", width // 4), ("left", 3 * width // 4)):
        if side in sides:
            cv2.ellipse(mask, (x, height // 2), (width // 8, height // 3), 0, 0, 360, 255, -1)
    return mask


def put(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".png", picture)
    assert done
    path.write_bytes(data.tobytes())


def put_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_cohort(root: Path, montgomery: int = 2, shenzhen: int = 3) -> Path:
    """Write a cohort in the publishers' layouts: 16-bit grey upright and sideways, RGB that is grey.

    Every second X-ray is abnormal, the last of Shenzhen has no mask, the first of each site has a reading.
    """
    for number in range(1, montgomery + 1):
        name, size = f"MCUCXR_{number:04}_{number % 2}", (96, 80) if number % 2 else (80, 96)
        put(root / f"MontgomerySet/CXR_png/{name}.png", xray(*size, number, np.uint16))
        for side in ("left", "right"):
            put(root / f"MontgomerySet/ManualMask/{side}Mask/{name}.png", lungs(*size, side))
    for number in range(1, shenzhen + 1):
        name = f"CHNCXR_{number:04}_{number % 2}"
        put(root / f"ChinaSet_AllFiles/CXR_png/{name}.png", np.dstack([xray(72, 72, 100 + number)] * 3))
        if number < shenzhen:
            put(root / f"ChinaSet_AllFiles/mask/{name}_mask.png", lungs(72, 72))
    put_text(root / "MontgomerySet/ClinicalReadings/MCUCXR_0001_1.txt", MONTGOMERY_READING)
    put_text(root / "ChinaSet_AllFiles/ClinicalReadings/CHNCXR_0001_1.txt", SHENZHEN_READING)
    return root


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """A fresh cohort of 2 + 3 X-rays that a test may spoil."""
    return write_cohort(tmp_path / "cohort")


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``python -m <module> <arguments>`` in the project's folder, as a user does."""

    def call(module: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", module, *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False, **options)

    return call
