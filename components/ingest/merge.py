"""``python -m components.ingest.merge PART... --out artifacts/raw``: one raw cohort from the shards of ingest."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from components.ingest import IngestResult
from components.ingest.pictures import place_of
from components.ingest.record import Record, count
from core.cli import Out, run
from core.cohort import MANIFEST, read_lines, write_lines
from core.errors import UserError
from core.files import write_folder
from core.shard import Shard, distinct, require_all

UNLINKABLE = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)


def merge(parts: Sequence[Path], out: Path) -> IngestResult:
    """Merge the shards of a cohort into the files that ingest of the whole source writes, byte for byte.

    Images and masks are hard links to the files of the parts, or copies if hard links are not possible.

    Args:
        parts: outputs of ingest, one for each shard, in any order.
        out: output folder, written atomically.

    Raises:
        UserError: the parts are not the shards 1/N to N/N of one unchanged source, or a part is damaged.
    """
    records = {folder: Record.read(folder) for folder in distinct(parts)}
    order = require_all({folder: record.shard for folder, record in records.items()})
    first = records[order[0]]
    for folder in order[1:]:
        if field := records[folder].differs(first):
            raise UserError(_another(folder, order[0], field))
    frames = [_rows(folder, Shard.parse(records[folder].shard)) for folder in order]
    _require_once(order, frames)
    with write_folder(out) as partial:
        for folder, frame in zip(order, frames, strict=True):
            for place in (*frame["image"], *frame["mask"]):
                if place:
                    link(folder / place, partial / place)
        whole = pd.concat(frames)
        write_lines(partial, whole)
        record = replace(first, shard="", sites=count(whole))
        record.write(partial)
    return IngestResult(out, record.name, record.synthetic, record.sites, [])


def _another(folder: Path, first: Path, field: str) -> str:
    """Return the message for a part that belongs to another cohort than the first one."""
    if field == "listing_sha256":
        return f"{folder}: the files of its source differ from those that {first} saw; run its shard, or all, again"
    return f"{folder}: of another cohort than {first}, its {field} differs; give the shards of one source"


def _rows(folder: Path, shard: Shard) -> pd.DataFrame:
    """Return a part's manifest as text; raises UserError on a row that ingest cannot have written there."""
    frame = read_lines(folder)
    for row in frame.to_dict("records"):
        site, identity = row["site"], row["id"]
        if not shard.has(site, identity):
            raise UserError(f"{folder / MANIFEST}: {identity} is not of shard {shard}; run this shard again")
        if row["image"] != place_of("images", site, identity) or row["mask"] not in (
            "",
            place_of("masks", site, identity),
        ):
            raise UserError(f"{folder / MANIFEST}: {identity} has its files at another place; run this shard again")
    return frame


def _require_once(order: list[Path], frames: list[pd.DataFrame]) -> None:
    seen: dict[str, Path] = {}
    for folder, frame in zip(order, frames, strict=True):
        for identity in frame["id"]:
            if (other := seen.setdefault(identity, folder)) != folder:
                raise UserError(f"{folder / MANIFEST}: {identity} is in {other} as well; run both shards again")


def link(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to a part's file, or a copy if hard links are not possible.

    Raises:
        UserError: the file does not exist.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in UNLINKABLE:
                raise
            shutil.copyfile(source, target)
    except FileNotFoundError as error:
        raise UserError(f"{source}: not found, but in its part's manifest; run its shard again") from error


def main(
    parts: Annotated[list[Path], typer.Argument(help="Outputs of ingest --shard, one for each shard.")],
    out: Out = Path("artifacts/raw"),
) -> None:
    """Merge the shards of a cohort into the folder that ingest writes without shards."""
    result = merge(parts, out)
    images = sum(count.images for count in result.sites.values())
    print(f"{out}: {result.name}, {images} X-rays from {len(parts)} shards")


if __name__ == "__main__":
    run(main)
