"""Blocks of several networks. Feature maps are float (N, C, H, W)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# For DCRC blocks: applications of a 3x3 convolution in a unit, and Keras' slope of LeakyReLU (PyTorch's is 0.01).
STEPS = 3
SLOPE = 0.3


def scaled(channels: int, width: float) -> int:
    """Return a channel count at a width factor: a multiple of 4, for blocks with four branches."""
    return max(4, 4 * round(channels * width / 4))


def doubled(x: Tensor) -> Tensor:
    """Return (N, C, 2H, 2W) by nearest-neighbour upsampling, with the dtype of ``x``."""
    # CUDA autocast would upsample, and then concatenate, in float32; CPU autocast does not.
    with torch.autocast("cuda", enabled=False):
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


def glorot_uniform(network: nn.Module) -> None:
    """Initialise every convolution as in Keras: kernel from Glorot's uniform distribution, bias 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class SegmentationNetwork(nn.Module):
    """Base of all networks: maps input of any height and width to logits of the same size.

    A subclass sets ``stride``, the factor between its input and its coarsest map, and implements :meth:`logits` for
    multiples of it. Other sizes are padded at the bottom and right by edge replication and cropped afterwards, without
    resampling.
    """

    stride: int

    def logits(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W), H and W multiples of ``stride``, to logits (N, 1, H, W)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map float (N, in_channels, H, W) to logits (N, 1, H, W)."""
        height, width = x.shape[-2:]
        bottom, right = -height % self.stride, -width % self.stride
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        return self.logits(x)[..., :height, :width]


class UnrolledUnit(nn.ModuleList):
    """A recurrence of three steps, each a 3x3 convolution with its own weights, BatchNorm and LeakyReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1), _keras_norm(channels), nn.LeakyReLU(SLOPE, inplace=True)
            )
            for _ in range(STEPS)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        first, *later = self
        y: Tensor = first(x)
        for step in later:
            y = step(y + x)
        return y


class SharedUnit(nn.Module):
    """The same recurrence with one shared convolution; each step has its own BatchNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norms = nn.ModuleList(_keras_norm(channels) for _ in range(STEPS))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        y = F.leaky_relu(self.norms[0](self.conv(x)), SLOPE, inplace=True)
        for norm in self.norms[1:]:
            y = F.leaky_relu(norm(self.conv(y + x)), SLOPE, inplace=True)
        return y


def _keras_norm(channels: int) -> nn.BatchNorm2d:
    # Keras' defaults: epsilon 1e-3, momentum 0.99, which is 0.01 in PyTorch.
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class DCRCBlock(nn.Module):
    """Densely connected recurrent convolution block (the paper, section II-B, Figures 2 and 3).

    Two units, each of three 3x3 convolutions with the unit's input added, are densely connected by 1x1 convolutions. As
    in the authors' code the recurrence is unrolled: every convolution has its own weights, unless ``shared``. The skip
    is a 1x1 convolution only if the channel count changes.
    """

    def __init__(self, in_channels: int, channels: int, shared: bool = False) -> None:
        super().__init__()
        unit = SharedUnit if shared else UnrolledUnit
        self.skip = nn.Conv2d(in_channels, channels, 1) if in_channels != channels else nn.Identity()
        self.units = nn.ModuleList(unit(channels) for _ in range(2))
        self.joins = nn.ModuleList(self._join(2 * channels, channels) for _ in range(2))
        self.out = self._join(3 * channels, channels)

    @staticmethod
    def _join(in_channels: int, channels: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(in_channels, channels, 1), nn.LeakyReLU(SLOPE, inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H, W)."""
        skip = self.skip(x)
        features = [skip]
        for unit, join in zip(self.units, self.joins, strict=True):
            features.insert(0, join(torch.cat([unit(features[0]), skip], dim=1)))
        out: Tensor = self.out(torch.cat(features, dim=1))
        return out


class SameStride2(nn.Module):
    """A 3x3 convolution of stride 2 that pads even sizes only at the right and bottom, as TensorFlow's ``same``."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W), H and W even, to (N, channels, H / 2, W / 2)."""
        y: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return y


class EverySecond(nn.Module):
    """Subsample every second row and column: before a 1x1 convolution this equals a stride of 2.

    The convolution's stride is not used, because the backward pass of a strided 1x1 convolution writes out of bounds on
    some CPUs with channels-last maps (torch 2.13, AMD with AVX-512).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W), H and W even, to (N, C, H / 2, W / 2)."""
        return x[..., ::2, ::2]


class InceptionBlock(nn.Module):
    """Dilated inception block, stride 2 (the paper, section II-C, Figure 4): four branches of a quarter of channels."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        quarter = channels // 4
        self.a = nn.Sequential(EverySecond(), nn.Conv2d(in_channels, quarter, 1), nn.ReLU(inplace=True))
        self.b = nn.Sequential(
            nn.Conv2d(in_channels, quarter, 1),
            nn.ReLU(inplace=True),
            SameStride2(quarter, quarter),
            nn.ReLU(inplace=True),
        )
        # With ceil_mode and no padding the last window extends beyond an even edge and averages only real pixels.
        self.c = nn.Sequential(
            nn.AvgPool2d(3, stride=2, ceil_mode=True),
            nn.Conv2d(in_channels, quarter, 3, padding=(1, 2), dilation=(1, 2)),
            nn.ReLU(inplace=True),
        )
        self.d = nn.Sequential(
            nn.Conv2d(in_channels, quarter, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(quarter, quarter, 3, padding=(3, 1), dilation=(3, 1)),
            nn.ReLU(inplace=True),
            SameStride2(quarter, quarter),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W), H and W even, to (N, channels, H / 2, W / 2)."""
        return torch.cat([self.a(x), self.b(x), self.c(x), self.d(x)], dim=1)
