"""Post-process probabilities to masks."""

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
    """Threshold probabilities, select components and fill holes.

    Args:
        probabilities: float32 (N, H, W), 0 to 1.
        threshold: least probability of a lung pixel.
        largest_components: maximum number of 8-connected components, largest first; 2 keeps two lungs, 0 is no limit.
        least_component: components below this share of the largest component's area, 0 to 1, are dropped; 0 drops none.
        fill_holes: whether holes are filled: 4-connected background regions that do not touch the image's border.

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
    # The stable sort keeps equally large components in row order, so the choice is reproducible.
    order = np.argsort(-areas, kind="stable")[: keep or None]
    order = order[areas[order] >= least * areas.max()]
    if len(order) == count - 1:
        return mask
    chosen = np.zeros(count, np.uint8)
    chosen[order + 1] = 1
    result: npt.NDArray[np.uint8] = chosen[labels]
    return result


def _filled(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    # Flood fill from the corner of a background frame reaches all background except holes.
    reached = np.pad(mask, 1)
    cv2.floodFill(reached, None, (0, 0), (2,))
    filled: npt.NDArray[np.uint8] = (reached[1:-1, 1:-1] != 2).astype(np.uint8)
    return filled


def at_size(probabilities: npt.NDArray[np.float32], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Resize one image's probabilities, float32 (S, S), to float32 (H, W), with linear interpolation.

    Args:
        probabilities: lung probabilities, 0 to 1.
        shape: height and width in pixels.
    """
    height, width = shape
    full: npt.NDArray[np.float32] = cv2.resize(probabilities, (width, height), interpolation=cv2.INTER_LINEAR)
    return full
