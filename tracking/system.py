"""System metrics during training: CPU, memory, disk, network and GPUs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracking.record import append, now

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

SECONDS = 5.0


class SystemMetrics:
    """Collects MLflow's system metrics and writes them to a file, independent of the server.

    Args:
        file: SYSTEM of a record.
        since: start of the training run, milliseconds since 1970. A step is the number of :data:`SECONDS` since then,
            so that a run that resumes on another machine, from an older copy of the file, repeats no step.
    """

    def __init__(self, file: Path, since: int) -> None:
        self._file, self._since = file, since
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system metrics", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; nothing is written afterwards."""
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
            step = int((now() - self._since) / (1000 * SECONDS))
            try:
                append(self._file, step, {f"system/{name}": float(value) for name, value in figures.items()})
            except OSError:
                return  # the disk is full; the next checkpoint reports it


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
        except (ImportError, RuntimeError):  # the library or the GPU is missing
            continue
    return monitors
