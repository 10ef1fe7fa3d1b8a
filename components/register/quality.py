"""Calibrate the expected Dice on validation images, and measure it on test images."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from core.cell import CASES
from core.errors import UserError
from model.inference.package import PERCENTILES
from model.inference.quality import COVERAGE, Quality, calibrate, doubts

POOR = 0.9  # Dice below which a mask needs review
COLUMNS = ("split", "masks", "dice", "stored_dice", "mirror_agreement", "expected_dice")


def fit_quality(evaluation: Path, kind: str, *, flip: bool) -> tuple[Quality, dict[str, Any]]:
    """Return the calibration on a cell's validation images, and its accuracy on the test images.

    Args:
        evaluation: output of evaluate.
        kind: the masks that the network was trained on, ``original`` or ``dilated``.
        flip: whether probabilities are the mean with the mirrored prediction.

    Returns:
        The calibration; and ``images``, ``mean_error`` (mean absolute error), ``spearman``, ``auroc`` of Dice below
        :data:`POOR`, ``poor`` (number of such images), ``coverage`` (share of images not below the bound) and
        ``aimed`` (intended coverage), by test site and for ``all``. An undefined value is None.

    Raises:
        UserError: the evaluation has no validation images, or lacks a column.
    """
    cases = pd.read_csv(evaluation / CASES)
    if missing := [name for name in COLUMNS if name not in cases]:
        raise UserError(f"{evaluation / CASES}: columns missing: {', '.join(missing)}; run the evaluate step again")
    cases = cases[cases["masks"] == kind]
    validation, test = (cases[cases["split"] == name] for name in ("validation", "test"))
    if validation.empty:
        raise UserError(f"{evaluation / CASES}: no validation images; add validation to evaluate.splits")
    doubt = _doubt(validation, flip)
    quality = calibrate(doubt, _dice(validation))
    expected = [quality.estimate(float(each))[0] for each in doubt]
    quality = replace(quality, expected=[round(float(each), 6) for each in np.percentile(expected, PERCENTILES)])
    sites = {"all": test} | {str(site): rows for site, rows in test.groupby("site") if test["site"].nunique() > 1}
    return quality, {site: _measured(quality, _doubt(rows, flip), _dice(rows)) for site, rows in sites.items()}


def _doubt(cases: pd.DataFrame, flip: bool) -> npt.NDArray[np.float64]:
    agreed = cases["mirror_agreement"].to_numpy(np.float64) if flip else None
    return doubts(cases["expected_dice"].to_numpy(np.float64), agreed)


def _dice(cases: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return the Dice at the stored size, at which ``predict`` writes masks; at the network's size if unknown."""
    return cases["stored_dice"].fillna(cases["dice"]).to_numpy(np.float64)


def _measured(
    quality: Quality, doubt: npt.NDArray[np.float64], dice: npt.NDArray[np.float64]
) -> dict[str, float | int | None]:
    from scipy.stats import mannwhitneyu, spearmanr

    expected, low = np.array([quality.estimate(float(each)) for each in doubt]).T
    poor = dice < POOR
    both = 0 < poor.sum() < len(dice)
    varied = len(dice) > 2 and np.ptp(doubt) > 0 and np.ptp(dice) > 0
    # The area under the ROC curve is Mann and Whitney's U divided by the number of pairs.
    pairs = int(poor.sum() * (~poor).sum())
    figures = {
        "images": len(dice),
        "poor": int(poor.sum()),
        "mean_error": float(np.abs(expected - dice).mean()),
        "spearman": float(spearmanr(expected, dice).statistic) if varied else math.nan,
        "auroc": float(mannwhitneyu(doubt[poor], doubt[~poor]).statistic) / pairs if both else math.nan,
        "coverage": float((dice >= low).mean()),
        "aimed": COVERAGE,
    }
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in figures.items()}
