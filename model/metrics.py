"""Segmentation metrics from counts per image, pooled or per image.

Distances between outlines are in :mod:`model.surface`, ROC curves in :mod:`model.curves`. Intervals use SciPy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

COUNTS = ("tp", "fp", "fn", "tn")
OVERLAP = ("dice", "accuracy", "jaccard", "precision", "recall", "f1", "paper_iou")

RESAMPLED_AT_ONCE = 1_000_000  # values per batch of bootstrap resamples; an array of them has 8 MB

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
    """Return metrics from counts of any shape, 0 to 1, of the same shape; NaN if a denominator is 0.

    ``dice`` is the paper's Eq. 3 and ``jaccard`` its Eq. 4, each with the paper's 1 added to numerator and denominator,
    so that two empty masks give 1. ``accuracy``, ``precision``, ``recall`` and ``f1`` are Eqs. 5 to 8. F1 is computed
    as 2 TP / (2 TP + FP + FN), so that it is 0 and not undefined without overlap.

    ``precision`` of an empty prediction is 0 if the truth is not empty, and NaN if both are empty. ``recall`` is NaN if
    the truth is empty.

    ``paper_iou`` is the paper's IOU column: Eq. 4 computed per pixel and averaged, which is (1 + accuracy) / 2. It is
    not the Jaccard index and is only for comparison.
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
    """The three sums of the paper's Eq. 2 over the pixels of every image, float64 (N,) each.

    Attributes:
        overlap: sum of probability times mask.
        square: sum of squared probabilities.
        area: sum of the mask, equal to the sum of its square.
    """

    overlap: Floats
    square: Floats
    area: Floats


def soft_counts(probabilities: np.ndarray, masks: np.ndarray) -> SoftCounts:
    """Return the sums of Eq. 2 for every image.

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
    """Return the paper's "Dice coefficient", the negative of its loss (Eq. 2), of consecutive batches, 0 to 1.

    ``(2 sum(p g) + 1) / (sum(p^2) + sum(g^2) + 1)`` over all pixels of a batch, as in
    :func:`model.training.losses.dice_loss`. The paper scored batches of 2 images. If every probability is 0 or 1, it
    equals the Dice of the counts.

    Args:
        counts: the sums of N images in their order.
        batch: number of images per batch; the last batch may be smaller.

    Returns:
        float64 (ceil(N / batch),), one value per batch.
    """
    starts = np.arange(0, len(counts.area), batch)
    overlap, square, area = (np.add.reduceat(each, starts) if len(starts) else each for each in counts)
    values: Floats = (2 * overlap + 1) / (square + area + 1)
    return values


def agreement(one: np.ndarray, other: np.ndarray) -> Floats:
    """Return the Dice (Eq. 3) of two masks of every image, float64 (N,), 0 to 1.

    Between a prediction and the mirrored prediction of the mirrored image, it measures the network's confidence without
    ground truth: consistency under test-time augmentation (Wang et al., "Aleatoric uncertainty estimation with
    test-time augmentation for medical image segmentation", Neurocomputing 338, 2019).

    Args:
        one: uint8 or bool (N, H, W), 0 or 1.
        other: uint8 or bool (N, H, W), 0 or 1.
    """
    return overlap_metrics(confusion(one, other))["dice"]


def expected_dice(probabilities: np.ndarray, predicted: np.ndarray) -> Floats:
    """Return the expected Dice of every image's mask under its probabilities, float64 (N,), 0 to 1.

    ``2 sum(p m) / (sum(p) + sum(m))``: the Dice of the expected counts; 1 if both sums are 0. It needs no ground truth.
    Source: Dai and Li, "RankSEG: A Consistent Ranking-based Framework for Segmentation", JMLR 24, 2023, for Dice as an
    expectation over probabilities; here the ratio of the expected numerator and denominator.

    Args:
        probabilities: float32 (N, H, W), 0 to 1.
        predicted: post-processed masks, uint8 or bool (N, H, W), 0 or 1.
    """
    values = np.ones(len(predicted))
    for row, (p, m) in enumerate(zip(probabilities, predicted, strict=True)):
        lung = m.astype(bool, copy=False)
        if total := p.sum(dtype=np.float64) + np.count_nonzero(lung):
            values[row] = 2 * p[lung].sum(dtype=np.float64) / total
    return values


def mean_of(values: Floats) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def dice_interval(counts: dict[str, Floats], *, pooled: bool, resamples: int, seed: int) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval of Dice over images (percentile method), None for fewer than two images.

    Args:
        counts: result of :func:`confusion`, (N,) each.
        pooled: True for the Dice of the summed counts, False for the mean of the images' Dice.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.
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
    """Difference in Dice between two networks on the same images, -1 to 1.

    ``difference`` is the mean over images, NaN without images. ``interval`` is its 95 % interval, low and high,
    ``None`` for fewer than two images.
    """

    difference: float
    interval: tuple[float, float] | None


def paired_difference(first: Floats, second: Floats, *, resamples: int, seed: int) -> PairedDifference:
    """Return the mean over images of ``first - second`` with its paired bootstrap interval (percentile method).

    Each resample keeps the two values of an image together (``scipy.stats.bootstrap`` with ``paired=True``; Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13), so that the difficulty of an X-ray cancels out. The
    interval covers the variance of images, not of training seeds, and is too narrow for few images (Hesterberg, What
    Teachers Should Know About the Bootstrap, 2015).

    Args:
        first: Dice per image, float64 (N,), 0 to 1. Images with NaN in either array are omitted.
        second: Dice of the same images in the same order.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap. With the same seed, swapping ``first`` and ``second`` only changes all signs.

    Raises:
        ValueError: the arrays differ in length.
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
    """Return the 95 % percentile interval of a statistic; the values of an image are resampled together."""
    from scipy.stats import bootstrap

    interval = bootstrap(
        of_images,
        statistic,
        n_resamples=resamples,
        batch=max(1, RESAMPLED_AT_ONCE // len(of_images[0])),  # bounds the memory; the draws are the same
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
