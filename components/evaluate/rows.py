"""From probabilities to figures: one line an image, then one row a group of images."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from components.results import METRICS, Cell, Row
from model.metrics import (
    COUNTS,
    OVERLAP,
    confusion,
    dice_interval,
    mean_of,
    overlap_metrics,
    roc_auc,
    surface_distances,
)


def score_cases(
    manifest: pd.DataFrame,
    split: str,
    kind: str,
    probabilities: np.ndarray,
    predicted: np.ndarray,
    masks: np.ndarray,
) -> pd.DataFrame:
    """Return one row an image: id, site, label, split, masks, the metrics and the pixel counts.

    Args:
        manifest: the N images' rows of the cohort's manifest.
        split: train, validation or test.
        kind: original or dilated.
        probabilities: float32 (N, H, W), 0 to 1, for the ROC area.
        predicted: uint8 (N, H, W), 0 or 1: what :func:`model.postprocessing.to_masks` made of them.
        masks: uint8 (N, H, W), 0 or 1, of that kind.
    """
    counts = confusion(predicted, masks)
    frame = manifest[["id", "site", "label"]].reset_index(drop=True)
    frame["split"], frame["masks"] = split, kind
    aucs = np.array([roc_auc(p, m) for p, m in zip(probabilities, masks, strict=True)])
    figures = {**overlap_metrics(counts), "auc": aucs, **surface_distances(predicted, masks)}
    return frame.assign(**{name: figures[name] for name in METRICS}, **{n: counts[n].astype(np.int64) for n in COUNTS})


def summarise(
    cases: pd.DataFrame, cell: Cell, probabilities: np.ndarray, masks: np.ndarray, resamples: int, seed: int
) -> list[Row]:
    """Return the rows of one split and kind of masks: over all images, by site, by label, by both; each reduced twice.

    Args:
        cases: what :func:`score_cases` returned for N images.
        cell: which network, scenario and seed.
        probabilities: float32 (N, H, W), for the pooled ROC area.
        masks: uint8 (N, H, W), 0 or 1.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    rows: list[Row] = []
    for site, label, chosen in _groups(cases):
        group = cases[chosen]
        counts = {name: group[name].to_numpy(np.float64) for name in COUNTS}
        totals = {name: values.sum() for name, values in counts.items()}
        pooled = {name: float(value) for name, value in overlap_metrics(totals).items()}
        pooled["auc"] = roc_auc(probabilities[chosen], masks[chosen])
        per_image = {name: mean_of(group[name].to_numpy(np.float64)) for name in METRICS}
        for reduction, figures in (("pooled", pooled), ("per_image", per_image)):
            interval = dice_interval(counts, pooled=reduction == "pooled", resamples=resamples, seed=seed)
            value = {name: _or_none(figures.get(name, math.nan)) for name in METRICS}
            row: Row = {
                "network": cell.network,
                "scenario": cell.scenario,
                "seed": cell.seed,
                "split": str(group["split"].iloc[0]),
                "site": site,
                "label": label,
                "masks": str(group["masks"].iloc[0]),
                "reduction": reduction,
                "n_images": len(group),
                "dice": value["dice"],
                "dice_ci95": None if interval is None else list(interval),
                "accuracy": value["accuracy"],
                "jaccard": value["jaccard"],
                "precision": value["precision"],
                "recall": value["recall"],
                "f1": value["f1"],
                "auc": value["auc"],
                "paper_iou": value["paper_iou"],
                "hd95": value["hd95"],
                "assd": value["assd"],
            }
            rows.append(row)
    return rows


def _groups(cases: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray]]:
    for site in ["all", *sorted(cases["site"].unique())]:
        for label in ["all", *sorted(cases["label"].unique())]:
            chosen = np.ones(len(cases), bool)
            if site != "all":
                chosen &= (cases["site"] == site).to_numpy(bool)
            if label != "all":
                chosen &= (cases["label"] == label).to_numpy(bool)
            if chosen.any():
                yield site, label, chosen


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def summary_figures(rows: list[Row]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return what ``dvc metrics`` shows: {split: {kind of masks: {metric: mean over all images}}}."""
    result: dict[str, dict[str, dict[str, float | None]]] = {}
    for row in rows:
        if (row["site"], row["label"], row["reduction"]) == ("all", "all", "per_image"):
            figures = {name: row[name] for name in (*OVERLAP, "auc", "hd95", "assd")}  # type: ignore[literal-required]
            result.setdefault(row["split"], {})[row["masks"]] = figures
    return result
