"""Encode PNGs with chosen row filters, chunks and mistakes, as no library does."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def filtered(pixels: np.ndarray, filters: Sequence[int]) -> bytes:
    """The rows of uint8 or uint16 (H, W) or (H, W, channels), each after its filter type (PNG specification, 9.2)."""
    height, width = pixels.shape[:2]
    stored = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
    rows = np.frombuffer(stored, np.uint8).reshape(height, -1).astype(np.int16)
    step = rows.shape[1] // width
    x, a, b, c = (np.zeros((height + 1, rows.shape[1] + step), np.int16) for _ in range(4))
    x[1:, step:] = rows
    a[:, step:], b[1:], c[1:, step:] = x[:, :-step], x[:-1], x[:-1, :-step]
    p = a + b - c
    near, far = np.abs(p - a), np.abs(p - b)
    paeth = np.where((near <= far) & (near <= np.abs(p - c)), a, np.where(far <= np.abs(p - c), b, c))
    predictions = np.stack([np.zeros_like(x), a, b, (a + b) // 2, paeth])
    out = bytearray()
    for row, kind in enumerate(filters, 1):
        out += bytes([kind]) + (x[row, step:] - predictions[min(kind, 4), row, step:]).astype(np.uint8).tobytes()
    return bytes(out)


def interlaced(pixels: np.ndarray) -> bytes:
    """The rows of all seven passes of Adam7, without filters."""
    passes = (pixels[y::down, x::across] for x, y, across, down in ADAM7)
    return b"".join(filtered(part, [0] * len(part)) for part in passes if part.size)


def png(
    header: tuple[int, ...],
    parts: Iterable[bytes],
    before: Sequence[tuple[bytes, bytes]] = (),
    after: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """A PNG of the fields of IHDR, the bodies of its IDATs, and other chunks before and after these."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *header)), *before, *((b"IDAT", part) for part in parts), *after]
    return SIGNATURE + b"".join(chunk(kind, body) for kind, body in [*chunks, (b"IEND", b"")])


def grey(pixels: np.ndarray, filters: Sequence[int], **others: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A grey PNG of uint8 or uint16 (H, W), in one IDAT."""
    height, width = pixels.shape
    header = (width, height, 8 * pixels.itemsize, 0, 0, 0, 0)
    return png(header, [zlib.compress(filtered(pixels, filters), 1)], **others)
