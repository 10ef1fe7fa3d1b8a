"""Prometheus metrics of the service."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one service, in their own Prometheus registry."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        # Without this, each metric has a second series with only its creation time.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self.requests = Counter("defunet_requests", "Answered requests.", ["route", "status"], registry=self._registry)
        self.seconds = Histogram(
            "defunet_request_seconds",
            "From a request's headers to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self.batch = Histogram(
            "defunet_batch_size", "Images of a batch.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self._registry
        )
        self._queue = Gauge("defunet_queue_length", "Images that wait for a batch.", registry=self._registry)
        self.in_flight = Gauge("defunet_predictions_in_flight", "Images in flight.", registry=self._registry)
        self.flags = Counter("defunet_flags", "Quality flags raised.", ["flag"], registry=self._registry)
        self._model = Gauge(
            "defunet_model_info", "The model in use: always 1.", ["name", "version", "engine"], registry=self._registry
        )
        self.registry_up = Gauge(
            "defunet_registry_up", "Whether the last poll of the registry succeeded.", registry=self._registry
        )
        self.load_failures = Counter(
            "defunet_model_load_failures", "Versions that could not be loaded.", registry=self._registry
        )
        self.swaps = Counter("defunet_model_swaps", "Versions loaded and activated.", registry=self._registry)

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Set the function that returns the queue's length; it is called at each scrape."""
        self._queue.set_function(length)

    def use(self, name: str, version: str, engine: str) -> None:
        """Set the model in use and count the swap."""
        self._model.clear()
        self._model.labels(name, version, engine).set(1)
        self.swaps.inc()

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
