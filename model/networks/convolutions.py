"""The pair of convolutions that plain U-Nets are made of. Feature maps are float (N, C, H, W)."""

from __future__ import annotations

from torch import nn


def double_convolution(in_channels: int, channels: int, *, norm: bool = False) -> nn.Sequential:
    """Return two 3x3 convolutions with a ReLU after each: (N, in_channels, H, W) to (N, channels, H, W).

    Args:
        in_channels: of the input.
        channels: of the output.
        norm: put a BatchNorm between each convolution, then without a bias, and its ReLU.
    """
    if norm:
        return nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(inplace=True),
    )
