"""Figures of a segmentation: counted first for every image, then reduced, pooled or per image, in one place.

Pixels are counted by torchmetrics, ROC areas by scikit-learn, surface distances by MONAI, intervals by SciPy.
"""

from __future__ import annotations

import warnings

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
    from sklearn.metrics import roc_auc_score

    truth = masks.ravel()
    if truth.min() == truth.max():
        return float("nan")
    return float(roc_auc_score(truth, probabilities.ravel()))


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
    from scipy.stats import bootstrap

    if len(counts["tp"]) < 2:
        return None

    def statistic(tp: Floats, fp: Floats, fn: Floats, axis: int) -> Floats:
        if pooled:
            tp, fp, fn = tp.sum(axis), fp.sum(axis), fn.sum(axis)
        dice = (2 * tp + 1) / (2 * tp + fp + fn + 1)
        return dice if pooled else dice.mean(axis)

    interval = bootstrap(
        (counts["tp"], counts["fp"], counts["fn"]),
        statistic,
        n_resamples=resamples,
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
