"""Open a cohort's source: a folder, a ZIP file or an S3 prefix."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from components.ingest.archives import open_zip
from components.ingest.layouts import is_junk
from components.ingest.ranges import Ranges, Span
from components.ingest.source import File, Source, join
from core.errors import UserError
from core.s3 import is_s3

BUFFER = 64 << 10  # bytes of the first requests, which read a ZIP's directory


@contextmanager
def open_source(source: str, out: Path, part: bool = False) -> Iterator[Source]:
    """Yield the files of a folder, a ZIP file, or ``s3://bucket/prefix``.

    ZIP files in a folder or prefix are opened as well, because publishers distribute one per site. They are not
    unpacked to disk, so path traversal is not possible.

    Args:
        source: the source from the user.
        out: the output folder; S3 downloads are stored next to it until the step succeeds, so that an interrupted run
            resumes.
        part: only a part of the files will be read, so that ZIP files in S3 are not downloaded whole.

    Raises:
        UserError: the source does not exist, cannot be read, or is a damaged or hostile ZIP.
    """
    with ExitStack() as stack:
        if is_s3(source):
            from components.ingest.s3 import open_s3

            found = stack.enter_context(open_s3(source, out))
        elif "://" in source:
            raise UserError(f"{source}: not a source; give a folder, a ZIP file or s3://bucket/prefix")
        elif Path(source).is_dir():
            found = Source(_walk(Path(source)))
        elif Path(source).is_file():
            found = Source({"": _local(Path(source))})  # any suffix, because DVC may name it `data`
        else:
            raise UserError(f"{source}: not found; give a folder, a ZIP file or s3://bucket/prefix")
        yield _look_into_zips(source, found, stack, part)


def _walk(folder: Path) -> dict[str, File]:
    """Return all files in a folder, recursively; follows links, because DVC may link to its cache, but not loops."""
    files: dict[str, File] = {}
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: the folder cannot be read ({error.strerror}); change its permissions")

    for where, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(where)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        names = [] if real in seen else names
        seen.add(real)
        for name in names:
            path = Path(where) / name
            files[path.relative_to(folder).as_posix()] = _local(path)
    return files


def _local(path: Path) -> File:
    try:
        size = path.stat().st_size
    except OSError:  # a broken link: reading it reports the error with the other problems
        size = 0
    return File(size, path.read_bytes, lambda: path)


def _look_into_zips(source: str, found: Source, stack: ExitStack, part: bool) -> Source:
    """Replace every ZIP among the files by its content; a source of one file must be a ZIP."""
    archives = {
        name: file
        for name, file in sorted(found.files.items())
        if not name or (name.lower().endswith(".zip") and not is_junk(name))
    }
    if not archives:
        return found
    remote = {name: stack.enter_context(file.ranges()) for name, file in archives.items() if part and file.ranges}
    found.fetch([name for name in archives if name not in remote])
    files = {name: file for name, file in found.files.items() if name not in archives}
    spans: dict[str, tuple[Ranges, Span]] = {}
    for name, archive in archives.items():
        opened: Path | IO[bytes]
        if name in remote:
            opened = stack.enter_context(io.BufferedReader(remote[name], BUFFER))
        elif archive.path is None:
            raise ValueError(f"{name}: a ZIP inside a ZIP is not read")
        else:
            opened = archive.path()
        for inside, member in open_zip(opened, archive.size, join(source, name), stack).items():
            called = f"{name}/{inside}" if name else inside
            files[called] = File(member.size, member.read)
            if name in remote:
                spans[called] = (remote[name], member.span)

    def fetch(names: Iterable[str]) -> None:
        wanted = list(names)
        found.fetch([name for name in wanted if name in found.files])
        for reader in remote.values():
            reader.fetch([spans[name][1] for name in wanted if name in spans and spans[name][0] is reader])

    return Source(files, fetch)
