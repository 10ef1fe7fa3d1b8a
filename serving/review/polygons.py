"""Convert lung masks to polygons, which Label Studio can edit, and back.

Coordinates are percentages of the image's width and height, from its upper left corner, as in Label Studio's
PolygonLabels. The centre of the first pixel is at (0.5, 0.5) pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from model.lungs import Mask

# Maximum distance of a polygon from the outline: a share of the longer side, and at least this many pixels. An exact
# outline has too many points to edit by hand.
TOLERANCE, LEAST = 0.002, 0.5
Polygon = list[list[float]]


def to_polygons(mask: Mask) -> list[Polygon]:
    """Return the outlines of a mask's parts; holes are lost.

    Args:
        mask: uint8 (H, W), nonzero is lung.
    """
    height, width = mask.shape
    outlines, _ = cv2.findContours((mask > 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    tolerance = max(LEAST, TOLERANCE * max(mask.shape))
    found: list[Polygon] = []
    for outline in outlines:
        points = cv2.approxPolyDP(outline, tolerance, True)[:, 0].astype(np.float64)
        if len(points) > 2:  # fewer points enclose no area
            found.append(((points + 0.5) / (width, height) * 100).round(6).tolist())
    return found


def to_mask(polygons: Sequence[Polygon], height: int, width: int) -> Mask:
    """Return the mask that polygons enclose, uint8 (H, W), 0 or 1; parts outside the image are clipped."""
    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        points = np.rint(np.asarray(polygon, np.float64) / 100 * (width, height) - 0.5).astype(np.int32)
        # Fill one by one: overlapping polygons of one call would cancel each other.
        cv2.fillPoly(mask, [points[:, None]], (1,))
    return mask
