"""Import corrected masks into a cohort, with a record of who corrected what."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from components.ingest.layouts import LABELS, LAYOUTS, Case, Layout, survey
from core.errors import UserError
from core.files import sha256, write_folder
from core.images import decode, encode, foreground
from core.params import Params
from model.inference.view import View
from model.lungs import Mask
from serving.review.corrections import Correction, read
from serving.review.folder import PROPOSED, XRAYS, Model, Picture, Review
from serving.xray.sides import lungs

SITE = "reviewed"  # the site of X-rays that are new in the cohort
RECORD, REPLACED = "corrections.json", Path("corrections/replaced")
DIGITS = {label: digit for digit, label in LABELS.items()}
# Flags of X-rays that are not upright with dark lungs, as training images must be.
NOT_AS_TRAINED = ("turned", "inverted")


@dataclass(frozen=True)
class Imported:
    """Counts of an import.

    Attributes:
        out: the cohort.
        corrected: masks that the reviewer changed.
        accepted: masks that the reviewer left as proposed.
        replaced: X-rays of the cohort with a new mask, including those that had none.
        added: X-rays that are new in the cohort.
        unchanged: masks left as proposed but not accepted; not imported.
        missing: X-rays of the review without a corrected mask.
    """

    out: Path
    corrected: int
    accepted: int
    replaced: int
    added: int
    unchanged: int
    missing: int


@dataclass(frozen=True)
class _Place:
    """The case of the cohort that a correction belongs to; ``new`` if the cohort did not have the X-ray."""

    correction: Correction
    case: Case
    new: bool


def import_masks(
    folder: Path,
    cohort: Path,
    out: Path | None,
    by: str,
    params: Params,
    accept_unchanged: bool = False,
    exported: Path | None = None,
) -> Imported:
    """Write a cohort with a review's corrected masks: all of them, or nothing.

    An X-ray that is in the cohort with the same bytes gets the corrected mask; the old mask moves to
    ``corrections/replaced/<SHA-256>.png``. Other X-rays are added to the site ``reviewed``. ``corrections.json`` gets
    one entry per mask.

    Args:
        folder: the review.
        cohort: folder of a cohort in a layout that the ingest step reads.
        out: folder of the new cohort, which must not exist; None: ``cohort`` itself is replaced.
        by: who corrected the masks.
        params: parameters with the bounds of the validate step.
        accept_unchanged: treat masks that equal the proposed ones as accepted.
        exported: an export of Label Studio to read as well; None: only the files.

    Raises:
        UserError: a mask or its X-ray cannot be used (all are listed), there is no mask to import, or a folder cannot
            be read or written. Nothing is changed.
    """
    if not by.strip():
        raise UserError("--by: empty; say who corrected the masks")
    target = _target(cohort, out)
    review = Review.read(folder)
    found = read(folder, review.pictures, params.validate_, accept_unchanged, exported)
    cases = _cases(cohort)
    known = _known(cohort, cases, [folder / XRAYS / each.picture.png for each in found.corrections])
    places, problems = _places(folder, found.corrections, found.labels, known)
    problems = found.problems + problems
    if problems:
        raise UserError(f"{folder}: {len(problems)} mask(s) cannot be imported; {target} was not changed", problems)
    if not places:
        hint = " (--accept-unchanged takes those as they are)" if found.unchanged else ""
        raise UserError(
            f"{folder}: no mask to import: {found.missing} not corrected, {found.unchanged} left as proposed{hint}"
        )
    entries = _record(cohort)
    with write_folder(target) as partial:
        shutil.copytree(cohort, partial, dirs_exist_ok=True)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        entries += [_put(partial, folder, place, review.model, by.strip(), when) for place in places]
        (partial / RECORD).unlink(missing_ok=True)
        (partial / RECORD).write_text(json.dumps(entries, indent=2, allow_nan=False) + "\n")
    changed, new = (sum(flags) for flags in zip(*((p.correction.changed, p.new) for p in places), strict=True))
    return Imported(target, changed, len(places) - changed, len(places) - new, new, found.unchanged, found.missing)


def needed_params(params: Params) -> list[str]:
    """Return the changes that ``params.yaml`` needs for the site of added X-rays, one line each."""
    lines = [] if SITE in params.validate_.sites else [f"add {SITE} to validate.sites"]
    scenario = params.scenarios.get(params.register_.scenario)
    if scenario and SITE not in scenario.train:
        lines.append(f"add {SITE} to train and test of scenarios.{params.register_.scenario}")
    return lines


def _target(cohort: Path, out: Path | None) -> Path:
    if not cohort.is_dir():
        kind = "not a folder; unpack it first" if cohort.exists() else "not found"
        raise UserError(f"{cohort}: {kind}: --cohort is the folder of a cohort")
    here = cohort.resolve()
    if out is None or out.resolve() == here:
        pin = here.with_name(f"{here.name}.dvc")
        if pin.is_file():
            raise UserError(
                f"{cohort}: {pin.name} pins it, and DVC would undo the change; write a new cohort with --out FOLDER"
            )
        return here
    if out.exists():
        raise UserError(f"{out}: is there already; choose another --out, or --cohort {out} to add to it")
    if out.resolve().is_relative_to(here):
        raise UserError(f"{out}: is inside of {cohort}; choose another --out")
    return out


def _cases(cohort: Path) -> list[Case]:
    names = [path.relative_to(cohort).as_posix() for path in cohort.rglob("*") if path.is_file()]
    found = survey(names)
    if found.problems:
        raise UserError(f"{cohort}: {len(found.problems)} file(s) that ingest would refuse", found.problems)
    if not found.cases:
        raise UserError(f"{cohort}: no X-rays in a layout that ingest reads; see docs/own-data.md")
    return found.cases


def _known(cohort: Path, cases: Sequence[Case], xrays: Sequence[Path]) -> dict[str, Case]:
    """Return the cohort's X-rays by SHA-256; only files with the size of one of ``xrays`` are hashed."""
    sizes = {path.stat().st_size for path in xrays}
    same = [case for case in cases if (cohort / case.image).stat().st_size in sizes]
    return {sha256(cohort / case.image): case for case in reversed(same)}


def _places(
    folder: Path, corrections: Sequence[Correction], labels: dict[str, str], known: dict[str, Case]
) -> tuple[list[_Place], list[str]]:
    (layout,) = (each for each in LAYOUTS if each.site == SITE)
    places, problems = [], []
    first: dict[str, str] = {}
    for each in corrections:
        picture = each.picture
        label = labels.get(picture.id) or picture.label
        called = f"{folder / XRAYS / picture.png} ({picture.file})"
        turned = [name for name in NOT_AS_TRAINED if name in picture.flags]
        twin = first.setdefault(picture.xray_sha256, picture.file)
        if twin != picture.file:  # two DICOMs with the same pixels
            problems.append(f"{called}: the same X-ray as {twin}; keep one of their corrected masks")
        elif case := known.get(picture.xray_sha256):
            places.append(_Place(each, case, new=False))
        elif turned:
            problems.append(
                f"{called}: flagged {' and '.join(turned)}: a training X-ray is upright with dark lungs; put it right, "
                "predict and export it again"
            )
        elif label not in DIGITS:
            problems.append(f"{called}: new in the cohort and without a label; fill in the column label of review.csv")
        else:
            places.append(_Place(each, _new_case(layout, picture, label), new=True))
    return places, problems


def _new_case(layout: Layout, picture: Picture, label: str) -> Case:
    identity = f"REVIEW_{picture.id}_{DIGITS[label]}"
    image, *masks, _ = (f"{SITE}/{template.format(id=identity)}" for template in layout.templates)
    return Case(layout, identity, label, image, tuple(masks), "")


def _record(cohort: Path) -> list[dict[str, Any]]:
    path = cohort / RECORD
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore the record of earlier corrections") from error
    if not isinstance(entries, list):
        raise UserError(f"{path}: not a record of corrections; restore it")
    return entries


def _put(cohort: Path, folder: Path, place: _Place, model: Model, by: str, when: str) -> dict[str, Any]:
    """Write one X-ray's files into the cohort and return its entry for the record."""
    each, case = place.correction, place.case
    if place.new:
        (cohort / case.image).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / XRAYS / each.picture.png, cohort / case.image)
    before = [_set_aside(cohort, name) for name in case.masks] if not place.new else []
    files = case.masks or tuple(_mask_names(case))
    for name, mask in zip(files, _parts(each.mask, len(files)), strict=True):
        (cohort / name).parent.mkdir(parents=True, exist_ok=True)
        (cohort / name).write_bytes(encode(mask * np.uint8(255)))
    return {
        "site": case.layout.site,
        "id": case.id,
        "action": "corrected" if each.changed else "accepted",
        "by": by,
        "annotator": each.annotator,
        "when": when,
        "file": each.picture.file,
        "sha256": each.picture.sha256,
        "reasons": each.picture.reasons,
        "model": model.model_dump(),
        "proposed_sha256": each.picture.mask_sha256,
        "dice_with_proposed": _dice(each.mask, _united(folder, [str(PROPOSED / each.picture.png)])),
        "replaced": before,
        "dice_with_replaced": _dice(each.mask, _united(cohort, before)),
        "masks": {name: sha256(cohort / name) for name in files},
    }


def _set_aside(cohort: Path, name: str) -> str:
    """Move a mask to the record's folder and return its path there."""
    place = REPLACED / f"{sha256(cohort / name)}.png"
    (cohort / REPLACED).mkdir(parents=True, exist_ok=True)
    (cohort / name).replace(cohort / place)
    return place.as_posix()


def _mask_names(case: Case) -> Iterator[str]:
    """Yield the paths for the masks of an X-ray that has no masks yet."""
    base = case.image.removesuffix(case.layout.image.format(id=case.id))
    for template in case.layout.masks:
        yield base + template.format(id=case.id)


def _parts(mask: Mask, count: int) -> tuple[Mask, ...]:
    """Return the ``count`` masks of a layout: one of both lungs, or the left lung and the right lung."""
    return (mask,) if count == 1 else lungs(mask, View(), None)


def _united(cohort: Path, names: Sequence[str]) -> Mask | None:
    masks = [foreground(decode((cohort / name).read_bytes(), name)[0]) for name in names]
    if not masks or len({mask.shape for mask in masks}) > 1:
        return None  # no mask, or halves of different sizes
    united: Mask = np.bitwise_or.reduce(masks)
    return united


def _dice(mask: Mask, other: Mask | None) -> float | None:
    """Return the Dice coefficient, 0 to 1, of a mask that is not empty; None without another mask of its size."""
    if other is None or mask.shape != other.shape:
        return None
    return round(2 * int((mask & other).sum()) / (int(mask.sum()) + int(other.sum())), 6)
