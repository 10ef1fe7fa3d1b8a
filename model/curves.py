"""The ROC curve from a histogram of probabilities: as many pixels as there are, in the memory of one picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# A trained network is sure: of bins of equal width nearly all pixels would fall into the first and the last. These are
# cut from float32's own digits, of the probability or of its distance to 1, whichever is smaller: each is about a
# thousandth of that wide, down to 2**-32.
_DIGITS = 13  # bits of a float32's 23 binary digits that are left out
_LEAST = int(np.float32(2**-32).view(np.int32))
_HALF = (int(np.float32(0.5).view(np.int32)) - _LEAST) >> _DIGITS
BINS = 2 * _HALF + 1
_LOWER = ((np.arange(_HALF + 1, dtype=np.int32) << _DIGITS) + np.int32(_LEAST)).view(np.float32).astype(np.float64)
_LOWER[0] = 0
EDGES = np.concatenate([_LOWER, 1 - _LOWER[::-1]])  # float64 (BINS + 1,), 0 to 1, of the bins
Counts = npt.NDArray[np.int64]  # (2, BINS): pixels that are not lung, and pixels that are, by probability


def class_histogram(probabilities: np.ndarray, masks: np.ndarray) -> Counts:
    """Count pixels by what they are and by their probability.

    Args:
        probabilities: float of any shape, 0 to 1, taken as float32.
        masks: uint8 or bool of that shape, 0 or 1.

    Returns:
        int64 (2, :data:`BINS`): row 0 counts pixels that are not lung, row 1 those that are. Bin ``i`` holds the
        probabilities from ``EDGES[i]`` to ``EDGES[i + 1]``; a higher one is never in a lower bin. Histograms of several
        pictures add up to that of all of them.
    """
    rated = np.ravel(probabilities).astype(np.float32, copy=False)
    bits = np.minimum(rated, 1 - rated).view(np.int32)  # what is left to 1 is exact from a half on
    near = (np.maximum(bits, _LEAST) - _LEAST) >> _DIGITS
    place = np.where(rated < 0.5, near, 2 * _HALF - near)
    place += np.ravel(masks).astype(np.int32) * BINS
    return np.bincount(place, minlength=2 * BINS).reshape(2, BINS)


def auc_of(counts: Counts) -> float:
    """Return the area under the ROC curve, NaN where all pixels are lung or none is.

    It is the chance that a pixel of lung has the higher probability than one that is not, plus half the chance that
    both have the same (Hanley and McNeil, Radiology 143, 1982). Pixels of one bin count as equal: the area is off by at
    most half the share of such pairs among all pairs.
    """
    filled = np.flatnonzero(counts.sum(axis=0))
    other, lung = counts[:, filled].astype(np.float64)
    pairs = other.sum() * lung.sum()
    if not pairs:
        return float("nan")
    below = np.cumsum(other) - other / 2
    return float((lung * below).sum() / pairs)


def roc_auc(probabilities: np.ndarray, masks: np.ndarray) -> float:
    """Return the area under the ROC curve over all pixels given, NaN where the masks are all 0 or all 1.

    Args:
        probabilities: float of any shape, 0 to 1.
        masks: uint8 or bool of that shape, 0 or 1.
    """
    return auc_of(class_histogram(probabilities, masks))


def roc_curve(counts: Counts, points: int) -> dict[str, npt.NDArray[np.float64]]:
    """Return the ROC curve at evenly spaced false positive rates.

    Args:
        counts: of :func:`class_histogram`, with pixels of both kinds.
        points: how many, at least 2.

    Returns:
        float64 (points,): ``fpr`` and ``tpr``, 0 to 1, and ``threshold``, the probability at about which they are
        reached.
    """
    filled = np.flatnonzero(counts.sum(axis=0))[::-1]
    # The curve starts at a threshold that no probability is above, where no pixel is lung.
    fpr, tpr = (np.append(0, np.cumsum(row[filled])) / row.sum() for row in counts)
    thresholds = np.append(1.0, EDGES[filled])
    at = np.linspace(0, 1, points)
    return {"fpr": at, "tpr": np.interp(at, fpr, tpr), "threshold": np.interp(at, fpr, thresholds)}
