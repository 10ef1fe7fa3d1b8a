"""The patient's left and right lung in an X-ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from model.inference.view import View
from model.lungs import Mask, halves

OPPOSITE = dict(zip("LRFHAP", "RLHFPA", strict=True))
GAP = 0.04  # distance between a lung and its letter, as a share of the image's width
KEYWORDS = ("PatientOrientation", "ViewPosition")  # the DICOM attributes that :func:`mirrored` reads


def lungs(mask: Mask, view: View, dataset: Dataset | None) -> tuple[Mask, Mask]:
    """Split a mask into the patient's left and right lung, uint8 (H, W) each.

    Args:
        mask: uint8 (H, W), 1 is lung.
        view: the view of the chest; the mask is split in its upright orientation.
        dataset: the X-ray's DICOM dataset, if it has one.

    Returns:
        The left and the right lung. If the sides are not :func:`known`: the part on the right of the upright image,
        then the part on its left.
    """
    on_left, on_right = (view.put_back(half, mask.shape) for half in halves(view.upright(mask)))
    return (on_left, on_right) if mirrored(dataset, view.change.turns) else (on_right, on_left)


def known(view: View, dataset: Dataset | None) -> bool:
    """Return whether the patient's sides are known; if not, the X-ray has the flag ``view``.

    They are unknown if the header says that the view is not upright and frontal, if it contradicts the turn that makes
    the image upright, or if the image does not look like a frontal chest X-ray. The two masks of :func:`lungs` are
    then only the parts on the right and on the left of the image.

    Args:
        view: the view of the chest.
        dataset: the X-ray's DICOM dataset, if it has one.
    """
    return view.frontal and mirrored(dataset, view.change.turns) is not None


def letters(left: npt.NDArray[Any], right: npt.NDArray[Any], gap: float = GAP) -> dict[str, tuple[float, float]]:
    """Return the positions of the letters L and R: next to each lung, on the side away from the other lung.

    Args:
        left: mask of the patient's left lung, (H, W), nonzero is lung.
        right: mask of the patient's right lung, (H, W).
        gap: distance between a lung and its letter, and least distance to the edges, as a share of the width.

    Returns:
        By letter, the shares of width and height, 0 to 1; only for lungs that were found.
    """
    height, width = left.shape
    points = {name: np.argwhere(part)[:, ::-1] for name, part in (("L", left), ("R", right)) if part.any()}
    middle = {name: each.mean(axis=0) for name, each in points.items()}
    centre = np.mean(list(middle.values()), axis=0) if len(middle) == 2 else np.array([width, height]) / 2
    places = {}
    for name, place in middle.items():
        outward = (place - centre) / (np.linalg.norm(place - centre) or 1.0)
        reach = float(((points[name] - place) @ outward).max()) + gap * width
        x, y = (place + outward * reach) / (width, height)
        places[name] = (round(float(np.clip(x, gap, 1 - gap)), 4), round(float(np.clip(y, gap, 1 - gap)), 4))
    return places


def mirrored(dataset: Dataset | None, turns: int = 0) -> bool | None:
    """Return whether the patient's left is on the image's left; None if the view is not upright and frontal.

    PA and AP views are normally shown from the front, with the patient's left on the image's right:
    ``PatientOrientation`` is ``L`` for rows and ``F`` for columns. This is assumed if the orientation is missing.

    Args:
        dataset: the DICOM dataset, if the X-ray has one.
        turns: counter-clockwise quarter turns that are applied to the image first.
    """
    pair, seen = (dataset.get(keyword) for keyword in KEYWORDS) if dataset else (None, None)
    values = pair if isinstance(pair, Sequence) and not isinstance(pair, str | bytes) else []
    orientation, view = [str(each).upper() for each in values], str(seen or "").upper()
    if view in ("LL", "RL", "LATERAL", "LLD", "RLD"):
        return None
    if len(orientation) != 2 or not all(orientation):
        return False
    row, column = orientation[0][0], orientation[1][0]
    for _ in range(turns):
        row, column = column, OPPOSITE.get(row, "")
    if row not in "LR" or column != "F":
        return None
    return row == "R"
