"""Read an X-ray as one grey channel from PNG, JPEG, TIFF or DICOM; the content determines the format."""

from __future__ import annotations

import io
import os
import tempfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import cv2
import numpy as np

from core.images import SIGNATURE as PNG
from core.images import ImageError, decode
from serving.xray.codestream import MOST_SCANS, has_too_many_scans
from serving.xray.planes import check_size, grey_of

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from pydicom import Dataset

JPEG = b"\xff\xd8\xff"
TIFF = (b"II*\0", b"MM\0*")
FIRST_GROUPS = (b"\x02\0", b"\x08\0")  # first group of a DICOM without preamble, little endian
ORIENTATION = 274  # EXIF tag
SAMPLE_FORMAT = 339  # TIFF tag; 1 is unsigned, 2 signed, 3 floating point
PHOTOMETRIC = 262  # TIFF tag PhotometricInterpretation; 0 is WhiteIsZero


@dataclass(frozen=True)
class Xray:
    """One X-ray at its original size.

    Attributes:
        pixels: uint8, uint16 or float32 (H, W), any range, lungs dark.
        spacing: distance between rows and between columns in mm; None if unknown or implausible.
        dicom: the DICOM dataset, including pixel data; None for other formats.
        kind: ``png``, ``jpeg``, ``tiff`` or ``dicom``.
        doubts: quality flags from reading the file, as (name, reason).
    """

    pixels: np.ndarray
    spacing: tuple[float, float] | None
    dicom: Dataset | None
    kind: str
    doubts: tuple[tuple[str, str], ...] = ()


def read_xray(data: bytes, name: str, max_megapixels: float) -> Xray:
    """Read an X-ray from the bytes of a file.

    Args:
        data: the file.
        name: name of the file in messages.
        max_megapixels: larger images are refused before they are decoded.

    Raises:
        ImageError: the file is empty, damaged, in another format, too large, too small, in colour, has only one grey
            value, or is not a single X-ray.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty (0 bytes); fetch it again")
    most = int(max_megapixels * 1e6)
    if data.startswith(PNG):
        xray = Xray(_as_turned(decode(data, name, most)[0], data, name), None, None, "png")
    elif data.startswith(JPEG):
        if has_too_many_scans(data):
            raise ImageError(f"{name}: a JPEG of more than {MOST_SCANS} scans; save it again as PNG")
        pixels = _decode_picture(data, name, most)
        xray = Xray(pixels, None, None, "jpeg", _damage(data, name))
    elif looks_like_dicom(data):
        from serving.xray.dicom import plausible_spacing, read_dicom

        pixels, spacing, dataset = read_dicom(data, name, most)
        spacing, impossible = plausible_spacing(spacing, (pixels.shape[0], pixels.shape[1]))
        xray = Xray(pixels, spacing, dataset, "dicom", (("spacing", impossible),) if impossible else ())
    elif data.startswith(TIFF):  # after DICOM, whose preamble may be a TIFF header
        xray = Xray(_decode_picture(data, name, most), None, None, "tiff")
    elif data.lstrip()[:5] == b"%PDF-":
        raise ImageError(f"{name}: a PDF document, not an X-ray; export the X-ray as DICOM or PNG")
    else:
        raise ImageError(f"{name}: not a PNG, JPEG, TIFF or DICOM file; replace or remove it")
    _check_plane(xray.pixels, name)
    return xray


def looks_like_dicom(data: bytes) -> bool:
    """Return whether a file begins like a DICOM: with a preamble and ``DICM``, or with a first element."""
    return data[128:132] == b"DICM" or (data[:2] in FIRST_GROUPS and data[3:4] == b"\0")


def _check_plane(pixels: np.ndarray, name: str) -> None:
    height, width = pixels.shape
    check_size(width, height, name, width * height)
    if not np.isfinite((low := pixels.min(), high := pixels.max())).all():
        raise ImageError(f"{name}: has grey values that are not finite; export it again")
    if low == high:
        raise ImageError(f"{name}: every pixel has the same grey value, {low:g}: it shows nothing; remove it")


def _as_turned(pixels: np.ndarray, data: bytes, name: str) -> np.ndarray:
    """Return the pixels of a PNG, rotated by its EXIF orientation."""
    if b"eXIf" not in data:
        return pixels
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as picture:
            orientation = picture.getexif().get(ORIENTATION, 1)
    except Exception as error:  # as in _decode_picture
        raise ImageError(f"{name}: damaged: its EXIF data cannot be read; fetch it again") from error
    plane = Image.fromarray(pixels)
    plane.getexif()[ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(plane))


def _decode_picture(data: bytes, name: str, most: int) -> np.ndarray:
    """Return the pixels of a JPEG or TIFF, rotated by its orientation tag."""
    from PIL import Image, ImageOps

    # Pillow's limit is global; check_size applies the user's limit instead.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(io.BytesIO(data)) as picture:
            check_size(picture.width, picture.height, name, most)
            if _has_second(picture):
                raise ImageError(f"{name}: holds several images, not one X-ray; save them one by one")
            picture.load()
            turned = ImageOps.exif_transpose(picture)
            return _plane(turned, _white_is_zero(picture), _stored_type(picture), name)
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise many types of exceptions on a damaged file
        raise ImageError(f"{name}: damaged or cut short: its image cannot be decoded; fetch it again") from error


def _damage(data: bytes, name: str) -> tuple[tuple[str, str], ...]:
    """Return a flag if the decoder warns of corrupt data: the JPEG decodes, but maybe not to the image taken.

    libjpeg reports warnings only on standard error, so they are read from there.

    Raises:
        ImageError: the JPEG is cut short.
    """
    keep = os.dup(2)
    try:
        with _scratch() as caught:
            os.dup2(caught.fileno(), 2)
            try:
                cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            finally:
                os.dup2(keep, 2)
            caught.seek(0)
            warning = caught.read().decode(errors="replace")
    finally:
        os.close(keep)
    if "premature end" in warning:
        raise ImageError(f"{name}: damaged or cut short: its JPEG ends too early; fetch it again")
    if "Corrupt JPEG" in warning:
        return (("damaged", "its JPEG has bytes that do not belong there: the image may not be the one taken"),)
    return ()


def _scratch() -> IO[bytes]:
    """Return an unnamed temporary file: in memory if possible, since a decoder's process may not write to disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("warnings"), "w+b")
    return tempfile.TemporaryFile()


def _has_second(picture: Picture) -> bool:
    # Counting the frames would read the whole file, which may have thousands of them.
    try:
        picture.seek(1)
    except EOFError:
        return False
    return True


def _white_is_zero(picture: Picture) -> bool:
    """Return whether a TIFF of more than 8 bits is stored inverted: Pillow inverts only 8-bit TIFFs."""
    return bool(picture.format == "TIFF" and picture.mode != "L" and picture.tag_v2.get(PHOTOMETRIC) == 0)


def _stored_type(picture: Picture) -> np.dtype[Any] | None:
    """Return a TIFF's dtype if Pillow misreads it: int8 (read as uint8) or uint32 (read as int32); else None."""
    if picture.format != "TIFF":
        return None
    sample = picture.tag_v2.get(SAMPLE_FORMAT, (1,))
    signed = (sample[0] if isinstance(sample, tuple) else sample) == 2
    if picture.mode == "L" and signed:
        return np.dtype(np.int8)
    return np.dtype(np.uint32) if picture.mode == "I" and not signed else None


def _plane(picture: Picture, inverted: bool, stored: np.dtype[Any] | None, name: str) -> np.ndarray:
    if picture.mode in ("L", "I;16", "I;16B", "I", "F"):
        pixels = np.asarray(picture)
        if stored is not None:
            pixels = pixels.view(stored).astype(np.float64)
        if picture.mode.startswith("I;16"):
            pixels = pixels.astype(np.uint16)
        elif pixels.dtype != np.uint8:
            pixels = pixels.astype(np.float32)
        # Copy, because a view of Pillow's memory is read-only.
        return pixels.max() - pixels if inverted else pixels.copy()
    if "A" in picture.getbands() and picture.getchannel("A").getextrema() != (255, 255):
        raise ImageError(f"{name}: has transparent parts; save it as plain grey")
    return grey_of(np.asarray(picture.convert("RGB")), name)
