"""What every engine is: a trained network ready to compute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

Pictures = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]


class Engine(Protocol):
    """A trained network ready to compute; several threads may call one at the same time."""

    name: str
    reason: str  # why it was taken

    def ready(self) -> None:
        """Make ready for any number of images at once; what computes one image may have been made alone."""
        ...

    def probabilities(self, images: Pictures) -> Probabilities:
        """Map preprocessed images, uint8 (N, S, S), to probabilities of lung, float32 (N, S, S), 0 to 1."""
        ...


def batches(count: int, size: int) -> Iterator[slice]:
    """Yield the slices that take ``count`` images in batches of ``size``; the last one holds what is left."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
