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
from serving.xray.sides import GAP, known, letters, lungs

LARGEST_SIDE = 1024  # pixels of the longer side; enough to judge an outline, in a tenth of the file size
PERCENTILES = (0.5, 99.5)  # grey values shown as black and white
# RGB, the colours of the pages; left and right are distinguishable with colour blindness. Unknown: the sides are.
COLOURS = {"left": (80, 170, 255), "right": (255, 160, 60), "unknown": (127, 224, 168)}
OPACITY = 0.25
# A letter's height: a share of the image's longer side, and in a small image the fewest pixels that can be read.
LETTER, LEAST_LETTER = 1 / 36, 9
FONT, CAPITALS = cv2.FONT_HERSHEY_SIMPLEX, 21  # the height of its capitals at a scale of 1, in pixels
MARGIN = 0.35  # between a letter and the edges of its box, as a share of the letter's height
SHADE = 0.75  # opacity of the black box below a letter
FINE = 4  # letters are drawn this many times larger, then reduced: OpenCV draws small ones without grey


def overlay(xray: Xray, mask: Mask, view: View) -> bytes:
    """Return an RGB PNG of the X-ray with its mask.

    The patient's left lung is blue with an L, the right lung orange with an R. If the image may be mirrored, the
    letters have a question mark. If the sides are unknown, both lungs are green and have no letters.

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
    sides = known(view, xray.dicom)
    parts = {
        name: cv2.resize(part, (width, height), interpolation=cv2.INTER_NEAREST)
        for name, part in zip(("left", "right"), lungs(mask, view, xray.dicom), strict=True)
    }
    line = max(1, max(height, width) // 400)
    for name, part in parts.items():
        colour = COLOURS[name if sides else "unknown"]
        inside = part > 0
        picture[inside] = picture[inside] * (1 - OPACITY) + np.array(colour, np.float32) * OPACITY
        outlines, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colour, line)
    if sides:
        _write_letters(picture, parts["left"], parts["right"], "?" if view.mirrored else "")
    return encode(np.rint(picture[..., ::-1]).astype(np.uint8))


def _write_letters(picture: npt.NDArray[np.float32], left: Mask, right: Mask, doubt: str) -> None:
    """Write L and R beside the lungs, each in a dark box."""
    height, width = picture.shape[:2]
    size = max(LEAST_LETTER, round(LETTER * max(height, width)))
    for name, (x, y) in letters(left, right, max(GAP, size / width)).items():
        strength = _text(name + doubt, size)
        tall, wide = strength.shape
        top = int(np.clip(round(y * height - tall / 2), 0, max(0, height - tall)))
        start = int(np.clip(round(x * width - wide / 2), 0, max(0, width - wide)))
        box = picture[top : top + tall, start : start + wide]
        ink = strength[: box.shape[0], : box.shape[1], None]
        box *= 1 - SHADE
        box[:] = box * (1 - ink) + np.array(COLOURS["left" if name == "L" else "right"], np.float32) * ink


def _text(text: str, size: int) -> npt.NDArray[np.float32]:
    """Return a text of capitals as opacities, 0 to 1, with a margin; ``size`` is the capitals' height in pixels."""
    fine, thick = size * FINE, size * FINE // 6
    drawn = np.zeros((2 * fine, 2 * fine * len(text)), np.uint8)
    cv2.putText(drawn, text, (fine // 2, 3 * fine // 2), FONT, (fine - thick) / CAPITALS, 255, thick, cv2.LINE_AA)
    x, y, wide, tall = cv2.boundingRect(drawn)
    ink = cv2.resize(drawn[y : y + tall, x : x + wide], (round(wide / FINE), size), interpolation=cv2.INTER_AREA)
    return np.pad(ink, round(size * MARGIN)).astype(np.float32) / np.float32(255)


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
