"""Write the folder of a review from the results of ``defunet predict``."""

from __future__ import annotations

import csv
import os
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from components.ingest.layouts import LABELS, LAYOUTS
from core.errors import UserError
from core.files import read_json, write_folder, write_json
from core.images import ImageError, check_png, decode, encode, foreground
from core.parallel import cores, parallel
from serving.predict.inputs import read_bytes
from serving.predict.outputs import DOCUMENT, JOURNAL, Row
from serving.review.folder import COLUMNS, CONFIG, CORRECTED, PROPOSED, TASKS, WORKSHEET, XRAYS, Model, Picture, Review
from serving.review.label_studio import CONFIGURATION, task
from serving.xray.decoding import Decoders
from serving.xray.drawing import visible
from serving.xray.reading import Xray

NEEDED = frozenset({"file", "sha256", "flags", "mask"})  # keys of a row
BIT_DEPTHS = (8, 16)  # of a PNG that is copied to a cohort unchanged
SHOWN = 3  # maximum number of names in an error message
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters of a spreadsheet formula


@dataclass(frozen=True)
class Chosen:
    """Selects the X-rays of the results to export.

    Attributes:
        everything: also X-rays without a flag.
        flags: only X-rays with one of these flags; empty: any flag.
        files: only X-rays whose name matches one of these patterns, flagged or not; empty: any name.
    """

    everything: bool = False
    flags: Sequence[str] = ()
    files: Sequence[str] = ()

    def takes(self, row: Row) -> bool:
        """Return whether a row of the results is chosen."""
        if self.files and not any(fnmatchcase(row["file"], pattern) for pattern in self.files):
            return False
        names = {flag["name"] for flag in row["flags"]}
        if self.flags:
            return not names.isdisjoint(self.flags)
        return self.everything or bool(self.files) or bool(names)

    def unmatched(self, names: Sequence[str]) -> list[str]:
        """Return the patterns that match no name."""
        return [each for each in self.files if not any(fnmatchcase(name, each) for name in names)]


@dataclass(frozen=True)
class Exported:
    """Number of X-rays: in the results, written, failed in the results, and duplicates under a second name."""

    results: int
    written: int
    failed: int
    again: int


def export(
    results: Path, inputs: Path, out: Path, chosen: Chosen, max_megapixels: float = 60.0, timeout: float = 60.0
) -> Exported:
    """Write the chosen X-rays, their proposed masks and the manifest to a new folder.

    The X-rays for display are 8-bit grey PNGs at the mask's size, with the grey values stretched between
    :data:`serving.xray.drawing.PERCENTILES`. Nothing is written if no X-ray is chosen.

    Args:
        results: folder of ``defunet predict``.
        inputs: the folder that the names in the results are relative to.
        out: the folder to write; it must not exist.
        chosen: see :class:`Chosen`.
        max_megapixels: larger images are refused before they are decoded.
        timeout: timeout for decoding one file, in seconds.

    Raises:
        UserError: there are no complete results; ``out`` exists; ``inputs`` has none of the X-rays; or X-rays or masks
            are missing, changed or unreadable, in which case all are listed and nothing is written.
    """
    document = _document(results)
    model = _model(document, results)
    if unknown := chosen.unmatched([row["file"] for row in document["results"]]):
        raise UserError(f"{results}: no X-ray is named {', '.join(unknown)}; give names as in the column file")
    rows = [row for row in document["results"] if row["status"] == "ok"]
    failed = len(document["results"]) - len(rows)
    wanted = {row["sha256"]: row for row in reversed(rows) if chosen.takes(row)}
    again = sum(map(chosen.takes, rows)) - len(wanted)
    counted = Exported(len(document["results"]), len(wanted), failed, again)
    if not wanted:
        return counted
    if out.exists():
        raise UserError(f"{out}: is there already and may hold corrections; choose another folder with -o")
    order = sorted(wanted.values(), key=lambda row: row["file"])
    if not any(os.path.lexists(inputs / row["file"]) for row in order):
        named = ", ".join(_text(row["file"]) for row in order[:SHOWN]) + (", ..." if len(order) > SHOWN else "")
        raise UserError(f"{inputs}: has none of the {len(order)} X-rays ({named}); give their folder with --inputs")
    with ExitStack() as stack:
        # The X-rays are patient data: no other user of the machine may read them.
        stack.callback(os.umask, os.umask(0o077))
        partial = stack.enter_context(write_folder(out))
        decoders = stack.enter_context(closing(Decoders(min(cores(), len(order)), max_megapixels, keywords=())))
        writer = _Writer(results, inputs, partial, decoders, max_megapixels, timeout)
        done = [*parallel(writer, order, cores(), "review: X-rays")]
        problems = [each for each in done if isinstance(each, str)]
        if problems:
            raise UserError(f"{results}: {len(problems)} X-ray(s) cannot be exported; nothing was written", problems)
        pictures = [each for each in done if isinstance(each, Picture)]
        (partial / CORRECTED).mkdir(parents=True)
        Review(model=model, pictures=pictures).write(partial)
        _write_worksheet(partial / WORKSHEET, pictures)
        _write_tasks(partial, out.resolve().name, pictures, model)
    return counted


class _Writer:
    """Writes one X-ray and its proposed mask; thread-safe."""

    def __init__(
        self, results: Path, inputs: Path, out: Path, decoders: Decoders, max_megapixels: float, timeout: float
    ) -> None:
        self.results, self.inputs, self.out = results, inputs, out
        self.decoders, self.max_megapixels, self.timeout = decoders, max_megapixels, timeout
        for folder in (XRAYS, PROPOSED):
            (out / folder).mkdir(parents=True)

    def __call__(self, row: Row) -> Picture | str:
        """Return the manifest's entry of the X-ray, or one line with its problem."""
        path = self.inputs / row["file"]
        try:
            data = read_bytes(path, str(path), self.max_megapixels)
            if sha256(data).hexdigest() != row["sha256"]:
                return f"{path}: not the file of the results (another SHA-256); predict again, or name its folder"
            xray = self.decoders.read(data, str(path), time.monotonic() + self.timeout)
            mask = self._mask(row, xray)
        except ImageError as error:
            return str(error)
        except TimeoutError:
            return f"{path}: not decoded after {self.timeout:g} s; raise --timeout"
        stored, proposed = _stored(data, xray, str(path)), encode(mask)
        picture = Picture(
            id=row["sha256"][:16],
            file=_text(row["file"]),
            sha256=row["sha256"],
            xray_sha256=sha256(stored).hexdigest(),
            mask_sha256=sha256(proposed).hexdigest(),
            height=mask.shape[0],
            width=mask.shape[1],
            flags=list(dict.fromkeys(flag["name"] for flag in row["flags"])),
            reasons=[flag["reason"] for flag in row["flags"]],
            label=_label(row["file"]),
        )
        (self.out / XRAYS / picture.png).write_bytes(stored)
        (self.out / PROPOSED / picture.png).write_bytes(proposed)
        (self.out / picture.png).write_bytes(encode(visible(xray.pixels, max(xray.pixels.shape))))
        return picture

    def _mask(self, row: Row, xray: Xray) -> npt.NDArray[np.uint8]:
        path = self.results / row["mask"]
        try:
            pixels = decode(path.read_bytes(), str(path))[0]
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({error.strerror}); predict again") from error
        if pixels.shape != xray.pixels.shape:
            raise ImageError(f"{path}: not of the X-ray's size; predict again")
        return foreground(pixels)  # 0 and 1: a labelling tool reads the value as the label's number


def _document(results: Path) -> dict[str, Any]:
    if (results / JOURNAL).exists():
        raise UserError(f"{results}: its run was stopped; finish it with `defunet predict ... --resume`")
    if not (results / DOCUMENT).is_file():
        raise UserError(f"{results / DOCUMENT}: not found; give the folder of `defunet predict`")
    document = read_json(results / DOCUMENT)
    try:
        whole = all(row["status"] != "ok" or row.keys() >= NEEDED for row in document["results"])
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"{results / DOCUMENT}: not the results of `defunet predict`; predict again")
    return dict(document)


def _model(document: dict[str, Any], results: Path) -> Model:
    try:
        return Model.model_validate(document["model"])
    except (KeyError, ValueError):
        raise UserError(f"{results / DOCUMENT}: does not name its model; predict again") from None


def _text(name: str) -> str:
    """Return a file's name as text; bytes that are not UTF-8 become escapes."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _stored(data: bytes, xray: Xray, name: str) -> bytes:
    """Return the PNG for the cohort: the file's bytes if it is an upright 8-bit or 16-bit PNG, else a new PNG."""
    if xray.kind == "png" and b"eXIf" not in data and check_png(data, name).bit_depth in BIT_DEPTHS:
        return data
    pixels = xray.pixels
    if pixels.dtype not in (np.uint8, np.uint16):
        pixels = cv2.normalize(pixels.astype(np.float64), None, 0, 65535, cv2.NORM_MINMAX)
        pixels = np.rint(pixels).astype(np.uint16)
    return encode(pixels)


def _label(file: str) -> str:
    """Return the label at the end of a publisher's file name; empty if there is none."""
    stem = PurePosixPath(file).stem
    found = (re.fullmatch(layout.id, stem) for layout in LAYOUTS)
    return next((LABELS[match["label"]] for match in found if match), "")


def _write_worksheet(path: Path, pictures: Sequence[Picture]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for each in pictures:
            cells = (each.id, each.file, " ".join(each.flags), "; ".join(each.reasons), each.label)
            table.writerow(f"'{cell}" if cell.startswith(FORMULA) else cell for cell in cells)


def _write_tasks(out: Path, name: str, pictures: Sequence[Picture], model: Model) -> None:
    tasks = []
    for picture in pictures:
        path = out / PROPOSED / picture.png
        tasks.append(task(picture, decode(path.read_bytes(), str(path))[0], name, f"{model.name} {model.version}"))
    write_json(out / TASKS, tasks)
    (out / CONFIG).write_text(CONFIGURATION)
