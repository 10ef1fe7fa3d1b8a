"""The one file that a request brings, read within limits of size and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import HTTPException
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

MEGA = 1_000_000
MULTIPART_EXTRA = 64 * 1024  # bytes of boundaries and headers that a file of the largest size may come in
RETRY = {"Retry-After": "1"}


class Budget:
    """An amount that all requests together may have; who asks for more than is left is answered 503."""

    def __init__(self, whole: float, what: str) -> None:
        self.whole, self.what, self.taken = whole, what, 0.0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """Yield a share of the amount, which is given back when the block ends."""
        share = Share(self)
        try:
            yield share
        finally:
            self.taken -= share.taken


class Share:
    """What one request has of a :class:`Budget`."""

    def __init__(self, budget: Budget) -> None:
        self.budget, self.taken = budget, 0.0

    def take(self, amount: float) -> None:
        """Take more.

        Raises:
            HTTPException: 503, there is not so much left.
        """
        if self.budget.taken + amount > self.budget.whole:
            raise HTTPException(503, f"the service is busy: too many {self.budget.what} at once; try again", RETRY)
        self.taken += amount
        self.budget.taken += amount


class _Form(MultiPartParser):
    """Keeps the file in memory, since the disk is no place for a patient's picture, and knows whether all came."""

    complete = False

    def on_end(self) -> None:
        self.complete = True


def is_form(request: Request) -> bool:
    """Tell whether the body is a form with a file, rather than the file itself."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data"


async def read_file(request: Request, max_mb: float, seconds: float, share: Share) -> bytes:
    """Return the file of a request: the whole body, or the one file of a form.

    Args:
        request: none of its body has been read.
        max_mb: megabytes that the file may have; the first byte beyond ends the reading.
        seconds: within which the body must have come.
        share: of the memory for bodies; what is read is taken from it.

    Raises:
        HTTPException: 400 a broken form or none with one file, 408 too slow, 413 too large, 415 packed, 503 no memory
            left for it.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise HTTPException(415, f"Content-Encoding {encoding[:40]!r} is not taken; send the file as it is")
    limit = int(max_mb * MEGA) + (MULTIPART_EXTRA if is_form(request) else 0)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large(max_mb)
    try:
        async with asyncio.timeout(seconds):
            chunks = _chunks(request, limit, max_mb, share)
            if is_form(request):
                return await _file_of_form(request, chunks, limit)
            body = bytearray()
            async for chunk in chunks:
                body += chunk
            return bytes(body)
    except TimeoutError:
        raise HTTPException(408, f"the request's body did not come within {seconds:g} s") from None
    except ClientDisconnect:
        raise HTTPException(400, "the request's body ended before its time") from None


def too_large(max_mb: float) -> HTTPException:
    """Return the error that a body is too large."""
    return HTTPException(413, f"the file is larger than the {max_mb:g} MB allowed")


async def _chunks(request: Request, limit: int, max_mb: float, share: Share) -> AsyncGenerator[bytes, None]:
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
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
            400, "the form holds no file; send one in a field with a file name, e.g. curl -F file=@xray.png"
        )
    try:
        return await files[0].read()
    finally:
        await files[0].close()
