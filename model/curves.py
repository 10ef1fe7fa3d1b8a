"""ROC curves from a histogram of probabilities, so that memory does not grow with the number of pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Most probabilities of a trained network are near 0 or 1, so bins of equal width would put nearly all pixels into the
# first and the last. These bins truncate the float32 mantissa of min(p, 1 - p): each is about a thousandth of that
# wide, down to 2**-32.
_DIGITS = 13  # dropped bits of float32's 23-bit mantissa
_LEAST = int(np.float32(2**-32).view(np.int32))
_HALF = (int(np.float32(0.5).view(np.int32)) - _LEAST) >> _DIGITS
BINS = 2 * _HALF + 1
_LOWER = ((np.arange(_HALF + 1, dtype=np.int32) << _DIGITS) + np.int32(_LEAST)).view(np.float32).astype(np.float64)
_LOWER[0] = 0
EDGES = np.concatenate([_LOWER, 1 - _LOWER[::-1]])  # edges of the bins, float64 (BINS + 1,), 0 to 1
Counts = npt.NDArray[np.int64]  # (2, BINS): number of background and of lung pixels, by probability


def class_histogram(probabilities: np.ndarray, masks: np.ndarray) -> Counts:
    """Count pixels by class and probability.

    Args:
        probabilities: float of any shape, 0 to 1, converted to float32.
        masks: uint8 or bool of that shape, 0 or 1.

    Returns:
        int64 (2, :data:`BINS`): row 0 counts background pixels, row 1 lung pixels. Bin ``i`` has the probabilities from
        ``EDGES[i]`` to ``EDGES[i + 1]``. Histograms of several images can be added.
    """
    rated = np.ravel(probabilities).astype(np.float32, copy=False)
    bits = np.minimum(rated, 1 - rated).view(np.int32)  # 1 - p is exact for p of 0.5 or more
    near = (np.maximum(bits, _LEAST) - _LEAST) >> _DIGITS
    place = np.where(rated < 0.5, near, 2 * _HALF - near)
    place += np.ravel(masks).astype(np.int32) * BINS
    return np.bincount(place, minlength=2 * BINS).reshape(2, BINS)


def auc_of(counts: Counts) -> float:
    """Return the area under the ROC curve; NaN if all pixels are lung or none is.

    It is the probability that a lung pixel has a higher value than another pixel, plus half the probability of a tie
    (Hanley and McNeil, Radiology 143, 1982). Pixels of one bin count as ties, so the error is at most half the share of
    these pairs.
    """
    filled = np.flatnonzero(counts.sum(axis=0))
    other, lung = counts[:, filled].astype(np.float64)
    pairs = other.sum() * lung.sum()
    if not pairs:
        return float("nan")
    below = np.cumsum(other) - other / 2
    return float((lung * below).sum() / pairs)


def roc_curve(counts: Counts, points: int) -> dict[str, npt.NDArray[np.float64]]:
    """Return the ROC curve at evenly spaced false positive rates.

    Args:
        counts: result of :func:`class_histogram`, with pixels of both classes.
        points: number of points, at least 2.

    Returns:
        float64 (points,): ``fpr`` and ``tpr``, 0 to 1, and ``threshold``, the approximate probability threshold.
    """
    filled = np.flatnonzero(counts.sum(axis=0))[::-1]
    # The curve starts at a threshold above all probabilities, with no predicted lung.
    fpr, tpr = (np.append(0, np.cumsum(row[filled])) / row.sum() for row in counts)
    thresholds = np.append(1.0, EDGES[filled])
    at = np.linspace(0, 1, points)
    return {"fpr": at, "tpr": np.interp(at, fpr, tpr), "threshold": np.interp(at, fpr, thresholds)}
