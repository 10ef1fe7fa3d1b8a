"""R2U-Net (Alom et al. 2018, "Recurrent Residual Convolutional Neural Network based on U-Net", arXiv 1802.06955)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.networks.blocks import SegmentationNetwork, doubled, glorot_uniform, scaled
from model.networks.recurrent import RecurrentBlock, normed_convolution


class R2UNet(SegmentationNetwork):
    """A U-Net whose blocks are recurrent (t = 2, weights shared) and residual.

    39,091,265 trainable parameters at width 1 and one input channel. The paper's channel counts do not determine the
    number of parameters; as in the common public code they go up to 1024, and maps are upsampled by nearest neighbour
    and a 3x3 convolution with BatchNorm and ReLU. One deviation from that code, without effect on parameters or
    training: each application of a recurrent layer has its own running statistics (see :class:`RecurrentLayer`).

    Args:
        width: factor of the channel counts 64, 128, 256, 512 and, at the bottom, 1024.
        in_channels: number of input channels.
    """

    stride = 16

    def __init__(self, width: float = 1.0, in_channels: int = 1) -> None:
        super().__init__()
        channels = [scaled(count, width) for count in (64, 128, 256, 512, 1024)]
        inputs = [in_channels, *channels[:-1]]
        self.encoders = nn.ModuleList(RecurrentBlock(i, c) for i, c in zip(inputs, channels, strict=True))
        # From the bottom up: the channels of a level's skip, and of the map below it.
        levels = list(zip(channels[-2::-1], channels[:0:-1], strict=True))
        self.ups = nn.ModuleList(normed_convolution(below, c) for c, below in levels)
        self.decoders = nn.ModuleList(RecurrentBlock(2 * c, c) for c, _ in levels)
        self.head = nn.Conv2d(channels[0], 1, 1)
        glorot_uniform(self)

    def logits(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W), H and W multiples of 16, to logits (N, 1, H, W)."""
        features = [self.encoders[0](x)]
        for encoder in self.encoders[1:]:
            features.append(encoder(F.max_pool2d(features[-1], 2)))
        y = features.pop()
        for level, (up, decoder) in enumerate(zip(self.ups, self.decoders, strict=True)):
            y = up(doubled(y))
            y = decoder(torch.cat([self.passed(level, y, features.pop()), y], dim=1))
        logits: Tensor = self.head(y)
        return logits

    def passed(self, level: int, below: Tensor, skip: Tensor) -> Tensor:
        """Return the skip for the decoder, here unchanged. Level 0 is the deepest; ``below`` has the skip's shape."""
        return skip
