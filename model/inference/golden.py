"""A package's self-test: a synthetic image and the network's probabilities for it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from model.inference.engine import Engine, Pictures, Probabilities

PICTURE, EXPECTED = "golden.png", "golden-probabilities.png"
STEPS = 65535  # probabilities are stored as 16-bit grey values
# Mean difference. bfloat16 differs from float32 by up to 0.005, other weights by far more.
TOLERANCE = 0.02


def draw(size: int) -> Pictures:
    """Return a synthetic chest X-ray, uint8 (size, size): two dark lungs in a bright body."""
    y, x = np.mgrid[0:size, 0:size] / size
    body = 150 + 50 * y + 12 * np.sin(40 * y) * np.cos(25 * x)
    for centre in (0.3, 0.7):
        inside = ((x - centre) / 0.16) ** 2 + ((y - 0.48) / 0.34) ** 2
        body -= 110 / (1 + np.exp(20 * (inside - 1)))
    picture: Pictures = np.clip(body, 0, 255).astype(np.uint8)
    return picture


def write(folder: Path, engine: Engine, size: int) -> None:
    """Write the image and an engine's probabilities for it into a package.

    Args:
        folder: the package.
        engine: an engine that computes in float32.
        size: side of the network's input in pixels.
    """
    picture = draw(size)
    (folder / PICTURE).write_bytes(_png(picture))
    found = engine.probabilities(picture[None])[0]
    (folder / EXPECTED).write_bytes(_png(np.rint(found * STEPS).astype(np.uint16)))


def check(folder: Path, engine: Engine) -> None:
    """Compare an engine's probabilities with those in the package, if it has any.

    Raises:
        ValueError: they differ by more than :data:`TOLERANCE` on average, so the engine's file has other weights; or an
            image is damaged.
    """
    if not (folder / PICTURE).exists():
        return
    picture, expected = _read(folder / PICTURE), _read(folder / EXPECTED)
    found: Probabilities = engine.probabilities(picture[None])[0]
    difference = float(np.mean(np.abs(found - expected.astype(np.float32) / np.float32(STEPS))))
    if not difference <= TOLERANCE:
        raise ValueError(f"{engine.name} fails the package's self-test by {difference:.3f}")


def _png(picture: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", picture)[1])


def _read(path: Path) -> np.ndarray:
    picture: np.ndarray | None = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ValueError(f"{path.name} is damaged")
    return picture
