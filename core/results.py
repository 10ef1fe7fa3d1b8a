"""What evaluations say: the row of ``results.json``, its metrics and groups, and the colours of the pictures."""

from __future__ import annotations

from typing import TypedDict

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


# Regions laid over the grey X-ray, RGB 0 to 255: evaluate draws with these, report's legend names them. In ``figure``
# the ground truth's outline lies over the prediction, in ``worst`` and ``best`` no two regions meet.
DIFFERENCE_COLOURS = {"true positive": (0, 158, 115), "false positive": (230, 70, 20), "false negative": (250, 220, 60)}
FIGURE_COLOURS = {"ground truth": (190, 190, 190), "prediction": (220, 40, 40)}
