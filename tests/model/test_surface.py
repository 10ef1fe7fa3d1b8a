"""Distances between outlines are MONAI's, and an empty mask never looks better than a bad one."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from monai.metrics.surface_distance import compute_average_surface_distance
from monai.metrics.utils import get_edge_surface_distance
from numpy.typing import NDArray
from scipy import ndimage

from model.surface import gap, surface_distances, tolerance_at

Mask = NDArray[np.uint8]
shapes = st.tuples(st.integers(1, 16), st.integers(1, 16))
slow = settings(max_examples=80, deadline=None)


def binary() -> st.SearchStrategy[tuple[Mask, Mask]]:
    """Pairs of masks of one shape, specks and whole regions among them."""
    specks = shapes.flatmap(lambda s: st.tuples(*[hnp.arrays(np.uint8, s, elements=st.integers(0, 1))] * 2))
    return st.one_of(specks, specks.map(lambda pair: (thick(pair[0]), thick(pair[1]))))


def thick(mask: Mask) -> Mask:
    return np.asarray(ndimage.binary_opening(mask, np.ones((2, 2))), np.uint8)


def monai(predicted: Mask, mask: Mask) -> tuple[float, float, float]:
    """MONAI's HD95 and ASSD, and the HD95 of MONAI's distances: its own percentile takes their ranks in float32."""
    pair = [torch.tensor(each, dtype=torch.float32)[None, None] for each in (predicted, mask)]
    whole = [torch.tensor(each > 0) for each in (predicted, mask)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95)
        assd = compute_average_surface_distance(*pair, include_background=True, symmetric=True)
        found = get_edge_surface_distance(*whole, symmetric=True)[1]
    exact = max(np.percentile(np.asarray(each, np.float64), 95) for each in found)
    return float(hd95), float(assd), float(exact)


@slow
@given(binary())
@example((np.ones((5, 5), np.uint8), np.pad(np.ones((1, 1), np.uint8), 2)))
def test_surface_distances_are_those_of_monai(pair: tuple[Mask, Mask]) -> None:
    assume(pair[0].any() and pair[1].any())
    got = surface_distances(pair[0][None], pair[1][None])
    hd95, assd, exact = monai(*pair)
    assert got["hd95"][0] == pytest.approx(exact, rel=1e-6, abs=1e-6)
    assert got["hd95"][0] == pytest.approx(hd95, rel=1e-4, abs=1e-4)
    assert got["assd"][0] == pytest.approx(assd, rel=1e-6, abs=1e-6)
    back = surface_distances(pair[1][None], pair[0][None])
    assert [back["hd95"][0], back["assd"][0]] == pytest.approx([got["hd95"][0], got["assd"][0]])


def outline(mask: Mask) -> NDArray[np.bool_]:
    return (mask > 0) & ~ndimage.binary_erosion(mask > 0)


@slow
@given(binary())
def test_surface_distances_are_those_of_distance_maps(pair: tuple[Mask, Mask]) -> None:
    assume(pair[0].any() and pair[1].any())
    p, g = outline(pair[0]), outline(pair[1])
    to_mask, to_prediction = ndimage.distance_transform_edt(~g)[p], ndimage.distance_transform_edt(~p)[g]
    apart = gap(*pair)
    assert np.sort(apart.to_truth) == pytest.approx(np.sort(to_mask))
    assert np.sort(apart.to_prediction) == pytest.approx(np.sort(to_prediction))
    assert max(apart.to_truth.max(), apart.to_prediction.max()) < apart.diagonal


@slow
@given(binary(), st.floats(0, 200))
def test_surface_dice_is_that_of_monai(pair: tuple[Mask, Mask], tolerance: float) -> None:
    assume(pair[0].any() and pair[1].any())
    limit = tolerance_at(tolerance, pair[0].shape)
    # MONAI rounds distances to float32: a tolerance that is one of them may fall on either side.
    distances = np.concatenate(gap(*pair)[:2])
    assume(np.abs(distances - limit).min() > 1e-5)
    masks = [torch.tensor(each)[None, None] for each in pair]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = compute_surface_dice(*masks, class_thresholds=[limit], include_background=True)
    got = gap(*pair).nsd(limit)
    assert got == pytest.approx(float(wanted), abs=1e-6)
    assert 0 <= got <= 1
    assert gap(*pair).nsd(tolerance_at(tolerance + 1, pair[0].shape)) >= got


def test_tolerances_are_of_a_512_pixel_picture() -> None:
    assert tolerance_at(2, (512, 512)) == 2
    assert tolerance_at(2, (128, 128)) == 0.5
    assert tolerance_at(4, (256, 1024)) == 4


def lungs() -> tuple[Mask, Mask, Mask]:
    left, right, nothing = (np.zeros((20, 30), np.uint8) for _ in range(3))
    left[5:15, 3:10] = 1
    right[5:15, 7:14] = 1  # four pixels to the right
    return left, right, nothing


def test_surface_distances_of_shapes_that_one_knows() -> None:
    left, right, _ = lungs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = surface_distances(np.stack([left, left]), np.stack([left, right]))
    assert got["hd95"][0] == got["assd"][0] == 0
    assert got["hd95"][1] == 4
    assert 0 < got["assd"][1] < 4
    assert gap(left, right).nsd(4) == 1
    assert gap(left, right).nsd(3.9) < 1


def test_an_empty_mask_is_as_far_as_can_be() -> None:
    left, _, nothing = lungs()
    # As bad as a prediction can be: a pixel in the farthest corner.
    corner = nothing.copy()
    corner[-1, -1] = 1
    bad = surface_distances(corner[None], left[None])
    for predicted, truth in ((nothing, left), (left, nothing)):
        got = surface_distances(predicted[None], truth[None])
        assert got["hd95"][0] == got["assd"][0] == pytest.approx(math.hypot(20, 30))
        assert got["hd95"][0] > bad["hd95"][0]
        assert got["assd"][0] > bad["assd"][0]
        assert gap(predicted, truth).nsd(1000) == 0


def test_two_empty_masks_agree() -> None:
    nothing = np.zeros((2, 8, 8), np.uint8)
    for values in surface_distances(nothing, nothing).values():
        assert values.tolist() == [0, 0]
    assert gap(*nothing).nsd(2) == 1


def test_masks_of_two_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="two masks of one picture"):
        gap(np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8))
