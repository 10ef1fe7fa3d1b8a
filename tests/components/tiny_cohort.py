"""A cohort of a few small pictures in the publishers' layouts, for tests that damage it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from components.ingest import ingest
from core.params import IngestParams, PreprocessParams, Scenario, ValidateParams

SIDE = 64  # pixels of a Shenzhen picture; Montgomery's are 80 x 64
VALIDATE = {
    "sites": ["montgomery", "shenzhen"],
    "labels": ["normal", "abnormal"],
    "bit_depths": [8, 16],
    "lung_fraction": [0.05, 0.6],
    "components": [1, 2],
    "large_component": 0.015,
    "expected": {},
}
PREPROCESS = {
    "size": 32,
    "interpolation": "area",
    "intensity_percentiles": [0.5, 99.5],
    "dilation": 48,
    "splits": {"train": 0.5, "validation": 0.25, "test": 0.25},
    "seed": 0,
}
SCENARIOS = {
    "mixed": Scenario(train=["montgomery", "shenzhen"], test=["montgomery", "shenzhen"]),
    "montgomery-to-shenzhen": Scenario(train=["montgomery"], test=["shenzhen"]),
    "shenzhen-to-montgomery": Scenario(train=["shenzhen"], test=["montgomery"]),
}


def validate_params(**changes: object) -> ValidateParams:
    return ValidateParams.model_validate(VALIDATE | changes)


def preprocess_params(**changes: object) -> PreprocessParams:
    return PreprocessParams.model_validate(PREPROCESS | changes)


def ellipse(height: int, width: int, centre: float) -> npt.NDArray[np.uint8]:
    """Return an upright ellipse of 255 about ``centre`` (share of the width), a lung's share of the image."""
    mask = np.zeros((height, width), np.uint8)
    axes = (round(0.13 * width), round(0.3 * height))
    return cv2.ellipse(mask, (round(centre * width), height // 2), axes, 0, 0, 360, 255, cv2.FILLED)


def save(path: Path, pixels: npt.NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def publish(root: Path, montgomery: int = 8, shenzhen: int = 8, unpaired: int = 2) -> Path:
    """Write X-rays of both sites, half of them abnormal; the last ``unpaired`` of Shenzhen have no mask."""
    rng = np.random.default_rng(0)
    for number in range(1, montgomery + 1):
        name = f"MCUCXR_{number:04d}_{number % 2}.png"
        site, (height, width) = root / "MontgomerySet", (SIDE, SIDE + 16)
        left, right = ellipse(height, width, 0.7), ellipse(height, width, 0.3)
        image = rng.integers(1500, 2500, (height, width)) - 1000 * ((left | right) > 0)
        save(site / "CXR_png" / name, image.astype(np.uint16))
        save(site / "ManualMask/leftMask" / name, left)
        save(site / "ManualMask/rightMask" / name, right)
    for number in range(1, shenzhen + 1):
        stem = f"CHNCXR_{number:04d}_{number % 2}"
        mask = ellipse(SIDE, SIDE, 0.7) | ellipse(SIDE, SIDE, 0.3)
        image = rng.integers(120, 200, (SIDE, SIDE)) - 80 * (mask > 0)
        save(root / "ChinaSet_AllFiles/CXR_png" / f"{stem}.png", image.astype(np.uint8))
        if number <= shenzhen - unpaired:
            save(root / "ChinaSet_AllFiles/mask" / f"{stem}_mask.png", mask)
    return root


def raw_cohort(source: Path, out: Path) -> Path:
    ingest(str(source), IngestParams(max_megapixels=60), out)
    return out
