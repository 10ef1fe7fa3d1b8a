"""DEFU-Net, the dual-encoder fusion U-Net (Zhang et al. 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.networks.blocks import DCRCBlock, InceptionBlock, SegmentationNetwork, glorot_uniform, scaled


class DEFUNet(SegmentationNetwork):
    """Two encoders, a densely connected recurrent one and an inception one, fused by summation at every level.

    45,620,897 trainable parameters at width 1 and one input channel. Where the paper's text and the authors' code
    disagree this follows the code: the recurrence is unrolled, the first inception block sees the first features alone
    (Eq. 1 with X1 = Y1), and at the bottom the two paths are summed before the block, not after it.

    Args:
        width: share of the paper's channel counts 64, 128, 256, 512 and, at the bottom, 512.
        in_channels: channels of the input.
    """

    stride = 16

    def __init__(self, width: float = 1.0, in_channels: int = 1) -> None:
        super().__init__()
        c1, c2, c3, c4 = (scaled(channels, width) for channels in (64, 128, 256, 512))
        self.encoders = nn.ModuleList(
            [DCRCBlock(in_channels, c1), DCRCBlock(c1, c2), DCRCBlock(c2, c3), DCRCBlock(c3, c4)]
        )
        self.inceptions = nn.ModuleList(
            [InceptionBlock(c1, c2), InceptionBlock(c2, c3), InceptionBlock(c3, c4), InceptionBlock(c4, c4)]
        )
        self.bottom = DCRCBlock(c4, c4)
        self.decoders = nn.ModuleList(
            [DCRCBlock(c4 + c4, c3), DCRCBlock(c3 + c3, c2), DCRCBlock(c2 + c2, c1), DCRCBlock(c1 + c1, c1)]
        )
        self.head = nn.Conv2d(c1, 1, 1)
        glorot_uniform(self)

    def logits(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W), H and W multiples of 16, to logits (N, 1, H, W)."""
        recurrent = self.encoders[0](x)
        fused = [recurrent]
        for encoder, inception in zip(self.encoders[1:], self.inceptions[:-1], strict=True):
            # The recurrent path never sees fused features; the inception path and the decoder do.
            recurrent = encoder(F.max_pool2d(recurrent, 2))
            fused.append(recurrent + inception(fused[-1]))
        y = self.bottom(F.max_pool2d(recurrent, 2) + self.inceptions[-1](fused[-1]))
        for decoder, skip in zip(self.decoders, reversed(fused), strict=True):
            y = decoder(torch.cat([F.interpolate(y, scale_factor=2.0, mode="nearest"), skip], dim=1))
        logits: Tensor = self.head(y)
        return logits
