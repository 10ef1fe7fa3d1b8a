"""U-Net with BatchNorm (Ioffe and Szegedy 2015) after every 3x3 convolution, as in later U-Nets."""

from __future__ import annotations

from model.networks.unet import UNet


class UNetBN(UNet):
    """The plain U-Net of :mod:`model.networks.unet` with BatchNorm.

    31,036,481 trainable parameters at width 1. All other networks of the paper have BatchNorm and its U-Net has not, so
    differences to the U-Net may be an effect of BatchNorm. This network separates the two effects.
    """

    norm = True
