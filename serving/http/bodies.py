"""Read the file of a request, with limits on size, memory and time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

MEGA = 1_000_000
MULTIPART_EXTRA = 64 * 1024  # bytes allowed for the boundaries and headers of a form
RETRY = {"Retry-After": "1"}


class Budget:
    """A limit that all requests share; a request above it gets 503.

    Args:
        whole: the limit over all clients.
        what: name of the limited resource, for the response.
        of_one: the limit of one client; None: ``whole``.
    """

    def __init__(self, whole: float, what: str, of_one: float | None = None) -> None:
        self.whole, self.what, self.of_one = whole, what, whole if of_one is None else min(of_one, whole)
        self.taken, self.taken_by = 0.0, Counter[str]()

    @contextmanager
    def share(self, client: str = "") -> Iterator[Share]:
        """Yield a client's share of the budget, released at the end of the block."""
        share = Share(self, client)
        try:
            yield share
        finally:
            self.taken -= share.taken
            self.taken_by[client] -= int(share.taken)
            if self.taken_by[client] <= 0:
                del self.taken_by[client]


class Share:
    """The part of a :class:`Budget` that one request uses."""

    def __init__(self, budget: Budget, client: str) -> None:
        self.budget, self.client, self.taken = budget, client, 0.0

    def take(self, amount: float) -> None:
        """Add ``amount`` to the share.

        Raises:
            HTTPException: 503, the budget is used up.
        """
        too_much = self.budget.taken + amount > self.budget.whole
        if too_much or self.budget.taken_by[self.client] + amount > self.budget.of_one:
            raise HTTPException(503, f"the service is busy: too many {self.budget.what} at once; try again", RETRY)
        self.taken += amount
        self.budget.taken += amount
        self.budget.taken_by[self.client] += int(amount)


class _Form(MultiPartParser):
    """Form parser that detects a truncated body. The file stays in memory, because it is patient data."""

    complete = False

    def on_end(self) -> None:
        self.complete = True


def is_form(request: Request) -> bool:
    """Return whether the body is a multipart form and not the file itself."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data"


@dataclass(frozen=True)
class Pace:
    """Time limits on reading a body.

    Attributes:
        seconds: timeout for the whole body.
        pause: maximum seconds without a byte; also the seconds after which the minimum rate applies.
        least: minimum rate in bytes per second.
    """

    seconds: float
    pause: float
    least: float


async def read_file(request: Request, max_mb: float, pace: Pace, share: Share) -> bytes:
    """Return the file of a request: the whole body, or the one file of a form.

    Args:
        request: the request; its body must be unread.
        max_mb: size limit in megabytes (10^6 bytes); reading stops at the first byte above it.
        pace: time limits on the body.
        share: share of the memory budget; grows with the bytes read.

    Raises:
        HTTPException: 400 invalid form or no file in it, 408 too slow, 413 too large, 415 compressed body, 503 no
            memory budget left.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise HTTPException(415, f"Content-Encoding {encoding[:40]!r} is not supported; send the file as it is")
    limit = int(max_mb * MEGA) + (MULTIPART_EXTRA if is_form(request) else 0)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large(max_mb)
    try:
        async with asyncio.timeout(pace.seconds):
            chunks = _chunks(request, limit, max_mb, pace, share)
            if is_form(request):
                return await _file_of_form(request, chunks, limit)
            body = bytearray()
            async for chunk in chunks:
                body += chunk
            return bytes(body)
    except TimeoutError:
        raise HTTPException(408, f"the request's body did not arrive within {pace.seconds:g} s") from None
    except ClientDisconnect:
        raise HTTPException(400, "the request's body is incomplete") from None


def too_large(max_mb: float) -> HTTPException:
    """Return the 413 error."""
    return HTTPException(413, f"the file is larger than the {max_mb:g} MB allowed")


async def _chunks(request: Request, limit: int, max_mb: float, pace: Pace, share: Share) -> AsyncGenerator[bytes, None]:
    total, began, stream = 0, time.monotonic(), request.stream()
    while True:
        try:
            async with asyncio.timeout(pace.pause):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise HTTPException(408, f"the request's body paused for more than {pace.pause:g} s") from None
        total += len(chunk)
        if (passed := time.monotonic() - began) > pace.pause and total < pace.least * passed:
            raise HTTPException(408, f"the request's body comes at less than {pace.least / 1000:g} kB a second")
        if total > limit:
            raise too_large(max_mb)
        share.take(len(chunk))
        yield chunk


async def _file_of_form(request: Request, chunks: AsyncGenerator[bytes, None], limit: int) -> bytes:
    form = _Form(request.headers, chunks, max_files=1, max_fields=8, max_part_size=1024)
    form.spool_max_size = limit + 1
    try:
        fields: list[tuple[str, Any]] = (await form.parse()).multi_items()
    except MultiPartException as error:
        raise HTTPException(400, f"the form cannot be read: {error.message}") from None
    if not form.complete:
        raise HTTPException(400, "the form cannot be read: it ends before its last boundary")
    files = [value for _, value in fields if isinstance(value, UploadFile)]
    if not files:
        raise HTTPException(
            400, "the form has no file; send one in a field with a file name, e.g. curl -F file=@xray.png"
        )
    try:
        return await files[0].read()
    finally:
        await files[0].close()
