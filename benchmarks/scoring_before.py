"""The earlier scoring of evaluate: confusion and ROC AUC by torchmetrics, distances by MONAI.

It is slow, and the reference for its replacement.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch

Figures = dict[str, np.ndarray]


def confusion(predicted: np.ndarray, masks: np.ndarray) -> Figures:
    """Return ``tp``, ``fp``, ``tn`` and ``fn`` of every image, float64 (N,), from masks, uint8 (N, H, W), 0 or 1."""
    from torchmetrics.functional.classification import binary_stat_scores

    scores = np.zeros((len(masks), 5))
    for row, pair in enumerate(zip(predicted, masks, strict=True)):
        p, g = (torch.from_numpy(mask.astype(np.int64)) for mask in pair)
        scores[row] = binary_stat_scores(p, g, validate_args=False).numpy()
    return dict(zip(("tp", "fp", "tn", "fn"), scores.T[:4], strict=True))


def roc_auc(probabilities: np.ndarray, masks: np.ndarray) -> float:
    """Return the exact ROC AUC over all given pixels; NaN if the masks, uint8, are all 0 or all 1."""
    from torchmetrics.functional.classification import binary_auroc

    truth = masks.ravel()
    if truth.min() == truth.max():
        return float("nan")
    pair = (torch.from_numpy(np.ascontiguousarray(probabilities).ravel()), torch.from_numpy(truth.astype(np.int64)))
    return float(binary_auroc(*pair, validate_args=False))


def surface_distances(predicted: np.ndarray, masks: np.ndarray) -> Figures:
    """Return ``hd95`` and ``assd`` in pixels, float64 (N,), from masks, uint8 (N, H, W); NaN if either is empty."""
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_distance import compute_average_surface_distance

    result = {"hd95": np.full(len(masks), np.nan), "assd": np.full(len(masks), np.nan)}
    both = predicted.any(axis=(1, 2)) & masks.any(axis=(1, 2))
    if both.any():
        # MONAI 1.6 warns of an argument that it passes to itself.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", module="monai")
        pair = [torch.from_numpy(a[both].astype(np.float32)).unsqueeze(1) for a in (predicted, masks)]
        hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95)
        assd = compute_average_surface_distance(*pair, include_background=True, symmetric=True)
        result["hd95"][both], result["assd"][both] = hd95.numpy()[:, 0], assd.numpy()[:, 0]
    return result
