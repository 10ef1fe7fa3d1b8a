"""U-Net (Ronneberger et al. 2015, MICCAI, "U-Net: Convolutional Networks for Biomedical Image Segmentation")."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.networks.blocks import SegmentationNetwork, glorot_uniform, scaled
from model.networks.convolutions import double_convolution


class UNet(SegmentationNetwork):
    """The plain encoder and decoder with concatenated skips and without normalisation.

    31,030,593 trainable parameters at width 1 and one input channel. Two deviations from the paper: convolutions are
    padded, so that logits have the size of the input and skips need no cropping; and there is one logit per pixel
    instead of a softmax over two classes.

    Args:
        width: factor of the paper's channel counts 64, 128, 256, 512 and, at the bottom, 1024.
        in_channels: number of input channels.
    """

    stride = 16
    norm = False

    def __init__(self, width: float = 1.0, in_channels: int = 1) -> None:
        super().__init__()
        block = partial(double_convolution, norm=self.norm)
        channels = [scaled(count, width) for count in (64, 128, 256, 512, 1024)]
        inputs = [in_channels, *channels[:-1]]
        self.encoders = nn.ModuleList(block(i, c) for i, c in zip(inputs, channels, strict=True))
        # From the bottom up: the channels of a level's skip, and of the map below it.
        levels = list(zip(channels[-2::-1], channels[:0:-1], strict=True))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(below, c, 2, stride=2) for c, below in levels)
        self.decoders = nn.ModuleList(block(2 * c, c) for c, _ in levels)
        self.head = nn.Conv2d(channels[0], 1, 1)
        glorot_uniform(self)

    def logits(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W), H and W multiples of 16, to logits (N, 1, H, W)."""
        features = [self.encoders[0](x)]
        for encoder in self.encoders[1:]:
            features.append(encoder(F.max_pool2d(features[-1], 2)))
        y = features.pop()
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            y = decoder(torch.cat([features.pop(), up(y)], dim=1))
        logits: Tensor = self.head(y)
        return logits
