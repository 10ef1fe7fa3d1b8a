"""Deep Residual U-Net (Zhang, Liu and Wang 2018, IEEE GRSL, "Road Extraction by Deep Residual U-Net")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.networks.blocks import SegmentationNetwork, doubled, glorot_uniform, scaled
from model.networks.residual import ResidualBlock, ResidualStem


class ResUNet(SegmentationNetwork):
    """A U-Net of three levels and a bridge with residual blocks, and strided convolutions instead of pooling.

    8,222,529 trainable parameters at width 1 and one input channel. The paper's shortcuts are identity mappings; here
    each is a projection with BatchNorm, because the channel count changes in every block, as in the public code.

    Args:
        width: factor of the paper's channel counts 64, 128, 256 and, at the bridge, 512.
        in_channels: number of input channels.
    """

    stride = 8

    def __init__(self, width: float = 1.0, in_channels: int = 1) -> None:
        super().__init__()
        c1, c2, c3, c4 = (scaled(channels, width) for channels in (64, 128, 256, 512))
        self.encoders = nn.ModuleList(
            [ResidualStem(in_channels, c1), ResidualBlock(c1, c2, stride=2), ResidualBlock(c2, c3, stride=2)]
        )
        self.bridge = ResidualBlock(c3, c4, stride=2)
        self.decoders = nn.ModuleList(
            [ResidualBlock(c4 + c3, c3), ResidualBlock(c3 + c2, c2), ResidualBlock(c2 + c1, c1)]
        )
        self.head = nn.Conv2d(c1, 1, 1)
        glorot_uniform(self)

    def logits(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W), H and W multiples of 8, to logits (N, 1, H, W)."""
        features = []
        for encoder in self.encoders:
            x = encoder(x)
            features.append(x)
        y = self.bridge(x)
        for decoder, skip in zip(self.decoders, reversed(features), strict=True):
            y = decoder(torch.cat([doubled(y), skip], dim=1))
        logits: Tensor = self.head(y)
        return logits
