"""Clocks for measurements of training and inference."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def own_seconds(device: torch.device) -> float:
    """Return the seconds of the clock that other programs disturb least; call :func:`synchronise` before.

    With one thread on a CPU this is the process's CPU time, which equals wall time on an idle machine. With several
    threads, which may spin while they wait for one another, and on a GPU, this is wall time.
    """
    return time.process_time() if counts_processor_time(device) else time.perf_counter()


def counts_processor_time(device: torch.device) -> bool:
    """Return whether :func:`own_seconds` is CPU time, not wall time."""
    return device.type == "cpu" and torch.get_num_threads() == 1


@dataclass(frozen=True)
class Speed:
    """The speed of one turn of a loop.

    Attributes:
        rate: images per second of wall time.
        own_rate: images per second of :func:`own_seconds`.
    """

    rate: float
    own_rate: float


class Stopwatch:
    """Measures one turn, from its creation to :meth:`stop`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        synchronise(device)
        self.wall, self.own = time.perf_counter(), own_seconds(device)

    def stop(self, images: int) -> Speed:
        """Return the speed of a turn that processed ``images`` images."""
        synchronise(self.device)
        wall, own = time.perf_counter() - self.wall, own_seconds(self.device) - self.own
        return Speed(images / wall, images / own)
