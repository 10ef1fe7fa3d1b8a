"""Run many small jobs in a thread pool, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from core.terminal import progress
from model.threads import processors

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """Return the number of cores that this process may use, by affinity and the container's quota."""
    return processors()


def parallel(job: Callable[[T], R], items: Sequence[T], workers: int, label: str) -> Iterator[R]:
    """Yield ``job(item)`` for every item in order; the first exception, or an interrupt, cancels all waiting jobs.

    Args:
        job: called in a thread; reading, checking and decoding release the GIL.
        items: the arguments, one per job.
        workers: number of threads.
        label: label of the progress display.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        with progress(label, len(items), False) as advance:
            for result in pool.map(job, items):
                advance(1)
                yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
