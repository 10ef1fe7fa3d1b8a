"""The files of a trained network: ``config.json`` with its architecture, and ``weights.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write a state dict as safetensors; equal weights give equal bytes.

    Raises:
        OSError: the file cannot be written (safetensors' own writer raises another type).
    """
    from safetensors.torch import save

    path.write_bytes(save({name: tensor.contiguous() for name, tensor in weights.items()}))
