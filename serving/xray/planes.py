"""Check an X-ray's size and convert it to one grey channel."""

from __future__ import annotations

import numpy as np

from core.images import ImageError, check_pixels

LEAST_SIDE = 16  # pixels; the networks halve an image four times
COLOUR_TOLERANCE = 8  # grey levels by which the channels of a grey JPEG may differ, from rounding


def check_size(width: int, height: int, name: str, most: int) -> None:
    """Raise ImageError if an image's size by its header is above ``most`` pixels, or too small to show a chest."""
    check_pixels(width, height, name, most)
    if min(width, height) < LEAST_SIDE:
        raise ImageError(f"{name}: {width} x {height} pixels are too few to show a chest; at least {LEAST_SIDE} a side")


def grey_of(channels: np.ndarray, name: str) -> np.ndarray:
    """Return the grey values (H, W) of a grey image stored as RGB (H, W, 3); raises ImageError on colour."""
    wide = channels.astype(np.int32)
    tolerance = COLOUR_TOLERANCE * int(np.iinfo(channels.dtype).max) // 255
    if (wide.max(axis=2) - wide.min(axis=2)).max(initial=0) > tolerance:
        raise ImageError(f"{name}: a colour image, not a grey X-ray; save it as grey, or remove it")
    # Green has the largest weight in the luminance of a JPEG.
    return np.ascontiguousarray(channels[..., 1])
