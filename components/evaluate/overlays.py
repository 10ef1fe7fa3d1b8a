"""Pictures of what a network got right and wrong, as in the paper's Figures 5 and 6, and the worst cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from components.cohort import Arrays
from components.files import write_json
from components.params import EvaluateParams
from components.results import FIGURE_COLOURS, OVERLAYS, WORST_COLOURS

OPACITY = 0.45
LEAST_SIDE = 256  # pixels; smaller pictures are enlarged, so that a page need not blur them


def blend(image: np.ndarray, regions: list[tuple[np.ndarray, tuple[int, int, int]]]) -> np.ndarray:
    """Return an RGB picture of a grey image with coloured regions laid over it.

    Args:
        image: uint8 (H, W), 0 to 255.
        regions: masks, bool (H, W), each with its colour, RGB 0 to 255; later ones lie over earlier ones.

    Returns:
        uint8 (H', W', 3), RGB, a whole number of times as large, at least :data:`LEAST_SIDE` pixels a side.
    """
    colour = np.zeros((*image.shape, 3), np.float32)
    weight = np.zeros((*image.shape, 1), np.float32)
    for mask, rgb in regions:
        colour[mask], weight[mask] = rgb, OPACITY
    picture = np.rint(image[..., None] * (1 - weight) + colour * weight).astype(np.uint8)
    factor = max(1, -(-LEAST_SIDE // max(image.shape)))
    enlarged: np.ndarray = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    return enlarged


def worst_overlay(image: np.ndarray, predicted: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the image with true positives, false positives and false negatives in colours of their own."""
    p, g = predicted > 0, mask > 0
    named = {"true positive": p & g, "false positive": p & ~g, "false negative": g & ~p}
    return blend(image, [(region, WORST_COLOURS[name]) for name, region in named.items()])


def figure_overlay(image: np.ndarray, predicted: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the image as in Figures 5 and 6: ground truth in grey, prediction in red over it.

    The ground truth's outline is drawn over both, so that red beyond it is seen to be wrong.
    """
    p, g = predicted > 0, mask > 0
    outline = g & (cv2.erode(g.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)
    grey, red = FIGURE_COLOURS["ground truth"], FIGURE_COLOURS["prediction"]
    return blend(image, [(g, grey), (p, red), (outline, grey)])


def write_overlays(
    folder: Path,
    cohort: Arrays,
    order: np.ndarray,
    predicted: np.ndarray,
    cases: pd.DataFrame,
    params: EvaluateParams,
) -> None:
    """Write ``overlays.json`` and the PNGs it names: the worst test images and, for each site, the first ones by id.

    Which images stand in the figures depends on the split alone, so that all networks show the same ones.

    Args:
        folder: where to write.
        cohort: the arrays.
        order: int64 (N,), the test images' rows in the arrays.
        predicted: uint8 (N, size, size), 0 or 1.
        cases: the N test images' figures against original masks.
        params: how many.
    """
    (folder / "overlays").mkdir()
    index: list[dict[str, Any]] = []
    cases = cases.assign(position=np.arange(len(cases)))
    chosen = [("worst", case) for case in cases.nsmallest(params.worst, "dice", keep="first").to_dict("records")]
    for _, group in cases.groupby("site", sort=True):
        chosen += [("figure", c) for c in group.sort_values("id").head(params.figure_images).to_dict("records")]
    for kind, case in chosen:
        position = case["position"]
        row = order[position]
        draw = worst_overlay if kind == "worst" else figure_overlay
        picture = draw(cohort.images[row], predicted[position], cohort.masks["original"][row])
        name = f"overlays/{kind}-{case['id']}.png"
        if not cv2.imwrite(str(folder / name), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
            raise OSError(f"{folder / name}: not written")
        index.append({"file": name, "kind": kind, **{key: case[key] for key in ("id", "site", "label", "dice")}})
    write_json(folder / OVERLAYS, index)
