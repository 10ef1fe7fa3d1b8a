"""Convert stored images to network input, and set the precision and the number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[Any]:
    """Return the autocast context for ``precision``."""
    return torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use one CPU thread in this block; another number of threads changes the last bits of results."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def to_input(images: Tensor) -> Tensor:
    """Convert uint8 (N, H, W), 0 to 255, to float32 (N, 1, H, W), 0 to 1, channels-last."""
    return channels_last(images.unsqueeze(1).float() / 255)


def channels_last(images: Tensor) -> Tensor:
    """Return (N, C, H, W) with channels-last strides, also for a single channel.

    With one channel a tensor is contiguous in both formats, so ``contiguous`` would not change the strides. A network's
    first 1x1 convolution infers the memory format from the strides.
    """
    return images.to(memory_format=torch.channels_last)
