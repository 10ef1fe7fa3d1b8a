"""Clinical readings: a few lines of text by each X-ray, written by hand and therefore read with patience."""

from __future__ import annotations

import re
from dataclasses import dataclass

YEARS = {"y": 1.0, "m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25}  # per unit of age, DICOM's letters (PS3.5, AS)


@dataclass(frozen=True)
class Reading:
    """What a radiologist wrote: age in years and sex (F, M) where they could be read, and all other text."""

    age: float | None = None
    sex: str = ""
    text: str = ""


def decode_text(data: bytes) -> str:
    """Return a reading's text; what is not UTF-8 is taken as Latin-1, which every sequence of bytes is."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_montgomery(text: str) -> Reading:
    """Read ``Patient's Sex: F``, ``Patient's Age: 033Y`` and the finding, each on its own line.

    A line that cannot be read as sex or age stays part of the text.
    """
    age: float | None = None
    sex = ""
    rest = []
    for line in text.splitlines():
        if match := re.fullmatch(r"\s*patient.?s\s+sex\s*:\s*([fm])\w*\s*", line, re.IGNORECASE):
            sex = match[1].upper()
        elif match := re.fullmatch(r"\s*patient.?s\s+age\s*:\s*(\d{1,3})\s*([ymwd])\s*", line, re.IGNORECASE):
            age = int(match[1]) * YEARS[match[2].lower()]
        else:
            rest.append(line)
    return Reading(age, sex, " ".join(" ".join(rest).split()))


def read_shenzhen(text: str) -> Reading:
    """Read a first line such as ``male 45yrs`` or ``Female, 3 months``, then the finding.

    A first line that cannot be read so stays part of the text.
    """
    pattern = r"\s*(male|female)[\s,.]*(\d{1,3}(?:\.\d+)?)\s*(y|m|w|d)[a-z]*[\s,.]*"
    first, *rest = text.lstrip().splitlines() or [""]
    match = re.fullmatch(pattern, first, re.IGNORECASE)
    if match is None:
        return Reading(text=" ".join(text.split()))
    age = float(match[2]) * YEARS[match[3].lower()]
    return Reading(age, match[1][0].upper(), " ".join(" ".join(rest).split()))
