"""One registry of networks by name. All take (N, in_channels, H, W) and return logits (N, 1, H, W)."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# Modules are imported when a network is built, so that checking a name does not import torch.
NETWORKS = {
    "unet": "model.networks.unet:UNet",
    "unet_bn": "model.networks.unet_bn:UNetBN",
    "res_unet": "model.networks.res_unet:ResUNet",
    "incept_res_unet": "model.networks.incept_res_unet:InceptResUNet",
    "bcdu_net": "model.networks.bcdu_net:BCDUNet",
    "r2_unet": "model.networks.r2_unet:R2UNet",
    "att_r2_unet": "model.networks.att_r2_unet:AttR2UNet",
    "defu_net": "model.networks.defu_net:DEFUNet",
    "res_enc_unet": "model.networks.res_enc_unet:ResEncUNet",
}


# The papers use "batch".
NORMS = ("batch", "instance", "group")


def build(name: str, width: float = 1.0, in_channels: int = 1, norm: str = "batch", **options: object) -> nn.Module:
    """Build a network with random initial weights.

    Args:
        name: a key of :data:`NETWORKS`.
        width: factor of the paper's channel counts, above 0; 1.0 is the paper.
        in_channels: number of input channels.
        norm: one of :data:`NORMS`. Others than "batch" replace every BatchNorm, with the same epsilon and trainable
            parameters and without running statistics; "unet" has no BatchNorm and does not change.
        options: keyword arguments of the network, for example the ablations of
            :class:`model.networks.defu_net.DEFUNet`.

    Returns:
        A module from float (N, in_channels, H, W) to logits (N, 1, H, W), for any H and W of at least 1 pixel. In
        training a BatchNorm needs more than one value per channel: two images, or one larger than 16 x 16.

    Raises:
        ValueError: a name or an option is unknown, a number is out of range, or options contradict each other.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; known are {', '.join(sorted(NETWORKS))}")
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; known are {', '.join(NORMS)}")
    if width <= 0 or in_channels < 1:
        raise ValueError(f"width must be above 0 and in_channels at least 1, got {width} and {in_channels}")
    module, _, attribute = NETWORKS[name].partition(":")
    network_class = getattr(import_module(module), attribute)
    known = [p.name for p in signature(network_class).parameters.values() if p.kind is p.KEYWORD_ONLY]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; its options are {', '.join(known) or 'none'}")
    network: nn.Module = network_class(width=width, in_channels=in_channels, **options)
    if norm != "batch":
        from model.networks.norms import replace_norms

        replace_norms(network, norm)
    return network
