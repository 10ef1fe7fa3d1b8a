"""Inception-Residual U-Net, a comparison network of the DEFU-Net paper (Zhang et al. 2020, Tables I-IV)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.networks.blocks import InceptionBlock, SegmentationNetwork, glorot_uniform, scaled
from model.networks.residual import ResidualBlock, ResidualStem


class InceptResUNet(SegmentationNetwork):
    """DEFU-Net's two encoders and their fusion, with residual blocks where DEFU-Net has DCRC blocks.

    16,516,385 trainable parameters at width 1 and one input channel. There is no public code and the paper only names
    the network, so this is one reading of it: DEFU-Net's graph and inception blocks; the Deep Residual U-Net's blocks
    at stride 1, its stem in place of the first; downsampling of the residual path by maximum pooling, as in DEFU-Net.

    Args:
        width: share of the channel counts 64, 128, 256, 512 and, at the bottom, 512.
        in_channels: channels of the input.
    """

    stride = 16

    def __init__(self, width: float = 1.0, in_channels: int = 1) -> None:
        super().__init__()
        c1, c2, c3, c4 = (scaled(channels, width) for channels in (64, 128, 256, 512))
        self.encoders = nn.ModuleList(
            [ResidualStem(in_channels, c1), ResidualBlock(c1, c2), ResidualBlock(c2, c3), ResidualBlock(c3, c4)]
        )
        self.inceptions = nn.ModuleList(
            [InceptionBlock(c1, c2), InceptionBlock(c2, c3), InceptionBlock(c3, c4), InceptionBlock(c4, c4)]
        )
        self.bottom = ResidualBlock(c4, c4)
        self.decoders = nn.ModuleList(
            [
                ResidualBlock(c4 + c4, c3),
                ResidualBlock(c3 + c3, c2),
                ResidualBlock(c2 + c2, c1),
                ResidualBlock(c1 + c1, c1),
            ]
        )
        self.head = nn.Conv2d(c1, 1, 1)
        glorot_uniform(self)

    def logits(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W), H and W multiples of 16, to logits (N, 1, H, W)."""
        residual = self.encoders[0](x)
        fused = [residual]
        for encoder, inception in zip(self.encoders[1:], self.inceptions[:-1], strict=True):
            # As in DEFU-Net, the residual path never sees fused features; the inception path and the decoder do.
            residual = encoder(F.max_pool2d(residual, 2))
            fused.append(residual + inception(fused[-1]))
        y = self.bottom(F.max_pool2d(residual, 2) + self.inceptions[-1](fused[-1]))
        for decoder, skip in zip(self.decoders, reversed(fused), strict=True):
            y = decoder(torch.cat([F.interpolate(y, scale_factor=2.0, mode="nearest"), skip], dim=1))
        logits: Tensor = self.head(y)
        return logits
