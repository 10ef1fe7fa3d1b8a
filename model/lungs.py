"""Split a mask into the two lungs, and measure their solidity."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.uint8]
PARTNER = 0.1  # least area of the second lung, as a share of the largest component's
BRIDGE = 0.5  # a valley below this share of the lower peak is a bridge between lungs
UNSURE = (0.25, 0.75)  # range of uncertain probabilities


def halves(mask: Mask) -> tuple[Mask, Mask]:
    """Split a mask into the lung on the image's left side and the one on its right side.

    If the two largest components are side by side, they are the two lungs, and other components belong to the nearer
    one. Lungs that touch are cut at the narrowest column between them. Otherwise the position of each component's
    centre decides.

    Args:
        mask: uint8 (H, W), nonzero is lung.

    Returns:
        Two disjoint masks, uint8 (H, W), 0 or 1, whose union is the mask. A mirrored mask gives the mirrored results,
        swapped; for touching lungs, the column of the cut may differ.
    """
    count, labels, stats, centroids = cv2.connectedComponentsWithStats((mask > 0).astype(np.uint8), connectivity=8)
    middle = (mask.shape[1] - 1) / 2
    on_left = np.zeros(count, bool)
    order = np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable") + 1
    pair = _beside(stats, order)
    if pair is not None:
        border = (centroids[pair[0], 0] + centroids[pair[1], 0]) / 2
        on_left = centroids[:, 0] < border
        cut = None
    else:
        cut = _bridge(mask)
        on_left = centroids[:, 0] < middle
    if cut is not None:
        columns = np.arange(mask.shape[1]) < cut
        left = (labels > 0) & columns[None]
    else:
        on_left[0] = False
        left = on_left[labels]
    right = (labels > 0) & ~left
    return left.astype(np.uint8), right.astype(np.uint8)


def _beside(stats: np.ndarray, order: np.ndarray) -> tuple[int, int] | None:
    """Return the two largest components if they overlap in less than half of the narrower's columns, else None."""
    if len(order) < 2:
        return None
    a, b = int(order[0]), int(order[1])
    starts, widths = stats[[a, b], cv2.CC_STAT_LEFT], stats[[a, b], cv2.CC_STAT_WIDTH]
    shared = int((starts + widths).min()) - int(starts.max())
    speck = stats[b, cv2.CC_STAT_AREA] < PARTNER * stats[a, cv2.CC_STAT_AREA]
    return None if speck or shared >= widths.min() / 2 else (a, b)


def _bridge(mask: Mask) -> float | None:
    """Return the column at which touching lungs are cut; None without a deep valley between two large parts."""
    profile = np.count_nonzero(mask, axis=0).astype(np.float64)
    used = np.flatnonzero(profile)
    if len(used) == 0:
        return None
    # The two peaks are on either side of the valley: for every column, the maximum before and after it.
    before, behind = np.maximum.accumulate(profile), np.maximum.accumulate(profile[::-1])[::-1]
    depth = np.minimum(before, behind) - profile
    best = np.flatnonzero(depth == depth.max())
    place = int(best[len(best) // 2])
    if profile[place] >= BRIDGE * min(before[place], behind[place]):
        return None
    cut = float(best[0] + best[-1] + 1) / 2
    before_cut = profile[: round(cut)].sum()
    areas = sorted((before_cut, profile.sum() - before_cut))
    return None if areas[0] < PARTNER * areas[1] else cut


def solidity(on_left: Mask, on_right: Mask) -> float | None:
    """Return lung area / area of the two lungs' convex hulls, 0 to 1; None without lung."""
    pixels, hulls = 0, 0
    for side in (on_left, on_right):
        outline = cv2.findNonZero(side)
        if outline is not None:
            hull = cv2.fillConvexPoly(np.zeros_like(side), cv2.convexHull(outline), 1)
            pixels, hulls = pixels + cv2.countNonZero(side), hulls + cv2.countNonZero(hull)
    return pixels / hulls if hulls else None
