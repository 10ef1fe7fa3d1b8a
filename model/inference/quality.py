"""Estimate a mask's Dice without ground truth, with a lower bound.

The *doubt* about a mask is the mean of 1 - expected Dice (:func:`model.metrics.expected_dice`) and 1 - agreement
between the prediction and the mirrored prediction of the mirrored image. The scale is the mean error (1 - Dice) divided
by the mean doubt on the validation images. The estimate is 1 - scale x doubt. The lower bound is split-conformal with
the normalised score error / (scale x doubt): Papadopoulos et al., "Inductive Confidence Machines for Regression", ECML
2002; Lei et al., "Distribution-Free Predictive Inference for Regression", JASA 113, 2018.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

import numpy as np
import numpy.typing as npt

from model.metrics import agreement, expected_dice

Floats = npt.NDArray[np.float64]

COVERAGE = 0.9  # share of images, drawn like the validation images, whose Dice is not below the bound
LEAST_DOUBT = 1e-4  # lower limit, so that no mask is certain


@dataclass(frozen=True)
class Quality:
    """The relation between doubt and error; part of the contract.

    Attributes:
        scale: mean error of the validation images divided by their mean doubt.
        bound: the bound is 1 - ``bound`` x ``scale`` x doubt.
        images: number of validation images.
        expected: their expected Dice at :data:`model.inference.package.PERCENTILES`; empty in packages of earlier
            releases.
    """

    scale: float
    bound: float
    images: int
    expected: list[float] = field(default_factory=list)

    def estimate(self, doubt: float) -> tuple[float, float]:
        """Return the expected Dice and its lower bound, 0 to 1, for a doubt."""
        error = self.scale * doubt
        return max(0.0, 1 - error), max(0.0, 1 - self.bound * error)


def doubts(expected: Floats, agreed: Floats | None) -> Floats:
    """Return the doubt about each mask, float64 (N,), above 0 to 1.

    Args:
        expected: the expected Dice, float64 (N,), 0 to 1.
        agreed: the agreement of both predictions, float64 (N,), 0 to 1; None without a mirrored prediction.
    """
    shortfall = 1 - expected if agreed is None else ((1 - expected) + (1 - agreed)) / 2
    return np.maximum(shortfall, LEAST_DOUBT)


def doubts_of(plain: np.ndarray, mirrored: np.ndarray | None, masks: np.ndarray, threshold: float) -> Floats:
    """Return the doubt about each mask, float64 (N,).

    Args:
        plain: probabilities, float32 (N, S, S), 0 to 1.
        mirrored: those of the mirrored images, mirrored back; None without a mirrored prediction.
        masks: the post-processed masks of their mean, uint8 (N, S, S), 0 or 1.
        threshold: least probability of a lung pixel.
    """
    if mirrored is None:
        return doubts(expected_dice(plain, masks), None)
    mean = (plain + mirrored) * np.float32(0.5)
    return doubts(expected_dice(mean, masks), agreement(plain >= threshold, mirrored >= threshold))


def calibrate(doubt: Floats, dice: Floats) -> Quality:
    """Return the relation between doubt and error on images with ground truth.

    With fewer than nine images no finite bound reaches :data:`COVERAGE`; then the largest score is used.

    Args:
        doubt: doubt about each mask, float64 (N,), above 0.
        dice: Dice of each mask, float64 (N,), 0 to 1.

    Raises:
        ValueError: there are no images.
    """
    if not len(dice):
        raise ValueError("no picture to calibrate on")
    error = 1 - dice
    scale = max(float(error.mean() / doubt.mean()), LEAST_DOUBT)
    scores = np.sort(error / (scale * doubt))
    rank = min(ceil((len(scores) + 1) * COVERAGE), len(scores))
    return Quality(scale, max(1.0, float(scores[rank - 1])), len(scores))
