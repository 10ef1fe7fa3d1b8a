"""Many small jobs over a pool of threads, with a bar on a terminal and a few plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from model.threads import processors

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """Return how many cores this process may use: a container's affinity and quota count, its machine's total not."""
    return processors()


def parallel(
    job: Callable[[T], R], items: Sequence[T], workers: int, label: str, sizes: Sequence[int] | None = None
) -> Iterator[R]:
    """Yield ``job(item)`` for every item in order; the first exception, or an interrupt, cancels what has not begun.

    Args:
        job: what is done in a thread; the heavy parts of reading, checking and decoding release Python's lock.
        items: one job each.
        workers: threads.
        label: what the progress calls the work.
        sizes: bytes of each item, where progress counts bytes rather than items.
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


@contextmanager
def progress(label: str, total: int, in_bytes: bool) -> Iterator[Callable[[int], None]]:
    """Yield what advances a progress display on the standard error stream."""
    if sys.stderr.isatty():
        from rich import progress as bars
        from rich.console import Console

        count = bars.DownloadColumn() if in_bytes else bars.MofNCompleteColumn()
        columns: Iterable[bars.ProgressColumn] = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            count,
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total)
            yield lambda amount: bar.advance(task, amount)
        return
    start = time.monotonic()
    done = tenths = 0

    def advance(amount: int) -> None:
        nonlocal done, tenths
        done += amount
        if total and done * 10 // total > tenths:
            tenths = done * 10 // total
            shown = f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if in_bytes else f"{done} of {total}"
            print(f"{label}: {shown}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)

    yield advance
