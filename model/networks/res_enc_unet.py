"""A residual-encoder U-Net as nnU-Net configures it (Isensee et al. 2021 and 2024), built from MONAI's DynUNet."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from model.networks.blocks import EverySecond, SegmentationNetwork, scaled
from model.networks.norms import replace_norms

FILTERS = (32, 64, 128, 256, 512, 512)  # doubled per stage, at most 512 in two dimensions


class ResEncUNet(SegmentationNetwork):
    """An external baseline: residual blocks in the encoder, InstanceNorm, LeakyReLU, transposed convolutions.

    21,050,401 trainable parameters at width 1. Six stages, from nnU-Net's rules for 128 x 128 pixels: it halves the
    size until a side would be below 4 pixels. It is trained with the same recipe as the other networks, without
    nnU-Net's deep supervision, augmentation and thousand epochs.

    Args:
        width: factor of nnU-Net's channel counts.
        in_channels: number of input channels.
    """

    stride = 32

    def __init__(self, width: float = 1.0, in_channels: int = 1) -> None:
        super().__init__()
        # MONAI takes seconds to import, and only this network needs it.
        from monai.networks.blocks.dynunet_block import UnetResBlock
        from monai.networks.nets.dynunet import DynUNet

        filters = [scaled(count, width) for count in FILTERS]
        halvings = [2] * (len(filters) - 1)
        parts = DynUNet(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=1,
            kernel_size=[3] * len(filters),
            strides=[1, *halvings],
            upsample_kernel_size=halvings,
            filters=filters,
            norm_name=("BATCH", {"eps": 1e-5}),
            res_block=True,
        )
        # DynUNet registers every block twice, which safetensors does not accept; here each has one name.
        self.encoders = nn.ModuleList([parts.input_block, *parts.downsamples, parts.bottleneck])
        self.decoders = nn.ModuleList(parts.upsamples)
        self.head = parts.output_block
        # The project's InstanceNorm also accepts maps of a single pixel.
        replace_norms(self, "instance")
        for block in self.encoders[1:]:
            old = cast(UnetResBlock, block).conv3.conv
            new = nn.Conv2d(old.in_channels, old.out_channels, 1, bias=False)
            nn.init.kaiming_normal_(new.weight, a=0.01)  # as DynUNet initialises it
            block.conv3 = nn.Sequential(EverySecond(), new)

    def logits(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W), H and W multiples of 32, to logits (N, 1, H, W)."""
        features = []
        for encoder in self.encoders:
            x = encoder(x)
            features.append(x)
        y = features.pop()
        for decoder in self.decoders:
            y = decoder(y, features.pop())
        logits: Tensor = self.head(y)
        return logits
