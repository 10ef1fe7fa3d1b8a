"""Small drawings of a study: Figures 5 and 6 for all networks, and the worst test images of DEFU-Net."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from components.evaluate.overlays import worst_overlay
from components.report import paper
from components.report.paired import REFERENCE
from components.report.pictures import FIGURE_NUMBERS
from core.cell import CASES, Cell
from core.cohort import Arrays
from core.errors import UserError
from core.params import EvaluateParams
from tools.publish.facts import DIGITS, WORST_IMAGES
from tools.publish.scores import MIXED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGE_INCHES, DPI, QUALITY = 2.0, 100, 85
TOLERANCE = 0.005  # allowed difference in Dice of a repeated prediction, which may have another precision


class _Scored:
    """A cell's test cases against original masks, and repeated predictions for chosen images."""

    def __init__(self, evaluations: Path, models: Path, cohort: Arrays, cell: Cell, params: EvaluateParams) -> None:
        from model.inference.predictor import Predictor

        self.cohort, self.params, self.cell = cohort, params, cell
        cases = pd.read_csv(evaluations / cell.folder / CASES, dtype={"id": "string"})
        cases = cases[(cases["split"] == "test") & (cases["masks"] == "original")]
        self.cases = cases
        self.dice = {str(id): float(value) for id, value in zip(cases["id"], cases["dice"], strict=True)}
        self.predictor = Predictor.load(models / cell.folder)

    def masks(self, ids: list[str]) -> np.ndarray:
        rows = self.cohort.rows(ids)
        probabilities = self.predictor.probabilities(self.cohort.images[rows], flip=self.params.flip)
        masks: np.ndarray = self.params.to_masks(probabilities)
        for id, mask, truth in zip(ids, masks, self.cohort.masks["original"][rows], strict=True):
            dice = 2 * float((mask & truth).sum()) / max(1, int(mask.sum()) + int(truth.sum()))
            if abs(dice - self.dice[id]) > TOLERANCE:
                raise UserError(
                    f"{self.cell.folder}, {id}: predicted again, its Dice is {dice:.4f}, not the "
                    f"{self.dice[id]:.4f} that was evaluated; other parameters or arrays?"
                )
        return masks


def draw(
    evaluations: Path, models: Path, arrays: Path, cells: list[Cell], params: EvaluateParams, folder: Path
) -> None:
    """Write ``figure-<number>-<site>.jpg`` and ``worst-<scenario>.jpg`` for the first seed.

    Raises:
        UserError: a model's masks do not reproduce the evaluated Dice.
    """
    cohort = Arrays(arrays)
    first = {(cell.network, cell.scenario): cell for cell in sorted(cells, key=lambda cell: -cell.seed)}
    networks = sorted({cell.network for cell in cells if cell.scenario == MIXED}, key=paper.order)
    mixed = {name: _Scored(evaluations, models, cohort, first[name, MIXED], params) for name in networks}
    if mixed:
        test = next(iter(mixed.values())).cases
        for site, group in test.groupby("site"):
            ids = sorted(map(str, group["id"]))[: params.figure_images]
            number = FIGURE_NUMBERS.get(str(site), "Figure").replace(" ", "-").lower()
            _save(_side_by_side(cohort, mixed, ids), folder / f"{number}-{site}.jpg")
    for (network, scenario), cell in sorted(first.items()):
        if network == REFERENCE:
            _save(_worst(cohort, _Scored(evaluations, models, cohort, cell, params)), folder / f"worst-{scenario}.jpg")


def _side_by_side(cohort: Arrays, scored: dict[str, _Scored], ids: list[str]) -> Figure:
    """Return one row per X-ray: the X-ray, then each network's result; for one network, one column per X-ray."""
    from matplotlib.figure import Figure

    rows = cohort.rows(ids)
    titles = [(paper.name(name), one.dice, one.masks(ids)) for name, one in scored.items()]
    lines, columns = (len(ids), 1 + len(scored)) if len(scored) > 1 else (2, len(ids))
    figure = Figure(figsize=(IMAGE_INCHES * columns, (IMAGE_INCHES + 0.2) * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    axes = axes if len(scored) > 1 else axes.T
    for line, (id, row) in enumerate(zip(ids, rows, strict=True)):
        _show(axes[line, 0], _plain(cohort, row), id)
        for column, (name, dice, masks) in enumerate(titles, start=1):
            picture = worst_overlay(cohort.images[row], masks[line], cohort.masks["original"][row])
            _show(axes[line, column], picture, f"{name} {dice[id]:.3f}")
    return figure


def _plain(cohort: Arrays, row: int) -> np.ndarray:
    return np.repeat(cohort.images[row][..., None], 3, axis=-1)


def _worst(cohort: Arrays, scored: _Scored) -> Figure:
    """Return the worst images in two bands of five: the X-ray, and below it the correct and wrong pixels."""
    from matplotlib.figure import Figure

    ids = sorted(scored.dice, key=lambda id: (round(scored.dice[id], DIGITS), id))[:WORST_IMAGES]
    across = -(-len(ids) // 2)
    figure = Figure(figsize=(IMAGE_INCHES * across, (IMAGE_INCHES * 2 + 0.3) * 2), layout="constrained")
    axes = figure.subplots(4, across, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for place, (id, row, mask) in enumerate(zip(ids, cohort.rows(ids), scored.masks(ids), strict=True)):
        band, column = divmod(place, across)
        _show(axes[2 * band, column], _plain(cohort, row), f"{place + 1}. {id}")
        overlay = worst_overlay(cohort.images[row], mask, cohort.masks["original"][row])
        _show(axes[2 * band + 1, column], overlay, f"Dice {scored.dice[id]:.3f}")
    return figure


def _show(axis: object, picture: np.ndarray, title: str) -> None:
    axis.imshow(picture)  # type: ignore[attr-defined]
    axis.set_title(title, fontsize=7, pad=2)  # type: ignore[attr-defined]
    axis.set_axis_off()  # type: ignore[attr-defined]


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DPI, pil_kwargs={"quality": QUALITY})
