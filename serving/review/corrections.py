"""Read the corrected masks of a review and apply the pipeline's checks."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from components.ingest.pictures import component_fractions
from core.errors import UserError
from core.files import sha256
from core.images import ImageError, decode, foreground, is_binary
from core.params import ValidateParams
from model.lungs import Mask
from serving.review.folder import COLUMNS, CORRECTED, PROPOSED, WORKSHEET, XRAYS, Picture
from serving.review.label_studio import Annotation, read_export
from serving.review.polygons import to_mask, to_polygons

JUNK = (".", "thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Correction:
    """A mask that a reviewer corrected or accepted.

    Attributes:
        picture: its X-ray.
        mask: uint8 (H, W), 0 or 1.
        changed: whether it differs from the proposed mask.
        annotator: the annotator according to the labelling tool; empty if unknown.
    """

    picture: Picture
    mask: Mask
    changed: bool
    annotator: str = ""


@dataclass(frozen=True)
class Read:
    """The content of a review's folder.

    Attributes:
        corrections: usable masks, in the manifest's order.
        unchanged: number of masks that equal the proposed ones and were not accepted.
        missing: number of X-rays without a corrected mask.
        labels: the worksheet's labels by id; an empty text if the reviewer gave none.
        problems: one line for each file that cannot be used.
    """

    corrections: list[Correction]
    unchanged: int
    missing: int
    labels: dict[str, str]
    problems: list[str]


def read(
    folder: Path, pictures: Sequence[Picture], bounds: ValidateParams, accept_unchanged: bool, exported: Path | None
) -> Read:
    """Read ``labels/final`` and an export of Label Studio, and check every mask.

    A mask must have the X-ray's size, two values, some lung, and pass the bounds of the validate step. The X-ray and
    the proposed mask must be those of the manifest.

    Args:
        folder: the review.
        pictures: the X-rays of its manifest.
        bounds: section ``validate`` of ``params.yaml``.
        accept_unchanged: treat masks that equal the proposed ones as accepted.
        exported: an export of Label Studio; None: only the files.

    Raises:
        UserError: the worksheet or the export cannot be read.
    """
    labels, problems = _labels(folder / WORKSHEET, bounds.labels)
    annotations: dict[str, Annotation] = {}
    if exported is not None:
        annotations, wrong = read_export(exported, pictures)
        problems += wrong
    problems += _strangers(folder / CORRECTED, {picture.png for picture in pictures})
    corrections, unchanged, missing = [], 0, 0
    for picture in pictures:
        try:
            found = _correction(folder, picture, annotations.get(picture.id))
        except ImageError as error:
            problems.append(str(error))
            continue
        if found is None:
            missing += 1
        elif not found.changed and not accept_unchanged:
            unchanged += 1
        else:
            wrong = [*_outside(found.mask, bounds)]
            problems += [f"{_place(folder, picture)}: {each}" for each in wrong]
            if not wrong:
                corrections.append(found)
    return Read(corrections, unchanged, missing, labels, problems)


def _place(folder: Path, picture: Picture) -> str:
    return f"{folder / CORRECTED / picture.png} ({picture.file})"


def _strangers(folder: Path, known: set[str]) -> Iterator[str]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name not in known and not path.name.lower().startswith(JUNK):
            yield f"{path}: not a mask of this review; save corrected masks as PNG under their pictures' names"


def _correction(folder: Path, picture: Picture, annotation: Annotation | None) -> Correction | None:
    """Return the correction of an X-ray, or None if it has none; raises ImageError if it cannot be used."""
    path = folder / CORRECTED / picture.png
    if annotation is None and not path.exists():
        return None
    if annotation is not None and path.exists():
        raise ImageError(f"{_place(folder, picture)}: also in Label Studio's export; remove one of the two")
    for place, digest in ((XRAYS, picture.xray_sha256), (PROPOSED, picture.mask_sha256)):
        _require(folder / place / picture.png, digest)
    original = folder / PROPOSED / picture.png
    proposed = foreground(decode(original.read_bytes(), str(original))[0])
    if annotation is not None:
        # An unchanged annotation equals the task's polygons, which only approximate the proposed mask.
        shown = to_mask(to_polygons(proposed), *proposed.shape)
        changed = not np.array_equal(annotation.mask, shown)
        return Correction(picture, annotation.mask if changed else proposed, changed, annotation.by)
    try:
        pixels = decode(path.read_bytes(), _place(folder, picture))[0]
    except OSError as error:
        raise ImageError(f"{_place(folder, picture)}: cannot be read ({error.strerror})") from error
    if pixels.shape != proposed.shape:
        sizes = " x ".join(map(str, pixels.shape[::-1])), f"{picture.width} x {picture.height}"
        raise ImageError(
            f"{_place(folder, picture)}: {sizes[0]} pixels, its X-ray has {sizes[1]}; save it in that size"
        )
    if not is_binary(pixels):
        raise ImageError(
            f"{_place(folder, picture)}: more than two values, or the lower is not 0; save one label, lung"
        )
    mask = foreground(pixels)
    return Correction(picture, mask, not np.array_equal(mask, proposed))


def _require(path: Path, digest: str) -> None:
    try:
        if sha256(path) == digest:
            return
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}); export again") from error
    raise ImageError(f"{path}: changed since the export; save corrected masks in {CORRECTED}, and export again")


def _outside(mask: Mask, bounds: ValidateParams) -> Iterator[str]:
    """Yield the reasons for which a mask fails the validate step."""
    fraction = cv2.countNonZero(mask) / mask.size
    if fraction == 0:
        yield "is empty"
        return
    low, high = bounds.lung_fraction
    if not low <= fraction <= high:
        yield f"covers {fraction:.1%} of the image; validate.lung_fraction allows {low:.1%} to {high:.1%}"
    large = sum(float(share) >= bounds.large_component for share in component_fractions(mask).split())
    fewest, most = bounds.components
    if not fewest <= large <= most:
        yield f"has {large} large parts; validate.components allows {fewest} to {most}"


def _labels(path: Path, allowed: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [*csv.DictReader(file)]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); export again"
        ) from error
    if any(column not in row for row in rows for column in (COLUMNS[0], COLUMNS[-1])):
        raise UserError(f"{path}: no columns {COLUMNS[0]} and {COLUMNS[-1]}; save it as CSV with commas")
    labels = {str(row[COLUMNS[0]]): str(row[COLUMNS[-1]] or "").strip().lower() for row in rows}
    wrong = {key: label for key, label in labels.items() if label and label not in allowed}
    return labels, [f"{path}: {key}: label {label!r} is none of {', '.join(allowed)}" for key, label in wrong.items()]
