"""Parse the clinical reading of an X-ray, a few lines of text in varying formats."""

from __future__ import annotations

import re
from dataclasses import dataclass

YEARS = {"y": 1.0, "m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25}  # years per unit, DICOM's letters (PS3.5, AS)


@dataclass(frozen=True)
class Reading:
    """A parsed reading: age in years or None, sex (F, M, or empty), and the remaining text."""

    age: float | None = None
    sex: str = ""
    text: str = ""


def decode_text(data: bytes) -> str:
    """Decode a reading as UTF-8, or else as Latin-1, which accepts any bytes."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_montgomery(text: str) -> Reading:
    """Parse ``Patient's Sex: F``, ``Patient's Age: 033Y`` and the finding, each on its own line.

    A line that is not a valid sex or age is part of the text.
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
    """Parse a first line such as ``male 45yrs`` or ``Female, 3 months``, then the finding.

    A first line in another form is part of the text.
    """
    pattern = r"\s*(male|female)[\s,.]*(\d{1,3}(?:\.\d+)?)\s*(y|m|w|d)[a-z]*[\s,.]*"
    first, *rest = text.lstrip().splitlines() or [""]
    match = re.fullmatch(pattern, first, re.IGNORECASE)
    if match is None:
        return Reading(text=" ".join(text.split()))
    age = float(match[2]) * YEARS[match[3].lower()]
    return Reading(age, match[1][0].upper(), " ".join(" ".join(rest).split()))
