"""The overlay: an X-ray with the colours and letters of the patient's sides."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from model.inference.view import View
from serving.xray.drawing import COLOURS, LARGEST_SIDE, overlay
from serving.xray.reading import Xray
from tests.serving.test_predict_findings import chest, dicom


@pytest.mark.parametrize("shape", [(96, 80), (2400, 2000)])
def test_the_overlay_tints_each_lung_in_its_colour_and_nothing_else(shape: tuple[int, int]) -> None:
    picture, mask = chest(3, *shape)
    drawn = np.asarray(Image.open(io.BytesIO(overlay(Xray(picture, None, None, "png"), mask, View()))))
    assert max(drawn.shape[:2]) == min(LARGEST_SIDE, max(shape))
    height, width = drawn.shape[:2]
    left, right = (
        drawn[height // 2, round(width * 0.72)].astype(int),
        drawn[height // 2, round(width * 0.28)].astype(int),
    )
    assert left[2] - left[0] > 20, COLOURS["left"]
    assert right[0] - right[2] > 20, COLOURS["right"]
    assert np.ptp(drawn[2, 2]) == 0


@pytest.mark.parametrize("shape", [(96, 80), (322, 391), (2400, 2000), (400, 1600)])
@pytest.mark.parametrize("mirror", [False, True])
def test_the_overlay_has_a_letter_beside_each_lung(shape: tuple[int, int], mirror: bool) -> None:
    picture, mask = chest(3, *shape)
    header = dicom("R", "F") if mirror else None
    read = {}
    for name, view in (("plain", View()), ("doubt", View(mirrored=True))):
        drawn = cv2.imdecode(np.frombuffer(overlay(Xray(picture, None, header, "dicom"), mask, view), np.uint8), 1)
        height, width = drawn.shape[:2]
        half = width // 2
        ink = [(np.abs(drawn[..., ::-1] - np.array(COLOURS[side], int)).max(-1) < 40) for side in ("left", "right")]
        beside = np.ones((height, width), bool)
        small = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        beside[cv2.dilate(small, np.ones((5, 5), np.uint8)) > 0] = False
        letters = [each & beside for each in ink]
        if max(shape) > 96:  # else there is no room beside the lungs
            assert [bool(each[:, half:].any()) for each in letters] == [not mirror, mirror]
            assert [bool(each[:, :half].any()) for each in letters] == [mirror, not mirror]
            tall = [np.flatnonzero(each.any(1)) for each in letters]
            assert all(each[-1] - each[0] >= 7 for each in tall), "they can be read"
        read[name] = [int(each.sum()) for each in letters]
    assert all(doubt > plain for plain, doubt in zip(read["plain"], read["doubt"], strict=True)), "a question mark"


def test_the_overlay_names_no_side_where_the_sides_are_unknown() -> None:
    picture, mask = chest(3, 322, 391)
    drawn = np.asarray(Image.open(io.BytesIO(overlay(Xray(picture, None, None, "png"), mask, View(frontal=False)))))
    near = cv2.dilate(mask, np.ones((5, 5), np.uint8)) > 0
    np.testing.assert_array_equal(np.ptp(drawn[~near], axis=-1), 0)
    inside = drawn[cv2.erode(mask, np.ones((5, 5), np.uint8)) > 0].astype(int)
    assert (inside[:, 1] > inside[:, 0]).all(), "green"
    assert (inside[:, 1] > inside[:, 2]).all()
