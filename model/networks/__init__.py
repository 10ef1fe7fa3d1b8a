"""One registry of networks by name. All take (N, in_channels, H, W) and return logits (N, 1, H, W)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# Modules are imported when a network is built, so that steps which only check a name need no torch.
NETWORKS = {
    "unet": "model.networks.unet:UNet",
    "res_unet": "model.networks.res_unet:ResUNet",
    "incept_res_unet": "model.networks.incept_res_unet:InceptResUNet",
    "bcdu_net": "model.networks.bcdu_net:BCDUNet",
    "r2_unet": "model.networks.r2_unet:R2UNet",
    "att_r2_unet": "model.networks.att_r2_unet:AttR2UNet",
    "defu_net": "model.networks.defu_net:DEFUNet",
}


def build(name: str, width: float = 1.0, in_channels: int = 1) -> nn.Module:
    """Build a network with freshly drawn weights.

    Args:
        name: a key of :data:`NETWORKS`.
        width: share of the paper's channel counts, above 0; 1.0 is the paper.
        in_channels: channels of the input.

    Returns:
        A module from float (N, in_channels, H, W) to logits (N, 1, H, W), for any H and W of at least 1 pixel.

    Raises:
        ValueError: the name is unknown or a number is out of range.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; known are {', '.join(sorted(NETWORKS))}")
    if width <= 0 or in_channels < 1:
        raise ValueError(f"width must be above 0 and in_channels at least 1, got {width} and {in_channels}")
    module, _, attribute = NETWORKS[name].partition(":")
    network: nn.Module = getattr(import_module(module), attribute)(width=width, in_channels=in_channels)
    return network
