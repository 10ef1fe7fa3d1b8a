"""Augmentation stays within bounds, repeats, and changes grey values as its parameters say."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.params import read_yaml
from model.training.augmentation import FRAME, Augmenter, Draw, step_generator
from model.training.recipe import Augmentation
from tests.conftest import ROOT

STILL = dict.fromkeys(Augmentation.model_fields, 0.0)
SHIPPED = Augmentation.model_validate(read_yaml(ROOT / "params.yaml")["train"]["augmentation"])
CPU = torch.device("cpu")
GREY = torch.arange(256, dtype=torch.uint8)


def augmenter(size: tuple[int, int], **changes: float) -> Augmenter:
    """One that does only what is asked for."""
    return Augmenter(Augmentation.model_validate(STILL | changes), size, CPU)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, shape, generator=generator(seed)).to(torch.uint8)


def rows(draw: Draw, chosen: Any) -> Draw:
    return {name: value[chosen] for name, value in draw.items()}


def changed(one: Augmenter, images: Tensor, masks: Tensor | None = None, seed: int = 0) -> tuple[Tensor, Tensor, Draw]:
    draw = one.draw(len(images), generator(seed))
    return *one.apply(images, torch.zeros_like(images) if masks is None else masks, draw), draw


# --- whatever the parameters ----------------------------------------------------------------------------------------

ANYTHING = st.builds(
    Augmentation,
    rotation=st.floats(0, 180),
    shear=st.floats(0, 89),
    zoom=st.floats(0, 0.99),
    aspect=st.floats(0, 0.99),
    gamma=st.floats(0, 4),
    contrast=st.floats(0, 0.99),
    blur=st.floats(0, 0.02),
    **{name: st.floats(0, 1) for name in ("shift", "flip", "brightness", "histogram", "shade", "noise")},
    **{name: st.floats(0, 1) for name in ("border", "label")},
)
SIZES = st.tuples(st.integers(8, 40), st.integers(8, 40))


@settings(max_examples=40, deadline=None)
@given(params=ANYTHING, size=SIZES, seed=st.integers(0, 2**62))
def test_masks_stay_binary_and_values_in_range(params: Augmentation, size: tuple[int, int], seed: int) -> None:
    one, images = Augmenter(params, size, CPU), noise(3, *size, seed=seed)
    masks = (noise(3, *size, seed=seed + 1) > 127).to(torch.uint8)
    before = images.clone(), masks.clone()
    moved, drawn, _ = changed(one, images, masks, seed)
    assert moved.shape == drawn.shape == (3, 1, *size)
    assert moved.dtype == drawn.dtype == torch.float32
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    assert moved.min() >= 0  # which no NaN is
    assert moved.max() <= 1
    assert torch.equal(images, before[0])
    assert torch.equal(masks, before[1])


@settings(max_examples=20, deadline=None)
@given(params=ANYTHING, seed=st.integers(0, 2**62), cuts=st.sampled_from([(1, 6), (2, 3), (3, 2), (6, 1)]))
def test_a_part_of_a_batch_is_changed_as_in_the_whole(params: Augmentation, seed: int, cuts: tuple[int, int]) -> None:
    one, images, masks = Augmenter(params, (24, 32), CPU), noise(6, 24, 32), noise(6, 24, 32) % 2
    whole, whole_masks, draw = changed(one, images, masks, seed)
    for part in torch.arange(6).chunk(cuts[0]):
        moved, drawn = one.apply(images[part], masks[part], rows(draw, part))
        torch.testing.assert_close(moved, whole[part], rtol=0, atol=1e-5)
        assert torch.equal(drawn, whole_masks[part])


def test_seed_and_step_repeat_and_tell_apart() -> None:
    one, images = Augmenter(SHIPPED, (32, 32), CPU), noise(4, 32, 32)
    again = Augmenter(SHIPPED, (32, 32), CPU)

    def moved(augment: Augmenter, seed: int, step: int) -> Tensor:
        return torch.cat(augment.apply(images, images % 2, augment.draw(4, step_generator(seed, step))))

    first = moved(one, 3, 7)
    moved(one, 3, 8)
    assert torch.equal(moved(one, 3, 7), first)
    assert torch.equal(moved(again, 3, 7), first)
    others = [moved(one, seed, step) for seed, step in ((3, 8), (4, 7), (7, 3))]
    assert not any(torch.equal(other, first) for other in others)


def test_every_image_is_changed_in_a_way_of_its_own() -> None:
    same = noise(1, 32, 32).expand(8, 32, 32)
    moved, drawn, _ = changed(Augmenter(SHIPPED, (32, 32), CPU), same, same % 2)
    assert len({tuple(image.flatten().tolist()) for image in moved}) == 8
    assert len({tuple(mask.flatten().tolist()) for mask in drawn}) == 8
    # Each part of the recipe by itself, too.
    for name, strength in (("gamma", 1.0), ("noise", 0.1), ("histogram", 1.0), ("shade", 0.5), ("blur", 0.02)):
        moved, _, _ = changed(augmenter((64, 64), **{name: strength}), noise(1, 64, 64).expand(8, 64, 64))
        assert len({tuple(image.flatten().tolist()) for image in moved}) == 8, name


@pytest.mark.parametrize("size", [(32, 32), (20, 48), (1, 1)])
def test_nothing_asked_for_changes_nothing(size: tuple[int, int]) -> None:
    images = noise(8, *size)
    moved, drawn, _ = changed(augmenter(size), images, images % 2)
    torch.testing.assert_close(moved[:, 0], images / 255, rtol=0, atol=1e-4)
    assert torch.equal(drawn[:, 0], (images % 2).float())


# --- grey values ----------------------------------------------------------------------------------------------------


def ramps(count: int) -> Tensor:
    """Pictures, uint8 (count, 16, 16), of all grey values in their order."""
    return GREY.view(1, 16, 16).expand(count, 16, 16)


def test_tone_changes_never_reverse_grey_values() -> None:
    one = augmenter((16, 16), gamma=4.0, contrast=0.9, brightness=1.0, histogram=1.0)
    moved, _, _ = changed(one, ramps(200))
    assert moved.flatten(1).diff(dim=1).min() >= -1e-6
    assert len(moved.unique(dim=0)) > 150


def test_gamma_is_a_power() -> None:
    moved, _, _ = changed(augmenter((16, 16), gamma=2.0), ramps(300))
    middle = slice(40, 216)  # where the logarithm tells them apart
    powers = moved.flatten(1)[:, middle].double().log() / (GREY[middle].double() / 255).log()
    assert ((powers - powers.mean(1, keepdim=True)).abs() < 1e-3 * powers).all()
    power = powers.mean(1)
    # As often darker as brighter, from 1/3 to 3.
    assert 1 / 3 - 1e-3 < power.min() < 0.36
    assert 2.8 < power.max() < 3 + 1e-3
    assert 0.4 < (power > 1).float().mean() < 0.6


def test_contrast_turns_about_the_middle_and_brightness_adds() -> None:
    grey = GREY.float() / 255
    moved, _, _ = changed(augmenter((16, 16), contrast=0.4), ramps(300))
    slopes = (moved.flatten(1)[:, 140] - moved.flatten(1)[:, 115]) / (grey[140] - grey[115])
    expected = (0.5 + slopes[:, None] * (grey - 0.5)).clamp(0, 1)
    torch.testing.assert_close(moved.flatten(1), expected, rtol=0, atol=1e-4)
    assert 0.6 - 1e-4 < slopes.min() < 0.62
    assert 1.38 < slopes.max() < 1.4 + 1e-4
    moved, _, _ = changed(augmenter((16, 16), brightness=0.3), ramps(300))
    added = moved.flatten(1)[:, 128] - grey[128]
    torch.testing.assert_close(moved.flatten(1), (grey + added[:, None]).clamp(0, 1), rtol=0, atol=1e-5)
    assert -0.3 - 1e-5 < added.min() < -0.28
    assert 0.28 < added.max() < 0.3 + 1e-5


def test_a_random_curve_bends_the_middle_and_keeps_the_ends() -> None:
    moved, _, draw = changed(augmenter((16, 16), histogram=1.0), ramps(300))
    moved = moved.flatten(1)
    assert moved[:, 0].abs().max() < 1e-4
    assert (moved[:, -1] - 1).abs().max() < 1e-4
    bend = (moved - GREY / 255).abs().amax(1)
    assert bend.max() > 0.4
    # Mixed in by a share that is drawn: none leaves the picture, all of it is the curve.
    curves = rows(draw, slice(0, 2)) | {"histogram": torch.tensor([0.0, 1.0])}
    one = augmenter((16, 16), histogram=1.0)
    still, bent = one.apply(ramps(2), torch.zeros(2, 16, 16, dtype=torch.uint8), curves)[0].flatten(1)
    torch.testing.assert_close(still, GREY / 255, rtol=0, atol=1e-4)
    places = torch.linspace(0, 255, draw["curve"].shape[1]).round().long()
    torch.testing.assert_close(bent[places], draw["curve"][1], rtol=0, atol=0.01)


def test_shade_drifts_slowly_within_its_bounds() -> None:
    flat = torch.full((200, 64, 48), 128, dtype=torch.uint8)
    moved, _, _ = changed(augmenter((64, 48), shade=0.4), flat)
    factor = moved[:, 0] / (128 / 255)
    drift = (factor - 1).abs()
    # Bicubic interpolation reaches beyond what is drawn, seldom.
    assert (drift <= 0.4).float().mean() > 0.95
    assert 0.4 < drift.max() < 0.6
    assert (factor.amax((1, 2)) - factor.amin((1, 2))).min() > 0.1
    assert factor.diff(dim=1).abs().max() < 0.1
    assert factor.diff(dim=2).abs().max() < 0.1


def test_noise_is_as_strong_as_drawn_and_has_no_bias() -> None:
    flat = torch.full((64, 64, 64), 128, dtype=torch.uint8)
    moved, _, draw = changed(augmenter((64, 64), noise=0.1), flat)
    apart = moved[:, 0] - 128 / 255
    torch.testing.assert_close(apart.std((1, 2)), draw["noise"], rtol=0.06, atol=1e-4)
    assert 0.09 < draw["noise"].max() <= 0.1
    assert draw["noise"].min() < 0.01
    assert (apart.mean((1, 2)) / draw["noise"]).abs().max() < 0.06
    # White: a pixel says nothing of its neighbour.
    white = apart / draw["noise"].view(-1, 1, 1)
    assert (white[:, 1:] * white[:, :-1]).mean((1, 2)).abs().max() < 0.1
    assert (white[:, :, 1:] * white[:, :, :-1]).mean((1, 2)).abs().max() < 0.1
    # Nor a picture of another, but for the few that are cut from the same place.
    alike = torch.corrcoef(white.flatten(1)) - torch.eye(64)
    assert (alike.abs() > 0.1).float().mean() < 0.01


def test_blur_spreads_a_point_and_leaves_a_flat_picture() -> None:
    one = augmenter((64, 64), blur=0.02)
    point = torch.zeros(40, 64, 64, dtype=torch.uint8)
    point[:, 30, 30] = 255
    moved, _, draw = changed(one, point)
    total = moved.sum((1, 2, 3))
    torch.testing.assert_close(total, torch.ones(40), rtol=1e-3, atol=1e-3)
    places = torch.arange(64) - 30.0
    for axis in (2, 3):
        spread = ((moved[:, 0].sum(5 - axis - 1) * places**2).sum(1) / total).sqrt()
        wide = draw["blur"] > 0.6
        torch.testing.assert_close(spread[wide], draw["blur"][wide], rtol=0.12, atol=0)
        # Below half a pixel nothing to speak of reaches the neighbours.
        assert spread[draw["blur"] < 0.2].max() < 0.05
    assert 1.2 < draw["blur"].max() <= 1.28
    flat = noise(40, 1, 1).expand(40, 64, 64)
    moved, _ = one.apply(flat, flat % 2, draw)
    torch.testing.assert_close(moved[:, 0], flat / 255, rtol=0, atol=1e-4)
    sharp = noise(40, 64, 64)
    moved, _ = one.apply(sharp, sharp % 2, draw | {"blur": torch.zeros(40)})
    torch.testing.assert_close(moved[:, 0], sharp / 255, rtol=0, atol=1e-4)


# --- frames and letters ---------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**62), size=SIZES, data=st.data())
def test_a_frame_covers_edges_but_no_lung(seed: int, size: tuple[int, int], data: st.DataObject) -> None:
    height, width = size
    masks = torch.zeros(8, height, width, dtype=torch.uint8)
    for mask in masks:
        (top, bottom), (left, right) = (sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in size)
        mask[top:bottom, left:right] = 1  # may be none, may be all
    images = noise(8, *size, seed=seed) // 2 + 64  # neither black nor white
    moved, drawn, _ = changed(augmenter(size, border=1.0), images, masks, seed)
    assert torch.equal(drawn[:, 0], masks.float())
    hidden = (moved[:, 0] - images / 255).abs() > 1e-3
    assert not hidden[masks > 0].any()
    assert set(moved[:, 0][hidden].unique().tolist()) <= {0.0, 1.0}
    # Whole rows and columns, from the edges inwards, no further than the largest frame.
    rows_hidden, columns_hidden = hidden.all(2), hidden.all(1)
    assert torch.equal(hidden, rows_hidden[:, :, None] | columns_hidden[:, None, :])
    for lines, side in ((rows_hidden, height), (columns_hidden, width)):
        reach = math.ceil(FRAME * side)
        assert not lines[:, reach : side - reach].any()


def test_frames_come_as_often_as_asked() -> None:
    grey, nowhere = torch.full((400, 32, 32), 128, dtype=torch.uint8), torch.zeros(400, 32, 32, dtype=torch.uint8)
    moved, _, draw = changed(augmenter((32, 32), border=0.5), grey, nowhere)
    framed = ((moved - 128 / 255).abs() > 1e-3).flatten(1).any(1)
    assert 0.4 < draw["framed"].float().mean() < 0.6
    assert not framed[~draw["framed"]].any()
    assert framed.float().mean() > 0.35  # some frames are of no width
    black, white = ((moved == value).flatten(1).any(1)[framed].float().mean() for value in (0, 1))
    assert black > 3 * white > 0


def test_letters_come_as_often_as_asked_and_stay_in_the_upper_third() -> None:
    dark, lung = torch.full((400, 96, 128), 40, dtype=torch.uint8), torch.ones(400, 96, 128, dtype=torch.uint8)
    moved, drawn, draw = changed(augmenter((96, 128), label=0.5), dark, lung)
    written = (moved[:, 0] - 40 / 255).abs() > 1e-3
    assert torch.equal(written.flatten(1).any(1), draw["labelled"])
    assert 0.42 < draw["labelled"].float().mean() < 0.58
    assert not written[:, 32:].any()
    assert written[:, :32].any(2).any(0).float().mean() > 0.9  # anywhere there
    assert written.any(1).any(0).float().mean() > 0.9
    assert (moved[:, 0] >= 40 / 255 - 1e-3).all()  # letters are bright
    assert moved[draw["labelled"]].amax((1, 2, 3)).min() > 0.5
    assert drawn.all()
    never, _, _ = changed(augmenter((96, 128), border=0.0, label=0.0), dark)
    torch.testing.assert_close(never[:, 0], dark / 255, rtol=0, atol=1e-4)
