"""Whether the probabilities mean what they say: how often a pixel is lung where the network says so."""

from __future__ import annotations

import numpy as np
import pandas as pd

BINS = 15  # as in Guo et al.


def reliability(probabilities: np.ndarray, masks: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """Return the points of a reliability diagram over all pixels, a line a bin of predicted probability.

    The bins are of equal width and hold their lower edge, the last also 1. Source: Niculescu-Mizil and Caruana,
    "Predicting Good Probabilities with Supervised Learning", ICML 2005; Guo, Pleiss, Sun and Weinberger, "On
    Calibration of Modern Neural Networks", ICML 2017, here of the probability of one class, lung.

    Args:
        probabilities: float (N, H, W), 0 to 1.
        masks: uint8 or bool (N, H, W), 0 or 1.
        bins: how many.

    Returns:
        ``low`` and ``high``, the edges of the bin; ``predicted``, the mean of its probabilities; ``observed``, the
        share of its pixels that are lung (both NaN in an empty bin); ``pixels``, how many it holds.
    """
    return reliability_of(reliability_sums(probabilities, masks, bins))


def reliability_sums(probabilities: np.ndarray, masks: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return what :func:`reliability_of` makes points of; the sums of several batches of images may be added.

    Args:
        probabilities: float (N, H, W), 0 to 1.
        masks: uint8 or bool (N, H, W), 0 or 1.
        bins: how many.

    Returns:
        float64 (3, bins): pixels, the sum of their probabilities, and how many of them are lung.
    """
    sums = np.zeros((3, bins))
    for said, mask in zip(probabilities, masks, strict=True):  # one image at a time: float64 copies of all are large
        place = np.minimum((said.ravel() * bins).astype(np.intp), bins - 1)
        for total, weights in zip(sums, (None, said.ravel(), mask.ravel()), strict=True):
            total += np.bincount(place, weights, bins)
    return sums


def reliability_of(sums: np.ndarray) -> pd.DataFrame:
    """Return the points that :func:`reliability` describes from the sums of :func:`reliability_sums`."""
    pixels, said_lung, lung = sums
    bins = len(pixels)
    with np.errstate(invalid="ignore"):
        points = {"predicted": said_lung / pixels, "observed": lung / pixels}
    edges = np.linspace(0, 1, bins + 1)
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], **points, "pixels": pixels.astype(np.int64)})
