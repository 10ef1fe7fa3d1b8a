"""The double convolution of plain U-Nets. Feature maps are float (N, C, H, W)."""

from __future__ import annotations

from torch import nn


def double_convolution(in_channels: int, channels: int, *, norm: bool = False) -> nn.Sequential:
    """Return two 3x3 convolutions with a ReLU after each: (N, in_channels, H, W) to (N, channels, H, W).

    Args:
        in_channels: number of input channels.
        channels: number of output channels.
        norm: add a BatchNorm after each convolution, which then has no bias.
    """
    layers: list[nn.Module] = []
    for inputs in (in_channels, channels):
        layers.append(nn.Conv2d(inputs, channels, 3, padding=1, bias=not norm))
        layers += [nn.BatchNorm2d(channels)] if norm else []
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
