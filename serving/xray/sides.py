"""Which side of a picture shows the patient's left lung."""

from __future__ import annotations

from pydicom import Dataset

KEYWORDS = ("PatientOrientation", "ViewPosition")  # of what a DICOM says, all that :func:`mirrored` looks at


def mirrored(dataset: Dataset | None) -> bool | None:
    """Tell whether a picture shows the patient's left on its left side; None where it is no upright frontal view.

    Seen from the front, as PA and AP views are shown, the patient's left lies on the picture's right: the rows of
    ``PatientOrientation`` run to ``L`` and its columns to ``F``. A picture that says nothing is taken to be so.
    """
    pair, seen = (dataset.get(keyword) for keyword in KEYWORDS) if dataset else (None, None)
    orientation, view = [str(each).upper() for each in (pair or [])], str(seen or "").upper()
    if view in ("LL", "RL", "LATERAL", "LLD", "RLD"):
        return None
    if len(orientation) != 2 or not all(orientation):
        return False
    row, column = orientation[0][0], orientation[1][0]
    if row not in "LR" or column != "F":
        return None
    return row == "R"
