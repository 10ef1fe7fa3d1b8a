"""Exact distances between the outlines of two masks, by k-d trees.

A mask's outline is the pixels that binary erosion with a cross removes: those with one of their four neighbours outside
the mask or the image. Definitions and results are as in MONAI.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from model.preprocessing import REFERENCE_SIZE

Floats = npt.NDArray[np.float64]

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


class Gap(NamedTuple):
    """The distances between the outlines of a prediction and of the truth in pixels, both directions.

    Attributes:
        to_truth: float64 (P,), from each outline pixel of the prediction to the nearest of the truth.
        to_prediction: float64 (G,), from each outline pixel of the truth to the nearest of the prediction.
        diagonal: the image's diagonal in pixels, the upper limit of distances.
    """

    to_truth: Floats
    to_prediction: Floats
    diagonal: float

    @property
    def one_is_empty(self) -> bool:
        """Whether exactly one mask is empty."""
        return (len(self.to_truth) == 0) != (len(self.to_prediction) == 0)

    @property
    def both_are_empty(self) -> bool:
        """Whether both masks are empty."""
        return len(self.to_truth) == len(self.to_prediction) == 0

    def hd95(self) -> float:
        """Return the larger of the two directed 95th percentiles of the distances.

        0 for two empty masks; the image's diagonal if one is empty, so that an empty prediction is never better than
        a bad one. Source: Huttenlocher, Klanderman and Rucklidge, "Comparing Images Using the Hausdorff Distance",
        IEEE TPAMI 15(9), 1993; the percentile as in MONAI.
        """
        if self.both_are_empty or self.one_is_empty:
            return 0.0 if self.both_are_empty else self.diagonal
        return float(max(np.percentile(self.to_truth, 95), np.percentile(self.to_prediction, 95)))

    def assd(self) -> float:
        """Return the average symmetric surface distance: the mean over the pixels of both outlines.

        Empty masks as in :meth:`hd95`. Source: Heimann et al., "Comparison and Evaluation of Methods for Liver
        Segmentation From CT Datasets", IEEE TMI 28(8), 2009.
        """
        if self.both_are_empty or self.one_is_empty:
            return 0.0 if self.both_are_empty else self.diagonal
        total = self.to_truth.sum() + self.to_prediction.sum()
        return float(total / (len(self.to_truth) + len(self.to_prediction)))

    def nsd(self, tolerance: float) -> float:
        """Return the normalised surface Dice: the share of both outlines' pixels within ``tolerance`` of the other.

        1 for two empty masks, 0 if one is empty. Source: Nikolov et al., "Clinically Applicable Segmentation of Head
        and Neck Anatomy for Radiotherapy", JMIR 23(7), 2021, counted in pixels of the outlines as MONAI does.

        Args:
            tolerance: pixels, 0 or more.
        """
        if self.both_are_empty or self.one_is_empty:
            return 1.0 if self.both_are_empty else 0.0
        within = np.count_nonzero(self.to_truth <= tolerance) + np.count_nonzero(self.to_prediction <= tolerance)
        return within / (len(self.to_truth) + len(self.to_prediction))


def tolerance_at(tolerance: float, shape: tuple[int, ...]) -> float:
    """Convert a tolerance in pixels of a 512-pixel image to pixels of an image of ``shape`` (H, W).

    It is ``tolerance * sqrt(H * W) / 512``.
    """
    height, width = shape
    return tolerance * math.sqrt(height * width) / REFERENCE_SIZE


def gap(predicted: np.ndarray, mask: np.ndarray) -> Gap:
    """Measure the distances between the outlines of two masks, exactly.

    Args:
        predicted: uint8 or bool (H, W), 0 or 1.
        mask: uint8 or bool (H, W), 0 or 1.

    Raises:
        ValueError: the shapes differ.
    """
    if predicted.shape != mask.shape or predicted.ndim != 2:
        raise ValueError(f"two masks of one picture, got the shapes {predicted.shape} and {mask.shape}")
    one, other = _outline(predicted), _outline(mask)
    diagonal = math.hypot(*mask.shape)
    if not len(one) or not len(other):
        return Gap(np.full(len(one), diagonal), np.full(len(other), diagonal), diagonal)
    return Gap(_nearest(one, other), _nearest(other, one), diagonal)


def _outline(mask: np.ndarray) -> Floats:
    """Return the row and column of every outline pixel, float64 (P, 2)."""
    lung = np.ascontiguousarray(mask).view(np.uint8)
    x, y, width, height = cv2.boundingRect(lung)
    part = lung[y : y + height, x : x + width]
    if not part.size:
        return np.zeros((0, 2))
    # Pixels outside of the box are not lung; OpenCV's default border would count as lung.
    inside = cv2.erode(part, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0, 0))
    pixels: Floats = np.argwhere(part != inside).astype(np.float64) + np.array([y, x])
    return pixels


def _nearest(points: Floats, others: Floats) -> Floats:
    from scipy.spatial import cKDTree

    # Balancing is not worthwhile for a tree with one query.
    tree = cKDTree(others, balanced_tree=False, compact_nodes=False)
    distances: Floats = tree.query(points)[0]
    return distances


def surface_distances(predicted: np.ndarray, masks: np.ndarray) -> dict[str, Floats]:
    """Return the distances between the outlines of two masks of every image.

    Args:
        predicted: uint8 or bool (N, H, W), 0 or 1.
        masks: uint8 or bool (N, H, W), 0 or 1.

    Returns:
        float64 (N,), pixels: ``hd95`` (:meth:`Gap.hd95`) and ``assd`` (:meth:`Gap.assd`).

    Raises:
        ValueError: the shapes differ.
    """
    gaps = [gap(p, g) for p, g in zip(predicted, masks, strict=True)]
    return {"hd95": np.array([each.hd95() for each in gaps]), "assd": np.array([each.assd() for each in gaps])}
