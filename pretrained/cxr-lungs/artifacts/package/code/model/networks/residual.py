"""Residual blocks of the Deep Residual U-Net (Zhang et al. 2018). Feature maps are float (N, C, H, W).

A block ends with the sum, without an activation. The shortcut is always a projection with BatchNorm. BatchNorm has
PyTorch's epsilon of 1e-5, because the paper does not give one.
"""

from __future__ import annotations

from torch import Tensor, nn

from model.networks.blocks import EverySecond


class ResidualStem(nn.Module):
    """The first block: without normalisation before its first convolution."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H, W)."""
        y: Tensor = self.body(x) + self.shortcut(x)
        return y


class ResidualBlock(nn.Module):
    """A residual block with normalisation and activation before each convolution.

    Args:
        in_channels: number of input channels.
        channels: number of output channels.
        stride: 1, or 2 to halve height and width, which must then be even.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.shortcut = nn.Sequential(
            EverySecond() if stride == 2 else nn.Identity(),
            nn.Conv2d(in_channels, channels, 1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        y: Tensor = self.body(x) + self.shortcut(x)
        return y
