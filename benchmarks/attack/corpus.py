"""Seeds and mutations: small synthetic files of every kind, without patient data, and random damage to them."""

from __future__ import annotations

import io
import random
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from core.images import SIGNATURE as PNG
from model.inference.golden import draw

SECRET = "Secret^Patient"  # noqa: S105 - in every DICOM; no message may quote it
SIDE = 64
BYTES_OF_TAGS = (b"\x28\x00", b"\x08\x00", b"\x10\x00", b"\x20\x00", b"\xe0\x7f")
VALUES = (b"\x00", b"\xff", b"\x7f", b"\x80", b"SQ", b"UN", b"US", b"SV", b"\xff\xff\xff\xff", b"\xff\xd8", b"\xff\xda")


def seeds() -> dict[str, list[bytes]]:
    """Return undamaged files by kind: PNG, JPEG, TIFF and DICOM."""
    eight = draw(SIDE)
    sixteen = eight.astype(np.uint16) * 16
    colour = np.repeat(eight[..., None], 3, axis=2)
    syntaxes = (
        *(ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian),
        *(RLELossless, JPEGLSLossless),
    )
    return {
        "PNG": [picture(each, "PNG") for each in (eight, sixteen, colour)],
        "JPEG": [picture(eight, "JPEG", progressive=each) for each in (False, True)],
        "TIFF": [
            *(picture(each, "TIFF") for each in (eight, sixteen)),
            *(picture(eight, "TIFF", compression=each) for each in ("tiff_lzw", "tiff_deflate", "packbits")),
        ],
        "DICOM": [saved(dataset(each), syntax) for each in (eight, sixteen) for syntax in syntaxes],
    }


def picture(pixels: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    """Return an image, or an array (H, W) or (H, W, 3), as a file of a kind that Pillow writes."""
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **options)
    return file.getvalue()


def dataset(pixels: np.ndarray) -> Dataset:
    """Return the DICOM of a digital X-ray with ``pixels``, unsigned (H, W), and :data:`SECRET` as patient's name."""
    bits = 8 * pixels.dtype.itemsize
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = DigitalXRayImageStorageForPresentation, generate_uid(entropy_srcs=["i"])
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(entropy_srcs=["s"]), generate_uid(entropy_srcs=["t"])
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.Modality, made.PatientName, made.PatientID, made.PatientOrientation = "DX", SECRET, SECRET, ["L", "F"]
    scale = 1 if bits == 8 else 16
    made.WindowCenter, made.WindowWidth, made.PixelSpacing = str(120 * scale), str(200 * scale), ["4", "4"]
    made.RescaleSlope, made.RescaleIntercept = "1", "-10"
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = bits, bits, bits - 1, 0
    made.PixelData = pixels.tobytes()
    made["PixelData"].VR = "OB" if bits == 8 else "OW"
    return made


def saved(made: Dataset, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """Return a data set as a DICOM file in a transfer syntax."""
    if syntax in (RLELossless, JPEGLSLossless):
        made.compress(syntax, generate_instance_uid=False)
    made.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    made.preamble = bytes(128)
    made.save_as(file, enforce_file_format=False)  # else pydicom refuses or corrects unusual values
    return file.getvalue()


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return a damaged copy with one to four changes: flipped bits, other bytes, cuts, repeats and insertions."""
    png = data.startswith(PNG)
    for _ in range(chance.randint(1, 4)):
        data = chance.choice(CHANGES)(data or b"\0", chance)
    # Else the checksums of a PNG stop all damage.
    return _with_checksums(data) if png and chance.random() < 0.7 else data


def _with_checksums(data: bytes) -> bytes:
    """Return a PNG with the correct checksum in every chunk that can be found."""
    fixed, place = bytearray(data), len(PNG)
    while place + 12 <= len(fixed):
        end = place + 12 + int.from_bytes(fixed[place : place + 4], "big")
        if end > len(fixed):
            break
        fixed[end - 4 : end] = zlib.crc32(fixed[place + 4 : end - 4]).to_bytes(4, "big")
        place = end
    return bytes(fixed)


def flipped(data: bytes, chance: random.Random, count: int = 1) -> bytes:
    """Return a copy with ``count`` random bits flipped; ``data`` must not be empty."""
    changed = bytearray(data)
    for _ in range(count):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _flip(data: bytes, chance: random.Random) -> bytes:
    return flipped(data, chance, chance.choice((1, 1, 3, 30)))


def _overwrite(data: bytes, chance: random.Random) -> bytes:
    at, value = chance.randrange(len(data)), chance.choice(VALUES)
    return data[:at] + value + data[at + len(value) :]


def _insert(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + chance.choice((chance.choice(VALUES), chance.randbytes(chance.randint(1, 64)))) + data[at:]


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def _remove(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + data[at + chance.randint(1, 64) :]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    at, length = chance.randrange(len(data)), chance.randint(1, 256)
    return data[:at] + data[at : at + length] * chance.randint(2, 8) + data[at:]


def _near_a_tag(data: bytes, chance: random.Random) -> bytes:
    """Change bytes after a DICOM group number: an element's tag, VR, length or value."""
    at = data.find(chance.choice(BYTES_OF_TAGS), chance.randrange(len(data)))
    at = min(max(at, 0) + chance.randint(2, 12), len(data) - 1)
    return data[:at] + chance.choice(VALUES) + data[at + chance.randint(0, 4) :]


CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(_flip, _flip, _overwrite, _insert, _cut, _remove, _repeat, _near_a_tag),
)
