"""Risk-coverage curves: quality of the masks at each coverage, by the network's confidence."""

from __future__ import annotations

import numpy as np
import pandas as pd

from model.selective import aurc, risk_coverage

CONFIDENCES = ("mirror_agreement", "expected_dice")


def risk_curves(cases: pd.DataFrame) -> pd.DataFrame:
    """Return the risk-coverage curves for all confidence measures, concatenated.

    Args:
        cases: cases of the test images against original masks; ties keep their order.

    Returns:
        ``by``, one of :data:`CONFIDENCES`; ``images``, the number of most confident images; ``coverage``, their share,
        above 0 to 1; ``stored_dice``, their mean Dice.
    """
    curves = []
    dice = cases["stored_dice"].to_numpy(np.float64)
    for name in CONFIDENCES:
        curve = risk_coverage(cases[name].to_numpy(np.float64), dice)
        columns = {"by": name, "images": np.arange(1, len(cases) + 1), "coverage": curve["coverage"]}
        curves.append(pd.DataFrame({**columns, "stored_dice": curve["quality"]}))
    return pd.concat(curves, ignore_index=True)


def risk_areas(cases: pd.DataFrame) -> dict[str, float]:
    """Return ``aurc_<confidence>``, the area under each curve of :func:`risk_curves`, with risk = 1 - Dice."""
    dice = cases["stored_dice"].to_numpy(np.float64)
    return {f"aurc_{name}": aurc(cases[name].to_numpy(np.float64), dice) for name in CONFIDENCES}
