"""Read a ZIP file that may be damaged or hostile, without unpacking it to disk."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO

from components.ingest.ranges import Span
from core.errors import UserError

# PNGs are already compressed and hardly shrink in a ZIP; a ZIP bomb has a ratio of a thousand.
MOST_INFLATION = 100
ENCRYPTED = 0x1  # general purpose bit flag (PKWARE's APPNOTE, 4.4.4)


@dataclass(frozen=True)
class Member:
    """A file in a ZIP.

    Attributes:
        size: the declared size in bytes.
        read: returns the file's bytes and checks their CRC-32; never more than the declared size.
        span: the bytes of the ZIP with the file and its header.
    """

    size: int
    read: Callable[[], bytes]
    span: Span


def open_zip(file: Path | IO[bytes], size: int, called: str, stack: ExitStack) -> dict[str, Member]:
    """Open a ZIP and check its whole directory before reading any file.

    Args:
        file: the archive.
        size: its size in bytes.
        called: name of the archive in messages.
        stack: closes the archive.

    Returns:
        The files by name.

    Raises:
        UserError: not a ZIP; or it has names that lead outside of it, links, encrypted files or duplicate names (all
            are listed), or unpacks to more than :data:`MOST_INFLATION` times its size.
    """
    try:
        archive = stack.enter_context(zipfile.ZipFile(file))
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise UserError(
            f"{called}: not a ZIP file, or a truncated one ({error}); fetch it again, or give a folder"
        ) from error
    problems = []
    files: dict[str, Member] = {}
    starts = sorted({member.header_offset for member in archive.infolist()})
    ends = dict(pairwise([*starts, archive.start_dir]))
    for member in archive.infolist():
        name = member.filename
        if trouble := _problem(member):
            problems.append(f"{called}/{name}: {trouble}")
        elif name in files:
            problems.append(f"{called}/{name}: duplicate name")
        elif not member.is_dir():
            span = (member.header_offset, ends[member.header_offset])
            files[name] = Member(member.file_size, _reader(archive, member, f"{called}/{name}"), span)
    if problems:
        raise UserError(f"{called}: refused; nothing was unpacked: make the ZIP again without these", problems)
    total = sum(member.size for member in files.values())
    if total > MOST_INFLATION * size:
        raise UserError(
            f"{called}: refused, as it would unpack to {total / 1e6:.0f} MB, more than {MOST_INFLATION} times its "
            "size: a ZIP bomb; if it is not, unpack it yourself and give the folder"
        )
    return files


def _problem(member: zipfile.ZipInfo) -> str:
    """Return the problem of a member's directory entry; empty for none."""
    name = member.orig_filename.replace("\\", "/")
    if name.startswith("/") or (len(name) > 1 and name[1] == ":"):
        return "an absolute name"
    if ".." in name.split("/"):
        return "its path is outside of the ZIP"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a symbolic link"
    if member.flag_bits & ENCRYPTED:
        return "encrypted"
    return ""


def _reader(archive: zipfile.ZipFile, member: zipfile.ZipInfo, called: str) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            return archive.read(member)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise UserError(f"{called}: damaged inside the ZIP ({error}); fetch the ZIP again") from error

    return read
