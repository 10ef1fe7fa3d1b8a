"""Summarise cases (one per image) to rows (one per group of images)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, cast

import numpy as np
import pandas as pd

from components.evaluate.scores import Scores, soft_of
from core.cell import Cell
from core.results import AGES, FEW, METRICS, ROW_METRICS, SEXES, Row, age_group
from model.curves import auc_of
from model.metrics import COUNTS, SoftCounts, dice_interval, mean_of, overlap_metrics, soft_dice

# Splits in metrics.json for `dvc metrics`; it also has the test split's areas under the risk-coverage curves.
SUMMARISED = ("validation", "test")
SHOWN = (
    *("dice", "stored_dice", "soft_dice_batch2", "precision", "recall", "auc"),
    *("hd95", "assd", "stored_hd95", "nsd2"),
)
Summary = dict[str, dict[str, dict[str, float | None]]]


class Group(NamedTuple):
    """The group of a row: one value or ``all`` for each field."""

    site: str = "all"
    label: str = "all"
    sex: str = "all"
    age: str = "all"


def summarise(scores: Scores, cell: Cell, resamples: int, seed: int) -> list[Row]:
    """Return the rows of one split and kind of masks, two per group: pooled and per image.

    The groups are: all images; each site, each label and each pair of both; each sex and each age group, for all images
    and for each site.

    Args:
        scores: the scores of the split.
        cell: network, scenario and seed.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.
    """
    rows: list[Row] = []
    cases = scores.cases
    for group, chosen in _groups(cases):
        part = cases[chosen]
        counts = {name: part[name].to_numpy(np.float64) for name in COUNTS}
        soft = soft_of(part)
        pooled = {name: float(v) for name, v in overlap_metrics({n: c.sum() for n, c in counts.items()}).items()}
        pooled["auc"] = auc_of(scores.histogram(part))
        pooled["soft_dice"] = float(soft_dice(SoftCounts(*soft), max(1, len(part)))[0])
        per_image = {name: mean_of(part[name].to_numpy(np.float64)) for name in METRICS}
        per_image["soft_dice_batch2"] = mean_of(soft_dice(soft, 2))
        for reduction, figures in (("pooled", pooled), ("per_image", per_image)):
            interval = dice_interval(counts, pooled=reduction == "pooled", resamples=resamples, seed=seed)
            value = {name: _or_none(figures.get(name, math.nan)) for name in ROW_METRICS}
            row = {
                "network": cell.network,
                "scenario": cell.scenario,
                "seed": cell.seed,
                "split": scores.split,
                **group._asdict(),
                "masks": scores.kind,
                "reduction": reduction,
                "n_images": len(part),
                "few": len(part) < FEW,
                "dice": value["dice"],
                "dice_ci95": None if interval is None else list(interval),
                **value,
            }
            rows.append(cast(Row, row))
    return rows


def _groups(cases: pd.DataFrame) -> Iterator[tuple[Group, np.ndarray]]:
    """Yield every group that has images, with a mask of its cases, bool (N,)."""
    ages = cases["age"].map(age_group)
    sites = ["all", *sorted(cases["site"].unique())]
    groups = [Group(site, label) for site in sites for label in ["all", *sorted(cases["label"].unique())]]
    for site in sites:
        groups += [*(Group(site, sex=sex) for sex in SEXES), *(Group(site, age=age) for age in AGES)]
    for group in groups:
        chosen = np.ones(len(cases), bool)
        for values, wanted in zip((cases["site"], cases["label"], cases["sex"], ages), group, strict=True):
            if wanted != "all":
                chosen &= (values == wanted).to_numpy(bool)
        if chosen.any():
            yield group, chosen


def of_all(row: Row) -> bool:
    """Return whether a row is the mean over all images of its split."""
    return (row["site"], row["label"], row["sex"], row["age"], row["reduction"]) == (*Group(), "per_image")


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def summary_figures(rows: list[Row]) -> Summary:
    """Return the content of ``metrics.json``: {split: {kind of masks: {metric: mean over all images}}}."""
    result: Summary = {}
    for row in filter(of_all, rows):
        if row["split"] in SUMMARISED:
            figures = {name: row[name] for name in SHOWN}  # type: ignore[literal-required]
            result.setdefault(row["split"], {})[row["masks"]] = figures
    return result
