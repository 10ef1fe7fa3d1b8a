"""A residual-encoder U-Net as nnU-Net configures it (Isensee et al. 2021 and 2024), built from MONAI's DynUNet."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from model.networks.blocks import EverySecond, SegmentationNetwork, scaled
from model.networks.norms import replace_norms

FILTERS = (32, 64, 128, 256, 512, 512)  # doubled from stage to stage, 512 at most in two dimensions


class ResEncUNet(SegmentationNetwork):
    """The outside baseline: residual blocks in the encoder, InstanceNorm, LeakyReLU, transposed convolutions.

    21,050,401 trainable parameters at width 1. Six stages, as nnU-Net's rules give for 128 x 128 pixels: it halves
    until a side would fall below 4 pixels. It is trained here by the same recipe as every other network, not by
    nnU-Net's own: without deep supervision, its augmentation and its thousand epochs.

    Args:
        width: share of nnU-Net's channel counts.
        in_channels: channels of the input.
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
        # DynUNet registers every block twice, which safetensors refuses; here each has one name.
        self.encoders = nn.ModuleList([parts.input_block, *parts.downsamples, parts.bottleneck])
        self.decoders = nn.ModuleList(parts.upsamples)
        self.head = parts.output_block
        # The project's InstanceNorm also takes maps of a single pixel.
        replace_norms(self, "instance")
        for block in self.encoders[1:]:
            old = cast(UnetResBlock, block).conv3.conv
            new = nn.Conv2d(old.in_channels, old.out_channels, 1, bias=False)
            nn.init.kaiming_normal_(new.weight, a=0.01)  # as DynUNet draws all of its kernels
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
