"""Read X-rays and masks from PNG: check the whole file, then decode it (:mod:`core.png`, or OpenCV)."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from deflate import crc32

from core.errors import UserError
from core.png import Chunk, decode_grey

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PALETTE = 3  # colour type (PNG specification, 11.2.2 IHDR)
MOST_BYTES_A_PIXEL = 8  # RGBA with 16 bits per channel, the widest PNG format
# In smaller images, NumPy calls per row and column take longer than libpng.
LEAST_FAST = 1 << 20  # pixels

# The callers decode one image per thread; OpenCV's threads would compete with them.
cv2.setNumThreads(1)


class ImageError(UserError):
    """An unusable image: one line with the file's name and the problem."""


class TooLargeError(ImageError):
    """An image with more pixels than allowed; it is refused before decoding."""


def check_pixels(width: int, height: int, name: str, most: int) -> None:
    """Raise :class:`TooLargeError` for an image with more than ``most`` pixels."""
    if width * height > most:
        raise TooLargeError(
            f"{name}: {width} x {height} pixels are more than the {most / 1e6:g} megapixels allowed; "
            "remove it, or raise max_megapixels if it is real"
        )


@dataclass(frozen=True)
class Header:
    """The header of a PNG.

    Attributes:
        width: pixels.
        height: pixels.
        bit_depth: bits per channel, 1 to 16; 8 for a palette, the depth of its colours.
    """

    width: int
    height: int
    bit_depth: int


def check_png(data: bytes, name: str, max_pixels: int | None = None) -> Header:
    """Check a PNG's structure (signature, length and CRC-32 of every chunk, end chunk) without decoding it.

    Args:
        data: the whole file.
        name: name of the file in messages.
        max_pixels: largest width x height, because a few kilobytes can decompress to gigabytes; None: no limit.

    Raises:
        ImageError: the file is empty, not a PNG, truncated, damaged or too large.
    """
    return _check(data, name, max_pixels)[0]


def _check(data: bytes, name: str, max_pixels: int | None) -> tuple[Header, list[Chunk]]:
    if not data:
        raise ImageError(f"{name}: the file is empty (0 bytes); fetch it again")
    if not data.startswith(SIGNATURE[: len(data)]):
        raise ImageError(f"{name}: not a PNG image, despite its name; replace or remove it")
    view = memoryview(data)
    header: Header | None = None
    chunks = []
    place = len(SIGNATURE)
    while True:
        if place + 12 > len(data):
            raise ImageError(f"{name}: truncated after {len(data)} bytes; fetch it again")
        length, kind = struct.unpack_from(">I4s", data, place)
        if header is None:
            if (length, kind) != (13, b"IHDR"):
                raise ImageError(f"{name}: damaged (the PNG does not begin with its header); fetch it again")
            if place + 25 > len(data):
                raise ImageError(f"{name}: truncated after {len(data)} bytes; fetch it again")
            header = _read_header(data[place + 8 : place + 21], name, max_pixels)
        end = place + 12 + length
        if end > len(data):
            raise ImageError(f"{name}: truncated after {len(data)} bytes; fetch it again")
        if crc32(view[place + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise ImageError(f"{name}: damaged (a checksum is wrong near byte {place}); fetch it again")
        chunks.append(Chunk(kind, place + 8, end - 4))
        if kind == b"IEND":
            return header, chunks
        place = end


def _read_header(body: bytes, name: str, max_pixels: int | None) -> Header:
    width, height, depth, colour = struct.unpack(">IIBB", body[:10])
    if not width or not height:
        raise ImageError(f"{name}: damaged (its header says {width} x {height} pixels); fetch it again")
    if max_pixels is not None:
        check_pixels(width, height, name, max_pixels)
    return Header(width, height, 8 if colour == PALETTE else depth)


def decode(data: bytes, name: str, max_pixels: int | None = None) -> tuple[np.ndarray, Header]:
    """Decode a grey PNG that is stored as grey, RGB, RGBA or with a palette.

    Args:
        data: the whole file.
        name: name of the file in messages.
        max_pixels: see :func:`check_png`.

    Returns:
        The pixels, uint8 or uint16 (H, W), not rescaled (except from fewer than 8 bits to 0 to 255), and the header.

    Raises:
        ImageError: as :func:`check_png`; or the image has colour or transparent parts.
    """
    header, chunks = _check(data, name, max_pixels)
    if header.width * header.height >= LEAST_FAST and (grey := decode_grey(data, chunks)) is not None:
        return grey, header
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError(f"{name}: damaged (its pixels cannot be decoded); fetch it again") from error
    if pixels is None:
        raise ImageError(f"{name}: damaged (its pixels cannot be unpacked); fetch it again")
    if pixels.ndim == 2:
        return pixels, header
    if pixels.shape[2] == 4 and (pixels[..., 3] != np.iinfo(pixels.dtype).max).any():
        raise ImageError(f"{name}: has transparent parts; save it as plain grey")
    grey = pixels[..., 0]
    if not (np.array_equal(grey, pixels[..., 1]) and np.array_equal(grey, pixels[..., 2])):
        raise ImageError(f"{name}: a colour image, not a grey X-ray or mask; save it as grey, or remove it")
    return np.ascontiguousarray(grey), header


def foreground(pixels: np.ndarray) -> np.ndarray:
    """Return a mask as uint8 (H, W) of 0 and 1; 1 is above half of the largest value (0/1, 0/255, 0/65535)."""
    lung: np.ndarray = pixels > pixels.max() / 2
    return lung.astype(np.uint8)


def is_binary(pixels: np.ndarray) -> bool:
    """Return whether a mask has no value other than 0 and its maximum."""
    return bool(((pixels == 0) | (pixels == pixels.max())).all())


def pixel_sha256(pixels: np.ndarray) -> str:
    """Return the SHA-256 of an image's shape, dtype and pixels, independent of the file's encoding."""
    digest = hashlib.sha256(f"{pixels.shape} {pixels.dtype.name}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def encode(pixels: np.ndarray) -> bytes:
    """Encode uint8 or uint16 (H, W) pixels as the bytes of a PNG.

    Returns bytes and writes no file, because OpenCV does not report a full disk.
    """
    done, data = cv2.imencode(".png", pixels)
    if not done:
        raise ValueError(f"OpenCV cannot encode {pixels.dtype} {pixels.shape} as PNG")
    return data.tobytes()


def read_image(path: Path) -> np.ndarray:
    """Read a grey X-ray: uint8 or uint16 (H, W), pixels as stored.

    Raises:
        ImageError: the file cannot be read or decoded, see :func:`decode`.
    """
    return decode(_read(path), str(path))[0]


def read_mask(path: Path) -> np.ndarray:
    """Read a mask: uint8 (H, W), 1 where it is lung (:func:`foreground`).

    Raises:
        ImageError: the file cannot be read or decoded, see :func:`decode`.
    """
    return foreground(decode(_read(path), str(path))[0])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error
