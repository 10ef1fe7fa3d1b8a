"""Writing so that nothing half-written is ever found under its final name."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from core.errors import UserError

OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the quota, a limit on file sizes


@contextmanager
def explain_full_disk(target: Path) -> Iterator[None]:
    """Turn "no space left" inside the block into a :class:`UserError` that names the target."""
    try:
        yield
    except OSError as error:
        if error.errno not in OUT_OF_SPACE:
            raise
        raise UserError(
            f"{target}: the disk is full ({error.strerror}); nothing was changed: free some space and run again"
        ) from error


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Hold the right to write ``target``; a second run at the same time gets a :class:`UserError` at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{target}: another run is writing here; wait until it ends, or choose another --out") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def write_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; when the block ends well it takes ``path``'s place in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with explain_full_disk(path):
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; when the block ends well it takes ``path``'s place, else it is removed.

    Only one process at a time may write ``path`` (:func:`exclusive`). What a killed run left behind is removed.
    """
    with exclusive(path):
        for stale in path.parent.glob(f".{path.name}.partial-*"):
            shutil.rmtree(stale)
        partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        replaced = partial.with_name(f"{partial.name}-replaced")
        partial.mkdir(parents=True)
        try:
            with explain_full_disk(path):
                yield partial
            if path.exists():
                # Moved away whole before it is deleted: no half-deleted folder keeps its name if this run is killed.
                path.replace(replaced)
            partial.replace(path)
        finally:
            for leftover in (partial, replaced):
                if leftover.exists():
                    shutil.rmtree(leftover)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically: floats in full, NaN as null is the caller's business (NaN is refused)."""
    with write_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON that an earlier step wrote; a missing or broken file is a :class:`UserError`."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run the step that writes it first (`dvc repro`)") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); run the step that writes it again") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
