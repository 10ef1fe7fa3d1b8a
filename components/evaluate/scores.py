"""Accumulate the metrics of one split against one kind of masks, one case per image, without storing pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import pandas as pd

from core.results import METRICS, age_group
from model.curves import BINS, Counts, auc_of, class_histogram
from model.metrics import (
    COUNTS,
    SoftCounts,
    confusion,
    expected_dice,
    overlap_metrics,
    soft_counts,
    soft_dice,
)
from model.surface import surface_distances

PERSON = ("site", "label", "sex", "age_group")  # keys of the groups
SOFT = ("soft_overlap", "soft_square")


class Scores:
    """The metrics of one split against one kind of masks.

    Args:
        split: train, validation or test.
        kind: original or dilated.

    Attributes:
        histograms: the histograms of the pixels, int64 (2, BINS), by site, label, sex and age group.
    """

    def __init__(self, split: str, kind: str) -> None:
        self.split, self.kind = split, kind
        self._parts: list[pd.DataFrame] = []
        self.histograms: defaultdict[tuple[str, ...], Counts] = defaultdict(lambda: np.zeros((2, BINS), np.int64))

    def add(
        self,
        manifest: pd.DataFrame,
        probabilities: np.ndarray,
        predicted: np.ndarray,
        masks: np.ndarray,
        more: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Score a batch of images.

        Args:
            manifest: the N images' rows of the cohort's manifest.
            probabilities: float32 (N, H, W), 0 to 1.
            predicted: post-processed masks, uint8 (N, H, W), 0 or 1.
            masks: ground truth of this kind, uint8 (N, H, W), 0 or 1.
            more: further metrics by name, float64 (N,), for example at the stored size; missing ones are NaN.
        """
        frame = manifest[["id", "site", "label", "sex", "age"]].reset_index(drop=True)
        frame["age"] = frame["age"].to_numpy(np.float64, na_value=np.nan)
        frame["split"], frame["masks"] = self.split, self.kind
        counts, soft = confusion(predicted, masks), soft_counts(probabilities, masks)
        figures = {
            **dict.fromkeys(METRICS, np.full(len(frame), np.nan)),
            **overlap_metrics(counts),
            **surface_distances(predicted, masks),
            "soft_dice": soft_dice(soft),
            "expected_dice": expected_dice(probabilities, predicted),
            **(more or {}),
        }
        auc = []
        for person, p, m in zip(zip(*_person(frame), strict=True), probabilities, masks, strict=True):
            pixels = class_histogram(p, m)
            self.histograms[person] += pixels
            auc.append(auc_of(pixels))
        figures["auc"] = np.array(auc)
        self._parts.append(
            frame.assign(
                **{name: figures[name] for name in METRICS},
                **{name: counts[name].astype(np.int64) for name in COUNTS},
                **{"soft_overlap": soft.overlap, "soft_square": soft.square},
            )
        )

    @property
    def newest(self) -> pd.DataFrame:
        """The cases of the last batch."""
        return self._parts[-1]

    @property
    def cases(self) -> pd.DataFrame:
        """One row per image in the order of addition, with the columns of ``cases.csv``; empty without images."""
        return pd.concat(self._parts, ignore_index=True) if self._parts else pd.DataFrame()

    def extend(self, cases: pd.DataFrame, histograms: Mapping[tuple[str, ...], Counts]) -> None:
        """Add the cases and histograms of other images, accumulated by another process."""
        if len(cases):
            self._parts.append(cases)
        for person, pixels in histograms.items():
            self.histograms[person] += pixels

    def histogram(self, group: pd.DataFrame) -> Counts:
        """Return the histogram of a group's pixels by class and probability (:func:`model.curves.class_histogram`).

        A group must have all or none of the images of each site, label, sex and age group.
        """
        people = set(zip(*_person(group), strict=True))
        total = np.zeros((2, BINS), np.int64)
        for person in people:
            total += self.histograms[person]
        return total


def _person(frame: pd.DataFrame) -> list[list[str]]:
    return [[str(value) for value in frame[name]] for name in PERSON[:3]] + [[age_group(age) for age in frame["age"]]]


def soft_of(cases: pd.DataFrame) -> SoftCounts:
    """Return the sums of the paper's Eq. 2 for some cases."""
    overlap, square = (cases[name].to_numpy(np.float64) for name in SOFT)
    return SoftCounts(overlap, square, (cases["tp"] + cases["fn"]).to_numpy(np.float64))
