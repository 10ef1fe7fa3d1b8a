"""The output folder: masks, overlays and DICOM SEG under their inputs' names, one table and the review sheet."""

from __future__ import annotations

import csv
import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import UnwritableError, exclusive, explain_full_disk, write_file, write_json
from core.images import ImageError
from serving.viewer.about import About
from serving.viewer.review import PAGE, write_review

TABLE, DOCUMENT = "results.csv", "results.json"
JOURNAL = ".results.jsonl"  # rows of an unfinished run, each with the SHA-256 of the weights
NAMED = {"mask": ("masks", ".png"), "overlay": ("overlays", ".png"), "seg": ("seg", ".dcm")}
# The review sheet's files per X-ray, as (folder, suffix): the enlarged image; the thumbnail with the outlines.
SHOWN = {"picture": ("review", ".jpg"), "shapes": ("review", ".json")}
FOLDERS = NAMED | SHOWN
FORMULA = ("=", "+", "-", "@", "\t", "\r")
AREAS = ("pixels", "share", "cm2")
COLUMNS = (
    *("file", "status", "error", "sha256", "kind", "height", "width", "spacing_rows_mm", "spacing_columns_mm"),
    *(f"{part}_{unit}" for part in ("lungs", "left", "right") for unit in AREAS),
    *("symmetry", "components", "solidity", "uncertain", "expected_dice", "expected_dice_low"),
    *("grey_mean", "grey_deviation", "day", "device"),
    *("flags", "reasons", "note", *NAMED),
)
REQUIRED = frozenset({"file", "status", "error", "sha256"})  # keys of every row, including failed ones
Row = dict[str, Any]


def place(kind: str, name: str) -> Path:
    """Return the relative output path of one kind of result of an input: ``masks/a/b.dcm.png``.

    The review sheet's own files are named by the SHA-256 of the input's name, which may be as long as a name can be.
    """
    folder, suffix = FOLDERS[kind]
    if kind in SHOWN:
        return Path(folder, sha256_of(os.fsencode(name)).hexdigest()[:32] + suffix)
    relative = Path(folder, name)
    return relative if relative.suffix.lower() == suffix else relative.with_name(relative.name + suffix)


class Results:
    """The results of a run so far, in a folder that only this run writes.

    Attributes:
        out: the folder.
        rows: one row per input, by name.
    """

    def __init__(self, out: Path, model: dict[str, Any], about: About | None = None) -> None:
        self.out, self.model, self.about = out, model, about
        self.rows: dict[str, Row] = {}
        self.lock = threading.Lock()

    def path(self, kind: str, name: str) -> Path:
        """Return the output path of one result of an input; links must not lead out of ``out``.

        Raises:
            ImageError: the path is outside of ``out``, invalid, or a folder.
        """
        relative = place(kind, name)
        path = self.out / relative
        with _as_image_error(path, kind, name):
            if ".." in relative.parts or not path.parent.resolve().is_relative_to(self.out.resolve()):
                raise ImageError(
                    f"{name}: its {kind} would be outside of {self.out} ({path.parent} is or has a link); "
                    "remove the link there"
                )
            if path.is_dir():
                raise ImageError(f"{name}: its {kind} cannot be written, {path} is a folder; choose another --out")
        return path

    def write(self, kind: str, name: str, data: bytes) -> str:
        """Write one result atomically and return its path relative to ``out``.

        Raises:
            ImageError: the file cannot be written.
            UserError: the disk is full.
        """
        path = self.path(kind, name)
        with _as_image_error(path, kind, name), write_file(path) as partial:
            partial.write_bytes(data)
        return path.relative_to(self.out).as_posix()

    def add(self, row: Row) -> None:
        """Add a finished input's row, also to the journal on disk; thread-safe."""
        line = json.dumps({"weights_sha256": self.model["weights_sha256"], "row": row}, allow_nan=False) + "\n"
        with self.lock, explain_full_disk(self.out), (self.out / JOURNAL).open("a", encoding="utf-8") as file:
            self.rows[row["file"]] = row
            file.write(line)

    def finished(self, name: str, sha256: str, kinds: Iterable[str]) -> bool:
        """Return whether an input with this SHA-256 has all results of ``kinds``; only a DICOM has a SEG."""
        row = self.rows.get(name)
        if row is None or row["status"] != "ok" or row["sha256"] != sha256:
            return False
        wanted = [kind for kind in kinds if kind != "seg" or (row["kind"] == "dicom" and not row.get("note"))]
        return all(kind in row and self.path(kind, name).is_file() for kind in wanted)

    def forget(self, name: str) -> None:
        """Remove the results of an earlier run for an input.

        Raises:
            ImageError: a file cannot be removed.
        """
        row = self.rows.pop(name, {})
        for kind in FOLDERS:
            if kind in row:
                path = self.path(kind, name)
                with _as_image_error(path, kind, name):
                    path.unlink(missing_ok=True)

    def forget_all(self) -> None:
        """Remove the results and tables of an earlier run; a file that cannot be removed becomes a failed row."""
        for name in list(self.rows):
            try:
                self.forget(name)
            except ImageError as error:
                self.rows[name] = {"file": name, "status": "failed", "error": str(error), "sha256": ""}
        # At the start: if this run is killed, old tables would not match the new files.
        for table in (DOCUMENT, TABLE, PAGE):
            (self.out / table).unlink(missing_ok=True)

    def close(self) -> None:
        """Write ``results.csv``, ``results.json`` and the review sheet, and remove the journal."""
        rows = [self.rows[name] for name in sorted(self.rows)]
        # A file name may have any bytes; invalid UTF-8 is written unchanged.
        with (
            write_file(self.out / TABLE) as partial,
            partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            table = csv.DictWriter(file, COLUMNS, restval="")
            table.writeheader()
            table.writerows(flat(row) for row in rows)
        write_json(self.out / DOCUMENT, {"model": self.model, "sides": SIDES, "results": rows})
        if self.about is None:
            (self.out / PAGE).unlink(missing_ok=True)  # the old sheet lacks this run's rows
        else:
            write_review(self.out / PAGE, self.about, [(row, _files(row)) for row in rows])
        (self.out / JOURNAL).unlink(missing_ok=True)


def _files(row: Row) -> dict[str, Path]:
    """Return the relative paths of a row's files by kind."""
    return {kind: place(kind, row["file"]) for kind in FOLDERS if row["status"] == "ok" and kind in row}


SIDES = (
    "left and right are the patient's: a frontal X-ray shows the left lung on its right side; if a row has the "
    "flag view, the sides are unknown: left and right are the parts on the right and on the left of the upright image"
)


@contextmanager
def _as_image_error(path: Path, kind: str, name: str) -> Iterator[None]:
    """Turn an OSError on one result into an ImageError for its input; a full disk raises UserError."""
    try:
        with explain_full_disk(path):
            yield
    except (OSError, RuntimeError, UnwritableError) as error:  # RuntimeError: a loop of links
        cause = error.__cause__ if isinstance(error, UnwritableError) else error
        reason = getattr(cause, "strerror", None) or error
        raise ImageError(
            f"{name}: its {kind} cannot be written or replaced ({reason}); rename it or choose another --out"
        ) from error


@contextmanager
def opened(
    out: Path, model: dict[str, Any], *, overwrite: bool, resume: bool, about: About | None = None
) -> Iterator[Results]:
    """Yield the results in ``out``; tables and sheet are written at the end of the block, also after an error.

    Args:
        out: the folder.
        model: name, version and digest of the model.
        overwrite: remove an earlier run's results.
        resume: keep an earlier run's results.
        about: facts of the model for the review sheet; None: no sheet is written.

    Raises:
        UserError: the folder cannot be created; another run writes to it; it has results and neither ``overwrite`` nor
            ``resume`` is set; or its results are from another model or program.
    """
    with ExitStack() as stack:
        # The results are patient data: no other user of the machine may read them.
        stack.callback(os.umask, os.umask(0o077))
        try:
            if out.exists() and not out.is_dir():
                raise UserError(f"{out}: not a folder; choose another --out")
            stack.enter_context(exclusive(out))
            out.mkdir(exist_ok=True)
        except (OSError, UnwritableError) as error:
            reason = getattr(error.__cause__ or error, "strerror", None)
            raise UserError(f"{out}: the folder cannot be made ({reason}); choose another --out") from error
        results = Results(out, model, about)
        if not overwrite and not resume:
            require_free(out)
        results.rows = {row["file"]: row for row in _earlier_rows(out, None if overwrite else model["weights_sha256"])}
        if overwrite:
            results.forget_all()
        (out / JOURNAL).unlink(missing_ok=True)
        try:
            for row in list(results.rows.values()):
                results.add(row)
            yield results
        finally:
            results.close()


def require_free(out: Path) -> None:
    """Raise a UserError if a folder has results already."""
    # Path.exists raises on a name that is too long.
    there = [name for name in (DOCUMENT, JOURNAL, TABLE, "masks") if os.path.lexists(out / name)]
    if there:
        raise UserError(
            f"{out}: has results already ({there[0]}); use --resume to add what is missing, --overwrite to "
            "replace them, or choose another --out"
        )


def _earlier_rows(out: Path, weights: str | None) -> Iterator[Row]:
    """Yield the rows of earlier runs; raises a UserError if they are not from ``weights`` (None: any)."""
    for path, read in ((out / DOCUMENT, _document), (out / JOURNAL, _journal)):
        if not path.exists():
            continue
        try:
            found = [(str(digest), row) for digest, row in read(path.read_text(encoding="utf-8"))]
            strange = any(not row.keys() >= REQUIRED for _, row in found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            strange = True
        if strange:
            raise UserError(f"{path}: not results of this command; choose another --out")
        if weights is not None and any(digest != weights for digest, _ in found):
            raise UserError(f"{out}: its results are from another model; use --overwrite, or choose another --out")
        yield from (row for _, row in found)


def _document(text: str) -> Iterator[tuple[str, Row]]:
    document = json.loads(text)
    weights = document["model"]["weights_sha256"]
    for row in document["results"]:
        yield weights, row


def _journal(text: str) -> Iterator[tuple[str, Row]]:
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            return  # the line that a killed run was writing
        yield entry["weights_sha256"], entry["row"]


def flat(row: Row) -> Row:
    """Return the CSV row of a result, with one value per column; unknown values are empty."""
    values = {key: value for key, value in row.items() if key in COLUMNS}
    for part in ("lungs", "left", "right"):
        values |= {f"{part}_{unit}": row[part][unit] for unit in AREAS} if part in row else {}
    if row.get("spacing"):
        values["spacing_rows_mm"], values["spacing_columns_mm"] = row["spacing"]
    flags = row.get("flags", [])
    values["flags"] = " ".join(dict.fromkeys(flag["name"] for flag in flags))
    values["reasons"] = "; ".join(flag["reason"] for flag in flags)
    return {key: _as_text(value) if isinstance(value, str) else value for key, value in values.items()}


def _as_text(value: str) -> str:
    """Return a cell that spreadsheets read as text: one that begins like a formula gets an apostrophe (OWASP)."""
    return f"'{value}" if value.startswith(FORMULA) else value
