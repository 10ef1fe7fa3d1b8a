"""Calibration of the networks' probabilities: the expected calibration error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np
import pandas as pd

from components.report import paper
from components.report.layout import Column, Figure, Group, Line, Results, Table, scenario_title
from components.report.load import Evaluated


def expected_calibration_error(bins: pd.DataFrame) -> float:
    """Return the expected calibration error (ECE); NaN without pixels.

    ECE = sum over bins of (pixels / all pixels) * abs(observed - predicted). Source: Naeini, Cooper and Hauskrecht,
    "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015; Guo et al., ICML 2017, Eq. 3.

    Args:
        bins: the bins of :func:`components.evaluate.calibration.reliability`.

    Returns:
        0 to 1, smaller is better.
    """
    filled = bins[bins["pixels"] > 0]
    if filled.empty:
        return math.nan
    apart = (filled["observed"] - filled["predicted"]).abs()
    return float(np.average(apart, weights=filled["pixels"]))


def calibration_table(cells: Sequence[Evaluated], results: Results) -> Table:
    """Return the table of the expected calibration error by network and scenario, mean over seeds."""
    errors = {data.cell: expected_calibration_error(data.reliability) for data in cells if data.reliability is not None}
    lines = []
    for network in results.networks():
        figures = []
        for scenario in results.scenarios:
            found = [errors[cell] for cell in results.seeds(network, scenario) if cell in errors]
            spread = stdev(found) if len(found) > 1 else None
            figures.append(Figure(fmean(found) if found else None, deviation=spread))
        lines.append(Line((paper.name(network),), figures))
    return Table(
        "calibration",
        "Expected calibration error",
        "Mean distance between predicted probability and observed share of lung over all test pixels, in "
        f"{_bins(cells)} bins of equal width; 0 is best. Most pixels lie far from any outline: it is small "
        "if a network is certain about those.",
        ("Network",),
        [Column(scenario_title(scenario)) for scenario in results.scenarios],
        [Group("", lines)],
    )


def _bins(cells: Sequence[Evaluated]) -> str:
    counts = sorted({len(data.reliability) for data in cells if data.reliability is not None})
    return " or ".join(map(str, counts))
