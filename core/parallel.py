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


def parallel(
    job: Callable[[T], R], items: Sequence[T], workers: int, label: str, sizes: Sequence[int] | None = None
) -> Iterator[R]:
    """Yield ``job(item)`` for every item in order; an exception or interrupt cancels the jobs that have not started.

    Args:
        job: called in a thread; reading, hashing and decoding release the GIL.
        items: the arguments of the jobs.
        workers: number of threads.
        label: label of the progress bar.
        sizes: bytes of each item, for progress in bytes; None counts items.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        total = sum(sizes) if sizes is not None else len(items)
        with progress(label, total, sizes is not None) as advance:
            for number, result in enumerate(pool.map(job, items)):
                advance(sizes[number] if sizes is not None else 1)
                yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
