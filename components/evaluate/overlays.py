"""Overlays of correct and wrong pixels: the worst and best cases, and the paper's Figures 5 and 6."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from core.cell import OVERLAYS
from core.cohort import Arrays
from core.files import write_json
from core.results import DIFFERENCE_COLOURS, FIGURE_COLOURS

OPACITY = 0.45
LEAST_SIDE = 256  # pixels; smaller images are enlarged, so that a browser does not blur them

Regions = list[tuple[np.ndarray, tuple[int, int, int]]]  # masks, bool (H, W), with their colour, RGB 0 to 255


def difference_regions(predicted: np.ndarray, mask: np.ndarray) -> Regions:
    """Return the regions of true positives, false positives and false negatives."""
    p, g = predicted > 0, mask > 0
    named = {"true positive": p & g, "false positive": p & ~g, "false negative": g & ~p}
    return [(region, DIFFERENCE_COLOURS[name]) for name, region in named.items()]


def figure_regions(predicted: np.ndarray, mask: np.ndarray) -> Regions:
    """Return the regions of Figures 5 and 6: ground truth in grey, prediction in red over it.

    The ground truth's outline is drawn over both, so that false positives are visible.
    """
    p, g = predicted > 0, mask > 0
    outline = g & (cv2.erode(g.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)
    grey, red = FIGURE_COLOURS["ground truth"], FIGURE_COLOURS["prediction"]
    return [(g, grey), (p, red), (outline, grey)]


def blend(image: np.ndarray, regions: Regions) -> np.ndarray:
    """Blend coloured regions over a grey image.

    Args:
        image: uint8 (H, W), 0 to 255.
        regions: later regions cover earlier ones.

    Returns:
        uint8 (H', W', 3), RGB, enlarged by an integer factor so that the longer side has :data:`LEAST_SIDE` pixels or
        more.
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
    """Blend :func:`difference_regions` over the image."""
    return blend(image, difference_regions(predicted, mask))


def write_regions(path: Path, regions: Regions) -> None:
    """Write regions as a PNG with a palette and a transparent background; later regions cover earlier ones."""
    numbers = np.zeros(regions[0][0].shape, np.uint8)
    for number, (mask, _) in enumerate(regions, start=1):
        numbers[mask] = number
    picture = Image.fromarray(numbers)
    picture.putpalette([0, 0, 0, *(part for _, colour in regions for part in colour)])
    picture.save(path, "PNG", transparency=0, bits=2)


@dataclass(frozen=True)
class Shown:
    """The masks for the overlays, collected while a split is processed; their number is limited.

    Attributes:
        worst: number of worst images to draw, and of best images.
        figure: positions in the split of the images of Figures 5 and 6, the first of each site by id.
        masks: {position in the split: (Dice, uint8 (H, W))}.
    """

    worst: int
    figure: list[int]
    masks: dict[int, tuple[float, np.ndarray]]

    @classmethod
    def of(cls, manifest: pd.DataFrame, worst: int, figure_images: int) -> Shown:
        """Return an empty collection for a split; ``manifest`` has its rows in the split's order."""
        frame = manifest.reset_index(drop=True)
        first = [group.sort_values("id").head(figure_images) for _, group in frame.groupby("site", sort=True)]
        return cls(worst, [int(position) for part in first for position in part.index], {})

    def offer(self, start: int, dice: np.ndarray, masks: np.ndarray) -> None:
        """Add a batch of images and drop the masks that will not be drawn.

        Args:
            start: position of the first image in the split.
            dice: Dice of the images, float64 (N,).
            masks: predicted masks, uint8 (N, H, W).
        """
        for position, (value, mask) in enumerate(zip(dice, masks, strict=True), start):
            self.masks[position] = (float(value), mask.copy())
        self._drop()

    def extend(self, masks: Mapping[int, tuple[float, np.ndarray]]) -> None:
        """Add the masks that another process kept for other images, and drop those that will not be drawn."""
        self.masks.update(masks)
        self._drop()

    def _drop(self) -> None:
        up = sorted(self.masks, key=lambda position: (self.masks[position][0], position))
        down = sorted(self.masks, key=lambda position: (-self.masks[position][0], position))
        # The best images that are not among the worst are among the first 2 * worst.
        needed = {*up[: self.worst], *down[: 2 * self.worst], *self.figure}
        for position in set(self.masks) - needed:
            del self.masks[position]


def write_overlays(folder: Path, cohort: Arrays, order: np.ndarray, shown: Shown, cases: pd.DataFrame) -> None:
    """Write ``overlays.json`` and its PNGs: the worst and best test images, and the first of each site by id.

    The images of the figures depend only on the split, so that all networks show the same ones.

    Args:
        folder: output folder.
        cohort: the arrays.
        order: row numbers of the test images in the arrays, int64 (N,).
        shown: the masks to draw.
        cases: the cases of the N test images against original masks.
    """
    (folder / "overlays").mkdir()
    index: list[dict[str, Any]] = []
    cases = cases.assign(position=np.arange(len(cases)))
    worst = cases.nsmallest(shown.worst, "dice", keep="first")
    best = cases.drop(worst.index).nlargest(shown.worst, "dice", keep="first")
    figure = cases.iloc[shown.figure]
    for kind, part in (("worst", worst), ("best", best), ("figure", figure)):
        for case in part.to_dict("records"):
            row, predicted = order[case["position"]], shown.masks[case["position"]][1]
            xray, name = f"overlays/xray-{case['id']}.png", f"overlays/{kind}-{case['id']}.png"
            if not cv2.imwrite(str(folder / xray), cohort.images[row]):
                raise OSError(f"{folder / xray}: not written")
            regions = figure_regions if kind == "figure" else difference_regions
            write_regions(folder / name, regions(predicted, cohort.masks["original"][row]))
            facts = {key: case[key] for key in ("id", "site", "label", "dice", "hd95")}
            index.append({"file": name, "xray": xray, "kind": kind, **facts})
    write_json(folder / OVERLAYS, index)
