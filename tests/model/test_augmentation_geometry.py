"""Image and mask move alike, as far and as often as the parameters say, on pictures of any shape."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.model.test_augmentation import augmenter, changed, generator, noise
from tools.sample import draw_xray


@pytest.fixture(scope="module")
def lungs() -> Tensor:
    """Masks, uint8 (8, 128, 128): two lungs that differ, so that a flip is seen."""
    drawn = [draw_xray("shenzhen", number, scale=0.4) for number in (1, 2)]
    masks = [cv2.resize(x.left | x.right, (128, 128), interpolation=cv2.INTER_NEAREST) > 0 for x in drawn]
    return torch.from_numpy(np.stack(masks * 4)).to(torch.uint8)


def motion(size: tuple[int, int], count: int = 400, **changes: float) -> tuple[Tensor, Tensor]:
    """What pictures are seen to go through, pixels about their centre: matrices (N, 2, 2) and shifts (N, 2) of (x, y).

    Three blobs, in the centre, right of it and below it, are looked for where they have gone.
    """
    height, width = size
    one = augmenter(size, **changes)
    draw = one.draw(count, generator())
    ys, xs = torch.meshgrid(
        torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij"
    )
    reach, seen = min(size) / 8, []
    for x, y in ((0.0, 0.0), (reach, 0.0), (0.0, reach)):
        blob = torch.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * 1.5**2)) * 255
        images = blob.round().to(torch.uint8).expand(count, height, width)
        moved = one.apply(images, images, draw)[0][:, 0]
        seen.append(torch.stack([(moved * at).sum((1, 2)) for at in (xs, ys)], 1) / moved.sum((1, 2))[:, None])
    centre, right, below = seen
    return torch.stack([right - centre, below - centre], 2) / reach, centre


SQUARE_AND_NOT = pytest.mark.parametrize("size", [(64, 64), (64, 112), (96, 64)])
UNMOVED = torch.eye(2)


def near(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found - expected).abs().max() < tolerance)


def assert_spread(values: Tensor, low: float, high: float) -> None:
    """They fill a range, and evenly."""
    width = high - low
    assert low - 0.02 * width < values.min() < low + 0.03 * width
    assert high - 0.03 * width < values.max() < high + 0.02 * width
    counts = torch.histc(values, 4, low, high) / len(values)
    assert counts.min() > 0.18
    assert counts.max() < 0.32


@SQUARE_AND_NOT
def test_rotation_is_one_in_pixels(size: tuple[int, int]) -> None:
    matrices, shifts = motion(size, rotation=50.0)
    assert near(matrices.transpose(1, 2) @ matrices, UNMOVED, 0.05)
    assert near(torch.linalg.det(matrices), torch.ones(400), 0.05)
    assert near(shifts, torch.zeros(2), 0.1)
    assert_spread(torch.rad2deg(torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0])), -50, 50)


@SQUARE_AND_NOT
def test_shift_is_a_share_of_each_side(size: tuple[int, int]) -> None:
    matrices, shifts = motion(size, shift=0.2)
    assert near(matrices, UNMOVED, 0.03)
    assert_spread(shifts[:, 0] / size[1], -0.2, 0.2)
    assert_spread(shifts[:, 1] / size[0], -0.2, 0.2)


@SQUARE_AND_NOT
def test_zoom_scales_both_sides(size: tuple[int, int]) -> None:
    matrices, shifts = motion(size, zoom=0.4)
    scale = matrices[:, 0, 0]
    assert near(matrices, scale[:, None, None] * UNMOVED, 0.05)
    assert near(shifts, torch.zeros(2), 0.1)
    assert_spread(scale, 0.6, 1.4)


@SQUARE_AND_NOT
def test_aspect_changes_height_over_width_alone(size: tuple[int, int]) -> None:
    matrices, shifts = motion(size, aspect=0.4)
    across, down = matrices[:, 0, 0], matrices[:, 1, 1]
    assert near(matrices, torch.diag_embed(torch.stack([across, down], 1)), 0.03)
    assert near(across * down, torch.ones(400), 0.05)
    assert near(shifts, torch.zeros(2), 0.1)
    assert_spread(down / across, 0.6, 1.4)


@SQUARE_AND_NOT
def test_shear_slants_what_is_upright(size: tuple[int, int]) -> None:
    matrices, shifts = motion(size, shear=30.0)
    assert near(matrices[:, :, 0], torch.tensor([1.0, 0.0]), 0.03)
    assert near(matrices[:, 1, 1], torch.ones(400), 0.03)
    assert near(shifts, torch.zeros(2), 0.1)
    assert_spread(torch.rad2deg(torch.atan(matrices[:, 0, 1])), -30, 30)


@SQUARE_AND_NOT
def test_flip_mirrors_left_and_right_as_often_as_asked(size: tuple[int, int]) -> None:
    matrices, _ = motion(size, flip=0.3)
    flipped = matrices[:, 0, 0] < 0
    assert near(matrices[flipped], torch.diag(torch.tensor([-1.0, 1.0])), 0.02)
    assert near(matrices[~flipped], UNMOVED, 0.02)
    assert 0.22 < flipped.float().mean() < 0.38


def test_a_flip_alone_is_exactly_a_flip(lungs: Tensor) -> None:
    images = noise(*lungs.shape)
    moved, drawn, _ = changed(augmenter((128, 128), flip=1.0), images, lungs)
    torch.testing.assert_close(moved[:, 0], images.flip(-1) / 255, rtol=0, atol=1e-4)
    assert torch.equal(drawn[:, 0], lungs.flip(-1).float())


def test_places_by_hand() -> None:
    """``theta`` leads from places of the result to places of the source, -1 to 1."""
    one, images = augmenter((8, 16)), noise(3, 8, 16)
    draw = one.draw(3, generator())
    draw["theta"] = torch.tensor(
        [
            [[1.0, 0, -0.5], [0, 1, 0.25]],  # from 4 pixels to the left, from 1 pixel below
            [[-1.0, 0, 0], [0, -1, 0]],  # half a turn
            [[0, 0.5, 0], [-2.0, 0, 0]],  # a quarter in pixels, clockwise
        ]
    )
    moved = one.apply(images, images % 2, draw)[0][:, 0] * 255
    expected = torch.zeros(3, 8, 16)
    expected[0, :7, 4:] = images[0, 1:, :-4]
    expected[1] = images[1].flip(0, 1)
    expected[2, :, 4:12] = images[2, :, 4:12].rot90(-1)
    torch.testing.assert_close(moved, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    "moves",
    [
        {"rotation": 40.0},
        {"shift": 0.2},
        {"shear": 20.0},
        {"zoom": 0.3},
        {"aspect": 0.3},
        {"flip": 0.5},
        {"rotation": 30.0, "shift": 0.1, "shear": 10.0, "zoom": 0.2, "aspect": 0.2, "flip": 0.5},
    ],
    ids=lambda moves: "-".join(moves),
)
def test_image_and_mask_move_together(moves: dict[str, float], lungs: Tensor) -> None:
    moved, drawn, _ = changed(augmenter((128, 128), **moves), lungs * 255, lungs)
    # They differ only by the interpolation: less than a pixel wide, along the outline.
    assert ((moved >= 0.5) != (drawn > 0)).float().mean() < 0.004
    assert (moved - drawn).abs().sum() < 0.08 * drawn.sum()
    assert not torch.equal(drawn[:, 0], lungs.float())


def test_from_outside_comes_black_and_no_lung() -> None:
    full = torch.ones(16, 32, 32, dtype=torch.uint8)
    moved, drawn, _ = changed(augmenter((32, 32), shift=0.5), full * 255, full)
    assert (moved == 0).any()
    assert not drawn[moved == 0].any()
    assert ((drawn == 0) != (moved < 0.5)).float().mean() < 0.01  # but for ties along the edge
