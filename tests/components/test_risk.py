"""Risk-coverage curves follow their definition."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from components.evaluate.risk import CONFIDENCES, risk_areas, risk_curves

quick = settings(max_examples=60, deadline=None)
columns = st.integers(1, 12).flatmap(
    lambda n: st.tuples(*[hnp.arrays(np.float64, n, elements=st.floats(0, 1)) for _ in range(3)])
)


@quick
@given(columns)
def test_the_curve_is_the_mean_of_the_most_confident(found: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    dice = found[0]
    cases = pd.DataFrame(dict(zip(("stored_dice", *CONFIDENCES), found, strict=True)))
    curves = risk_curves(cases)
    areas = risk_areas(curves)
    for name, confidence in zip(CONFIDENCES, found[1:], strict=True):
        curve = curves[curves["by"] == name]
        order = sorted(range(len(dice)), key=lambda n: -confidence[n])
        means = [np.mean([dice[n] for n in order[: number + 1]]) for number in range(len(dice))]
        assert curve["images"].tolist() == list(range(1, len(dice) + 1))
        assert curve["coverage"].tolist() == pytest.approx(curve["images"] / len(dice))
        assert curve["stored_dice"].tolist() == pytest.approx(means)
        assert areas[f"aurc_{name}"] == pytest.approx(1 - np.mean(means))


@quick
@given(columns)
def test_no_order_has_a_smaller_area_than_that_of_the_dice(found: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    dice = found[0]

    def area(confidence: np.ndarray) -> float:
        cases = pd.DataFrame({"stored_dice": dice} | dict.fromkeys(CONFIDENCES, confidence))
        return risk_areas(risk_curves(cases))[f"aurc_{CONFIDENCES[0]}"]

    assert 0 <= area(dice) <= area(found[1]) + 1e-12
    assert area(found[1]) <= area(-dice) + 1e-12
