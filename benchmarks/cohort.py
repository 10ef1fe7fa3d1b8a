"""Images to measure with: computed X-rays, so that a measurement needs no data set, or a preprocessed cohort."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.cohort import Arrays
from core.errors import UserError
from core.params import Params
from model.preprocessing import resize_mask, standardise
from model.training.batches import Subset
from tools.sample import draw_xray
from tools.sample.machines import MACHINES

SAMPLE_SIDE = 320  # of the sample's pictures at scale 1, pixels, about


def drawn(params: Params, size: int, train: int, validation: int) -> tuple[Subset, Subset]:
    """Return computed X-rays of both machines by turns, preprocessed as the pipeline does: training and validation."""
    images, masks, ids = [], [], []
    low, high = params.preprocess.intensity_percentiles
    sites = list(MACHINES)
    for number in range(train + validation):
        # At the least scale the anatomy is still drawn whole; nothing is gained by drawing more than is kept.
        xray = draw_xray(sites[number % 2], number // 2 + 1, seed=1, scale=max(0.3, size / SAMPLE_SIDE))
        grey = xray.picture if xray.picture.ndim == 2 else xray.picture[..., 0]
        images.append(standardise(grey, size, params.preprocess.interpolation, (low, high)))
        masks.append(resize_mask(((xray.left | xray.right) > 0).astype(np.uint8), size))
        ids.append(xray.name)
    return _split(np.stack(images), np.stack(masks), ids, train)


def preprocessed(folder: Path, masks: str, train: int, validation: int) -> tuple[Subset, Subset]:
    """Return images of a preprocessed cohort in a fixed random order: training and validation.

    Raises:
        UserError: the folder is no such cohort, or has fewer images than are asked for.
    """
    cohort = Arrays(folder)
    if len(cohort.images) < train + validation:
        raise UserError(
            f"{folder}: holds {len(cohort.images)} images, {train} + {validation} are needed; lower --images"
        )
    rows = np.random.default_rng(0).permutation(len(cohort.images))[: train + validation]
    ids = [str(name) for name in cohort.manifest["id"].iloc[rows]]
    return _split(cohort.images[rows], cohort.masks[masks][rows], ids, train)


def _split(images: np.ndarray, masks: np.ndarray, ids: list[str], train: int) -> tuple[Subset, Subset]:
    return (
        Subset(images[:train], masks[:train], ids[:train]),
        Subset(images[train:], masks[train:], ids[train:]),
    )
