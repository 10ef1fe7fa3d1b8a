"""What evaluations say: the row of ``results.json``, and the files that train and evaluate leave for each cell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from components.errors import UserError

METRICS = ("dice", "accuracy", "jaccard", "precision", "recall", "f1", "auc", "paper_iou", "hd95", "assd")


class Row(TypedDict):
    """One line of every table. ``None`` stands where a figure is not defined, never 0 or 1 in its place.

    ``reduction`` is ``pooled`` (pixels of all images counted together) or ``per_image`` (mean over images). ``site``
    and ``label`` are ``all`` or one of them. ``masks`` is ``original`` or ``dilated``. ``hd95`` and ``assd`` are in
    pixels at the size of evaluation and have no pooled figure.
    """

    network: str
    scenario: str
    seed: int
    split: str
    site: str
    label: str
    masks: str
    reduction: str
    n_images: int
    dice: float | None
    dice_ci95: list[float] | None
    accuracy: float | None
    jaccard: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    auc: float | None
    paper_iou: float | None
    hd95: float | None
    assd: float | None


@dataclass(frozen=True)
class Cell:
    """One network trained in one scenario with one seed; its folder is ``<network>/<scenario>/seed-<seed>``."""

    network: str
    scenario: str
    seed: int

    @property
    def folder(self) -> Path:
        """Where the cell lies below ``models/`` and ``evaluations/``."""
        return Path(self.network) / self.scenario / f"seed-{self.seed}"

    @classmethod
    def of(cls, folder: Path) -> Cell:
        """Return the cell that a folder ending in ``<network>/<scenario>/seed-<seed>`` belongs to.

        Raises:
            UserError: the folder does not end so.
        """
        match folder.parts[-3:]:
            case network, scenario, seed if seed.startswith("seed-") and seed[5:].isdecimal():
                return cls(network, scenario, int(seed[5:]))
        raise UserError(f"{folder}: not a cell's folder; it must end in <network>/<scenario>/seed-<number>")


# models/<cell>/: weights.safetensors, and
CONFIG = "config.json"  # what rebuilds the network and its input: model.predictor.Predictor reads it
# epoch, learning_rate, train_loss, train_dice, validation_loss, validation_dice, seconds, images_per_second
HISTORY = "history.csv"
# {params, manifest, files, code, weights}: the parameters, and SHA-256 of the cohort's manifest, of what was read, of
# the code and of the weights. Two equal runs leave the same bytes.
PROVENANCE = "provenance.json"
RUN = "run.json"  # mlflow_run_id, commit, dirty, seconds, hardware, versions: what differs between two equal runs

# evaluations/<cell>/:
ROWS = "rows.json"  # list of Row
CASES = "cases.csv"  # one row an image and kind of masks: id, site, label, split, masks, METRICS, tp, fp, fn, tn
SUMMARY = "metrics.json"  # {split: {metric_masks: figure}}: what `dvc metrics` shows
ROC = "roc.csv"  # fpr, tpr, threshold of the test split's pixels against original masks
# low, high, predicted, observed, pixels: how often a pixel of the test split is lung where the network says so with a
# probability from low to high (components.evaluate.calibration)
RELIABILITY = "reliability.csv"
# List of {file, xray, kind: worst | best | figure, id, site, label, dice, hd95}. Files lie in overlays/: ``xray`` is a
# grey PNG, once an X-ray, ``file`` a PNG of its size with regions in the colours below, transparent elsewhere.
OVERLAYS = "overlays.json"

# Regions laid over the grey X-ray, RGB 0 to 255: evaluate draws with these, report's legend names them. In ``figure``
# the ground truth's outline lies over the prediction, in ``worst`` and ``best`` no two regions meet.
DIFFERENCE_COLOURS = {"true positive": (0, 158, 115), "false positive": (230, 70, 20), "false negative": (250, 220, 60)}
FIGURE_COLOURS = {"ground truth": (190, 190, 190), "prediction": (220, 40, 40)}
