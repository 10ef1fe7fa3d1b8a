"""Pass a DICOM's header between processes as the bytes of a small, well-formed DICOM."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Collection

from pydicom import DataElement, Dataset, dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag

# pydicom warns of every invalid value and quotes it, but the user cannot change the files.
warnings.filterwarnings("ignore", module=r"(pydicom|highdicom)\.")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

# The groups that a DICOM SEG copies from its X-ray: identification, patient, acquisition, relationship and image.
GROUPS = frozenset({0x0008, 0x0010, 0x0018, 0x0020, 0x0028})
LONGEST = 1 << 10  # maximum characters of a value


def to_bytes(dataset: Dataset, keywords: Collection[str] | None) -> bytes:
    """Return the readable top-level elements of a DICOM as bytes.

    Omits sequences, private elements, long values and elements with a wrong VR: no result needs them, and a hostile
    file can nest or fill them at will.

    Args:
        dataset: the parsed DICOM.
        keywords: the attributes to keep; None: all in :data:`GROUPS`.
    """
    charset = dataset.get("SpecificCharacterSet")
    chosen = Dataset()
    for tag in list(dataset.keys()):
        keyword = keyword_for_tag(tag)
        unwanted = keywords is not None and keyword not in keywords
        if unwanted or not keyword or tag.group not in GROUPS:  # private elements have no keyword
            continue
        try:
            element = dataset[tag]
            if _is_plain(element):
                alone = Dataset()
                alone.add(element)
                if charset and keyword != "SpecificCharacterSet":
                    alone.SpecificCharacterSet = charset
                str(_parse(_encode(alone))[tag].value)  # as the other process will read it
                chosen.add(element)
        except Exception:  # noqa: S112 - pydicom may raise anything on a damaged element, which is omitted
            continue
    return _encode(chosen)


def from_bytes(data: bytes) -> Dataset:
    """Return the dataset encoded by :func:`to_bytes`."""
    return _parse(data)


def _is_plain(element: DataElement) -> bool:
    known = dictionary_VR(element.tag).split(" or ")
    return element.VR != "SQ" and element.VR in known and len(str(element.value)) <= LONGEST


def _encode(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, implicit_vr=False, little_endian=True, enforce_file_format=False)
    return file.getvalue()


def _parse(data: bytes) -> Dataset:
    return dcmread(io.BytesIO(data), force=True)
