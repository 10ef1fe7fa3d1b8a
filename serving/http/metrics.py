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
        # Else each metric gets a second series with its creation time.
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
        self.expected_dice = Histogram(
            "defunet_expected_dice",
            "Expected Dice of the masks that went out.",
            buckets=(0.5, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.98, 1),
            registry=self._registry,
        )
        self.model = ModelMetrics("defunet", self._registry)

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Set the function that returns the queue's length; it is called at each scrape."""
        self._queue.set_function(length)

    def shadow(self) -> ShadowMetrics:
        """Add and return the metrics of a shadow model; call it at most once."""
        return ShadowMetrics(self._registry)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class ModelMetrics:
    """The metrics of a followed model; ``prefix`` begins their names."""

    def __init__(self, prefix: str, registry: CollectorRegistry) -> None:
        self._info = Gauge(
            f"{prefix}_model_info", "The model in use: always 1.", ["name", "version", "engine"], registry=registry
        )
        self.registry_up = Gauge(
            f"{prefix}_registry_up", "Whether the last poll of the registry succeeded.", registry=registry
        )
        self.load_failures = Counter(
            f"{prefix}_model_load_failures", "Versions that could not be loaded.", registry=registry
        )
        self.swaps = Counter(f"{prefix}_model_swaps", "Versions loaded and activated.", registry=registry)

    def use(self, name: str, version: str, engine: str) -> None:
        """Set the model in use and count the swap."""
        self._info.clear()
        self._info.labels(name, version, engine).set(1)
        self.swaps.inc()

    def use_none(self) -> None:
        """Remove the series of the model in use."""
        self._info.clear()


class ShadowMetrics:
    """The metrics of a shadow model and of its agreement with the champion."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.model = ModelMetrics("defunet_shadow", registry)
        self.agreement = Histogram(
            "defunet_shadow_agreement",
            "Dice between the masks of both models.",
            buckets=(0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 1),
            registry=registry,
        )
        self.errors = Counter("defunet_shadow_errors", "X-rays on which only the shadow failed.", registry=registry)
        self.skipped = Counter(
            "defunet_shadow_skipped", "X-rays that were not compared: too many waited.", registry=registry
        )
        self.flagged = Counter(
            "defunet_shadow_flagged", "Compared X-rays with a quality flag.", ["model"], registry=registry
        )
        self.answers = Counter("defunet_canary_answers", "Answers of the shadow that went out.", registry=registry)
        self.withdrawn = Gauge("defunet_canary_withdrawn", "1 after the canary was taken back.", registry=registry)
