"""Replacements for BatchNorm. Feature maps are float (N, C, H, W)."""

from __future__ import annotations

from torch import Tensor, nn

MOST_GROUPS = 8


class InstanceNorm(nn.InstanceNorm2d):
    """InstanceNorm (Ulyanov et al. 2016) with scale and shift, without running statistics, also for single pixels.

    PyTorch's raises on maps of one pixel, which images of 16 x 16 pixels or fewer have at the bottom of a network. One
    pixel equals its mean, so the output is the shift.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__(channels, eps, affine=True, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        if x.shape[-2:] == (1, 1):
            return (x - x) * self.weight[:, None, None] + self.bias[:, None, None]
        y: Tensor = super().forward(x)
        return y


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """Return a GroupNorm (Wu and He 2018) with the largest number of groups up to 8 that divides the channels.

    With 8 channels or fewer a group may have one channel; PyTorch raises on one pixel of it in a batch of one.
    """
    groups = max(count for count in range(1, MOST_GROUPS + 1) if channels % count == 0)
    return nn.GroupNorm(groups, channels, eps)


def replace_norms(network: nn.Module, norm: str) -> None:
    """Replace every BatchNorm2d in place by an ``"instance"`` or ``"group"`` norm with the same epsilon.

    The new norms use the same scale and shift parameters: names do not change, and shared parameters stay shared.
    Without running statistics, training and evaluation mode are equal.
    """
    make = {"instance": InstanceNorm, "group": group_norm}[norm]
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                new = make(child.num_features, child.eps)
                new.weight, new.bias = child.weight, child.bias
                setattr(module, name, new)
