"""DEFU-Net, the dual-encoder fusion U-Net (Zhang et al. 2020), and its ablations."""

from __future__ import annotations

from functools import partial

from model.networks.blocks import DCRCBlock
from model.networks.dual_encoder import DualEncoder


class DEFUNet(DualEncoder):
    """Two encoders, a densely connected recurrent one and an inception one, fused by summation at every level.

    As in the authors' code, and unlike the paper's text, the recurrence is unrolled. Trainable parameters at width 1
    and one input channel, by keyword arguments:

    - none: 45,620,897
    - ``inception=False``: 43,292,929
    - ``recurrent=False``: 24,441,249
    - ``shared=True``: 20,397,985
    - ``bottom=1024``: 94,260,385

    Args:
        width: factor of the paper's channel counts 64, 128, 256, 512 and, at the bottom, ``bottom``.
        in_channels: number of input channels.
        inception: False removes the inception path: the decoder gets the recurrent path's features, and so does the
            bottom, after max pooling.
        recurrent: False removes the recurrent path except its first block, which is the inception path's input.
        shared: True shares one 3x3 convolution in each unit of a DCRC block, with a BatchNorm per application, as in
            the paper's text.
        bottom: channels at the bottom at width 1; many U-Nets double them there, to 1024.

    Raises:
        ValueError: both paths are removed, or ``bottom`` is below 1.
    """

    def __init__(
        self,
        width: float = 1.0,
        in_channels: int = 1,
        *,
        inception: bool = True,
        recurrent: bool = True,
        shared: bool = False,
        bottom: int = 512,
    ) -> None:
        block = partial(DCRCBlock, shared=shared)
        super().__init__(block, block, width, in_channels, inception=inception, recurrent=recurrent, bottom=bottom)
