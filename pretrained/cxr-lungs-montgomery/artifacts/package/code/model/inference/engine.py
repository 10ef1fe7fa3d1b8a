"""The interface of inference engines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

Pictures = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]


class Engine(Protocol):
    """A trained network, loaded for inference; thread-safe."""

    name: str
    reason: str  # reason for the choice of this engine

    def ready(self) -> None:
        """Prepare for batches; before this, an engine may be compiled only for single images."""
        ...

    def probabilities(self, images: Pictures) -> Probabilities:
        """Map preprocessed images, uint8 (N, S, S), to probabilities of lung, float32 (N, S, S), 0 to 1."""
        ...


def batches(count: int, size: int) -> Iterator[slice]:
    """Yield the slices of ``count`` images in batches of ``size``; the last one may be smaller."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
