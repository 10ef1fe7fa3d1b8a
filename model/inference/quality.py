"""How good a mask probably is: its Dice, estimated without a reader's mask, and a lower bound.

The *doubt* about a mask is the mean of two shortfalls from 1: that of the Dice which its own probabilities expect
(:func:`model.metrics.expected_dice`), and that of the agreement between the prediction and the mirrored prediction of
the mirrored picture. On validation pictures, with readers' masks, the mean error (1 - Dice) per mean doubt gives a
scale, and the estimate is 1 - scale x doubt. The lower bound is split-conformal with the normalised score
error / (scale x doubt): Papadopoulos et al., "Inductive Confidence Machines for Regression", ECML 2002; Lei et al.,
"Distribution-Free Predictive Inference for Regression", JASA 113, 2018.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

import numpy as np
import numpy.typing as npt

from model.metrics import agreement, expected_dice

Floats = npt.NDArray[np.float64]

COVERAGE = 0.9  # share of pictures like the validation pictures whose Dice lies above the bound
LEAST_DOUBT = 1e-4  # no mask is beyond doubt


@dataclass(frozen=True)
class Quality:
    """The relation between doubt and error; part of the contract.

    Attributes:
        scale: mean error of the validation pictures divided by their mean doubt.
        bound: the bound is 1 - ``bound`` x ``scale`` x doubt.
        images: number of validation pictures.
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
        expected: the Dice that the probabilities expect, 0 to 1.
        agreed: the agreement of both predictions, 0 to 1; None where there is no mirrored prediction.
    """
    shortfall = 1 - expected if agreed is None else ((1 - expected) + (1 - agreed)) / 2
    return np.maximum(shortfall, LEAST_DOUBT)


def doubts_of(plain: np.ndarray, mirrored: np.ndarray | None, masks: np.ndarray, threshold: float) -> Floats:
    """Return the doubt about each mask, float64 (N,).

    Args:
        plain: probabilities, float32 (N, S, S), 0 to 1.
        mirrored: those of the mirrored pictures, mirrored back; None without.
        masks: the post-processed masks of their mean, uint8 (N, S, S), 0 or 1.
        threshold: least probability of a lung pixel.
    """
    if mirrored is None:
        return doubts(expected_dice(plain, masks), None)
    mean = (plain + mirrored) * np.float32(0.5)
    return doubts(expected_dice(mean, masks), agreement(plain >= threshold, mirrored >= threshold))


def calibrate(doubt: Floats, dice: Floats) -> Quality:
    """Return the relation between doubt and error on pictures with readers' masks.

    With fewer than nine pictures no finite bound has the coverage; the largest score stands in for it then.

    Args:
        doubt: of each picture, (N,), above 0.
        dice: of each mask, (N,), 0 to 1.

    Raises:
        ValueError: there is no picture.
    """
    if not len(dice):
        raise ValueError("no picture to calibrate on")
    error = 1 - dice
    scale = max(float(error.mean() / doubt.mean()), LEAST_DOUBT)
    scores = np.sort(error / (scale * doubt))
    rank = min(ceil((len(scores) + 1) * COVERAGE), len(scores))
    return Quality(scale, max(1.0, float(scores[rank - 1])), len(scores))
