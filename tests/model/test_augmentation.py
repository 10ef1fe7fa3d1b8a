"""Augmentation moves an X-ray and its mask alike, and repeats."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from components.sample import draw_xray
from model.augmentation import augmenter
from model.recipe import Augmentation

STILL = {"rotation": 0.0, "shift": 0.0, "shear": 0.0, "zoom": 0.0, "flip": 0.0}


def moves(**changes: float) -> Augmentation:
    return Augmentation.model_validate(STILL | changes)


@pytest.fixture(scope="module")
def lungs() -> Tensor:
    """Masks (8, 1, 128, 128) of 0 and 1: two lungs that differ, so that a flip is seen."""
    drawn = [draw_xray("shenzhen", number, scale=0.4) for number in (1, 2)]
    masks = [cv2.resize(x.left | x.right, (128, 128), interpolation=cv2.INTER_NEAREST) > 0 for x in drawn]
    return torch.from_numpy(np.stack(masks * 4)).unsqueeze(1).float()


@settings(max_examples=20, deadline=None)
@given(
    rotation=st.floats(0, 180),
    shift=st.floats(0, 0.3),
    shear=st.floats(0, 40),
    zoom=st.floats(0, 0.5),
    flip=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_masks_stay_binary_and_values_in_range(seed: int, **changes: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(3, 1, 32, 48, generator=generator)
    masks = (torch.rand(3, 1, 32, 48, generator=generator) > 0.5).float()
    torch.manual_seed(seed)
    moved, moved_masks = augmenter(moves(**changes))(images, masks)
    assert moved.shape == moved_masks.shape == images.shape
    assert set(moved_masks.unique().tolist()) <= {0.0, 1.0}
    assert moved.min() >= -1e-5
    assert moved.max() <= 1 + 1e-5


@pytest.mark.parametrize(
    "params",
    [
        moves(rotation=40.0),
        moves(shift=0.2),
        moves(shear=20.0),
        moves(zoom=0.3),
        moves(flip=0.5),
        moves(rotation=30.0, shift=0.1, shear=10.0, zoom=0.2, flip=0.5),
    ],
    ids=["rotation", "shift", "shear", "zoom", "flip", "all"],
)
def test_image_and_mask_move_together(params: Augmentation, lungs: Tensor) -> None:
    torch.manual_seed(0)
    moved, moved_masks = augmenter(params)(lungs.clone(), lungs.clone())
    # They differ only by the interpolation: less than a pixel wide, along the outline.
    apart = (moved >= 0.5) != (moved_masks > 0)
    assert apart.float().mean() < 0.004
    assert (moved - moved_masks).abs().sum() < 0.08 * moved_masks.sum()
    assert not torch.equal(moved_masks, lungs)


def test_every_image_moves_in_a_way_of_its_own(lungs: Tensor) -> None:
    torch.manual_seed(0)
    _, moved = augmenter(moves(rotation=20.0, shift=0.1))(lungs, lungs)
    assert len({tuple(mask.flatten().tolist()) for mask in moved}) == len(moved)


def test_a_flip_alone_is_exactly_a_flip(lungs: Tensor) -> None:
    images = torch.rand(lungs.shape, generator=torch.Generator().manual_seed(0))
    moved, moved_masks = augmenter(moves(flip=1.0))(images, lungs)
    torch.testing.assert_close(moved, images.flip(-1), rtol=0, atol=1e-5)
    assert torch.equal(moved_masks, lungs.flip(-1))


def test_nothing_asked_for_changes_nothing(lungs: Tensor) -> None:
    images = torch.rand(lungs.shape, generator=torch.Generator().manual_seed(0))
    moved, moved_masks = augmenter(moves())(images, lungs)
    torch.testing.assert_close(moved, images, rtol=0, atol=1e-5)
    assert torch.equal(moved_masks, lungs)


def test_seed_repeats(lungs: Tensor) -> None:
    augment = augmenter(moves(rotation=30.0, shift=0.1, shear=10.0, zoom=0.2, flip=0.5))

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat(augment(lungs, lungs))

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))


def test_from_outside_comes_black_and_no_lung() -> None:
    torch.manual_seed(0)
    images, masks = torch.ones(16, 1, 32, 32), torch.ones(16, 1, 32, 32)
    moved, moved_masks = augmenter(moves(shift=0.5))(images, masks)
    assert (moved == 0).any()
    assert (moved_masks == 0).any()
    assert not moved_masks[moved == 0].any()
    assert ((moved_masks == 0) != (moved < 0.5)).float().mean() < 0.01  # but for ties along the edge
