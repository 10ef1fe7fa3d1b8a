"""U-Net with BatchNorm (Ioffe and Szegedy 2015) after every 3x3 convolution, as in later U-Nets."""

from __future__ import annotations

from model.networks.unet import UNet


class UNetBN(UNet):
    """The plain U-Net of :mod:`model.networks.unet` with BatchNorm.

    31,036,481 trainable parameters at width 1. All other networks of the paper have BatchNorm, but its U-Net does not.
    So their differences from the U-Net may come from BatchNorm. This network separates the two effects.
    """

    norm = True
