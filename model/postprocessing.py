"""From probabilities to a mask."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


def to_masks(
    probabilities: npt.NDArray[np.float32], threshold: float, largest_components: int
) -> npt.NDArray[np.uint8]:
    """Return masks of the pixels at or above a probability.

    Args:
        probabilities: float32 (N, H, W), 0 to 1.
        threshold: probability from which a pixel is lung.
        largest_components: how many 8-connected components are kept, by area: 2 keeps two lungs and drops specks, 0
            keeps all.

    Returns:
        uint8 (N, H, W), 0 or 1.
    """
    masks: npt.NDArray[np.uint8] = (probabilities >= threshold).astype(np.uint8)
    if not largest_components:
        return masks
    return np.stack([_keep_largest(mask, largest_components) for mask in masks]) if len(masks) else masks


def _keep_largest(mask: npt.NDArray[np.uint8], keep: int) -> npt.NDArray[np.uint8]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count - 1 <= keep:
        return mask
    # Of equally large ones the one that is met first, row by row, so that the choice repeats.
    order = np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")[:keep] + 1
    kept: npt.NDArray[np.uint8] = np.isin(labels, order).astype(np.uint8)
    return kept
