"""Inception-Residual U-Net, a comparison network of the DEFU-Net paper (Zhang et al. 2020, Tables I-IV)."""

from __future__ import annotations

from model.networks.dual_encoder import DualEncoder
from model.networks.residual import ResidualBlock, ResidualStem


class InceptResUNet(DualEncoder):
    """DEFU-Net's two encoders and their fusion, with residual blocks where DEFU-Net has DCRC blocks.

    16,516,385 trainable parameters at width 1 and one input channel. There is no public code and the paper only names
    the network, so this is one reading of it: DEFU-Net's graph and inception blocks; the Deep Residual U-Net's blocks
    at stride 1, its stem in place of the first; downsampling of the residual path by maximum pooling, as in DEFU-Net.

    Args:
        width: share of the channel counts 64, 128, 256, 512 and, at the bottom, 512.
        in_channels: channels of the input.
    """

    def __init__(self, width: float = 1.0, in_channels: int = 1) -> None:
        super().__init__(ResidualStem, ResidualBlock, width, in_channels)
