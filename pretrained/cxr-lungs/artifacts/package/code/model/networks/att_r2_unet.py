"""Attention R2U-Net: R2U-Net (Alom et al. 2018) with the attention gates of Attention U-Net (Oktay et al. 2018)."""

from __future__ import annotations

from torch import Tensor, nn

from model.networks.blocks import glorot_uniform, scaled
from model.networks.r2_unet import R2UNet
from model.networks.recurrent import AttentionGate


class AttR2UNet(R2UNet):
    """R2U-Net with an attention gate on every skip connection before the concatenation.

    39,442,797 trainable parameters at width 1 and one input channel. As in the common public code, and unlike Oktay's
    paper, a gate works at the skip's resolution, on the upsampled map, with BatchNorm and half the skip's channels.

    Args:
        width: factor of the channel counts 64, 128, 256, 512 and, at the bottom, 1024.
        in_channels: number of input channels.
    """

    def __init__(self, width: float = 1.0, in_channels: int = 1) -> None:
        super().__init__(width, in_channels)
        self.gates = nn.ModuleList(AttentionGate(scaled(channels, width)) for channels in (512, 256, 128, 64))
        glorot_uniform(self.gates)

    def passed(self, level: int, below: Tensor, skip: Tensor) -> Tensor:
        """Return the skip, weighted per pixel by its attention gate."""
        gated: Tensor = self.gates[level](below, skip)
        return gated
