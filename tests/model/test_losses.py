"""The Dice loss is the paper's Eq. 2, by hand and in half precision."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.losses import dice_loss


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
