"""Read the overlays of an evaluation: X-rays with coloured regions of correct and wrong pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from components.report.rows import number_or_none
from core.cell import OVERLAYS
from core.errors import UserError
from core.files import read_json

_KINDS = ("worst", "best", "figure")


@dataclass(frozen=True)
class Overlay:
    """An X-ray and the regions of its prediction.

    Attributes:
        path: PNG of the coloured regions, transparent elsewhere.
        xray: PNG of the X-ray, grey.
        kind: ``worst``, ``best`` or ``figure`` (Figures 5 and 6).
        id: the X-ray's id.
        site: the X-ray's site.
        label: the X-ray's label.
        dice: Dice against the original mask, 0 to 1; ``None`` if undefined.
        hd95: HD95 against the original mask, pixels at the network's size; ``None`` if undefined.
        width: width of both PNGs in pixels.
        height: height of both PNGs in pixels.
    """

    path: Path
    xray: Path
    kind: str
    id: str
    site: str
    label: str
    dice: float | None
    hd95: float | None
    width: int
    height: int


def read_overlays(evaluation: Path) -> list[Overlay]:
    """Read the overlays of a cell; raises UserError if the list or an image is missing or invalid."""
    path = evaluation / OVERLAYS
    values = read_json(path)
    overlays = []
    try:
        for value in values:
            kind = value["kind"]
            if kind not in _KINDS:
                raise ValueError(f"kind is {kind!r}")
            file, xray = (evaluation / "overlays" / Path(value[name]).name for name in ("file", "xray"))
            width, height = _picture_size(file)
            if _picture_size(xray) != (width, height):
                raise ValueError(f"{xray.name} and {file.name} are not of one size")
            id, site, label = (str(value[name]) for name in ("id", "site", "label"))
            dice, hd95 = number_or_none("dice", value["dice"]), number_or_none("hd95", value["hd95"])
            overlays.append(Overlay(file, xray, kind, id, site, label, dice, hd95, width, height))
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a list of overlays ({error}); run the evaluate step again") from error
    return overlays


def _picture_size(path: Path) -> tuple[int, int]:
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run the evaluate step again") from None
    picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if picture is None:
        raise UserError(f"{path}: not a picture that can be read; run the evaluate step again")
    return picture.shape[1], picture.shape[0]
