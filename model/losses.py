"""What training minimises."""

from __future__ import annotations

from torch import Tensor


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the classic Dice loss of a batch (the paper, Eq. 2), from -1 (perfect) to just below 0.

    The sums run over all pixels of the batch together, and are taken in float32 whatever the precision of the network.

    Args:
        logits: (N, 1, H, W), any real number.
        masks: (N, 1, H, W), 0 to 1.
    """
    p, g = logits.float().sigmoid(), masks.float()
    return -(2 * (g * p).sum() + 1) / (g.square().sum() + p.square().sum() + 1)
