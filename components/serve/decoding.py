"""Reading X-rays in processes of their own: a hostile file may hold its decoder for hours, or bring it down.

Such a process is ``python -m components.serve.decoding FD``, where FD is its end of a pipe.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from components.images import ImageError

if TYPE_CHECKING:
    from components.predict.reading import Xray

# Messages and logs must not hold a file's name: it may be a patient's.
NAME = "the file"
ROOT = Path(__file__).parents[2]  # from where the code is imported


class Decoders:
    """Some processes that read X-rays, one a thread that calls :meth:`read` at the same time."""

    def __init__(self, count: int, max_megapixels: float) -> None:
        self._max_megapixels = max_megapixels
        self._all = [_Decoder() for _ in range(count)]
        self._idle: SimpleQueue[_Decoder] = SimpleQueue()
        for each in self._all:
            self._idle.put(each)

    def read(self, data: bytes, until: float) -> Xray:
        """Read an X-ray from a whole file's bytes; of a DICOM's words only those about its sides come along.

        Args:
            data: the file.
            until: when to give up, on the clock of :func:`time.monotonic`; the process ends then, whatever it does.

        Raises:
            ImageError: as :func:`components.predict.reading.read_xray`; or the file brought its decoder down.
            TimeoutError: the time is over.
        """
        decoder = self._idle.get()
        try:
            return decoder.read(data, until - time.monotonic(), self._max_megapixels)
        finally:
            self._idle.put(decoder)

    def close(self) -> None:
        """End all processes, none of which reads any more."""
        for each in self._all:
            each.close()


class _Decoder:
    """One process, started again after a file has ended it."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # standard output is the service's log
            )

    def read(self, data: bytes, seconds: float, max_megapixels: float) -> Xray:
        if seconds <= 0:
            raise TimeoutError
        if self._process.poll() is not None:  # while it had nothing to do, which is no file's fault
            self.close()
            self._start()
        try:
            self._pipe.send((seconds, max_megapixels, len(data)))
            _write(self._pipe, memoryview(data))
            found: tuple[Xray, tuple[int, int]] | str = self._pipe.recv()
            if not isinstance(found, str):
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
                raise ImageError(f"{NAME}: damaged: it brings its decoder down; export it again") from None
            raise RuntimeError(f"the decoder ended with code {code}; standard error has its traceback") from None
        if isinstance(found, str):
            raise ImageError(found)
        return replace(bare, pixels=pixels)

    def close(self) -> None:
        self._process.kill()  # it has nothing to lose
        self._process.wait()
        self._pipe.close()


def main(descriptor: int) -> None:
    """Read X-rays until the other end of the pipe is closed; end by SIGALRM where one takes longer than it may."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the service decides when: it has requests to answer first
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    from components.predict import dicom  # noqa: F401 - now, rather than while somebody waits
    from components.predict.reading import read_xray

    pipe: Connection[Any, Any] = Connection(descriptor)
    while True:
        try:
            seconds, max_megapixels, length = pipe.recv()
        except (EOFError, OSError):
            return
        # The kernel ends the process, deep inside a decoder too, and though nobody may be left to wait for it.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        data = bytearray(length)
        _read_into(pipe, memoryview(data))
        try:
            xray = _slim(read_xray(bytes(data), NAME, max_megapixels))
        except ImageError as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send(str(error))
            continue
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send((replace(xray, pixels=xray.pixels[:0]), xray.pixels.shape))
        _write(pipe, np.ascontiguousarray(xray.pixels).data)


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


def _slim(xray: Xray) -> Xray:
    """Return an X-ray without what its DICOM says, and holds, beside its sides."""
    from pydicom import Dataset

    from components.predict.sides import KEYWORDS

    if xray.dicom is None:
        return xray
    said = Dataset()
    for keyword in KEYWORDS:
        if keyword in xray.dicom:
            said[keyword] = xray.dicom[keyword]
    return replace(xray, dicom=said)


if __name__ == "__main__":
    main(int(sys.argv[1]))
