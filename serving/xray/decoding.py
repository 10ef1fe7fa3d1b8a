"""Decode X-rays in separate processes: a hostile file may block its decoder for hours, crash it, or fill memory.

The processes have limited memory and time. They cannot use the network, write files or start processes
(:mod:`serving.xray.sandbox`). Their replies are JSON and raw bytes. Replies are checked before use, because a hostile
file may control its decoder.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from core.images import ImageError, TooLargeError
from serving.xray.header import from_bytes, to_bytes

if TYPE_CHECKING:
    from serving.xray.reading import Xray

ROOT = Path(__file__).parents[2]  # added to PYTHONPATH of the processes
MAIN = "import sys; from serving.xray.decoding import main; main(int(sys.argv[1]), float(sys.argv[2]))"
# Memory limit of a decoder in addition to its use before the first file: a constant, plus bytes per allowed pixel. The
# largest measured use is 31 bytes per pixel, for a grey JPEG stored in colour.
ROOM, ROOM_A_PIXEL = 1 << 30, 48
STOPPING = (signal.SIGINT, signal.SIGTERM)
GRACE = 2.0  # seconds after a file's timeout in which a decoder ends by itself
DTYPES = ("uint8", "uint16", "float32")
KINDS = ("png", "jpeg", "tiff", "dicom")
LONGEST_REPLY, LONGEST_HEADER, LONGEST_TEXT = 1 << 16, 1 << 22, 1000  # bytes, bytes, characters


class Decoders:
    """A pool of decoder processes; at most ``count`` threads may call :meth:`read` concurrently without waiting.

    Args:
        count: number of processes.
        max_megapixels: larger images are refused before they are decoded.
        keywords: the DICOM attributes to return; None: all that :func:`serving.xray.header.to_bytes` keeps.
    """

    def __init__(self, count: int, max_megapixels: float, keywords: Collection[str] | None = None) -> None:
        self._keywords = keywords
        self._all = [_Decoder(max_megapixels) for _ in range(count)]
        self._idle: SimpleQueue[_Decoder] = SimpleQueue()
        for each in self._all:
            self._idle.put(each)

    def read(self, data: bytes, name: str, until: float, whole_header: bool = False) -> Xray:
        """Read an X-ray from the bytes of a file.

        Args:
            data: the file.
            name: name of the file in messages.
            until: deadline on the clock of :func:`time.monotonic`, at which the process is killed.
            whole_header: return all DICOM attributes that :func:`serving.xray.header.to_bytes` keeps.

        Raises:
            ImageError: as :func:`serving.xray.reading.read_xray`; or the file crashed its decoder, or needed more
                memory than an X-ray of the allowed size.
            TimeoutError: the deadline has passed.
        """
        decoder = self._idle.get()
        try:
            return decoder.read(data, name, until - time.monotonic(), None if whole_header else self._keywords)
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
        with theirs, _held():
            self._process = subprocess.Popen(
                [sys.executable, "-c", MAIN, str(theirs.fileno()), str(self._max_megapixels)],
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # detaches it from the terminal: Ctrl+C does not reach it
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # standard output belongs to the caller
            )

    def read(self, data: bytes, name: str, seconds: float, keywords: Collection[str] | None) -> Xray:
        if seconds <= 0:
            raise TimeoutError
        if self._process.poll() is not None:  # it ended while idle: no file is at fault
            self.close()
            self._start()
        until = time.monotonic() + seconds + GRACE
        try:
            self._pipe.send((name, seconds, keywords, len(data)))
            _write(self._pipe, memoryview(data))
            return _receive(self._pipe, until, int(self._max_megapixels * 1e6))
        except ImageError:
            raise
        except (EOFError, OSError, ValueError, KeyError, TypeError) as error:
            late = isinstance(error, TimeoutError)
            self._process.kill()  # does nothing if the process has ended
            self._pipe.close()
            code = self._process.wait()
            self._start()
            if late or code == -signal.SIGALRM:
                raise TimeoutError from None
            if code < 0:
                raise ImageError(f"{name}: damaged: it crashes its decoder; export it again") from None
            raise RuntimeError(f"the decoder ended with code {code}") from None

    def close(self) -> None:
        self._process.kill()  # it has no state to save
        self._process.wait()
        self._pipe.close()


@contextmanager
def _held() -> Iterator[None]:
    """Block :data:`STOPPING` in this thread and in the processes that it starts, until :func:`main` ignores them.

    Otherwise a signal to all processes would end a process that does not ignore it yet.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def main(descriptor: int, max_megapixels: float) -> None:
    """Read X-rays until the other end of the pipe is closed; SIGALRM ends the process at a file's timeout."""
    for number in STOPPING:  # the caller stops this process after its last request
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    from serving.xray import dicom  # noqa: F401 - import before the first request
    from serving.xray.reading import read_xray
    from serving.xray.sandbox import confine

    # The decoders' libraries write to standard error, and their messages may quote the file.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pipe: Connection[Any, Any] = Connection(descriptor)
    _limit_memory(ROOM + int(ROOM_A_PIXEL * max_megapixels * 1e6))
    confine()
    while True:
        try:
            name, seconds, keywords, length = pipe.recv()
        except (EOFError, OSError):
            return
        # SIGALRM ends the process even inside a native decoder and without its caller.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        data = bytearray(length)
        _read_into(pipe, memoryview(data))
        try:
            xray = read_xray(bytes(data), name, max_megapixels)
            header = b"" if xray.dicom is None else to_bytes(xray.dicom, keywords)
        except Exception as error:  # decoders may raise anything on a damaged file, and the text may quote it
            signal.setitimer(signal.ITIMER_REAL, 0)
            refusal = _refusal(error, name)
            _send(pipe, {"refusal": str(refusal), "too_large": isinstance(refusal, TooLargeError)})
            continue
        signal.setitimer(signal.ITIMER_REAL, 0)
        reply = {"kind": xray.kind, "spacing": xray.spacing, "doubts": xray.doubts, "header": len(header)}
        _send(pipe, reply | {"shape": xray.pixels.shape, "dtype": xray.pixels.dtype.name})
        _write(pipe, memoryview(header))
        _write(pipe, np.ascontiguousarray(xray.pixels).data)


def _send(pipe: Connection[Any, Any], reply: dict[str, Any]) -> None:
    pipe.send_bytes(json.dumps(reply).encode())


def _receive(pipe: Connection[Any, Any], until: float, most: int) -> Xray:
    """Return the X-ray from a decoder's reply, which is untrusted.

    Raises:
        ImageError: the decoder refused the file.
        TimeoutError: the reply is not complete at ``until``.
        EOFError, OSError, ValueError, KeyError, TypeError: the decoder has ended, or its reply is invalid.
    """
    from serving.xray.reading import Xray

    if not pipe.poll(max(0.0, until - time.monotonic())):
        raise TimeoutError
    reply = json.loads(pipe.recv_bytes(LONGEST_REPLY))
    if "refusal" in reply:
        text = " ".join(str(reply["refusal"]).split())[:LONGEST_TEXT]
        raise (TooLargeError if reply["too_large"] is True else ImageError)(text)
    (rows, columns), length = map(int, reply["shape"]), int(reply["header"])
    if reply["dtype"] not in DTYPES or reply["kind"] not in KINDS or not 0 <= length <= LONGEST_HEADER:
        raise ValueError("no reply of a decoder")
    if min(rows, columns) < 1 or rows * columns > most:
        raise ValueError("more pixels than are allowed")
    spacing = None
    if reply["spacing"] is not None:
        down, across = map(float, reply["spacing"])
        if not (0 < down < math.inf and 0 < across < math.inf):
            raise ValueError("no spacing")
        spacing = (down, across)
    doubts = tuple((str(flag)[:LONGEST_TEXT], str(reason)[:LONGEST_TEXT]) for flag, reason in reply["doubts"])
    header, pixels = bytearray(length), np.empty((rows, columns), reply["dtype"])
    _read_into(pipe, memoryview(header), until)
    _read_into(pipe, pixels.data, until)
    dicom = from_bytes(bytes(header)) if reply["kind"] == "dicom" else None
    return Xray(pixels, spacing, dicom, reply["kind"], doubts)


def _refusal(error: Exception, name: str) -> ImageError:
    """Return the error for the caller; omits the text of exceptions that this project does not define."""
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


def _read_into(pipe: Connection[Any, Any], data: memoryview, until: float | None = None) -> None:
    rest = data.cast("B")
    while rest:
        if until is not None and not pipe.poll(max(0.0, until - time.monotonic())):
            raise TimeoutError
        count = os.readv(pipe.fileno(), [rest])
        if not count:
            raise EOFError
        rest = rest[count:]
