"""The folder of results: masks, overlays and DICOM SEG under their inputs' names, and one table of all."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import exclusive, explain_full_disk, write_file, write_json
from core.images import ImageError

TABLE, DOCUMENT = "results.csv", "results.json"
JOURNAL = ".results.jsonl"  # rows of a run that has not ended, each with the model's digest
FOLDERS = {"mask": ("masks", ".png"), "overlay": ("overlays", ".png"), "seg": ("seg", ".dcm")}
AREAS = ("pixels", "share", "cm2")
COLUMNS = (
    *("file", "status", "error", "sha256", "kind", "height", "width", "spacing_rows_mm", "spacing_columns_mm"),
    *(f"{part}_{unit}" for part in ("lungs", "left", "right") for unit in AREAS),
    *("symmetry", "components", "solidity", "uncertain", "flags", "reasons", "note", *FOLDERS),
)
REQUIRED = frozenset({"file", "status", "error", "sha256"})  # of every row, a failed one too
Row = dict[str, Any]


def place(kind: str, name: str) -> Path:
    """Return the path below the folder of results that one kind of result of an input has: ``masks/a/b.dcm.png``."""
    folder, suffix = FOLDERS[kind]
    relative = Path(folder, name)
    return relative if relative.suffix.lower() == suffix else relative.with_name(relative.name + suffix)


class Results:
    """What a run has found so far, in a folder that it alone writes.

    Attributes:
        out: the folder.
        rows: one an input, by its name.
    """

    def __init__(self, out: Path, model: dict[str, Any]) -> None:
        self.out, self.model = out, model
        self.rows: dict[str, Row] = {}
        self.lock = threading.Lock()

    def path(self, kind: str, name: str) -> Path:
        """Return where one result of an input belongs, below ``out`` even if somebody has laid links there.

        Raises:
            ImageError: the place is outside of ``out``, cannot be, or something else is there.
        """
        relative = place(kind, name)
        path = self.out / relative
        with _of_one_file(path, kind, name):
            if ".." in relative.parts or not path.parent.resolve().is_relative_to(self.out.resolve()):
                raise ImageError(
                    f"{name}: its {kind} would lie outside of {self.out} ({path.parent} leads away); "
                    "remove the link there"
                )
            if path.is_dir():
                raise ImageError(f"{name}: its {kind} cannot be written, {path} is a folder; choose another --out")
        return path

    def write(self, kind: str, name: str, data: bytes) -> str:
        """Write one result, whole or not at all, and return its path below ``out``.

        Raises:
            ImageError: this one cannot be written.
            UserError: the disk is full.
        """
        path = self.path(kind, name)
        with _of_one_file(path, kind, name), write_file(path) as partial:
            partial.write_bytes(data)
        return path.relative_to(self.out).as_posix()

    def add(self, row: Row) -> None:
        """Keep a finished input's row, also should this process be killed; threads may call it."""
        line = json.dumps({"weights_sha256": self.model["weights_sha256"], "row": row}, allow_nan=False) + "\n"
        with self.lock, explain_full_disk(self.out), (self.out / JOURNAL).open("a", encoding="utf-8") as file:
            self.rows[row["file"]] = row
            file.write(line)

    def finished(self, name: str, sha256: str, kinds: Iterable[str]) -> bool:
        """Tell whether an input with these bytes has its results of all these kinds; a DICOM alone has a SEG."""
        row = self.rows.get(name)
        if row is None or row["status"] != "ok" or row["sha256"] != sha256:
            return False
        wanted = [kind for kind in kinds if kind != "seg" or (row["kind"] == "dicom" and not row.get("note"))]
        return all(kind in row and self.path(kind, name).is_file() for kind in wanted)

    def forget(self, name: str) -> None:
        """Remove what an earlier run wrote for an input.

        Raises:
            ImageError: it cannot be removed.
        """
        row = self.rows.pop(name, {})
        for kind in FOLDERS:
            if kind in row:
                path = self.path(kind, name)
                with _of_one_file(path, kind, name):
                    path.unlink(missing_ok=True)

    def forget_all(self) -> None:
        """Remove what an earlier run wrote and its tables; what cannot be removed is a failed row of this run."""
        for name in list(self.rows):
            try:
                self.forget(name)
            except ImageError as error:
                self.rows[name] = {"file": name, "status": "failed", "error": str(error), "sha256": ""}
        # Now, not when this run ends: should it be killed, they would stand for what it has written.
        for table in (DOCUMENT, TABLE):
            (self.out / table).unlink(missing_ok=True)

    def close(self) -> None:
        """Write the table and the document of all rows, and drop the journal that they replace."""
        rows = [self.rows[name] for name in sorted(self.rows)]
        # A file's name may be any bytes: those that are no text are written as they are.
        with (
            write_file(self.out / TABLE) as partial,
            partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            table = csv.DictWriter(file, COLUMNS, restval="")
            table.writeheader()
            table.writerows(flat(row) for row in rows)
        write_json(self.out / DOCUMENT, {"model": self.model, "sides": SIDES, "results": rows})
        (self.out / JOURNAL).unlink(missing_ok=True)


SIDES = "left and right are the patient's: a frontal X-ray shows the left lung on its right side"


@contextmanager
def _of_one_file(path: Path, kind: str, name: str) -> Iterator[None]:
    """Make what goes wrong with one input's result that input's error; a full disk is everybody's."""
    try:
        with explain_full_disk(path):
            yield
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead round in a circle
        reason = getattr(error, "strerror", None) or error
        raise ImageError(
            f"{name}: its {kind} cannot be written or replaced ({reason}); rename it or choose another --out"
        ) from error


@contextmanager
def opened(out: Path, model: dict[str, Any], *, overwrite: bool, resume: bool) -> Iterator[Results]:
    """Yield the results in ``out``; however the block ends, what is finished is written as table and document.

    Raises:
        UserError: no folder can be there; another run writes there; or there are results already, and neither
            ``overwrite`` nor ``resume`` was said; or they come from another model or another program.
    """
    with ExitStack() as stack:
        try:
            if out.exists() and not out.is_dir():
                raise UserError(f"{out}: not a folder; choose another --out")
            stack.enter_context(exclusive(out))
            out.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"{out}: no folder can be made there ({error.strerror}); choose another --out") from error
        results = Results(out, model)
        there = [name for name in (DOCUMENT, JOURNAL, TABLE, "masks") if (out / name).exists()]
        if there and not overwrite and not resume:
            raise UserError(
                f"{out}: holds results already ({there[0]}); say --resume to add what is missing, --overwrite to "
                "replace them, or choose another --out"
            )
        results.rows = {row["file"]: row for row in _earlier(out, None if overwrite else model["weights_sha256"])}
        if overwrite:
            results.forget_all()
        (out / JOURNAL).unlink(missing_ok=True)
        try:
            for row in list(results.rows.values()):
                results.add(row)
            yield results
        finally:
            results.close()


def _earlier(out: Path, weights: str | None) -> Iterator[Row]:
    """Yield the rows of earlier runs; refuse those of other weights, where ``weights`` says which are wanted."""
    for path, read in ((out / DOCUMENT, _document), (out / JOURNAL, _journal)):
        if not path.exists():
            continue
        try:
            found = [(str(digest), row) for digest, row in read(path.read_text(encoding="utf-8"))]
            strange = any(not row.keys() >= REQUIRED for _, row in found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            strange = True
        if strange:
            raise UserError(f"{path}: not results that this command wrote; choose another --out")
        if weights is not None and any(digest != weights for digest, _ in found):
            raise UserError(f"{out}: its results come from another model; say --overwrite, or choose another --out")
        yield from (row for _, row in found)


def _document(text: str) -> Iterator[tuple[str, Row]]:
    document = json.loads(text)
    weights = document["model"]["weights_sha256"]
    for row in document["results"]:
        yield weights, row


def _journal(text: str) -> Iterator[tuple[str, Row]]:
    for line in text.splitlines():
        try:
            kept = json.loads(line)
        except ValueError:
            return  # the line that a killed run was writing
        yield kept["weights_sha256"], kept["row"]


def flat(row: Row) -> Row:
    """Return a row with one value a column, numbers as they are and unknown ones empty."""
    values = {key: value for key, value in row.items() if key in COLUMNS}
    for part in ("lungs", "left", "right"):
        values |= {f"{part}_{unit}": row[part][unit] for unit in AREAS} if part in row else {}
    if row.get("spacing"):
        values["spacing_rows_mm"], values["spacing_columns_mm"] = row["spacing"]
    flags = row.get("flags", [])
    values["flags"] = " ".join(dict.fromkeys(flag["name"] for flag in flags))
    values["reasons"] = "; ".join(flag["reason"] for flag in flags)
    return values
