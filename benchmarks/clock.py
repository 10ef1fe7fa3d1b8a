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

    With one thread on a CPU it is the time for which this process computed: where nothing else runs, the time that
    passed. Several threads wait for one another, computing or not, so that their sum says little: with them, and on a
    GPU, it is the time that passed.
    """
    return time.process_time() if counts_processor_time(device) else time.perf_counter()


def counts_processor_time(device: torch.device) -> bool:
    """Return whether :func:`own_seconds` is other than the clock on the wall."""
    return device.type == "cpu" and torch.get_num_threads() == 1


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
