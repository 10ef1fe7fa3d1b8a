"""The format of evaluation results: the row of ``results.json``, metrics, groups and colours of overlays."""

from __future__ import annotations

from typing import TypedDict

# Metrics of an image; a row has their means. docs/evaluation.md defines them.
METRICS = (
    *("dice", "accuracy", "jaccard", "precision", "recall", "f1", "auc", "paper_iou", "hd95", "assd"),
    *("soft_dice", "stored_dice", "stored_hd95", "stored_assd", "nsd2", "nsd4", "mirror_agreement", "expected_dice"),
)
ROW_METRICS = (*METRICS, "soft_dice_batch2")
FEW = 20  # images; with fewer the confidence interval is not reliable
SEXES = ("F", "M")
AGES = ("<18", "18-60", ">60")  # years


class Row(TypedDict):
    """One row of the result tables. An undefined metric is ``None``, never 0 or 1.

    ``reduction`` is ``pooled`` (over the pixels of all images) or ``per_image`` (mean over images). ``site``,
    ``label``, ``sex`` (:data:`SEXES`) and ``age`` (:data:`AGES`) are one value or ``all``; at most one of label, sex
    and age is not ``all``. ``masks`` is ``original`` or ``dilated``. ``few`` is True for fewer than :data:`FEW` images.
    ``hd95`` and ``assd`` are in pixels at the network's size, ``stored_hd95`` and ``stored_assd`` in pixels of the
    stored image. ``soft_dice_batch2`` is the soft Dice of consecutive batches of 2 images, mean over batches. Only
    overlap metrics, ``auc`` and ``soft_dice`` have pooled values.
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


# Keys that rows of earlier releases lack, and their defaults.
ADDED: dict[str, object] = {
    **{"sex": "all", "age": "all", "few": False},
    **dict.fromkeys((*METRICS[10:], "soft_dice_batch2")),
}


def age_group(years: float | None) -> str:
    """Return the group in :data:`AGES` of an age in years, empty if it is None or NaN."""
    if years is None or years != years:
        return ""
    return AGES[0] if years < 18 else AGES[1] if years <= 60 else AGES[2]


# Colours of overlay regions, RGB 0 to 255, for evaluate and for report's legend. In ``figure`` the ground truth's
# outline is drawn over the prediction; in ``worst`` and ``best`` regions do not overlap.
DIFFERENCE_COLOURS = {"true positive": (0, 158, 115), "false positive": (230, 70, 20), "false negative": (250, 220, 60)}
FIGURE_COLOURS = {"ground truth": (190, 190, 190), "prediction": (220, 40, 40)}
