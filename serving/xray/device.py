"""The device that took an X-ray, and the day."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset

KEYWORDS = ("Manufacturer", "ManufacturerModelName")  # the DICOM attributes that :func:`device` reads
DAYS = ("AcquisitionDate", "ContentDate", "SeriesDate", "StudyDate")


def device(dataset: Dataset | None) -> str:
    """Return manufacturer and model of the device; empty if unknown."""
    return " ".join(text for text in _texts(dataset, KEYWORDS) if text)


def taken(dataset: Dataset | None) -> str:
    """Return the day of the X-ray, such as ``2026-11-30``; empty if the header has no valid day."""
    for text in _texts(dataset, DAYS):
        with suppress(ValueError):
            return datetime.strptime(text.replace(".", ""), "%Y%m%d").date().isoformat()
    return ""


def _texts(dataset: Dataset | None, keywords: Sequence[str]) -> list[str]:
    """Return the values that are one text each; the standard allows no other type."""
    values = [dataset.get(keyword) for keyword in keywords] if dataset else []
    return [value.strip() for value in values if isinstance(value, str)]
