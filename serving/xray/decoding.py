"""Decode X-rays in separate processes: a hostile file may block its decoder for hours, crash it, or fill memory."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from core.images import ImageError
from serving.xray.header import from_bytes, to_bytes

if TYPE_CHECKING:
    from serving.xray.reading import Xray

ROOT = Path(__file__).parents[2]  # added to PYTHONPATH of the processes
MAIN = "import sys; from serving.xray.decoding import main; main(int(sys.argv[1]), float(sys.argv[2]))"
# Memory limit of a decoder above its use before the first file: a constant, plus bytes per allowed pixel. The largest
# measured use is 31 bytes per pixel, for a grey JPEG stored in colour.
ROOM, ROOM_A_PIXEL = 1 << 30, 48


class Decoders:
    """A pool of decoder processes; at most ``count`` threads may call :meth:`read` concurrently without waiting.

    Args:
        count: number of processes.
        max_megapixels: larger pictures are refused before they are decoded.
        keywords: the DICOM attributes to return; None: all that :func:`serving.xray.header.to_bytes` takes.
    """

    def __init__(self, count: int, max_megapixels: float, keywords: Collection[str] | None = None) -> None:
        self._keywords = keywords
        self._all = [_Decoder(max_megapixels) for _ in range(count)]
        self._idle: SimpleQueue[_Decoder] = SimpleQueue()
        for each in self._all:
            self._idle.put(each)

    def read(self, data: bytes, name: str, until: float) -> Xray:
        """Read an X-ray from the bytes of a file.

        Args:
            data: the file.
            name: name of the file in messages.
            until: deadline on the clock of :func:`time.monotonic`; the process is killed then.

        Raises:
            ImageError: as :func:`serving.xray.reading.read_xray`; or the file crashed its decoder, or needed more
                memory than an X-ray of the allowed size.
            TimeoutError: the deadline is over.
        """
        decoder = self._idle.get()
        try:
            return decoder.read(data, name, until - time.monotonic(), self._keywords)
        finally:
            self._idle.put(decoder)

    def close(self) -> None:
        """Kill all processes; none may be in use."""
        for each in self._all:
            each.close()


class _Decoder:
    """One process, restarted after a file has crashed it."""

    def __init__(self, max_megapixels: float) -> None:
        self._max_megapixels = max_megapixels
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", MAIN, str(theirs.fileno()), str(self._max_megapixels)],
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))},
                pass_fds=[theirs.fileno()],
                process_group=0,  # so that Ctrl+C in a terminal does not reach it, even during its start
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # standard output belongs to the caller
            )

    def read(self, data: bytes, name: str, seconds: float, keywords: Collection[str] | None) -> Xray:
        if seconds <= 0:
            raise TimeoutError
        if self._process.poll() is not None:  # it ended while idle, so no file is at fault
            self.close()
            self._start()
        try:
            self._pipe.send((name, seconds, keywords, len(data)))
            _write(self._pipe, memoryview(data))
            found: tuple[Xray, tuple[int, int], bytes] | ImageError = self._pipe.recv()
            if not isinstance(found, ImageError):
                bare, shape, header = found
                pixels = np.empty(shape, bare.pixels.dtype)
                _read_into(self._pipe, pixels.data)
        except (EOFError, OSError):
            self._pipe.close()
            code = self._process.wait()
            self._start()
            if code == -signal.SIGALRM:
                raise TimeoutError from None
            if code < 0:
                raise ImageError(f"{name}: damaged: it crashes its decoder; export it again") from None
            raise RuntimeError(f"the decoder ended with code {code}; standard error has its traceback") from None
        if isinstance(found, ImageError):
            raise found
        return replace(bare, pixels=pixels, dicom=from_bytes(header) if bare.kind == "dicom" else None)

    def close(self) -> None:
        self._process.kill()  # it has no state to save
        self._process.wait()
        self._pipe.close()


def main(descriptor: int, max_megapixels: float) -> None:
    """Read X-rays until the other end of the pipe is closed; SIGALRM ends the process at a file's timeout."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the caller stops this process after its last request
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    from serving.xray import dicom  # noqa: F401 - import before the first request
    from serving.xray.reading import read_xray

    pipe: Connection[Any, Any] = Connection(descriptor)
    _limit_memory(ROOM + int(ROOM_A_PIXEL * max_megapixels * 1e6))
    while True:
        try:
            name, seconds, keywords, length = pipe.recv()
        except (EOFError, OSError):
            return
        # The kernel kills the process, even inside a native decoder and even if the caller is gone.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        data = bytearray(length)
        _read_into(pipe, memoryview(data))
        try:
            xray = read_xray(bytes(data), name, max_megapixels)
            header = b"" if xray.dicom is None else to_bytes(xray.dicom, keywords)
        except Exception as error:  # a decoder raises anything on a damaged file, and its text may quote the file
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send(_refusal(error, name))
            continue
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send((replace(xray, pixels=xray.pixels[:0], dicom=None), xray.pixels.shape, header))
        _write(pipe, np.ascontiguousarray(xray.pixels).data)


def _refusal(error: Exception, name: str) -> ImageError:
    """Return the error for the caller, without the text of an exception that is not this project's own."""
    if isinstance(error, ImageError):
        return error
    if isinstance(error, MemoryError):
        return ImageError(f"{name}: needs more memory than an X-ray of the allowed size; export it again")
    return ImageError(f"{name}: damaged: its decoder fails on it ({type(error).__name__}); export it again")


def _limit_memory(more: int) -> None:
    """Limit the address space of this process to its current size plus ``more`` bytes; only on Linux."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


# Pipe.send copies its message several times; for a large X-ray this takes longer than the transfer.
def _write(pipe: Connection[Any, Any], data: memoryview) -> None:
    rest = data.cast("B")
    while rest:
        rest = rest[os.write(pipe.fileno(), rest) :]


def _read_into(pipe: Connection[Any, Any], data: memoryview) -> None:
    rest = data.cast("B")
    while rest:
        count = os.readv(pipe.fileno(), [rest])
        if not count:
            raise EOFError
        rest = rest[count:]
