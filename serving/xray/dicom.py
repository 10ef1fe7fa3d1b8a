"""Read the X-ray of a DICOM for display as its header defines: rescaled, windowed, lungs dark (PS3.3, PS3.4)."""

from __future__ import annotations

import io
import math
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_voi_lut
from pydicom.pixels.utils import pixel_array
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    JPEGLossless,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from core.images import ImageError
from serving.xray import codestream
from serving.xray.planes import check_size, grey_of

# SOP classes of chest X-rays; scanned films and public data sets use secondary capture.
STORAGE = frozenset(
    {
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        DigitalXRayImageStorageForProcessing,
        SecondaryCaptureImageStorage,
        MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    }
)
# DR is used, although it is not in the standard; secondary captures may have OT or no modality (PS3.3, C.7.3.1.1.1).
MODALITIES = frozenset({"CR", "DX", "DR", "RG", "SC", "OT", ""})
MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
CODE = re.compile(r"[A-Z0-9_ ]{1,16}")
PIXEL_GROUPS = (0x0028, 0x7FE0)
WIDEST_PIXEL = 8  # bytes
BASELINE_BITS = 8  # every decoder reads extended JPEG up to this many bits per pixel
OTHER_ELEMENTS = 16 << 20  # bytes; allowance for all elements that are not pixels
LEAST_CM, MOST_CM = 5, 60  # side of a chest X-ray: a newborn's, collimated; more than the largest detector
RLE_PADDING = 1 << 10  # bytes; some writers pad their segments


def read_dicom(data: bytes, name: str, most: int) -> tuple[np.ndarray, tuple[float, float] | None, Dataset]:
    """Read a DICOM with one X-ray.

    Applies the modality LUT or rescale, then the first VOI LUT or window. Inverts the values for ``MONOCHROME1`` or a
    presentation LUT shape of ``INVERSE``. DX requires both together, so the values are inverted only once. An invalid
    window is ignored. Padding gets the value of the darkest pixel.

    Args:
        data: the whole file.
        name: name of the file in messages.
        most: limit in pixels; larger images are refused before they are decoded.

    Returns:
        Pixels, uint8, uint16 or float32 (H, W), lungs dark; row and column spacing in mm, or None; the dataset.

    Raises:
        ImageError: damaged, too large, of an unsupported compression, or not a single X-ray.
    """
    dataset = _parse(data, name, most)
    with _as_image_error(name, "its header cannot be read"):  # pydicom converts an element when it is first read
        _check_kind(dataset, name)
        _check_pixels(dataset, name, most)
    with _as_image_error(name, "its pixels cannot be decoded"):
        stored = _stored_values(dataset)
    grey = dataset.PhotometricInterpretation in MONOCHROME
    if stored.shape != (dataset.Rows, dataset.Columns) + (() if grey else (3,)):
        size = f"{dataset.Columns} x {dataset.Rows}"
        raise ImageError(f"{name}: damaged: its pixel data do not make one image of {size}; export it again")
    with _as_image_error(name, "its grey values cannot be prepared for display"):
        return _for_display(stored, dataset) if grey else grey_of(stored, name), spacing(dataset), dataset


def _stored_values(dataset: Dataset) -> np.ndarray:
    """Decode the pixel data; a pixel may use any bits of its word (PS3.5, 8.1.1), which pydicom ignores."""
    bits, high, width = (int(dataset[key].value) for key in ("BitsStored", "HighBit", "BitsAllocated"))
    lowest = high == bits - 1 or dataset.file_meta.TransferSyntaxUID.is_encapsulated or not bits <= high + 1 <= width
    if not lowest:
        dataset.BitsStored, dataset.HighBit = width, width - 1
    stored = _decode(dataset)
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if not lowest:
        dataset.BitsStored, dataset.HighBit = bits, high
        # Some writers declare the word's highest bits but fill the lowest ones.
        upper = int(stored.max()) >> bits > 0
        stored = (stored << (width - 1 - high if upper else width - bits)) >> (width - bits)
    return stored


def _decode(dataset: Dataset) -> np.ndarray:
    """Return the pixels of a dataset; raises what the decoder raises."""
    meta = dataset.file_meta
    if meta.TransferSyntaxUID == RLELossless:
        # Not with GDCM: its decoder overflows its buffer (github.com/malaterre/GDCM/pull/235).
        return pixel_array(dataset, decoding_plugin="pydicom")
    if meta.TransferSyntaxUID != JPEGExtended12Bit or dataset.BitsStored <= BASELINE_BITS:
        return pixel_array(dataset)
    # pydicom decodes at most 8 bits of this syntax. GDCM decodes 12: it reads the JPEG process from the codestream.
    meta.TransferSyntaxUID = JPEGLossless
    try:
        return pixel_array(dataset, decoding_plugin="gdcm")
    finally:
        meta.TransferSyntaxUID = JPEGExtended12Bit


def plausible_spacing(
    found: tuple[float, float] | None, shape: tuple[int, int]
) -> tuple[tuple[float, float] | None, str]:
    """Return the spacing if it is plausible for a chest X-ray, else None and the reason.

    Args:
        found: distance between rows and between columns in mm; None if unknown.
        shape: height and width in pixels.
    """
    if found is None:
        return None, ""
    sides = [distance * count / 10 for distance, count in zip(found, shape, strict=True)]
    if all(LEAST_CM <= side <= MOST_CM for side in sides):
        return found, ""
    text = f"it says {found[0]:.3g} x {found[1]:.3g} mm a pixel, which makes {sides[1]:.3g} x {sides[0]:.3g} cm"
    return None, f"{text}; a chest X-ray has {LEAST_CM} to {MOST_CM} cm a side, so that no area is given in cm2"


def spacing(dataset: Dataset) -> tuple[float, float] | None:
    """Return the distance between rows and between columns in mm, or None if the DICOM has none.

    ``PixelSpacing`` is used unchanged. ``ImagerPixelSpacing`` is measured at the detector and is divided by the
    magnification, if known (PS3.3, 10.7.1.3).
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        values = _numbers(dataset.get(keyword))
        if len(values) == 2 and all(math.isfinite(each) and each > 0 for each in values):
            magnification = _numbers(dataset.get("EstimatedRadiographicMagnificationFactor"))
            if keyword == "ImagerPixelSpacing" and magnification and magnification[0] >= 1:
                values = [each / magnification[0] for each in values]
            return values[0], values[1]
    return None


def _numbers(value: Any) -> list[float]:
    if value is None:
        return []
    try:
        return [float(each) for each in ([value] if isinstance(value, str | float | int) else value)]
    except (TypeError, ValueError):
        return []  # text instead of a number counts as missing


@contextmanager
def _as_image_error(name: str, what: str) -> Iterator[None]:
    """Turn any exception of pydicom and its decoders into an ImageError of one line.

    The line omits the exception's text, which may quote patient data.
    """
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # may be anything: ValueError, KeyError, struct.error, RuntimeError, RecursionError
        raise ImageError(f"{name}: damaged or cut short: {what}; export it again") from error


def _parse(data: bytes, name: str, most: int) -> Dataset:
    file = io.BytesIO(data)
    with _as_image_error(name, "it cannot be parsed"):
        # Read the file meta information first, because dcmread inflates the whole data set.
        read_preamble(file, force=True)
        meta = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=_after_meta)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            _check_deflated(data[file.tell() :], name, most)
        file.seek(0)
        dataset = dcmread(file, force=True)
        if not len(dataset):
            raise EOFError("no element is whole")
        _remove_unreadable(dataset)
        if "TransferSyntaxUID" not in dataset.file_meta:  # a data set without file meta information
            implicit, little = dataset.original_encoding
            plain = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else plain
        return dataset


def _remove_unreadable(dataset: Dataset) -> None:
    """Remove elements that pydicom cannot read, because a later access would raise.

    Elements that describe the pixels stay: without them the pixels would be misread.
    """
    for tag in [tag for tag in dataset.keys() if tag.group not in PIXEL_GROUPS]:  # noqa: SIM118 - else its values
        try:
            element = dataset[tag]
        except Exception:  # as in _as_image_error
            del dataset[tag]
        else:
            for item in element.value if element.VR == "SQ" else ():
                _remove_unreadable(item)


def _after_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group != 2


def _check_deflated(body: bytes, name: str, most: int) -> None:
    """Raise ImageError if a deflated data set inflates to more than the largest allowed image needs."""
    if body.startswith(b"\0\0"):  # a command set: pydicom would skip it and inflate the rest
        raise ImageError(f"{name}: damaged: network commands precede its compressed data set; export it again")
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    room = most * WIDEST_PIXEL + OTHER_ELEMENTS
    while body and room > 0:
        room -= len(unpacker.decompress(body, 1 << 20))
        body = unpacker.unconsumed_tail
    if room <= 0:
        raise ImageError(f"{name}: unpacks to more than {most / 1e6:g} megapixels need; remove it")


def _check_kind(dataset: Dataset, name: str) -> None:
    storage, modality = UID(str(dataset.get("SOPClassUID", ""))), str(dataset.get("Modality", "") or "")
    if storage == EncapsulatedPDFStorage:
        raise ImageError(f"{name}: a PDF document inside a DICOM, not an X-ray; export the X-ray itself")
    if not storage:
        raise ImageError(f"{name}: has no SOP Class UID; export it again")
    if storage not in STORAGE or modality.upper() not in MODALITIES:
        kind = storage.name if storage.name != storage else "of an unknown kind"
        detail = f", modality {_code(modality.upper())}" if modality else ""
        raise ImageError(f"{name}: not a chest X-ray but {kind}{detail}; remove it")


def _check_pixels(dataset: Dataset, name: str, most: int) -> None:
    if "PixelData" not in dataset or not dataset.PixelData:
        raise ImageError(f"{name}: a DICOM without pixel data; export it with its pixels")
    with _as_image_error(name, "it does not describe its pixels"):
        frames = int(dataset.get("NumberOfFrames") or 1)
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        photometric = str(dataset.PhotometricInterpretation)
        syntax = dataset.file_meta.TransferSyntaxUID
        compressed = syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian
        pixel_bytes = int(dataset.get("SamplesPerPixel") or 1) * int(dataset.BitsAllocated) // 8
    if frames > 1:
        raise ImageError(f"{name}: holds {frames} frames, not one X-ray; export one frame")
    check_size(columns, rows, name, most)
    if photometric not in MONOCHROME and not photometric.startswith(("RGB", "YBR")):
        raise ImageError(f"{name}: a {_code(photometric)} image, not a grey X-ray; export it as MONOCHROME2")
    if not compressed:
        return
    if not _can_decode(syntax):
        known = syntax.name if syntax.name != syntax else "in an unknown way"
        raise ImageError(f"{name}: compressed ({known}), which cannot be read here; export it uncompressed")
    for table in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):  # frame offsets, not needed for one frame
        dataset.pop(table, None)
    # The check above uses the DICOM header, which may give a small size for a huge image.
    with _as_image_error(name, "its compressed image cannot be found"):
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        if syntax == RLELossless:
            mismatch = None if codestream.fits(frame, rows * columns * pixel_bytes + RLE_PADDING) else "unpacks to more"
        else:
            stated = codestream.size(frame)
            if codestream.has_too_many_scans(frame):
                raise ImageError(f"{name}: its JPEG has more than {codestream.MOST_SCANS} scans; export it again")
            mismatch = "says {} x {}".format(*stated) if stated else "does not say how large it is"
            mismatch = None if stated == (columns, rows) else mismatch
    if mismatch:
        raise ImageError(
            f"{name}: damaged: its header says {columns} x {rows} pixels, its compressed image {mismatch}; "
            "export it again"
        )


def _can_decode(syntax: UID) -> bool:
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _code(value: str) -> str:
    """Return a valid code string (PS3.5, table 6.2-1, CS), else ``UNKNOWN``: the value may be patient data."""
    return value if CODE.fullmatch(value) else "UNKNOWN"


def _for_display(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    padding = _padding(stored, dataset)
    values = stored
    slope, intercept = (_numbers(dataset.get(key)) for key in ("RescaleSlope", "RescaleIntercept"))
    if dataset.get("ModalityLUTSequence") or (slope or [1.0], intercept or [0.0]) != ([1.0], [0.0]):
        values = apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence") and values.dtype.kind == "f":
        values = np.rint(values).astype(np.int64)  # integers, to index a LUT
    values = apply_voi_lut(values, dataset) if _has_window(dataset) else apply_voi(values, dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE":
        seen = values[~padding] if padding.any() else values
        values = seen.max() + (seen.min() - values) if values.dtype.kind == "f" else _turned(values)
    if padding.any() and not padding.all():
        values = np.where(padding, values[~padding].min(), values)
    return values if values.dtype in (np.uint8, np.uint16) else values.astype(np.float32)


def _turned(values: np.ndarray) -> np.ndarray:
    """Return inverted integers in the same range."""
    return (int(values.max()) - (values.astype(np.int64) - int(values.min()))).astype(values.dtype)


def _has_window(dataset: Dataset) -> bool:
    """Return whether the first window is valid; the window function needs a minimum width (PS3.3, C.11.2.1)."""
    width, center = _numbers(dataset.get("WindowWidth")), _numbers(dataset.get("WindowCenter"))
    if not width or not center:
        return False
    linear = str(dataset.get("VOILUTFunction") or "LINEAR").upper() == "LINEAR"
    return width[0] > 1 if linear else width[0] > 0


def _padding(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Return the padding pixels, bool (H, W): pixels with the padding value or in its range (PS3.3, C.7.5.1.1.2)."""
    value = _numbers(dataset.get("PixelPaddingValue"))
    if not value:
        return np.zeros(stored.shape, bool)
    limit = _numbers(dataset.get("PixelPaddingRangeLimit")) or value
    low, high = sorted((value[0], limit[0]))
    padding: np.ndarray = (stored >= low) & (stored <= high)
    return padding
