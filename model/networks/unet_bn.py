"""U-Net with BatchNorm (Ioffe and Szegedy 2015) after every 3x3 convolution, as later U-Nets have it."""

from __future__ import annotations

from model.networks.unet import UNet


class UNetBN(UNet):
    """The plain U-Net of :mod:`model.networks.unet`, normalised.

    31,036,481 trainable parameters at width 1. The paper's other networks all normalise and its U-Net does not, so that
    a difference between them is also one between training with and without BatchNorm. This one tells the two apart.
    """

    norm = True
