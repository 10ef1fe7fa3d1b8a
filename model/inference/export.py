"""Export a trained network to ONNX, with dynamic batch, height and width."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.networks.blocks import SegmentationNetwork

OPSET = 18
INPUT, OUTPUT = "images", "logits"
EXAMPLE = (2, 45, 83)  # batch, height, width; no side is a multiple of a stride, so that the graph includes padding
FREE = {0: "batch", 2: "height", 3: "width"}


class AnySize(nn.Module):
    """A network that always pads and crops, because the traced graph cannot branch on the size."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Map float (N, in_channels, H, W) to logits (N, 1, H, W), as the wrapped network."""
        height, width = images.shape[-2:]
        stride = self.network.stride
        padded = F.pad(images, (0, -width % stride, 0, -height % stride), mode="replicate")
        return self.network.logits(padded)[..., :height, :width]


def export(network: nn.Module, out: Path, in_channels: int = 1, *, fold: bool = True) -> None:
    """Write a network as ONNX: float32 (N, in_channels, H, W), 0 to 1, to logits, float32 (N, 1, H, W).

    N, H and W are dynamic; padding and cropping are in the graph. Uses PyTorch's tracing exporter: the newer one
    (``dynamo=True``) gives the same logits but takes 20 times as long.

    Args:
        network: a network of :func:`model.networks.build`; it is set to evaluation mode.
        out: output file; equal weights give equal bytes.
        in_channels: number of input channels.
        fold: fold BatchNorms into convolutions. Otherwise the file's weights are those of the state dict, and engines
            fold them when they load it.

    Raises:
        TypeError: not a network of :mod:`model.networks`.
    """
    if not isinstance(network, SegmentationNetwork):
        raise TypeError(f"only the networks of model.networks can be exported, not a {type(network).__name__}")
    batch, height, width = EXAMPLE
    device = next(network.parameters()).device
    example = torch.zeros(batch, in_channels, height, width, device=device)
    # The exporter warns about every value that it reads while tracing; the parity tests show that this is safe.
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
            training=torch.onnx.TrainingMode.EVAL if fold else torch.onnx.TrainingMode.PRESERVE,
        )
