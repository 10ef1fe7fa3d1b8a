"""From stored images to what a network takes, at the precision that the device is good at."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of autocast: ``auto`` is bfloat16 on a GPU or a CPU that computes in it, else float32."""
    if name == "auto":
        name = "bfloat16" if _has_bfloat16(device) else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


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
