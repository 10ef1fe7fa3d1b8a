"""Inception-Residual U-Net, a comparison network of the DEFU-Net paper (Zhang et al. 2020, Tables I-IV)."""

from __future__ import annotations

from model.networks.dual_encoder import DualEncoder
from model.networks.residual import ResidualBlock, ResidualStem


class InceptResUNet(DualEncoder):
    """DEFU-Net's two encoders and their fusion, with residual blocks instead of DCRC blocks.

    16,516,385 trainable parameters at width 1 and one input channel. There is no public code and the paper only names
    the network, so this is one interpretation: DEFU-Net's architecture and inception blocks, with the Deep Residual
    U-Net's blocks at stride 1, its stem as the first block, and max pooling in the residual path, as in DEFU-Net.

    Args:
        width: factor of the channel counts 64, 128, 256, 512 and, at the bottom, 512.
        in_channels: number of input channels.
    """

    def __init__(self, width: float = 1.0, in_channels: int = 1) -> None:
        super().__init__(ResidualStem, ResidualBlock, width, in_channels)
