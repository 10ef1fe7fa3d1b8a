"""The side of a picture with the patient's left lung."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset

KEYWORDS = ("PatientOrientation", "ViewPosition")  # the DICOM attributes that :func:`mirrored` reads


def mirrored(dataset: Dataset | None) -> bool | None:
    """Return whether the patient's left is on the picture's left side; None if it is not an upright frontal view.

    PA and AP views are normally shown from the front, with the patient's left on the picture's right:
    ``PatientOrientation`` is ``L`` for rows and ``F`` for columns. A picture without orientation counts as such.
    """
    pair, seen = (dataset.get(keyword) for keyword in KEYWORDS) if dataset else (None, None)
    values = pair if isinstance(pair, Sequence) and not isinstance(pair, str | bytes) else []
    orientation, view = [str(each).upper() for each in values], str(seen or "").upper()
    if view in ("LL", "RL", "LATERAL", "LLD", "RLD"):
        return None
    if len(orientation) != 2 or not all(orientation):
        return False
    row, column = orientation[0][0], orientation[1][0]
    if row not in "LR" or column != "F":
        return None
    return row == "R"
