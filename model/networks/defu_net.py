"""DEFU-Net, the dual-encoder fusion U-Net (Zhang et al. 2020), and its ablations."""

from __future__ import annotations

from functools import partial

from model.networks.blocks import DCRCBlock
from model.networks.dual_encoder import DualEncoder


class DEFUNet(DualEncoder):
    """Two encoders, a densely connected recurrent one and an inception one, fused by summation at every level.

    As in the authors' code, and unlike the paper's text, the recurrence is unrolled. Trainable parameters at width 1
    and one input channel, with the keyword arguments that differ from the paper's network:

    - none: 45,620,897
    - ``inception=False``: 43,292,929
    - ``recurrent=False``: 24,441,249
    - ``shared=True``: 20,397,985
    - ``bottom=1024``: 94,260,385

    Args:
        width: share of the paper's channel counts 64, 128, 256, 512 and, at the bottom, ``bottom``.
        in_channels: channels of the input.
        inception: False leaves the inception path out: the decoder gets the recurrent path's features, and so does the
            bottom, after a maximum pooling.
        recurrent: False leaves the recurrent path out, all but its first block, which the inception path starts from.
        shared: the three 3x3 convolutions of a unit of a DCRC block are one, with a BatchNorm for each application, as
            the paper's text has it.
        bottom: channels at the bottom at width 1; many U-Nets double them there, to 1024.

    Raises:
        ValueError: neither path is left, or ``bottom`` is below 1.
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
