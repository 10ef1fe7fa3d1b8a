"""Draw the predicted lungs on the X-ray."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from core.images import encode
from model.inference.view import View
from model.lungs import Mask
from model.preprocessing import FLAT
from serving.xray.reading import Xray
from serving.xray.sides import lungs

LARGEST_SIDE = 1024  # pixels of the longer side; enough to judge an outline, in a tenth of the file size
PERCENTILES = (0.5, 99.5)  # grey values shown as black and white
COLOURS = {"left": (80, 170, 255), "right": (255, 160, 60)}  # RGB; distinguishable with colour blindness
OPACITY = 0.25


def overlay(xray: Xray, mask: Mask, view: View) -> bytes:
    """Return an RGB PNG of the X-ray with its mask: the patient's left lung is blue, the right lung orange.

    Args:
        xray: the X-ray.
        mask: uint8 (H, W), 1 is lung, at the X-ray's size.
        view: how the X-ray shows the chest.

    Returns:
        The PNG's bytes. The longer side has at most :data:`LARGEST_SIDE` pixels.
    """
    grey = visible(xray.pixels, LARGEST_SIDE)
    height, width = grey.shape
    picture = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
    left, right = lungs(mask, view, xray.dicom)
    line = max(1, max(height, width) // 400)
    for name, side in (("left", left), ("right", right)):
        small = cv2.resize(side, (width, height), interpolation=cv2.INTER_NEAREST)
        inside = small > 0
        picture[inside] = picture[inside] * (1 - OPACITY) + np.array(COLOURS[name], np.float32) * OPACITY
        outlines, _ = cv2.findContours(small, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, COLOURS[name], line)
    return encode(np.rint(picture[..., ::-1]).astype(np.uint8))


def visible(
    pixels: np.ndarray, largest_side: int, percentiles: tuple[float, float] = PERCENTILES
) -> npt.NDArray[np.uint8]:
    """Return an X-ray for display, uint8: downscaled, with stretched contrast.

    Args:
        pixels: uint8, uint16 or float32 (H, W), any range.
        largest_side: maximum of the longer side in pixels; smaller images are not resized.
        percentiles: percentiles of the grey values that become black and white.
    """
    scale = min(1.0, largest_side / max(pixels.shape))
    height, width = (max(1, round(side * scale)) for side in pixels.shape)
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA).astype(np.float64)
    low, high = np.percentile(small, percentiles)
    if high - low < FLAT * np.ptp(small):
        low, high = small.min(), small.max()
    grey: npt.NDArray[np.uint8] = np.rint((small.clip(low, high) - low) / ((high - low) or 1.0) * 255).astype(np.uint8)
    return grey
