"""What evaluations say: the row of ``results.json``, and the files that train and evaluate leave for each cell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from components.errors import UserError

# Of every image, and of every row as their mean; docs/evaluation.md defines each.
METRICS = (
    *("dice", "accuracy", "jaccard", "precision", "recall", "f1", "auc", "paper_iou", "hd95", "assd"),
    *("soft_dice", "stored_dice", "stored_hd95", "stored_assd", "nsd2", "nsd4", "mirror_agreement", "expected_dice"),
)
ROW_METRICS = (*METRICS, "soft_dice_batch2")
FEW = 20  # images; the interval of fewer is not reliable
SEXES = ("F", "M")
AGES = ("<18", "18-60", ">60")  # years


class Row(TypedDict):
    """One line of every table. ``None`` stands where a figure is not defined, never 0 or 1 in its place.

    ``reduction`` is ``pooled`` (pixels of all images counted together) or ``per_image`` (mean over images). ``site``
    and ``label`` are ``all`` or one of them, ``sex`` is ``all`` or one of :data:`SEXES`, ``age`` ``all`` or one of
    :data:`AGES`; of label, sex and age no two are other than ``all``. ``masks`` is ``original`` or ``dilated``. ``few``
    says that there are fewer than :data:`FEW` images. ``hd95`` and ``assd`` are in pixels at the network's size,
    ``stored_hd95`` and ``stored_assd`` in pixels of the stored picture. ``soft_dice_batch2`` is the soft Dice of
    consecutive batches of 2 images, mean over batches. Pooled are the overlaps, ``auc`` and ``soft_dice`` alone.
    """

    network: str
    scenario: str
    seed: int
    split: str
    site: str
    label: str
    sex: str
    age: str
    masks: str
    reduction: str
    n_images: int
    few: bool
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
    soft_dice: float | None
    stored_dice: float | None
    stored_hd95: float | None
    stored_assd: float | None
    nsd2: float | None
    nsd4: float | None
    mirror_agreement: float | None
    expected_dice: float | None
    soft_dice_batch2: float | None


# What rows of an earlier version lack, and how they are read.
ADDED: dict[str, object] = {
    **{"sex": "all", "age": "all", "few": False},
    **dict.fromkeys((*METRICS[10:], "soft_dice_batch2")),
}


def age_group(years: float | None) -> str:
    """Return which of :data:`AGES` somebody of this age belongs to, empty where it is not known."""
    if years is None or years != years:
        return ""
    return AGES[0] if years < 18 else AGES[1] if years <= 60 else AGES[2]


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
HISTORY = "history.csv"  # epoch, learning_rate, train_loss, train_dice, validation_loss, validation_dice, size
# {params, manifest, files, code, weights}: the parameters, and SHA-256 of the cohort's manifest, of what was read, of
# the code and of the weights. Two equal runs leave the same bytes.
PROVENANCE = "provenance.json"
# {params, manifest, files, code}, the same of an evaluation; ``files`` has the weights that were scored.
SCORED = "scored.json"
# mlflow_run_id, commit, dirty, seconds, per_epoch, hardware, versions, and the SHA-256 of the weights that it tells of:
# what differs between two equal runs. DVC does not track it; :func:`components.runs.read_run` reads it.
RUN = "run.json"

# evaluations/<cell>/:
ROWS = "rows.json"  # list of Row
# One row an image and kind of masks: id, site, label, sex, age, split, masks, METRICS, tp, fp, fn, tn, and the sums of
# which soft Dice is made: soft_overlap (probability times mask), soft_square (squared probability).
CASES = "cases.csv"
SUMMARY = "metrics.json"  # {validation or test: {kind of masks: {metric: figure}}}: what `dvc metrics` shows
SPLIT = "split.json"  # the frozen split that the cell was trained on: ids of train, validation and test
# by (mirror_agreement or expected_dice), images, coverage, stored_dice: the mean of the test images that are kept,
# those first of which the network is most sure, against original masks
RISK = "risk_coverage.csv"
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
