"""The ingest step: read a cohort from a folder, a ZIP file or S3 and write the raw cohort."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from components.ingest.layouts import LAYOUTS, Case, Survey, survey
from components.ingest.pictures import Store
from components.ingest.record import Record, SiteCount, count
from components.ingest.source import Source, join
from components.ingest.sources import open_source
from core.cohort import COHORT, COLUMNS, write_manifest
from core.errors import UserError
from core.files import write_folder
from core.parallel import cores, parallel
from core.params import IngestParams, read_yaml
from core.provenance import pinned_md5
from core.shard import Shard


@dataclass(frozen=True)
class IngestResult:
    """Result of :func:`ingest`.

    Attributes:
        folder: folder of the raw cohort.
        name: the cohort's name.
        synthetic: whether its X-rays are synthetic.
        sites: counts by site.
        ignored: files of the source that match no known layout.
    """

    folder: Path
    name: str
    synthetic: bool
    sites: dict[str, SiteCount]
    ignored: list[str]


class Card(BaseModel):
    """The content of a source's optional ``cohort.json``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = ""
    synthetic: bool = False
    description: str = ""


def ingest(
    source: str, params: IngestParams, out: Path, data_md5: str | None = None, shard: Shard | None = None
) -> IngestResult:
    """Read a cohort in its publishers' layouts and write the raw cohort.

    The folder has ``images/<site>/<id>.png`` (unchanged copies), ``masks/<site>/<id>.png`` (8-bit, 0 and 255, left and
    right lung in one mask), ``manifest.csv`` (:data:`core.cohort.COLUMNS`) and ``cohort.json``
    (:class:`components.ingest.record.Record`). The same source and MD5 give the same bytes.

    Args:
        source: a folder, a ZIP file, or ``s3://bucket/prefix`` of files or of a ZIP.
        params: section ``ingest`` of ``params.yaml``.
        out: output folder, written atomically.
        data_md5: MD5 that pins the source, empty for an unpinned one; None reads ``data.dvc``.
        shard: read and write only the X-rays of this shard, for :func:`components.ingest.merge.merge`. A shard without
            X-rays writes a manifest with only a header.

    Raises:
        UserError: the source cannot be read, matches no known layout, or has unusable files. All are listed; for a
            shard, those that belong to its X-rays or to no X-ray.
    """
    with write_folder(out) as partial, open_source(source, out, part=shard is not None) as files:
        whole = _survey(source, files)
        found = whole.part(shard) if shard else whole
        card_name = min((n for n in files.files if _is_card(n)), key=lambda n: (n.count("/"), n), default="")
        files.fetch([*([card_name] if card_name else []), *(name for case in found.cases for name in case.files)])
        card = _read_card(source, files, card_name)
        rows, problems = _store(source, files, found.cases, partial, params)
        problems = sorted(problems + [join(source, problem) for problem in found.lines])
        if problems:
            raise UserError(f"{source}: {len(problems)} file(s) cannot be used; nothing was written", problems)
        frame = pd.DataFrame(rows, columns=list(COLUMNS))
        write_manifest(partial, frame)
        sites = count(frame)
        record = Record(
            name=card.name or _name_of(source),
            synthetic=card.synthetic,
            description=card.description,
            source=source,
            data_md5=pinned_md5(source) if data_md5 is None else data_md5 or None,
            sites=sites,
            shard=str(shard) if shard else "",
            listing_sha256=_listing(whole, files) if shard else "",
        )
        record.write(partial)
    return IngestResult(out, record.name, card.synthetic, sites, found.ignored)


def _listing(found: Survey, files: Source) -> str:
    """Return the SHA-256 of the names and sizes of all X-rays' files, which must be equal in all shards of a cohort."""
    lines = [f"{name} {files.files[name].size}\n" for case in found.cases for name in case.files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _survey(source: str, files: Source) -> Survey:
    found = survey(files.files)
    found.ignored[:] = [name for name in found.ignored if not _is_card(name)]
    if found.cases or found.lines:
        return found
    if not found.ignored:
        raise UserError(
            f"{source}: nothing is there, or it has no files; check the address, or give the folder of the X-rays"
        )
    expected = [f"{layout.site}: .../{layout.image.format(id=layout.example[:-4])}" for layout in LAYOUTS]
    raise UserError(
        f"{source}: {len(found.ignored)} file(s), for example {found.ignored[0]}, but none in a layout known here; "
        "arrange them as a publisher does, or add a layout to components/ingest/layouts.py. Known are:",
        expected,
    )


def _store(
    source: str, files: Source, cases: list[Case], folder: Path, params: IngestParams
) -> tuple[list[dict[str, Any]], list[str]]:
    store = Store(source, files, folder, int(params.max_megapixels * 1e6))
    rows, problems = [], []
    for row, trouble in parallel(store, cases, cores(), "ingest: images"):
        problems += trouble
        if row is not None:
            rows.append(row)
    return rows, problems


def _is_card(name: str) -> bool:
    """Return whether a file is the cohort's ``cohort.json``: at the root or up to two folders below it."""
    path = PurePosixPath(name)
    return path.name == COHORT and len(path.parts) <= 3


def _read_card(source: str, files: Source, name: str) -> Card:
    if not name:
        return Card()
    called = join(source, name)
    try:
        return Card.model_validate(json.loads(files.files[name].read()))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise UserError(
            f"{called}: not a cohort's card; its keys are name, synthetic and description", problems
        ) from None
    except ValueError as error:
        raise UserError(f"{called}: not valid JSON ({error}); correct or remove it") from error


def _name_of(source: str) -> str:
    """Return the last part of the source's path; of its original path if DVC imported it."""
    imports = read_yaml(pin).get("deps") if (pin := Path(f"{source.rstrip('/')}.dvc")).is_file() else None
    path = PurePosixPath((imports[0]["path"] if imports else source).removeprefix("s3://"))
    return path.name.removesuffix(".zip") or "cohort"
