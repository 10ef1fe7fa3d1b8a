"""A cohort's source: names, sizes and a way to read each file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class File:
    """One file of a source.

    Attributes:
        size: bytes, as the folder, archive or bucket tells it.
        read: returns its bytes; OSError or :class:`UserError` where that fails.
        path: where it lies on this machine once fetched; None inside a ZIP.
    """

    size: int
    read: Callable[[], bytes]
    path: Callable[[], Path] | None = None


def _nothing_to_fetch(names: Iterable[str]) -> None:
    """Stand in for a fetch where the files are on this machine already."""


@dataclass(frozen=True)
class Source:
    """A cohort's files by name (paths below the source, with forward slashes).

    Attributes:
        files: what is there.
        fetch: brings the named files near before they are read; returns when they are there.
    """

    files: dict[str, File]
    fetch: Callable[[Iterable[str]], None] = _nothing_to_fetch


def join(source: str, name: str) -> str:
    """Return what a file is called in messages: the source as the user gave it, and the file's path below it."""
    return f"{source.rstrip('/')}/{name}" if name else source
