"""Images for measurements: synthetic X-rays, which need no data set, or a preprocessed cohort."""

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

SAMPLE_SIDE = 320  # approximate side of the sample's images at scale 1, pixels


def drawn(params: Params, size: int, train: int, validation: int) -> tuple[Subset, Subset]:
    """Return training and validation sets of synthetic X-rays, alternately of both sites, preprocessed as usual."""
    images, masks, ids = [], [], []
    low, high = params.preprocess.intensity_percentiles
    sites = list(MACHINES)
    for number in range(train + validation):
        # Draw no larger than needed; at the minimum scale the anatomy is still complete.
        xray = draw_xray(sites[number % 2], number // 2 + 1, seed=1, scale=max(0.3, size / SAMPLE_SIDE))
        grey = xray.picture if xray.picture.ndim == 2 else xray.picture[..., 0]
        images.append(standardise(grey, size, params.preprocess.interpolation, (low, high)))
        masks.append(resize_mask(((xray.left | xray.right) > 0).astype(np.uint8), size))
        ids.append(xray.name)
    return _split(np.stack(images), np.stack(masks), ids, train)


def preprocessed(folder: Path, masks: str, train: int, validation: int) -> tuple[Subset, Subset]:
    """Return training and validation sets of a preprocessed cohort, in a fixed random order.

    Raises:
        UserError: the folder is not a preprocessed cohort, or has too few images.
    """
    cohort = Arrays(folder)
    if len(cohort.images) < train + validation:
        raise UserError(
            f"{folder}: holds {len(cohort.images)} images, {train} + {validation} are needed; lower --images"
        )
    rows = np.random.default_rng(0).permutation(len(cohort.images))[: train + validation]
    ids = [str(name) for name in cohort.manifest["id"].iloc[rows]]
    return _split(cohort.images[rows], cohort.masks[masks][rows], ids, train)


def of_split(cohort: Arrays, ids: dict[str, list[str]], masks: str) -> tuple[Subset, Subset]:
    """Return the training and validation sets of a scenario's split, with masks of a kind, in memory."""
    images, truth = cohort.images, cohort.masks[masks]
    rows = {name: cohort.rows(ids[name]) for name in ("train", "validation")}
    train, validation = (Subset(images[at], truth[at], ids[name]) for name, at in rows.items())
    return train, validation


def _split(images: np.ndarray, masks: np.ndarray, ids: list[str], train: int) -> tuple[Subset, Subset]:
    return (
        Subset(images[:train], masks[:train], ids[:train]),
        Subset(images[train:], masks[train:], ids[train:]),
    )
