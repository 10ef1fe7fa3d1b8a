"""Dynamic batching of concurrent requests."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from serving.http.model_loader import Loaded


@dataclass
class Job:
    """A queued image and the future of its result."""

    image: np.ndarray
    done: Future[tuple[Loaded, Any]] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Worker threads that run queued images in batches.

    Args:
        current: returns the model; called once per batch, so that a batch never mixes two versions.
        max_batch: maximum number of images in a batch.
        max_wait: seconds that the first image of a batch waits for others.
        workers: number of threads.
        ran: called with the size of every batch.
    """

    def __init__(
        self, current: Callable[[], Loaded], max_batch: int, max_wait: float, workers: int, ran: Callable[[int], None]
    ) -> None:
        self._current, self._ran = current, ran
        self._max_batch, self._max_wait = max_batch, max_wait
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        # Daemon threads, so that a second stop signal does not wait for a batch.
        self._threads = [threading.Thread(target=self._work, name=f"batch-{n}", daemon=True) for n in range(workers)]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """Return the number of queued images."""
        return len(self._jobs)

    def submit(self, image: np.ndarray) -> Future[tuple[Loaded, Any]]:
        """Queue an image (H, W); the future's result is the model and its :class:`Segmentation`.

        The image is skipped if its future is cancelled before its batch starts.

        Raises:
            RuntimeError: the batcher is closed.
        """
        job = Job(image)
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._jobs.append(job)
            self._changed.notify_all()
        return job.done

    def hurry(self) -> None:
        """Stop waiting to fill batches, for queued and later images."""
        with self._changed:
            self._max_wait = 0.0
            self._changed.notify_all()

    def close(self) -> None:
        """Process the queued images, then stop the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            jobs = [job for job in batch if job.done.set_running_or_notify_cancel()]
            if jobs:
                self._ran(len(jobs))
                self._run(jobs)

    def _next(self) -> list[Job] | None:
        with self._changed:
            while True:
                if not self._jobs:
                    if self._closed:
                        return None
                    self._changed.wait()
                    continue
                remaining = self._jobs[0].since + self._max_wait - time.monotonic()
                if remaining <= 0 or len(self._jobs) >= self._max_batch or self._closed:
                    return [self._jobs.popleft() for _ in range(min(self._max_batch, len(self._jobs)))]
                self._changed.wait(remaining)

    def _run(self, jobs: list[Job]) -> None:
        try:
            model = self._current()
            found = model.package.segment([job.image for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].done.set_exception(error)
                return
            for job in jobs:  # an image that fails must not fail the others of its batch
                self._run([job])
            return
        for job, segmentation in zip(jobs, found, strict=True):
            job.done.set_result((model, segmentation))
