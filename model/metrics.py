"""Figures of a segmentation: counted first for every image, then reduced, pooled or per image, in one place.

Distances between outlines are in :mod:`model.surface`, ROC curves in :mod:`model.curves`. Intervals are SciPy's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

COUNTS = ("tp", "fp", "fn", "tn")
OVERLAP = ("dice", "accuracy", "jaccard", "precision", "recall", "f1", "paper_iou")

Floats = npt.NDArray[np.float64]


def confusion(predicted: np.ndarray, masks: np.ndarray) -> dict[str, Floats]:
    """Count the pixels of every image.

    Args:
        predicted: uint8 or bool (N, H, W), 0 or 1.
        masks: uint8 or bool (N, H, W), 0 or 1.

    Returns:
        ``tp``, ``fp``, ``fn``, ``tn``: float64 (N,).
    """
    sums = np.zeros((3, len(masks)))
    for row, pair in enumerate(zip(predicted, masks, strict=True)):
        p, g = (mask.astype(bool, copy=False) for mask in pair)
        sums[:, row] = np.count_nonzero(p & g), np.count_nonzero(p), np.count_nonzero(g)
    both, found, true = sums
    pixels = float(np.prod(masks.shape[1:]))
    return {"tp": both, "fp": found - both, "fn": true - both, "tn": pixels - found - true + both}


def overlap_metrics(counts: dict[str, Floats]) -> dict[str, Floats]:
    """Turn counts of any shape into figures of that shape, 0 to 1; NaN where a denominator is 0.

    ``dice`` is the paper's Eq. 3 and ``jaccard`` its Eq. 4, each with the 1 that the paper adds above and below, so
    that two empty masks agree wholly; ``accuracy``, ``precision``, ``recall`` and ``f1`` are Eqs. 5 to 8 (F1 in counts,
    2 TP / (2 TP + FP + FN), so that it is 0 and not undefined where nothing overlaps).

    Where nothing is predicted and there is something to find, ``precision`` is 0: an empty mask is no better than a
    wrong one. It is NaN where both masks are empty, ``recall`` where the truth is.

    ``paper_iou`` is what the paper's IOU column holds: Eq. 4 taken at every pixel alone and averaged, which is
    (1 + accuracy) / 2. It is no Jaccard index and stands here for comparison only.
    """
    tp, fp, fn, tn = (counts[name] for name in COUNTS)
    with np.errstate(divide="ignore", invalid="ignore"):
        accuracy = (tp + tn) / (tp + tn + fp + fn)
        return {
            "dice": (2 * tp + 1) / (2 * tp + fp + fn + 1),
            "accuracy": accuracy,
            "jaccard": (tp + 1) / (tp + fp + fn + 1),
            "precision": np.where((tp + fp == 0) & (fn > 0), 0.0, tp / (tp + fp)),
            "recall": tp / (tp + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "paper_iou": (1 + accuracy) / 2,
        }


class SoftCounts(NamedTuple):
    """The three sums that the paper's Eq. 2 is made of, over the pixels of every image: float64 (N,) each.

    Attributes:
        overlap: of probability times mask.
        square: of the squared probability.
        area: of the mask, which is that of its square.
    """

    overlap: Floats
    square: Floats
    area: Floats


def soft_counts(probabilities: np.ndarray, masks: np.ndarray) -> SoftCounts:
    """Sum probabilities over the pixels of every image.

    Args:
        probabilities: float32 (N, H, W), 0 to 1.
        masks: uint8 or bool (N, H, W), 0 or 1.
    """
    sums = np.zeros((3, len(masks)))
    for row, (p, g) in enumerate(zip(probabilities, masks, strict=True)):
        lung = g.astype(bool, copy=False)
        sums[:, row] = p[lung].sum(dtype=np.float64), np.square(p).sum(dtype=np.float64), np.count_nonzero(lung)
    return SoftCounts(*sums)


def soft_dice(counts: SoftCounts, batch: int = 1) -> Floats:
    """Return the paper's "Dice coefficient", minus its loss (Eq. 2), of consecutive batches of images, 0 to 1.

    ``(2 sum(p g) + 1) / (sum(p^2) + sum(g^2) + 1)`` over all pixels of a batch, as in
    :func:`model.training.losses.dice_loss`. The paper scored batches of 2 images. Where every probability is 0 or 1 it
    is the Dice of the counts.

    Args:
        counts: of N images in their order.
        batch: images of a batch; the last one holds what is left.

    Returns:
        float64, one figure a batch: ``ceil(N / batch)`` of them.
    """
    starts = np.arange(0, len(counts.area), batch)
    overlap, square, area = (np.add.reduceat(each, starts) if len(starts) else each for each in counts)
    values: Floats = (2 * overlap + 1) / (square + area + 1)
    return values


def agreement(one: np.ndarray, other: np.ndarray) -> Floats:
    """Return the Dice (Eq. 3, with its 1 above and below) of two masks of every image, float64 (N,), 0 to 1.

    Of a prediction and the mirrored prediction of the mirrored image it says, without any truth, how sure a network is:
    consistency under test-time augmentation (Wang et al., "Aleatoric uncertainty estimation with test-time augmentation
    for medical image segmentation", Neurocomputing 338, 2019).

    Args:
        one: uint8 or bool (N, H, W), 0 or 1.
        other: uint8 or bool (N, H, W), 0 or 1.
    """
    return overlap_metrics(confusion(one, other))["dice"]


def expected_dice(probabilities: np.ndarray, predicted: np.ndarray) -> Floats:
    """Return the Dice that every image's own probabilities promise its mask, float64 (N,), 0 to 1.

    ``2 sum(p m) / (sum(p) + sum(m))``: the Dice of the counts that are expected where every pixel is lung with its
    probability; 1 where both are empty. It needs no truth. Source: Dai and Li, "RankSEG: A Consistent Ranking-based
    Framework for Segmentation", JMLR 24, 2023, for Dice as an expectation over probabilities; here the ratio of the
    expected numerator and denominator.

    Args:
        probabilities: float32 (N, H, W), 0 to 1.
        predicted: uint8 or bool (N, H, W), 0 or 1, the final masks.
    """
    values = np.ones(len(predicted))
    for row, (p, m) in enumerate(zip(probabilities, predicted, strict=True)):
        lung = m.astype(bool, copy=False)
        if total := p.sum(dtype=np.float64) + np.count_nonzero(lung):
            values[row] = 2 * p[lung].sum(dtype=np.float64) / total
    return values


def mean_of(values: Floats) -> float:
    """Return the mean of the figures that are defined, NaN where none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def dice_interval(counts: dict[str, Floats], *, pooled: bool, resamples: int, seed: int) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval of Dice over images (percentile method), None for fewer than two images.

    Args:
        counts: of :func:`confusion`, (N,) each.
        pooled: Dice of the summed counts, else the mean of the images' Dice.
        resamples: how often N images are drawn with replacement.
        seed: of the draws.
    """
    if len(counts["tp"]) < 2:
        return None

    def statistic(tp: Floats, fp: Floats, fn: Floats, axis: int) -> Floats:
        if pooled:
            tp, fp, fn = tp.sum(axis), fp.sum(axis), fn.sum(axis)
        dice = (2 * tp + 1) / (2 * tp + fp + fn + 1)
        return dice if pooled else dice.mean(axis)

    return _bootstrap((counts["tp"], counts["fp"], counts["fn"]), statistic, resamples, seed)


class PairedDifference(NamedTuple):
    """How much a first network's Dice is above a second's on the same images, -1 to 1.

    ``difference`` is the mean over images, NaN without any. ``interval`` holds the ends of its 95 % interval, ``None``
    for fewer than two images.
    """

    difference: float
    interval: tuple[float, float] | None


def paired_difference(first: Floats, second: Floats, *, resamples: int, seed: int) -> PairedDifference:
    """Return the mean over images of ``first - second`` with its paired bootstrap interval (percentile method).

    An image keeps both its figures in every resample (``scipy.stats.bootstrap`` with ``paired=True``; Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13), so that what makes an X-ray hard for both
    networks falls out of the difference. The interval covers the choice of images, not that of a training's seed, and
    is too narrow for few images (Hesterberg, What Teachers Should Know About the Bootstrap, 2015).

    Args:
        first: Dice an image, float64 (N,), 0 to 1. An image that is NaN here or in ``second`` is left out of both.
        second: Dice of the same images in the same order.
        resamples: how often N images are drawn with replacement.
        seed: of the draws. With one seed, exchanging ``first`` and ``second`` turns all signs round and no more.

    Raises:
        ValueError: the two are not of one length.
    """
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"one figure an image of the same images, got the shapes {first.shape} and {second.shape}")
    both = ~(np.isnan(first) | np.isnan(second))
    pairs = first[both], second[both]
    difference = mean_of(pairs[0] - pairs[1])
    if both.sum() < 2:
        return PairedDifference(difference, None)

    def statistic(one: Floats, other: Floats, axis: int) -> Floats:
        means: Floats = (one - other).mean(axis)
        return means

    return PairedDifference(difference, _bootstrap(pairs, statistic, resamples, seed))


def _bootstrap(
    of_images: tuple[Floats, ...], statistic: Callable[..., Floats], resamples: int, seed: int
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic; all that is known of an image is drawn together."""
    from scipy.stats import bootstrap

    interval = bootstrap(
        of_images,
        statistic,
        n_resamples=resamples,
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
