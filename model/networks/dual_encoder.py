"""DEFU-Net's architecture with any blocks: two encoders, fused at every level, and a decoder (Zhang et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.networks.blocks import InceptionBlock, SegmentationNetwork, doubled, glorot_uniform, scaled

Factory = Callable[[int, int], nn.Module]


class DualEncoder(SegmentationNetwork):
    """An encoder of blocks and an encoder of inception blocks with a common stem, and a decoder of blocks.

    If the paper's text and the authors' code differ, this follows the code: the input of the first inception block is
    only the first features (Eq. 1 with X1 = Y1), and at the bottom the paths are summed before the block, not after.

    Args:
        stem: makes the first block from its input and output channels.
        block: makes every other block from its input and output channels; height and width must not change.
        width: factor of the channel counts 64, 128, 256, 512 and, at the bottom, ``bottom``.
        in_channels: number of input channels.
        inception: whether there is an encoder of inception blocks.
        recurrent: whether there is an encoder of blocks; the stem always exists.
        bottom: channels at the bottom at width 1.

    Raises:
        ValueError: there is no encoder, or ``bottom`` is below 1.
    """

    stride = 16

    def __init__(
        self,
        stem: Factory,
        block: Factory,
        width: float,
        in_channels: int,
        *,
        inception: bool = True,
        recurrent: bool = True,
        bottom: int = 512,
    ) -> None:
        super().__init__()
        if not (inception or recurrent):
            raise ValueError("a dual encoder needs one of its paths: inception and recurrent cannot both be False")
        if bottom < 1:
            raise ValueError(f"bottom must be at least 1 channel, got {bottom}")
        c1, c2, c3, c4, c5 = (scaled(channels, width) for channels in (64, 128, 256, 512, bottom))
        deeper = [(c1, c2), (c2, c3), (c3, c4)]
        self.encoders = nn.ModuleList([stem(in_channels, c1)])
        self.encoders.extend(block(i, c) for i, c in deeper if recurrent)
        self.inceptions = nn.ModuleList(InceptionBlock(i, c) for i, c in [*deeper, (c4, c4)] if inception)
        self.bottom = block(c4, c5)
        self.decoders = nn.ModuleList(
            block(below + skip, c) for below, skip, c in [(c5, c4, c3), (c3, c3, c2), (c2, c2, c1), (c1, c1, c1)]
        )
        self.head = nn.Conv2d(c1, 1, 1)
        glorot_uniform(self)

    def logits(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W), H and W multiples of 16, to logits (N, 1, H, W)."""
        own = self.encoders[0](x)
        fused = [own]
        for level in range(1, 4):
            # Fused features go to the inception path and the decoder, not to the path of blocks.
            if len(self.encoders) > 1:
                own = self.encoders[level](F.max_pool2d(own, 2))
            fused.append(self._fuse(level - 1, own, fused[-1]))
        if len(self.encoders) > 1:
            own = F.max_pool2d(own, 2)
        y = self.bottom(self._fuse(3, own, fused[-1]))
        for decoder, skip in zip(self.decoders, reversed(fused), strict=True):
            y = decoder(torch.cat([doubled(y), skip], dim=1))
        logits: Tensor = self.head(y)
        return logits

    def _fuse(self, level: int, own: Tensor, above: Tensor) -> Tensor:
        """Return the sum of the two paths at a level, or the features of the only path."""
        if not self.inceptions:
            return own
        seen: Tensor = self.inceptions[level](above)
        return own + seen if len(self.encoders) > 1 else seen
