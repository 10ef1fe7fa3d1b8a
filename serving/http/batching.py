"""Requests that come at about the same time are computed together."""

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
    """An image that waits, and the future of what is found in it."""

    image: np.ndarray
    done: Future[tuple[Loaded, Any]] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Threads that take what waits, several images at a time.

    Args:
        current: returns the model to use; asked once for each batch, so that a batch never mixes two versions.
        max_batch: images of a batch at most.
        max_wait: seconds that the first image of a batch waits for others.
        workers: the number of threads.
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
        # Daemons: a service that is told to stop twice need not wait for a batch.
        self._threads = [threading.Thread(target=self._work, name=f"batch-{n}", daemon=True) for n in range(workers)]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """Return how many images wait."""
        return len(self._jobs)

    def submit(self, image: np.ndarray) -> Future[tuple[Loaded, Any]]:
        """Queue an image (H, W); the future gives the model that was used and its :class:`Segmentation`.

        A future that is cancelled before its batch begins costs nothing more.
        """
        job = Job(image)
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._jobs.append(job)
            self._changed.notify_all()
        return job.done

    def hurry(self) -> None:
        """Let no image wait for others any more."""
        with self._changed:
            self._max_wait = 0.0
            self._changed.notify_all()

    def close(self) -> None:
        """Compute what waits, then end the threads."""
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
                left = self._jobs[0].since + self._max_wait - time.monotonic()
                if left <= 0 or len(self._jobs) >= self._max_batch or self._closed:
                    return [self._jobs.popleft() for _ in range(min(self._max_batch, len(self._jobs)))]
                self._changed.wait(left)

    def _run(self, jobs: list[Job]) -> None:
        try:
            model = self._current()
            found = model.package.segment([job.image for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].done.set_exception(error)
                return
            for job in jobs:  # an image that cannot be computed must not fail its neighbours
                self._run([job])
            return
        for job, segmentation in zip(jobs, found, strict=True):
            job.done.set_result((model, segmentation))
