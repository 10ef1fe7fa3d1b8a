"""The clocks of the measurements of training."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def own_seconds(device: torch.device) -> float:
    """Return a reading, seconds, of the clock that other programs disturb least; call :func:`synchronise` before.

    On a CPU it is the time that this process computed, over PyTorch's threads: where nothing else runs and all threads
    are busy, that is the time that passed. On a GPU it is the time that passed.
    """
    if device.type == "cuda":
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


@dataclass(frozen=True)
class Speed:
    """How fast one turn of a loop was.

    Attributes:
        rate: images a second by the clock on the wall.
        own_rate: images a second by :func:`own_seconds`.
    """

    rate: float
    own_rate: float


class Stopwatch:
    """Measures one turn from its making to :meth:`stop`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        synchronise(device)
        self.wall, self.own = time.perf_counter(), own_seconds(device)

    def stop(self, images: int) -> Speed:
        """Return the speed at which ``images`` images were trained on."""
        synchronise(self.device)
        wall, own = time.perf_counter() - self.wall, own_seconds(self.device) - self.own
        return Speed(images / wall, images / own)
