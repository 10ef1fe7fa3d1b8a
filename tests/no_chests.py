"""Pictures that are no frontal chest X-rays: photographs, other modalities, drawn hands, slices and laterals."""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np

Picture = np.ndarray
SIDE = 256
OF_EACH = 40


def no_chests(seed: int = 0) -> Iterator[tuple[str, Picture]]:
    """Yield kind and picture, float32 (H, W) of any range."""
    chance = np.random.default_rng(seed)
    yield from _photographs(chance)
    yield from _other_modalities()
    for kind, draw in (("noise", _noise), ("hand", _hand), ("ct", _ct), ("lateral", _lateral), ("ramp", _ramp)):
        for number in range(OF_EACH):
            yield kind, draw(number, chance)


def _photographs(chance: np.random.Generator) -> Iterator[tuple[str, Picture]]:
    from sklearn.datasets import load_sample_image

    for name in ("china.jpg", "flower.jpg"):
        grey = load_sample_image(name).mean(-1).astype(np.float32)
        for _ in range(OF_EACH):
            side = int(chance.integers(150, 400))
            top, left = (int(chance.integers(0, length - side)) for length in grey.shape)
            yield "photograph", grey[top : top + side, left : left + side]


def _other_modalities() -> Iterator[tuple[str, Picture]]:
    from pydicom import dcmread
    from pydicom.data import get_testdata_file

    for name in ("CT_small.dcm", "MR_small.dcm", "examples_overlay.dcm", "JPEG2000.dcm"):
        file = get_testdata_file(name)
        assert file is not None
        dataset = dcmread(file)
        yield str(dataset.Modality), dataset.pixel_array.astype(np.float32)


def _as_taken(drawn: Picture, blur: float, noise: float, chance: np.random.Generator) -> Picture:
    soft = cv2.GaussianBlur(drawn, (0, 0), blur)
    return (soft + chance.normal(0, noise, soft.shape)).astype(np.float32)


def _noise(number: int, chance: np.random.Generator) -> Picture:
    white = chance.normal(size=(SIDE, SIDE)).astype(np.float32)
    width = (0, 2, 6, 16, 40)[number % 5]
    return cv2.GaussianBlur(white, (0, 0), width) if width else white


def _ramp(number: int, chance: np.random.Generator) -> Picture:
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    angle = chance.uniform(0, 2 * math.pi)
    return (x * math.cos(angle) + y * math.sin(angle) + chance.normal(0, 0.002, x.shape)).astype(np.float32)


def _hand(number: int, chance: np.random.Generator) -> Picture:
    drawn = np.zeros((SIDE, SIDE), np.float32)
    middle = (128 + int(chance.integers(-15, 15)), 170 + int(chance.integers(-10, 10)))
    cv2.ellipse(drawn, middle, (45, 50), 0, 0, 360, (120,), -1)
    cv2.rectangle(drawn, (middle[0] - 28, middle[1]), (middle[0] + 28, SIDE - 1), (110,), -1)
    for degrees, length in zip((-150, -115, -95, -75, -45), (60, 100, 110, 100, 80), strict=True):
        angle, reach = math.radians(degrees + chance.normal(0, 5)), length * chance.uniform(0.9, 1.1)
        tip = (round(middle[0] + 1.1 * reach * math.cos(angle)), round(middle[1] + 1.2 * reach * math.sin(angle)))
        cv2.line(drawn, middle, tip, (110,), 18)
        cv2.line(drawn, middle, tip, (190,), 7)
    turn = cv2.getRotationMatrix2D((128, 128), chance.uniform(-30, 30) + 90 * (number % 4), chance.uniform(0.8, 1.3))
    return _as_taken(cv2.warpAffine(drawn, turn, (SIDE, SIDE)), 2, 4, chance)


def _ct(number: int, chance: np.random.Generator) -> Picture:
    """An axial slice through the chest, in Hounsfield units; every second one in a soft-tissue window."""
    drawn = np.full((SIDE, SIDE), -1000, np.float32)
    across, along = int(chance.uniform(95, 120)), int(chance.uniform(70, 90))
    cv2.ellipse(drawn, (128, 128), (across, along), 0, 0, 360, (-80,), -1)
    cv2.ellipse(drawn, (128, 128), (across - 8, along - 8), 0, 0, 360, (50,), -1)
    for side in (-1, 1):
        centre = (128 + side * int(across * 0.45), 125)
        size = (int(across * 0.33), int(along * 0.68))
        cv2.ellipse(drawn, centre, size, side * chance.uniform(-10, 10), 0, 360, (-850,), -1)
    cv2.ellipse(drawn, (140, 120), (28, 24), 20, 0, 360, (60,), -1)
    cv2.circle(drawn, (128, 128 + along - 22), 11, (400,), -1)
    taken = _as_taken(drawn, 1.2, 30, chance)
    return taken.clip(-160, 240) if number % 2 else taken


def _lateral(number: int, chance: np.random.Generator) -> Picture:
    """A chest from the side: one dark field between the breastbone and the spine."""
    drawn = np.full((SIDE, SIDE), 10, np.float32)
    cv2.ellipse(drawn, (128, 135), (int(chance.uniform(80, 100)), 120), 0, 0, 360, (150,), -1)
    lung = (int(chance.uniform(55, 70)), 85)
    cv2.ellipse(drawn, (128 + int(chance.integers(-8, 8)), 115), lung, chance.uniform(-10, 10), 0, 360, (70,), -1)
    cv2.ellipse(drawn, (100, 140), (35, 45), 20, 0, 360, (130,), -1)
    for bone in range(12):
        bend = int(8 * math.sin(bone / 3))
        cv2.rectangle(drawn, (188 + bend, 30 + bone * 17), (212 + bend, 42 + bone * 17), (200,), -1)
    cv2.ellipse(drawn, (125, 205), (75, 35), 5, 0, 360, (170,), -1)
    taken = _as_taken(drawn, 3, 4, chance)
    return np.ascontiguousarray(taken[:, ::-1]) if number % 2 else taken
