"""A cohort's source: the names and sizes of its files, and functions to read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from components.ingest.ranges import Ranges


@dataclass(frozen=True)
class File:
    """One file of a source.

    Attributes:
        size: size in bytes, from the folder, archive or bucket.
        read: returns the file's bytes; raises OSError or UserError.
        path: returns the local path after fetching; None for a file in a ZIP.
        ranges: opens the file to read parts of it without fetching it whole; None where it is local.
    """

    size: int
    read: Callable[[], bytes]
    path: Callable[[], Path] | None = None
    ranges: Callable[[], Ranges] | None = None


def _nothing_to_fetch(names: Iterable[str]) -> None:
    """Do nothing, for files that are already local."""


@dataclass(frozen=True)
class Source:
    """The files of a source.

    Attributes:
        files: the files by path relative to the source, with forward slashes.
        fetch: downloads the named files before they are read.
    """

    files: dict[str, File]
    fetch: Callable[[Iterable[str]], None] = _nothing_to_fetch


def join(source: str, name: str) -> str:
    """Return a file's name in messages: the source from the user, and the path in it."""
    return f"{source.rstrip('/')}/{name}" if name else source
