"""Find the input X-rays and derive the names of their results."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from glob import has_magic
from itertools import takewhile
from pathlib import Path

from core.errors import UserError
from core.images import ImageError
from core.terminal import say
from serving.predict.outputs import FOLDERS
from serving.xray.reading import looks_like_dicom

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".dcm", ".dicom", ".ima"})
BYTES_A_PIXEL = 8  # of the widest pixel format
OTHER_BYTES = 64 << 20  # allowance for the part of a file that is not pixels


@dataclass(frozen=True)
class Input:
    """One file to predict on.

    Attributes:
        path: path of the file.
        name: its path relative to the common folder of all inputs, with ``/``; unique.
    """

    path: Path
    name: str


def find(paths: Sequence[str], out: Path) -> list[Input]:
    """Return the files of files, folders and patterns, each once, sorted by name.

    A folder is searched recursively for files with an image extension and for DICOMs without one; other files are only
    counted. Hidden files, links to folders and files in ``out`` are skipped. Results in ``out`` are skipped even if a
    pattern or path names them. A path that does not exist stays in the list if there are others: reading it fails, and
    the other inputs continue.

    Args:
        paths: from the user; ``*``, ``?``, ``[...]`` and ``**`` are patterns, unless a file has exactly that name.
        out: the folder of the results.

    Raises:
        UserError: no file was found, none of those named exists, or a pattern matches nothing.
    """
    roots: list[Path] = []  # the folders that names are relative to
    files: dict[Path, None] = {}
    results = {_absolute(out / folder) for folder, _ in FOLDERS.values()}
    avoided = {_absolute(out), *results}
    for given in paths:
        pattern = has_magic(given) and not os.path.exists(given)  # noqa: PTH110 - Path's raises on a long name
        matches = _matches(given) if pattern else []
        if pattern and not matches:
            raise UserError(f"{given}: the pattern matches no file; quote it in the shell, ** is any depth of folders")
        for path in sorted(matches) or [_absolute(given)]:
            if not results.isdisjoint((path, *path.parents)):
                continue
            if os.path.isdir(path):  # noqa: PTH112 - Path's raises on a long name
                found = list(_below(path, avoided))
                # A pattern may match parent folders of its files.
                roots += [path] if found or not matches else []
                files |= dict.fromkeys(found)
            else:
                roots.append(path.parent)
                files[path] = None
    if not files:
        raise UserError(f"{', '.join(paths)}: no PNG, JPEG, TIFF or DICOM file there; name another folder or the files")
    if not any(map(os.path.lexists, files)):
        raise UserError(f"{', '.join(paths)}: not found; name a file or a folder with X-rays")
    base = Path(os.path.commonpath(roots))
    return sorted((Input(path, path.relative_to(base).as_posix()) for path in files), key=lambda each: each.name)


def _matches(pattern: str) -> list[Path]:
    """Return the paths that match; ``**`` follows no link, as a link may lead back to a folder above it."""
    whole = _absolute(pattern)
    hidden = any(part.startswith(".") for part in Path(pattern).parts if part != "..")
    found = Path(whole.anchor).glob(str(whole.relative_to(whole.anchor)))
    base = _absolute(Path(*_plain_parts(pattern)))
    return [path for path in found if hidden or not any(part.startswith(".") for part in path.relative_to(base).parts)]


def _plain_parts(pattern: str) -> Iterator[str]:
    """Yield the folders of a pattern before its first special character."""
    return takewhile(lambda part: not has_magic(part), Path(pattern).parts[:-1])


def _absolute(path: str | Path) -> Path:
    # Do not resolve links: a link's target must not decide the output path.
    return Path(os.path.abspath(path))  # noqa: PTH100


def _below(folder: Path, avoided: AbstractSet[Path]) -> Iterator[Path]:
    others = 0
    for parent, folders, names in os.walk(folder, onerror=_tell_unreadable):
        here = Path(parent)
        folders[:] = [each for each in folders if not each.startswith(".") and here / each not in avoided]
        for name in names:
            path = here / name
            if not name.startswith(".") and (path.suffix.lower() in SUFFIXES or _is_bare_dicom(path)):
                yield path
            else:
                others += not name.startswith(".")
    if others:
        say(f"note: {folder}: left out {others} file(s) that are no PNG, JPEG, TIFF or DICOM")


def _tell_unreadable(error: OSError) -> None:
    say(f"warning: {error.filename}: cannot be read ({error.strerror}); its files are left out")


def _is_bare_dicom(path: Path) -> bool:
    """Return whether a file without an image extension is a DICOM, as on CDs; False for DICOMDIR."""
    if path.name.upper() == "DICOMDIR" or (path.suffix and not path.suffix[1:].isdecimal()):
        return False
    try:
        if not path.is_file():  # reading a pipe without a writer would block forever
            return False
        with path.open("rb") as file:
            return looks_like_dicom(file.read(132))
    except OSError:
        return False  # not an error: the user did not name this file


def read_bytes(path: Path, name: str, max_megapixels: float) -> bytes:
    """Return a file's bytes.

    Raises:
        ImageError: not a regular file, unreadable, or larger than an X-ray of ``max_megapixels`` can be.
    """
    most = int(max_megapixels * 1e6) * BYTES_A_PIXEL + OTHER_BYTES
    try:
        kernel = path.resolve().is_relative_to("/proc") or path.resolve().is_relative_to("/sys")
        if kernel or (path.exists() and not path.is_file()):
            raise ImageError(f"{name}: not a file on a disk; name a file or a folder")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise ImageError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(data) > most:
        raise ImageError(
            f"{name}: larger than an X-ray of {max_megapixels:g} megapixels can be ({most / 1e6:.0f} MB); remove it"
        )
    return data
