"""Decode the plain grey PNGs of X-ray machines faster than libpng: libdeflate inflates, NumPy undoes the row filters.

This decoder accepts a stream only if it inflates to exactly the image's size with the correct Adler-32 and every filter
type is valid. libpng decodes or refuses everything else, so that one place decides what is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from deflate import DeflateError, zlib_compress, zlib_decompress

SUB, UP, AVERAGE, PAETH = 1, 2, 3, 4  # filter types (PNG specification, 9.2); 0 is none
# Chunks that never change a grey value. libpng decodes a PNG with any other chunk, for example an animation.
HARMLESS = {b"tEXt", b"zTXt", b"iTXt", b"tIME", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"eXIf"}
WINDOW_32K = 0x78  # first byte of a zlib stream; libdeflate does not enforce a smaller window
MOST_INFLATION = 1032  # deflate's largest ratio: 258 bytes from two bits
MOST_PIXELS, MOST_SIDE = 1 << 30, 1 << 20  # OpenCV's limits
BLOCK = 1024  # rows at a time, to limit the memory
LINES = 32  # rows at a time that stay in the processor's cache


class Chunk(NamedTuple):
    """A chunk of a PNG: its type, and the byte offsets of its body in the file, without ``end``."""

    kind: bytes
    start: int
    end: int


def decode_grey(data: bytes, chunks: list[Chunk]) -> np.ndarray | None:
    """Decode a grey PNG of 8 or 16 bits that is not interlaced.

    Args:
        data: the whole file, with valid checksums of all chunks.
        chunks: its chunks in order, from IHDR to IEND.

    Returns:
        The pixels, uint8 or uint16 (H, W), as stored; None if the PNG is of another kind or damaged.
    """
    head, body = chunks[0], _body(chunks)
    width, height, depth, *kind = struct.unpack_from(">IIBBBBB", data, head.start)
    if body is None or depth not in (8, 16) or kind != [0, 0, 0, 0]:
        return None
    view = memoryview(data)
    stream = b"".join(view[chunk.start : chunk.end] for chunk in body)
    row = 1 + width * depth // 8
    if stream[:1] != bytes([WINDOW_32K]) or row * height > MOST_INFLATION * len(stream):
        return None
    if width * height > MOST_PIXELS or max(width, height) > MOST_SIDE:
        return None
    try:
        raw = zlib_decompress(stream, row * height)
    except (DeflateError, MemoryError):  # libpng needs less memory
        return None
    if len(raw) != row * height:
        return None
    return _unfilter(np.frombuffer(raw, np.uint8).reshape(height, row), np.dtype(f"u{depth // 8}"))


def _body(chunks: list[Chunk]) -> list[Chunk] | None:
    """Return the IDAT chunks; None if they are not contiguous, or another chunk is not :data:`HARMLESS`."""
    places = [place for place, chunk in enumerate(chunks) if chunk.kind == b"IDAT"]
    if not places or places[-1] - places[0] >= len(places):
        return None
    if {chunk.kind for chunk in chunks[1:-1]} - HARMLESS - {b"IDAT"}:
        return None
    return chunks[places[0] : places[-1] + 1]


def _unfilter(raw: np.ndarray, dtype: np.dtype[np.unsignedinteger]) -> np.ndarray | None:
    """Undo the filters of all rows.

    Args:
        raw: uint8 (H, 1 + W * bytes per pixel): per row the filter type, then the pixels, big-endian. It is
            overwritten: the result uses its memory.
        dtype: uint8 or uint16.

    Returns:
        The pixels, ``dtype`` (H, W); None if a filter type is invalid.
    """
    filters = raw[:, 0].copy()
    if filters.max() > PAETH:
        return None
    height, width = len(raw), (raw.shape[1] - 1) // dtype.itemsize
    # In place: a block's pixels end before the next block begins. Bytes can be swapped before the filters are undone,
    # because filters treat the bytes of a pixel separately.
    pixels = raw.reshape(-1)[: height * width * dtype.itemsize].view(dtype).reshape(height, width)
    for start in range(0, height, LINES):
        block = slice(start, start + LINES)
        pixels[block] = raw[block, 1:].view(dtype.newbyteorder(">")).astype(dtype)
    _undo_sub(pixels, np.flatnonzero(filters == SUB))
    rows = pixels.view(np.uint8)
    for first, last, up in _runs(filters):
        if up:
            for above, row in pairwise(rows[max(first - 1, 0) : last]):
                np.add(above, row, out=row)
        else:
            _undo_one_by_one(pixels, filters, first, last)
    return pixels


def _runs(filters: np.ndarray) -> Iterable[tuple[int, int, bool]]:
    """Yield the runs of rows that depend on the row above: first, last + 1, and whether all their filters are Up."""
    kinds = np.where(filters < UP, 0, np.minimum(filters, AVERAGE))
    starts = np.flatnonzero(np.diff(kinds, prepend=0))
    for first, last in pairwise([*starts.tolist(), len(kinds)]):
        if kinds[first]:
            yield first, last, bool(kinds[first] == UP)


def _undo_sub(pixels: np.ndarray, numbers: np.ndarray) -> None:
    """Undo Sub in the rows ``numbers``, in place: add up the differences from left to right."""
    for start in range(0, len(numbers), BLOCK):
        part = numbers[start : start + BLOCK]
        # One addition handles a column of all rows; after transposition its bytes are contiguous.
        turned = np.asarray(cv2.transpose(pixels[part]))
        for left, column in pairwise(turned.view(np.uint8)):
            np.add(left, column, out=column)
        pixels[part] = cv2.transpose(turned)


def _undo_one_by_one(pixels: np.ndarray, filters: np.ndarray, first: int, last: int) -> None:
    """Undo Average and Paeth, in place, with Pillow's C code: each byte depends on the one before."""
    from PIL import Image

    mode = "L" if pixels.dtype == np.uint8 else "I;16"
    rows = pixels.view(np.uint8)
    for start in range(first, last, BLOCK):
        end = min(start + BLOCK, last)
        block = np.zeros((1 + end - start, 1 + rows.shape[1]), np.uint8)
        if start:  # above the first row everything is 0
            block[0, 1:] = rows[start - 1]
        block[1:, 0], block[1:, 1:] = filters[start:end], rows[start:end]
        stored = bytes(zlib_compress(block, 0))
        picture = Image.frombytes(mode, (pixels.shape[1], len(block)), stored, "zip", mode)
        pixels[start:end] = np.asarray(picture)[1:]
