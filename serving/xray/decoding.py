"""Reading X-rays in processes of their own: a hostile file may hold its decoder for hours, crash it, or fill memory."""

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

if TYPE_CHECKING:
    from serving.xray.reading import Xray

ROOT = Path(__file__).parents[2]  # from where the code is imported
MAIN = "import sys; from serving.xray.decoding import main; main(int(sys.argv[1]), float(sys.argv[2]))"
# Bytes that a decoder may ask for beyond what it has before its first file: some, and for each pixel allowed so many.
# The hungriest that was measured, a grey JPEG stored in colour, takes 31 a pixel.
ROOM, ROOM_A_PIXEL = 1 << 30, 48
PICTURE = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


class Decoders:
    """Some processes that read X-rays, one a thread that calls :meth:`read` at the same time.

    Args:
        count: of the processes.
        max_megapixels: larger pictures are refused before they are decoded.
        keywords: what of a DICOM's words comes along; None: all but its picture.
    """

    def __init__(self, count: int, max_megapixels: float, keywords: Collection[str] | None = None) -> None:
        self._keywords = keywords
        self._all = [_Decoder(max_megapixels) for _ in range(count)]
        self._idle: SimpleQueue[_Decoder] = SimpleQueue()
        for each in self._all:
            self._idle.put(each)

    def read(self, data: bytes, name: str, until: float) -> Xray:
        """Read an X-ray from a whole file's bytes.

        Args:
            data: the file.
            name: how the file is called in messages.
            until: when to give up, on the clock of :func:`time.monotonic`; the process ends then, whatever it does.

        Raises:
            ImageError: as :func:`serving.xray.reading.read_xray`; or the file brought its decoder down, or wanted
                more memory than any X-ray of the size allowed.
            TimeoutError: the time is over.
        """
        decoder = self._idle.get()
        try:
            return decoder.read(data, name, until - time.monotonic(), self._keywords)
        finally:
            self._idle.put(decoder)

    def close(self) -> None:
        """End all processes, none of which reads any more."""
        for each in self._all:
            each.close()


class _Decoder:
    """One process, started again after a file has ended it."""

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
                process_group=0,  # out of reach of a terminal's Ctrl+C, also while it starts
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # standard output is its caller's
            )

    def read(self, data: bytes, name: str, seconds: float, keywords: Collection[str] | None) -> Xray:
        if seconds <= 0:
            raise TimeoutError
        if self._process.poll() is not None:  # while it had nothing to do, which is no file's fault
            self.close()
            self._start()
        try:
            self._pipe.send((name, seconds, keywords, len(data)))
            _write(self._pipe, memoryview(data))
            found: tuple[Xray, tuple[int, int]] | ImageError = self._pipe.recv()
            if not isinstance(found, ImageError):
                bare, shape = found
                pixels = np.empty(shape, bare.pixels.dtype)
                _read_into(self._pipe, pixels.data)
        except (EOFError, OSError):
            self._pipe.close()
            code = self._process.wait()
            self._start()
            if code == -signal.SIGALRM:
                raise TimeoutError from None
            if code < 0:
                raise ImageError(f"{name}: damaged: it brings its decoder down; export it again") from None
            raise RuntimeError(f"the decoder ended with code {code}; standard error has its traceback") from None
        if isinstance(found, ImageError):
            raise found
        return replace(bare, pixels=pixels)

    def close(self) -> None:
        self._process.kill()  # it has nothing to lose
        self._process.wait()
        self._pipe.close()


def main(descriptor: int, max_megapixels: float) -> None:
    """Read X-rays until the other end of the pipe is closed; end by SIGALRM where one takes longer than it may."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the caller decides when: it may have requests to answer first
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    from serving.xray import dicom  # noqa: F401 - now, rather than while somebody waits
    from serving.xray.reading import read_xray

    pipe: Connection[Any, Any] = Connection(descriptor)
    _limit_memory(ROOM + int(ROOM_A_PIXEL * max_megapixels * 1e6))
    while True:
        try:
            name, seconds, keywords, length = pipe.recv()
        except (EOFError, OSError):
            return
        # The kernel ends the process, deep inside a decoder too, and though nobody may be left to wait for it.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        data = bytearray(length)
        _read_into(pipe, memoryview(data))
        try:
            xray = _slim(read_xray(bytes(data), name, max_megapixels), keywords)
        except (ImageError, MemoryError) as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
            hungry = ImageError(f"{name}: wants more memory than an X-ray of the size allowed; export it again")
            pipe.send(hungry if isinstance(error, MemoryError) else error)
            continue
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send((replace(xray, pixels=xray.pixels[:0]), xray.pixels.shape))
        _write(pipe, np.ascontiguousarray(xray.pixels).data)


def _limit_memory(more: int) -> None:
    """Let this process ask for so many bytes more than it has; only Linux says how many that are."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


# A pipe's own messages are copied several times, which of a large X-ray takes longer than the way through the pipe.
def _write(pipe: Connection[Any, Any], data: memoryview) -> None:
    left = data.cast("B")
    while left:
        left = left[os.write(pipe.fileno(), left) :]


def _read_into(pipe: Connection[Any, Any], data: memoryview) -> None:
    left = data.cast("B")
    while left:
        came = os.readv(pipe.fileno(), [left])
        if not came:
            raise EOFError
        left = left[came:]


def _slim(xray: Xray, keywords: Collection[str] | None) -> Xray:
    """Return an X-ray with these words of its DICOM alone, or with all but the picture."""
    from pydicom import Dataset

    if xray.dicom is None:
        return xray
    if keywords is None:
        for keyword in PICTURE:
            if keyword in xray.dicom:
                del xray.dicom[keyword]
        return xray
    said = Dataset()
    for keyword in keywords:
        if keyword in xray.dicom:
            said[keyword] = xray.dicom[keyword]
    return replace(xray, dicom=said)
