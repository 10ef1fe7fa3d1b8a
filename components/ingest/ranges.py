"""Read an object in S3 like a file: fetched ranges from a local file, everything else by requests."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock

from core.parallel import parallel

Span = tuple[int, int]  # first byte, and the byte after the last

GAP = 64 << 10  # bytes between two spans that cost less than a second request
LARGEST = 4 << 20  # bytes of one request, which are in memory
WORKERS = 16  # parallel requests, which wait for the network and not for the CPU


class Ranges(io.RawIOBase):
    """An object of fixed size; reads fetched spans from a sparse local file without a name.

    Args:
        get: returns the bytes of a span; raises UserError. Called by several threads.
        size: bytes of the object.
        folder: the folder of the local file.
    """

    def __init__(self, get: Callable[[int, int], bytes], size: int, folder: Path) -> None:
        self._get, self._size = get, size
        self._local = TemporaryFile(dir=folder)  # noqa: SIM115  (closed by close)
        self._one_at_a_time = Lock()
        self._fetched: list[Span] = []
        self._position = 0

    def fetch(self, spans: Iterable[Span]) -> None:
        """Download spans to the local file, near ones together, in parallel.

        Raises:
            UserError: the object cannot be read, or has changed.
        """
        wanted = joined(spans)
        for _ in parallel(self._store, pieces(wanted), WORKERS, "download: ranges"):
            pass
        self._local.flush()
        self._fetched = joined([*self._fetched, *wanted], gap=0)

    def _store(self, span: Span) -> None:
        data = self._get(*span)
        with self._one_at_a_time:
            self._local.seek(span[0])
            self._local.write(data)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move and return the position in bytes."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read at most to the end of the fetched span at the position; without one, by a request."""
        start = self._position
        number = bisect_right(self._fetched, (start, self._size)) - 1
        end = self._fetched[number][1] if number >= 0 else 0
        if start < end:
            data = os.pread(self._local.fileno(), min(len(buffer), end - start), start)
        else:
            stop = min(start + len(buffer), self._size)
            data = self._get(start, stop) if start < stop else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Delete the local file."""
        self._local.close()
        super().close()


def joined(spans: Iterable[Span], gap: int = GAP) -> list[Span]:
    """Return spans in order; spans that overlap or are at most ``gap`` bytes apart are one."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1] + gap:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def pieces(spans: Iterable[Span]) -> list[Span]:
    """Return spans of at most :data:`LARGEST` bytes that cover the given ones."""
    return [(at, min(at + LARGEST, end)) for start, end in spans for at in range(start, end, LARGEST)]
