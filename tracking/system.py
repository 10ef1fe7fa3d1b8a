"""How busy the machine is during a training: processor, memory, disk, network, GPUs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

SECONDS = 5.0


class Watch:
    """Measures what MLflow's own system metrics measure, and hands it on wherever the server is.

    Args:
        note: takes the figures and their number, counted on from ``first``.
        first: number of the first.
    """

    def __init__(self, note: Callable[[dict[str, float], int], None], first: int) -> None:
        self._note, self._next = note, first
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system metrics", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; no figure is noted afterwards."""
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        monitors = _monitors()
        while True:
            for monitor in monitors:
                monitor.collect_metrics()
            if self._over.wait(SECONDS):
                return
            figures: dict[str, Any] = {}
            for monitor in monitors:
                figures |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            try:
                self._note({f"system/{name}": float(value) for name, value in figures.items()}, self._next)
            except OSError:
                return  # the disk is full: the next checkpoint says so
            self._next += 1


def _monitors() -> list[BaseMetricsMonitor]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for kind in (GPUMonitor, ROCMMonitor):
        try:
            return [*monitors, kind()]
        except (ImportError, RuntimeError):  # its library or its card is not there
            continue
    return monitors
