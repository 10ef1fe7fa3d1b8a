"""ROC curves and areas from histograms are those of the pixels themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn import metrics as sk
from torchmetrics.functional.classification import binary_auroc

from model.curves import BINS, EDGES, auc_of, class_histogram, roc_curve

Mask = NDArray[np.uint8]
quick = settings(max_examples=60, deadline=None)
shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@quick
@given(
    shapes.flatmap(
        lambda s: st.tuples(
            hnp.arrays(np.float32, s, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])),
            hnp.arrays(np.uint8, s, elements=st.integers(0, 1)),
        )
    )
)
def test_roc_area_is_the_chance_that_lung_is_rated_higher(pair: tuple[NDArray[np.float32], Mask]) -> None:
    rated, mask = pair
    got = auc_of(class_histogram(rated, mask))
    lung, other = rated[mask > 0], rated[mask == 0]
    if not lung.size or not other.size:
        assert math.isnan(got)
        return
    difference = lung[:, None] - other[None]
    assert got == pytest.approx(((difference > 0) + 0.5 * (difference == 0)).mean())
    assert got == pytest.approx(float(binary_auroc(torch.tensor(rated), torch.tensor(mask).long())), abs=1e-6)


@quick
@given(
    hnp.arrays(np.float32, (3, 40), elements=st.floats(0, 1, width=32)),
    hnp.arrays(np.uint8, (3, 40), elements=st.integers(0, 1)),
)
def test_histograms_count_every_pixel_once_and_add_up(rated: NDArray[np.float32], masks: Mask) -> None:
    whole = class_histogram(rated, masks)
    assert whole.shape == (2, BINS)
    assert whole.sum(axis=1).tolist() == [(masks == 0).sum(), (masks == 1).sum()]
    assert (whole == sum(class_histogram(p, m) for p, m in zip(rated, masks, strict=True))).all()
    bins = np.repeat(np.arange(BINS), whole[1])
    lung = np.sort(rated[masks > 0]).astype(float)
    assert (EDGES[bins] <= lung).all()
    assert (lung <= EDGES[bins + 1]).all()


def test_bins_are_narrow_where_a_trained_network_has_its_pixels() -> None:
    assert (np.diff(EDGES) >= 0).all()
    assert EDGES[[0, -1]].tolist() == [0, 1]
    assert np.diff(EDGES).max() <= 0.5 / 1024 * 1.001
    near_0 = EDGES[:-1] < 0.001
    assert np.diff(EDGES)[near_0].max() < 1e-6


def test_the_area_is_the_exact_one_to_a_ten_thousandth() -> None:
    random = np.random.default_rng(0)
    for spread in (1.0, 4.0, 10.0):  # the last is as sure as a trained network: most pixels lie at 0 and 1
        masks = (random.random((4, 128, 128)) < 0.25).astype(np.uint8)
        logits = spread * (masks * 2.0 - 1 + random.normal(0, 1, masks.shape))
        rated = (1 / (1 + np.exp(-logits))).astype(np.float32)
        exact = float(binary_auroc(torch.tensor(rated).ravel(), torch.tensor(masks).long().ravel()))
        assert auc_of(class_histogram(rated, masks)) == pytest.approx(exact, abs=1e-4)
        pooled = sum(class_histogram(p, m) for p, m in zip(rated, masks, strict=True))
        assert auc_of(np.asarray(pooled)) == auc_of(class_histogram(rated, masks))


def test_the_curve_is_that_of_the_pixels() -> None:
    random = np.random.default_rng(1)
    masks = (random.random(5000) < 0.3).astype(np.uint8)
    rated = np.clip(0.3 * masks + random.random(5000) * 0.7, 0, 1).astype(np.float32)
    curve = roc_curve(class_histogram(rated, masks), 101)
    fpr, tpr, _ = sk.roc_curve(masks, rated)
    assert curve["fpr"].tolist() == np.linspace(0, 1, 101).tolist()
    # Where a step of the exact curve stands at one of the points, either end of it is right.
    assert np.abs(curve["tpr"][1:] - np.interp(curve["fpr"][1:], fpr, tpr)).max() < 0.005
    assert (np.diff(curve["threshold"]) <= 0).all()
    for at, wanted, threshold in zip(curve["fpr"][1:-1], curve["tpr"][1:-1], curve["threshold"][1:-1], strict=True):
        assert (rated[masks == 0] >= threshold).mean() == pytest.approx(at, abs=0.01)
        assert (rated[masks > 0] >= threshold).mean() == pytest.approx(wanted, abs=0.01)
