"""From probabilities to a mask."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


def to_masks(
    probabilities: npt.NDArray[np.float32],
    threshold: float,
    largest_components: int,
    least_component: float = 0.0,
    fill_holes: bool = False,
) -> npt.NDArray[np.uint8]:
    """Return masks of the pixels at or above a probability.

    Args:
        probabilities: float32 (N, H, W), 0 to 1.
        threshold: probability from which a pixel is lung.
        largest_components: how many 8-connected components are kept, by area: 2 keeps two lungs and drops specks, 0
            keeps all.
        least_component: share of the largest component's area, 0 to 1, below which another one is dropped; 0 keeps
            those.
        fill_holes: whether holes of what is kept become lung: 4-connected regions that do not reach the picture's
            border.

    Returns:
        uint8 (N, H, W), 0 or 1.
    """
    masks: npt.NDArray[np.uint8] = (probabilities >= threshold).astype(np.uint8)
    for mask in masks:
        if largest_components or least_component:
            mask[:] = _keep_largest(mask, largest_components, least_component)
        if fill_holes:
            mask[:] = _filled(mask)
    return masks


def _keep_largest(mask: npt.NDArray[np.uint8], keep: int, least: float) -> npt.NDArray[np.uint8]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count <= 2:
        return mask
    areas = stats[1:, cv2.CC_STAT_AREA]
    # Of equally large ones the one that is met first, row by row, so that the choice repeats.
    order = np.argsort(-areas, kind="stable")[: keep or None]
    order = order[areas[order] >= least * areas.max()]
    if len(order) == count - 1:
        return mask
    chosen = np.zeros(count, np.uint8)
    chosen[order + 1] = 1
    kept: npt.NDArray[np.uint8] = chosen[labels]
    return kept


def _filled(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    # From a corner of a frame of background, all that is outside is reached.
    reached = np.pad(mask, 1)
    cv2.floodFill(reached, None, (0, 0), (2,))
    filled: npt.NDArray[np.uint8] = (reached[1:-1, 1:-1] != 2).astype(np.uint8)
    return filled


def at_size(probabilities: npt.NDArray[np.float32], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return one image's probabilities, float32 (S, S), at another size, float32 (H, W), linearly interpolated.

    Args:
        probabilities: of lung, 0 to 1.
        shape: height and width, pixels.
    """
    height, width = shape
    full: npt.NDArray[np.float32] = cv2.resize(probabilities, (width, height), interpolation=cv2.INTER_LINEAR)
    return full
