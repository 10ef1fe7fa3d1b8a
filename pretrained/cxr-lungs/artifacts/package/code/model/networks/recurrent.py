"""Recurrent residual blocks of R2U-Net (Alom et al. 2018). Feature maps are float (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

STEPS = 3


def normed_convolution(in_channels: int, channels: int) -> nn.Sequential:
    """Return a 3x3 convolution, BatchNorm and ReLU: (N, in_channels, H, W) to (N, channels, H, W)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    )


class RecurrentLayer(nn.Module):
    """One 3x3 convolution, BatchNorm and ReLU f, applied three times (t = 2): y = f(x), then twice y = f(x + y).

    All weights are shared, also BatchNorm's scale and shift. Its running statistics are not: the three inputs differ in
    magnitude and training normalises each separately, so common averages would make evaluation mode differ from
    training (Cooijmans et al. 2017, "Recurrent Batch Normalization", section 3). A state dict has shared weights once.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(STEPS))
        for norm in self.norms[1:]:
            norm.weight, norm.bias = self.norms[0].weight, self.norms[0].bias
        self.register_state_dict_post_hook(_drop_shared)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_add_shared)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        y = self.norms[0](self.conv(x)).relu_()
        for norm in self.norms[1:]:
            y = norm(self.conv(x + y)).relu_()
        out: Tensor = y
        return out


def _shared(prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the names in the state dict of each later norm's scale and shift, with those of the first norm."""
    for step in range(1, STEPS):
        for name in ("weight", "bias"):
            yield f"{prefix}norms.{step}.{name}", f"{prefix}norms.0.{name}"


def _drop_shared(layer: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
    for later, _ in _shared(prefix):
        state.pop(later, None)


def _add_shared(layer: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    for later, first in _shared(prefix):
        if first in state:
            state[later] = state[first]


class RecurrentBlock(nn.Module):
    """A 1x1 convolution to the block's channels, two recurrent layers, and the sum of both."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(in_channels, channels, 1)
        self.layers = nn.Sequential(RecurrentLayer(channels), RecurrentLayer(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H, W)."""
        s = self.project(x)
        y: Tensor = s + self.layers(s)
        return y


class AttentionGate(nn.Module):
    """Weight every pixel of a skip by attention from the map below (Oktay et al. 2018).

    Both maps go through a 1x1 convolution to half the channels and BatchNorm. The ReLU of their sum gives one weight
    per pixel, 0 to 1, for all channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.below = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.BatchNorm2d(inner))
        self.skip = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.BatchNorm2d(inner))
        self.weight = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(inner, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """Map the upsampled map and the skip, both (N, channels, H, W), to the gated skip of that shape."""
        gated: Tensor = skip * self.weight(self.below(below) + self.skip(skip))
        return gated
