"""Calibration: observed lung frequency by predicted probability."""

from __future__ import annotations

import numpy as np
import pandas as pd

BINS = 15  # as in Guo et al.


def reliability_sums(probabilities: np.ndarray, masks: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return the sums for :func:`reliability_of`; sums of several batches can be added.

    Bins have equal width and include their lower edge; the last bin includes 1.

    Args:
        probabilities: float (N, H, W), 0 to 1.
        masks: uint8 or bool (N, H, W), 0 or 1.
        bins: number of bins.

    Returns:
        float64 (3, bins): number of pixels, sum of their probabilities, number of lung pixels.
    """
    sums = np.zeros((3, bins))
    for image, mask in zip(probabilities, masks, strict=True):  # one at a time, because float64 copies are large
        place = np.minimum((image.ravel() * bins).astype(np.intp), bins - 1)
        for total, weights in zip(sums, (None, image.ravel(), mask.ravel()), strict=True):
            total += np.bincount(place, weights, bins)
    return sums


def reliability_of(sums: np.ndarray) -> pd.DataFrame:
    """Return the points of a reliability diagram over all pixels, one row per bin of predicted probability.

    Source: Niculescu-Mizil and Caruana, "Predicting Good Probabilities with Supervised Learning", ICML 2005; Guo,
    Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, here for the probability of one
    class, lung.

    Args:
        sums: result of :func:`reliability_sums`.

    Returns:
        ``low`` and ``high``, the edges of the bin; ``predicted``, the mean of its probabilities; ``observed``, the
        share of its pixels that are lung (both NaN in an empty bin); ``pixels``, their number.
    """
    pixels, probability, lung = sums
    bins = len(pixels)
    with np.errstate(invalid="ignore"):
        points = {"predicted": probability / pixels, "observed": lung / pixels}
    edges = np.linspace(0, 1, bins + 1)
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], **points, "pixels": pixels.astype(np.int64)})
