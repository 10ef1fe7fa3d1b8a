"""From stored images to what a network takes, at the precision that the device is good at."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[Any]:
    """Return the context in which the network runs at ``precision``."""
    return torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32)


def to_input(images: Tensor) -> Tensor:
    """Turn uint8 (N, H, W), 0 to 255, into float32 (N, 1, H, W), 0 to 1, channels-last."""
    return channels_last(images.unsqueeze(1).float() / 255)


def channels_last(images: Tensor) -> Tensor:
    """Give (N, C, H, W) the strides of the channels-last format, of a single channel too.

    With one channel a tensor is contiguous in both formats, so that ``contiguous`` would leave its strides as they are.
    A 1x1 convolution that a network begins with takes its format from them, and passes it on.
    """
    return images.to(memory_format=torch.channels_last)
