"""The outlines of a prediction as vector paths, and the X-ray as a small image below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from model.inference.package import Segmentation
from model.lungs import UNSURE
from serving.xray.drawing import PERCENTILES, visible
from serving.xray.reading import Xray
from serving.xray.sides import known, letters, lungs

LARGEST_SIDE = 1024  # pixels of the longer side of the image and of the outlines' grid
THUMBNAIL = 320  # pixels of a thumbnail's longer side
QUALITY, THUMBNAIL_QUALITY = 85, 75  # of JPEG
EPSILON = 0.5  # maximum distance of a path from its contour, in grid pixels
MOST_PARTS = 200  # maximum contours of a path, the largest ones; a mask of noise has thousands


@dataclass(frozen=True)
class Shapes:
    """A prediction's outlines, in the orientation of the X-ray's file.

    Attributes:
        width: width of the paths' grid in pixels; at most :data:`LARGEST_SIDE`, like the height.
        height: height of the grid in pixels.
        left: SVG path of the patient's left lung; empty if none was found.
        right: SVG path of the patient's right lung; empty if none was found.
        band: SVG path of the pixels with a probability of 0.25 to 0.75; fill it by the even-odd rule.
        sides: whether the patient's sides are known; else ``left`` and ``right`` are only two parts of the mask.
        doubtful: whether the image may be mirrored, by the position of the heart.
        letters: positions of the letters L and R as shares of width and height; only for lungs that were found.
    """

    width: int
    height: int
    left: str
    right: str
    band: str
    sides: bool
    doubtful: bool
    letters: dict[str, tuple[float, float]]


def shapes(found: Segmentation, xray: Xray) -> Shapes:
    """Return the outlines of a prediction.

    Args:
        found: mask and probabilities at the X-ray's size, and how it shows the chest.
        xray: the X-ray.
    """
    scale = min(1.0, LARGEST_SIDE / max(found.mask.shape))
    height, width = (max(1, round(side * scale)) for side in found.mask.shape)
    parts = lungs(found.mask, found.view, xray.dicom)
    left, right = (_reduced(part * np.uint8(255), width, height) >= 128 for part in parts)
    low, high = UNSURE
    chance = _reduced(found.probabilities, width, height)
    # The band is the area between two contours: a thin ring of pixels would have contours without an area.
    band = _path(chance >= low) + _path(chance > high)
    sides = known(found.view, xray.dicom)
    return Shapes(
        width,
        height,
        _path(left),
        _path(right),
        band,
        sides,
        found.view.mirrored,
        letters(left, right) if sides else {},
    )


def thumbnail(picture: npt.NDArray[np.uint8]) -> bytes:
    """Return an image, uint8 (H, W), as a JPEG of at most :data:`THUMBNAIL` pixels a side."""
    scale = min(1.0, THUMBNAIL / max(picture.shape))
    height, width = (max(1, round(side * scale)) for side in picture.shape)
    return jpeg(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), THUMBNAIL_QUALITY)


def picture(xray: Xray, percentiles: tuple[float, float] = PERCENTILES) -> npt.NDArray[np.uint8]:
    """Return an X-ray for the viewer, uint8 (H, W): at most :data:`LARGEST_SIDE` pixels a side, contrast stretched."""
    return visible(xray.pixels, LARGEST_SIDE, percentiles)


def jpeg(pixels: npt.NDArray[np.uint8], quality: int = QUALITY) -> bytes:
    """Encode uint8 (H, W) pixels as the bytes of a JPEG."""
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"OpenCV cannot encode {pixels.dtype} {pixels.shape} as JPEG")
    return data.tobytes()


def _reduced(plane: np.ndarray, width: int, height: int) -> np.ndarray:
    if plane.shape == (height, width):
        return plane
    small: np.ndarray = cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)
    return small


def _path(region: npt.NDArray[np.bool_]) -> str:
    """Return the SVG path of a region's contours, including holes; coordinates are pixel centres."""
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    largest = sorted(contours, key=lambda each: -len(each))[:MOST_PARTS]
    return "".join(_ring(cv2.approxPolyDP(each, EPSILON, True)[:, 0].tolist()) for each in largest if len(each) > 2)


def _ring(points: Sequence[Sequence[int]]) -> str:
    """Return a closed path, with relative steps because they are shorter than absolute coordinates."""
    (x, y), text = points[0], f"M{points[0][0]} {points[0][1]}l"
    steps = []
    for right, down in points[1:]:
        steps.append(f"{right - x} {down - y}")
        x, y = right, down
    return text + " ".join(steps) + "z"
