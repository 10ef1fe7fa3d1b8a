"""The Dice loss is the paper's Eq. 2, cross-entropy is PyTorch's, and what is minimised is their weighted sum."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.training.losses import compound_loss, cross_entropy, dice_loss
from model.training.recipe import LossParams


def test_by_hand() -> None:
    # p = 0.5, 0.75, 0.25, 0.5 against g = 1, 1, 0, 0: -(2 (0.5 + 0.75) + 1) / (2 + 0.25 + 0.5625 + 0.0625 + 0.25 + 1)
    logits = torch.tensor([0.0, math.log(3), -math.log(3), 0.0]).reshape(1, 1, 2, 2)
    masks = torch.tensor([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 2, 2)
    assert dice_loss(logits, masks).item() == pytest.approx(-3.5 / 4.125)


def test_sums_run_over_the_batch_together() -> None:
    logits, masks = torch.randn(3, 1, 4, 4), (torch.rand(3, 1, 4, 4) > 0.5).float()
    side_by_side = dice_loss(logits.reshape(1, 1, 12, 4), masks.reshape(1, 1, 12, 4))
    torch.testing.assert_close(dice_loss(logits, masks), side_by_side)


@pytest.mark.parametrize("lung", [0.0, 0.3, 1.0])
def test_perfect_is_minus_one(lung: float) -> None:
    masks = (torch.rand(2, 1, 8, 8) < lung).float()
    assert dice_loss((masks - 0.5) * 200, masks).item() == pytest.approx(-1)


def test_all_wrong_is_just_below_zero() -> None:
    masks = torch.ones(1, 1, 64, 64)
    assert -0.001 < dice_loss(torch.full_like(masks, -100), masks).item() < 0


@settings(max_examples=50, deadline=None)
@given(scale=st.floats(0.01, 60_000), seed=st.integers(0, 2**31), lung=st.floats(0, 1))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_neither_overflows_nor_loses_the_gradient(
    dtype: torch.dtype, scale: float, seed: int, lung: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Sums of 65,536 ones are beyond float16 (65,504) and beyond bfloat16's whole numbers (256).
    masks = (torch.rand(1, 1, 256, 256, generator=generator) < lung).float()
    logits = (torch.rand(masks.shape, generator=generator) * 2 - 1).mul(scale).to(dtype).requires_grad_()
    loss = dice_loss(logits, masks)
    loss.backward()
    assert loss.dtype == torch.float32
    assert -1 - 1e-6 <= loss.item() < 0
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    p, g = logits.detach().double().sigmoid(), masks.double()
    exact = -(2 * (p * g).sum() + 1) / ((p * p).sum() + (g * g).sum() + 1)
    assert loss.item() == pytest.approx(exact.item(), abs=1e-5)


def test_gradient_is_that_of_the_formula() -> None:
    masks = (torch.rand(2, 1, 3, 3) > 0.5).double()
    logits = torch.randn(2, 1, 3, 3, requires_grad=True)
    dice_loss(logits, masks).backward()
    p = logits.detach().double().sigmoid()
    over, under = 2 * (p * masks).sum() + 1, (p * p).sum() + (masks * masks).sum() + 1
    # The quotient rule, then the derivative of the sigmoid.
    by_hand = -(2 * masks * under - over * 2 * p) / under**2 * p * (1 - p)
    torch.testing.assert_close(logits.grad, by_hand.float())


def example(seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 1, 5, 7, generator=generator).mul(scale).requires_grad_()
    return logits, (torch.rand(logits.shape, generator=generator) > 0.6).float()


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, logits)
    return found


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 1000))
def test_cross_entropy_is_pytorchs(seed: int, scale: float) -> None:
    logits, masks = example(seed, scale)
    found, expected = cross_entropy(logits, masks), F.binary_cross_entropy_with_logits(logits, masks)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient(found, logits), gradient(expected, logits))


def test_cross_entropy_by_hand() -> None:
    # p = 0.5, 0.75, 0.25 against g = 1, 1, 1: the mean of ln 2, ln 4/3 and ln 4
    logits = torch.tensor([0.0, math.log(3), -math.log(3)]).reshape(1, 1, 1, 3)
    assert cross_entropy(logits, torch.ones_like(logits)).item() == pytest.approx(math.log(2 * 4 / 3 * 4) / 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cross_entropy_is_added_up_in_full_precision(dtype: torch.dtype) -> None:
    # 262,144 pixels of 2 to 60 each: the sum is beyond float16, and its addends are lost in bfloat16.
    generator = torch.Generator().manual_seed(0)
    logits = (torch.rand(1, 1, 512, 512, generator=generator) * 58 + 2).to(dtype)
    loss = cross_entropy(logits, torch.zeros_like(logits))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(F.softplus(logits.double()).mean().item(), rel=1e-5)


@pytest.mark.parametrize(("dice", "entropy"), [(1.0, 1.0), (0.25, 3.0), (2.0, 0.0), (0.0, 0.5)])
def test_compound_is_the_weighted_sum(dice: float, entropy: float) -> None:
    logits, masks = example()
    found = compound_loss(logits, masks, LossParams(dice=dice, cross_entropy=entropy))
    expected = dice * dice_loss(logits, masks) + entropy * cross_entropy(logits, masks)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient(found, logits), gradient(expected, logits))


def test_a_term_without_weight_cannot_spoil_the_loss() -> None:
    logits, masks = torch.full((1, 1, 2, 2), -math.inf), torch.ones(1, 1, 2, 2)
    assert not math.isfinite(cross_entropy(logits, masks).item())
    assert math.isfinite(compound_loss(logits, masks, LossParams(dice=1.0, cross_entropy=0.0)).item())
