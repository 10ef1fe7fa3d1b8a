"""Risk-coverage curves: quality of the masks at each coverage, by the network's confidence.

Source: Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017, with 1 - Dice as the
risk of an image.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

CONFIDENCES = ("mirror_agreement", "expected_dice")


def risk_curves(cases: pd.DataFrame) -> pd.DataFrame:
    """Return the risk-coverage curves for all confidence measures, concatenated.

    Args:
        cases: cases of the test images against original masks, at least one; ties keep their order.

    Returns:
        ``by``, one of :data:`CONFIDENCES`; ``images``, the number of most confident images; ``coverage``, their share,
        above 0 to 1; ``stored_dice``, their mean Dice.
    """
    curves = []
    dice, images = cases["stored_dice"].to_numpy(np.float64), np.arange(1, len(cases) + 1)
    for name in CONFIDENCES:
        order = np.argsort(-cases[name].to_numpy(np.float64), kind="stable")
        columns = {"by": name, "images": images, "coverage": images / len(cases)}
        curves.append(pd.DataFrame({**columns, "stored_dice": np.cumsum(dice[order]) / images}))
    return pd.concat(curves, ignore_index=True)


def risk_areas(curves: pd.DataFrame) -> dict[str, float]:
    """Return ``aurc_<confidence>``, the area under each curve: the mean of 1 - Dice over all coverages, 0 to 1."""
    return {
        f"aurc_{name}": float((1 - curve["stored_dice"].to_numpy()).mean())
        for name, curve in curves.groupby("by", sort=False)
    }
