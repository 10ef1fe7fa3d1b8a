"""Figures of a segmentation: counted first for every image, then reduced, pooled or per image, in one place.

Pixels are counted and ROC areas taken by torchmetrics, surface distances by MONAI, intervals by SciPy.
"""

from __future__ import annotations

import warnings
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
    import torch
    from torchmetrics.functional.classification import binary_stat_scores

    # One image at a time: torchmetrics' own way over many cannot count a single one, and wants eight bytes a pixel.
    scores = np.zeros((len(masks), 5))
    for row, pair in enumerate(zip(predicted, masks, strict=True)):
        p, g = (torch.from_numpy(mask.astype(np.int64)) for mask in pair)
        scores[row] = binary_stat_scores(p, g, validate_args=False).numpy()
    tp, fp, tn, fn, _ = scores.T
    return {"tp": tp, "fp": fp, "fn": fn, "tn": tn}


def overlap_metrics(counts: dict[str, Floats]) -> dict[str, Floats]:
    """Turn counts of any shape into figures of that shape, 0 to 1; NaN where a denominator is 0.

    ``dice`` is the paper's Eq. 3 and ``jaccard`` its Eq. 4, each with the 1 that the paper adds above and below, so
    that two empty masks agree wholly; ``accuracy``, ``precision``, ``recall`` and ``f1`` are Eqs. 5 to 8 (F1 in counts,
    2 TP / (2 TP + FP + FN), so that it is 0 and not undefined where nothing overlaps).

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
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "paper_iou": (1 + accuracy) / 2,
        }


def roc_auc(probabilities: np.ndarray, masks: np.ndarray) -> float:
    """Return the area under the ROC curve over all pixels given, NaN where the masks are all 0 or all 1.

    Args:
        probabilities: float of any shape, 0 to 1.
        masks: uint8 or bool of that shape, 0 or 1.
    """
    import torch
    from torchmetrics.functional.classification import binary_auroc

    truth = masks.ravel()
    if truth.min() == truth.max():
        return float("nan")
    # Exact, as scikit-learn's, in less than half its time: torch sorts faster.
    pair = (torch.from_numpy(np.ascontiguousarray(probabilities).ravel()), torch.from_numpy(truth.astype(np.int64)))
    return float(binary_auroc(*pair, validate_args=False))


def surface_distances(predicted: np.ndarray, masks: np.ndarray) -> dict[str, Floats]:
    """Measure how far the outlines of every image are apart.

    Args:
        predicted: uint8 or bool (N, H, W), 0 or 1.
        masks: uint8 or bool (N, H, W), 0 or 1.

    Returns:
        float64 (N,), in pixels: ``hd95``, the larger of the two directed 95th percentiles of the distances, and
        ``assd``, their mean over both outlines. NaN where either mask is empty.
    """
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_distance import compute_average_surface_distance

    result = {"hd95": np.full(len(masks), np.nan), "assd": np.full(len(masks), np.nan)}
    both = predicted.any(axis=(1, 2)) & masks.any(axis=(1, 2))
    if both.any():
        # MONAI 1.6 warns of an argument that it passes to itself.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", module="monai")
        pair = [torch.from_numpy(a[both].astype(np.float32)).unsqueeze(1) for a in (predicted, masks)]
        result["hd95"][both] = compute_hausdorff_distance(*pair, include_background=True, percentile=95).numpy()[:, 0]
        result["assd"][both] = compute_average_surface_distance(*pair, include_background=True, symmetric=True).numpy()[
            :, 0
        ]
    return result


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
