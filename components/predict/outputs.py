"""The folder of results: masks, overlays and DICOM SEG under their inputs' names, and one table of all."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.errors import UserError
from components.files import exclusive, explain_full_disk, read_json, write_file, write_json
from components.images import ImageError

TABLE, DOCUMENT = "results.csv", "results.json"
JOURNAL = ".results.jsonl"  # rows of a run that has not ended
FOLDERS = {"mask": ("masks", ".png"), "overlay": ("overlays", ".png"), "seg": ("seg", ".dcm")}
AREAS = ("pixels", "share", "cm2")
COLUMNS = (
    *("file", "status", "error", "sha256", "kind", "height", "width", "spacing_rows_mm", "spacing_columns_mm"),
    *(f"{part}_{unit}" for part in ("lungs", "left", "right") for unit in AREAS),
    *("symmetry", "components", "solidity", "uncertain", "flags", "reasons", "note", *FOLDERS),
)
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
            ImageError: the place is outside of ``out``, or something else is there.
        """
        relative = place(kind, name)
        path = self.out / relative
        if ".." in relative.parts or not path.parent.resolve().is_relative_to(self.out.resolve()):
            raise ImageError(
                f"{name}: its {kind} would lie outside of {self.out} ({path.parent} leads away); remove the link there"
            )
        if path.is_dir():
            raise ImageError(f"{name}: its {kind} cannot be written, {path} is a folder; choose another --out")
        return path

    def write(self, kind: str, name: str, data: bytes) -> str:
        """Write one result, whole or not at all, and return its path below ``out``."""
        path = self.path(kind, name)
        with write_file(path) as partial:
            partial.write_bytes(data)
        return path.relative_to(self.out).as_posix()

    def add(self, row: Row) -> None:
        """Keep a finished input's row, also should this process be killed; threads may call it."""
        line = json.dumps(row, allow_nan=False) + "\n"
        with self.lock, explain_full_disk(self.out), (self.out / JOURNAL).open("a", encoding="utf-8") as file:
            self.rows[row["file"]] = row
            file.write(line)

    def finished(self, name: str, sha256: str, kinds: Iterable[str]) -> bool:
        """Tell whether an input with these bytes has its results of all these kinds; a DICOM alone has a SEG."""
        row = self.rows.get(name)
        if row is None or row["status"] != "ok" or row["sha256"] != sha256:
            return False
        wanted = [kind for kind in kinds if kind != "seg" or (row["kind"] == "dicom" and not row.get("note"))]
        return all(kind in row and (self.out / row[kind]).is_file() for kind in wanted)

    def forget(self, name: str) -> None:
        """Remove what an earlier run wrote for an input."""
        row = self.rows.pop(name, {})
        for kind in FOLDERS:
            if kind in row:
                self.path(kind, name).unlink(missing_ok=True)

    def close(self) -> None:
        """Write the table and the document of all rows, and drop the journal that they replace."""
        rows = [self.rows[name] for name in sorted(self.rows)]
        with write_file(self.out / TABLE) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, COLUMNS, restval="")
            table.writeheader()
            table.writerows(flat(row) for row in rows)
        write_json(self.out / DOCUMENT, {"model": self.model, "sides": SIDES, "results": rows})
        (self.out / JOURNAL).unlink(missing_ok=True)


SIDES = "left and right are the patient's: a frontal X-ray shows the left lung on its right side"


@contextmanager
def opened(out: Path, model: dict[str, Any], *, overwrite: bool, resume: bool) -> Iterator[Results]:
    """Yield the results in ``out``; however the block ends, what is finished is written as table and document.

    Raises:
        UserError: another run writes there; or there are results already, and neither ``overwrite`` nor ``resume`` was
            said; or they come from another model.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: not a folder; choose another --out")
    with exclusive(out):
        results = Results(out, model)
        there = [name for name in (DOCUMENT, JOURNAL, TABLE, "masks") if (out / name).exists()]
        if there and not overwrite and not resume:
            raise UserError(
                f"{out}: holds results already ({there[0]}); say --resume to add what is missing, --overwrite to "
                "replace them, or choose another --out"
            )
        results.rows = {row["file"]: row for row in _earlier(out, None if overwrite else model)}
        if overwrite:
            for name in list(results.rows):
                results.forget(name)
        out.mkdir(parents=True, exist_ok=True)
        (out / JOURNAL).unlink(missing_ok=True)
        try:
            for row in list(results.rows.values()):
                results.add(row)
            yield results
        finally:
            results.close()


def _earlier(out: Path, model: dict[str, Any] | None) -> Iterable[Row]:
    if (out / DOCUMENT).exists():
        document = read_json(out / DOCUMENT)
        if model is not None and document["model"]["weights_sha256"] != model["weights_sha256"]:
            raise UserError(f"{out}: its results come from another model; say --overwrite, or choose another --out")
        yield from document["results"]
    if (out / JOURNAL).exists():
        for line in (out / JOURNAL).read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                return  # the line that a killed run was writing


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
