"""Masks keep their largest components, whole, and gain nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from model.inference.postprocessing import at_size, to_masks

EIGHT = np.ones((3, 3))
Masks = npt.NDArray[np.uint8]

probabilities = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 3), st.integers(1, 12), st.integers(1, 12)),
    elements=st.floats(0, 1, width=32),
)
thresholds = st.floats(0.0625, 0.9375, width=32)


def areas(mask: Masks) -> list[int]:
    labels, count = ndimage.label(mask, EIGHT)
    return [int((labels == number).sum()) for number in range(1, count + 1)]


@settings(max_examples=100, deadline=None)
@given(p=probabilities, threshold=thresholds, keep=st.integers(1, 4))
def test_the_largest_components_are_kept_whole(p: npt.NDArray[np.float32], threshold: float, keep: int) -> None:
    everything, masks = to_masks(p, threshold, 0), to_masks(p, threshold, keep)
    assert masks.dtype == everything.dtype == np.uint8
    assert masks.shape == p.shape
    assert np.array_equal(everything, p >= threshold)
    for whole, kept in zip(everything, masks, strict=True):
        assert not (kept > whole).any()
        assert sorted(areas(kept)) == sorted(areas(whole))[-keep:]
        # No piece of a component that is dropped stays, none of one that is kept goes.
        labels, count = ndimage.label(whole, EIGHT)
        assert all(len(np.unique(kept[labels == number])) == 1 for number in range(1, count + 1))
        if count <= keep:
            assert np.array_equal(kept, whole)


def test_two_lungs_stay_and_specks_go() -> None:
    lungs = np.zeros((1, 20, 20), np.float32)
    lungs[0, 4:16, 3:8] = lungs[0, 4:16, 12:17] = 0.9
    specked = lungs.copy()
    specked[0, 0, 0] = specked[0, 18:20, 18:20] = 0.9
    assert np.array_equal(to_masks(specked, 0.5, 2), to_masks(lungs, 0.5, 0))
    assert to_masks(specked, 0.5, 1).sum() == 60
    assert to_masks(specked, 0.5, 3).sum() == 124
    assert np.array_equal(to_masks(specked, 0.5, 0), specked > 0)


def test_pixels_that_touch_at_a_corner_belong_together() -> None:
    p = np.zeros((1, 6, 6), np.float32)
    p[0, 0, 0] = p[0, 1, 1] = p[0, 2, 2] = 1  # three pixels, one component
    p[0, 5, 4:6] = 1
    assert np.array_equal(np.argwhere(to_masks(p, 0.5, 1)[0]), [[0, 0], [1, 1], [2, 2]])


def test_of_equals_the_upper_one_stays() -> None:
    p = np.zeros((1, 9, 9), np.float32)
    p[0, 0, 6:8] = p[0, 4, 0:2] = p[0, 8, 3:5] = 1
    assert np.argwhere(to_masks(p, 0.5, 2)[0])[:, 0].tolist() == [0, 0, 4, 4]


@pytest.mark.parametrize("keep", [0, 2])
def test_a_probability_at_the_threshold_is_lung(keep: int) -> None:
    p = np.array([[[0.5, np.nextafter(np.float32(0.5), np.float32(0)), 0, 0.7]]], np.float32)
    assert to_masks(p, 0.5, keep).tolist() == [[[1, 0, 0, 1]]]


@settings(max_examples=100, deadline=None)
@given(p=probabilities, keep=st.integers(0, 3), least=st.floats(0, 1))
def test_components_below_their_share_of_the_largest_go(p: npt.NDArray[np.float32], keep: int, least: float) -> None:
    for kept, cleaned in zip(to_masks(p, 0.5, keep), to_masks(p, 0.5, keep, least), strict=True):
        sizes = areas(kept)
        assert sorted(areas(cleaned)) == sorted(size for size in sizes if size >= least * max(sizes))
        assert not (cleaned > kept).any()


@settings(max_examples=100, deadline=None)
@given(p=probabilities, keep=st.integers(0, 3))
def test_holes_are_those_that_scipy_fills(p: npt.NDArray[np.float32], keep: int) -> None:
    for kept, filled in zip(to_masks(p, 0.5, keep), to_masks(p, 0.5, keep, 0.0, True), strict=True):
        assert np.array_equal(filled, ndimage.binary_fill_holes(kept))


def test_the_speck_of_a_lung_goes_and_its_hole_is_filled() -> None:
    p = np.zeros((1, 20, 30), np.float32)
    p[0, 4:16, 3:8] = p[0, 4:16, 22:27] = 0.9
    clean = p.copy()
    p[0, 8, 5] = 0.1
    alone = p.copy()
    alone[0, 4:16, 22:27] = 0
    alone[0, 1:3, 25:28] = 0.9  # six pixels, the lung has sixty
    assert np.array_equal(to_masks(p, 0.5, 2, 0.2, True), to_masks(clean, 0.5, 0))
    assert to_masks(p, 0.5, 2, 0.2).sum() == 119
    assert to_masks(alone, 0.5, 2).sum() == 59 + 6
    assert to_masks(alone, 0.5, 2, 0.2).sum() == 59
    assert to_masks(alone, 0.5, 2, 0.1).sum() == 59 + 6


def test_probabilities_at_another_size_stay_among_their_own() -> None:
    square = np.random.default_rng(0).random((8, 8), np.float32)
    full = at_size(square, (20, 33))
    assert full.shape == (20, 33)
    assert square.min() <= full.min() <= full.max() <= square.max()
    assert np.array_equal(at_size(square, (8, 8)), square)
