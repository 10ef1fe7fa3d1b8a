"""What every network reads: squares of one size, whatever scanner, depth or contrast they come from."""

from __future__ import annotations

import cv2
import hypothesis.extra.numpy as arrays
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.preprocessing import INTERPOLATION, dilate, kernel_size, resize_mask, standardise

SIDES = st.integers(1, 40)
IMAGES = st.tuples(SIDES, SIDES).flatmap(lambda shape: arrays.arrays(np.uint16, shape, elements=st.integers(0, 4095)))
MASKS = st.tuples(SIDES, SIDES).flatmap(lambda shape: arrays.arrays(np.uint8, shape, elements=st.integers(0, 1)))
PERCENTILES = (0.5, 99.5)


def ramp(height: int, width: int) -> npt.NDArray[np.uint16]:
    return np.add.outer(np.arange(height) * 7, np.arange(width) * 11).astype(np.uint16)


@given(
    image=IMAGES,
    a=st.floats(0.01, 100),
    b=st.floats(-1e5, 1e5),
    interpolation=st.sampled_from(sorted(INTERPOLATION)),
)
def test_brightness_and_contrast_of_the_scanner_do_not_matter(
    image: npt.NDArray[np.uint16], a: float, b: float, interpolation: str
) -> None:
    one = standardise(image, 16, interpolation, PERCENTILES)
    other = standardise(a * image.astype(np.float64) + b, 16, interpolation, PERCENTILES)
    assert np.abs(one.astype(int) - other).max() <= 1


def test_depth_does_not_matter() -> None:
    eight = np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8)
    sixteen = eight.astype(np.uint16) * 257
    one, other = (standardise(image, 32, "area", PERCENTILES) for image in (eight, sixteen))
    assert np.abs(one.astype(int) - other).max() <= 1


@given(image=IMAGES, size=st.integers(1, 48), interpolation=st.sampled_from(sorted(INTERPOLATION)))
def test_any_image_becomes_a_square_that_uses_the_grey_scale(
    image: npt.NDArray[np.uint16], size: int, interpolation: str
) -> None:
    before = image.copy()
    square = standardise(image, size, interpolation, (0, 100))
    assert square.shape == (size, size)
    assert square.dtype == np.uint8
    assert (square.min(), square.max()) in ((0, 255), (0, 0))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("value", [0, 1, 57, 65535])
@pytest.mark.parametrize("interpolation", sorted(INTERPOLATION))
def test_a_constant_image_is_black(value: int, interpolation: str) -> None:
    assert not standardise(np.full((37, 53), value, np.uint16), 16, interpolation, PERCENTILES).any()


def test_an_image_that_is_constant_between_the_percentiles_is_black() -> None:
    image = np.full((64, 64), 57, np.uint16)
    image[0, 0] = 60000
    assert not standardise(image, 64, "area", PERCENTILES).any()


def test_the_percentiles_become_black_and_white() -> None:
    image = np.arange(100 * 100, dtype=np.uint16).reshape(100, 100)
    square = standardise(image, 100, "area", (10, 90))
    assert (square == 0).mean() == pytest.approx(0.1, abs=0.005)
    assert (square == 255).mean() == pytest.approx(0.1, abs=0.005)
    assert square[50, 0] == pytest.approx(127.5, abs=1)


def test_the_image_is_squashed_without_padding() -> None:
    image = np.zeros((40, 80), np.uint8)
    image[:, 40:] = 200
    expected = np.zeros((16, 16), np.uint8)
    expected[:, 8:] = 255
    np.testing.assert_array_equal(standardise(image, 16, "area", PERCENTILES), expected)
    np.testing.assert_array_equal(standardise(image.T, 16, "area", PERCENTILES), expected.T)


def test_area_averages_all_that_a_pixel_covers() -> None:
    image = np.random.default_rng(0).integers(0, 4096, (64, 96), dtype=np.uint16)
    mean = image.reshape(16, 4, 16, 6).mean(axis=(1, 3))
    expected = (mean - mean.min()) * 255 / (mean.max() - mean.min())
    assert np.abs(standardise(image, 16, "area", (0, 100)) - expected).max() <= 0.501


def test_interpolations_differ() -> None:
    image = np.random.default_rng(0).integers(0, 256, (61, 47), dtype=np.uint8)
    made = {standardise(image, 32, name, PERCENTILES).tobytes() for name in INTERPOLATION}
    assert len(made) == len(INTERPOLATION)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3), np.uint8), "two dimensions"),
        (np.zeros((0, 8), np.uint8), "at least one pixel"),
        (np.array([[0.0, np.nan]]), "not finite"),
        (np.array([[0.0, np.inf]]), "not finite"),
    ],
)
def test_what_is_no_grey_image_is_refused(image: npt.NDArray[np.uint8], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        standardise(image, 16, "area", PERCENTILES)


@given(mask=MASKS, size=st.integers(1, 48))
def test_a_mask_stays_a_mask(mask: npt.NDArray[np.uint8], size: int) -> None:
    square = resize_mask(mask, size)
    assert square.shape == (size, size)
    assert square.dtype == np.uint8
    assert set(np.unique(square)) <= set(np.unique(mask))


@given(mask=arrays.arrays(np.uint8, (16, 16), elements=st.integers(0, 1)), factor=st.integers(1, 5))
def test_a_mask_enlarged_by_a_whole_factor_comes_back(mask: npt.NDArray[np.uint8], factor: int) -> None:
    large = np.kron(mask, np.ones((factor, factor), np.uint8))
    np.testing.assert_array_equal(resize_mask(large, 16), mask)


def test_half_a_pixel_of_lung_is_lung() -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[:2, :1] = 1  # 2 of the 4 pixels under the first one
    mask[2:3, :1] = 1  # 1 of 4
    square = resize_mask(mask, 16)
    assert square[0, 0] == 1
    assert square.sum() == 1


@pytest.mark.parametrize(
    ("at_512", "size", "side"),
    [(15, 512, 15), (15, 256, 7), (15, 128, 3), (15, 64, 1), (15, 1024, 29), (0, 512, 1), (1, 512, 1), (16, 512, 15)],
)
def test_the_kernel_scales_to_the_nearest_odd_number(at_512: int, size: int, side: int) -> None:
    assert kernel_size(at_512, size) == side


@given(at_512=st.integers(0, 101), size=st.integers(1, 128).map(lambda n: 16 * n))
def test_no_odd_number_is_nearer_to_the_scaled_kernel(at_512: int, size: int) -> None:
    side, exact = kernel_size(at_512, size), at_512 * size / 512
    assert side % 2 == 1
    assert side >= 1
    assert abs(side - exact) <= 1 or side == 1


@given(mask=arrays.arrays(np.uint8, (24, 40), elements=st.integers(0, 1)), at_512=st.integers(0, 200))
def test_dilation_is_the_union_of_squares_about_the_lung(mask: npt.NDArray[np.uint8], at_512: int) -> None:
    down, across = (kernel_size(at_512, side) // 2 for side in (24, 40))
    expected = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        expected[max(0, y - down) : y + down + 1, max(0, x - across) : x + across + 1] = 1
    np.testing.assert_array_equal(dilate(mask, at_512), expected)


def test_dilation_at_512_is_the_papers_notebooks() -> None:
    mask = cv2.ellipse(np.zeros((512, 512), np.uint8), (256, 256), (70, 150), 0, 0, 360, 1, cv2.FILLED)
    expected = cv2.dilate(mask, np.ones((15, 15), np.uint8), iterations=1)
    np.testing.assert_array_equal(dilate(mask, 15), expected)


def test_the_same_image_gives_the_same_bytes() -> None:
    image = ramp(300, 200)
    one, other = (standardise(image.copy(), 128, "area", PERCENTILES).tobytes() for _ in range(2))
    assert one == other
