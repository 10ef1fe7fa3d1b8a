"""Residual blocks of the Deep Residual U-Net (Zhang et al. 2018). Feature maps are float (N, C, H, W).

Each block's output is a sum, and the shortcut is always projected and normalised. BatchNorm has PyTorch's epsilon of
1e-5: neither the paper nor the definition followed here names one.
"""

from __future__ import annotations

from torch import Tensor, nn

from model.networks.blocks import EverySecond


class ResidualStem(nn.Module):
    """The first block: the input itself is not normalised, only what its first convolution makes of it."""

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
        in_channels: channels of the input.
        channels: channels of the output.
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
