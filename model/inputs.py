"""From stored images to what a network takes, at the precision that the device is good at."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of autocast: ``auto`` is bfloat16 on a GPU that has it, else float32."""
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[Any]:
    """Return the context in which the network runs at ``precision``."""
    return torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32)


def to_input(images: Tensor) -> Tensor:
    """Turn uint8 (N, H, W), 0 to 255, into float32 (N, 1, H, W), 0 to 1, channels-last."""
    return (images.unsqueeze(1).float() / 255).contiguous(memory_format=torch.channels_last)
