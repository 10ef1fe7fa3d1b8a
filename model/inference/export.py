"""A trained network as an ONNX file for any batch, height and width."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.networks.blocks import SegmentationNetwork

OPSET = 18
INPUT, OUTPUT = "images", "logits"
EXAMPLE = (2, 45, 83)  # batch, height, width: neither side a multiple of a stride, so that padding is in the graph
FREE = {0: "batch", 2: "height", 3: "width"}


class AnySize(nn.Module):
    """A network that pads and crops without asking whether it has to, which a graph could not ask either."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Map float (N, in_channels, H, W) to logits (N, 1, H, W), as the network does."""
        height, width = images.shape[-2:]
        stride = self.network.stride
        padded = F.pad(images, (0, -width % stride, 0, -height % stride), mode="replicate")
        return self.network.logits(padded)[..., :height, :width]


def export(network: nn.Module, out: Path, in_channels: int = 1) -> None:
    """Write a network as ONNX: float32 (N, in_channels, H, W), 0 to 1, to logits, float32 (N, 1, H, W).

    N, H and W are free; the network pads and crops inside the graph, and BatchNorms are part of their convolutions.
    PyTorch's tracing exporter does it: the newer one, ``dynamo=True``, gives the same logits after 20 times the work.

    Args:
        network: as :func:`model.networks.build` returns it; it is put into evaluation mode.
        out: the file to write; equal weights give equal bytes.
        in_channels: of the network's input.

    Raises:
        TypeError: it is no network of :mod:`model.networks`.
    """
    if not isinstance(network, SegmentationNetwork):
        raise TypeError(f"only the networks of model.networks can be exported, not a {type(network).__name__}")
    batch, height, width = EXAMPLE
    device = next(network.parameters()).device
    example = torch.zeros(batch, in_channels, height, width, device=device)
    # The exporter reads values while it traces, and says so of each; that it may is what the parity tests show.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            AnySize(network).eval(),
            (example,),
            str(out),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: FREE, OUTPUT: FREE},
        )
