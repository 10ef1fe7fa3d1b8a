"""Statistics of the training images, for comparison with the input and output of predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from model.inference.package import BINS, PERCENTILES, Training
from model.lungs import UNSURE, halves, solidity


def describe_training(
    manifest: pd.DataFrame, images: np.ndarray, masks: np.ndarray, probabilities: np.ndarray
) -> Training:
    """Return the percentiles of the training images' statistics.

    Args:
        manifest: the N images' rows of the cohort's manifest.
        images: uint8 (N, S, S), standardised.
        masks: uint8 (N, S, S), 0 or 1, of the kind that the network was trained on.
        probabilities: predicted lung probabilities of the M validation images, float32 (M, S, S).
    """
    size = images.shape[1] * images.shape[2]
    histograms = np.stack([np.histogram(image, BINS, (0, 256))[0] / size for image in images])
    grey = images.reshape(len(images), -1)
    sides = [halves(mask) for mask in masks]
    left, right = (np.array([np.count_nonzero(pair[side]) for pair in sides]) for side in (0, 1))
    larger = np.maximum(np.maximum(left, right), 1)
    low, high = UNSURE
    unsure = ((probabilities >= low) & (probabilities <= high)).mean((1, 2))
    return Training(
        images=len(images),
        histogram=[_percentiles(shares) for shares in histograms.T],
        mean=_percentiles(grey.mean(1)),
        deviation=_percentiles(grey.std(1)),
        lung_area=_percentiles((left + right) / size),
        left_area=_percentiles(left / size),
        right_area=_percentiles(right / size),
        symmetry=_percentiles(np.minimum(left, right) / larger),
        solidity=_percentiles([value for pair in sides if (value := solidity(*pair)) is not None]),
        uncertain=_percentiles(unsure),
        height=_percentiles(manifest["height"].to_numpy(np.float64)),
        width=_percentiles(manifest["width"].to_numpy(np.float64)),
        validated=len(probabilities),
    )


def _percentiles(values: np.ndarray | Sequence[float]) -> list[float]:
    found = np.percentile(np.asarray(values, np.float64), PERCENTILES)
    return [round(float(value), 6) for value in found]
