"""Other normalisations in the place of BatchNorm. Feature maps are float (N, C, H, W)."""

from __future__ import annotations

from torch import Tensor, nn

MOST_GROUPS = 8


class InstanceNorm(nn.InstanceNorm2d):
    """InstanceNorm (Ulyanov et al. 2016) with a scale and shift, and no running values, that also takes single pixels.

    PyTorch's raises where a map has one pixel, which is what is left of an image of 16 x 16 pixels or fewer at the
    bottom of a network. One pixel is its own mean, so the output is the shift.
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
    """Return a GroupNorm (Wu and He 2018) of as many groups as divide the channels, at most 8.

    With 8 channels or fewer a group may be one channel; PyTorch refuses one pixel of it in a batch of one.
    """
    groups = max(count for count in range(1, MOST_GROUPS + 1) if channels % count == 0)
    return nn.GroupNorm(groups, channels, eps)


def replace_norms(network: nn.Module, norm: str) -> None:
    """Put an ``"instance"`` or ``"group"`` norm, of the same epsilon, in the place of every BatchNorm2d, in place.

    The new norms take over the scales and shifts themselves: their names stay, and what several BatchNorms share is
    still shared. There are no running values: training and evaluation mode do the same.
    """
    make = {"instance": InstanceNorm, "group": group_norm}[norm]
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                new = make(child.num_features, child.eps)
                new.weight, new.bias = child.weight, child.bias
                setattr(module, name, new)
