"""Loss functions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from model.training.distributed import summed
from model.training.recipe import LossParams


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the Dice loss of a batch (the paper, Eq. 2), from -1 (perfect) to just below 0.

    The sums are over all pixels of the batch, including those of other processes, in float32 for any precision of the
    network.

    Args:
        logits: (N, 1, H, W), any real number.
        masks: (N, 1, H, W), 0 to 1.
    """
    p, g = logits.float().sigmoid(), masks.float()
    both, true, predicted = summed((g * p).sum(), g.square().sum(), p.square().sum())
    return -(2 * both + 1) / (true + predicted + 1)


def cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the binary cross-entropy in nats, mean over all pixels of the batch, including other processes.

    Args:
        logits: (N, 1, H, W), any real number.
        masks: (N, 1, H, W), 0 to 1.
    """
    total = F.binary_cross_entropy_with_logits(logits.float(), masks.float(), reduction="sum")
    # Filled on the device: copying a number to it would make the host wait for the forward pass.
    total, pixels = summed(total, total.new_full((), logits.numel()))
    return total / pixels


def compound_loss(logits: Tensor, masks: Tensor, weights: LossParams) -> Tensor:
    """Return the weighted sum of :func:`dice_loss` and :func:`cross_entropy`; terms of weight 0 are not computed."""
    terms = []
    if weights.dice:
        terms.append(weights.dice * dice_loss(logits, masks))
    if weights.cross_entropy:
        terms.append(weights.cross_entropy * cross_entropy(logits, masks))
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
