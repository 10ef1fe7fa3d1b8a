"""Atomic writes: a partly written file or folder never has its final name."""

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

OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # full disk, quota, limit on file size
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class UnwritableError(UserError):
    """This user cannot write a file or folder."""


@contextmanager
def explain_full_disk(target: Path) -> Iterator[None]:
    """Turn "no space left" inside the block into a UserError that names the target."""
    try:
        yield
    except OSError as error:
        if error.errno not in OUT_OF_SPACE:
            raise
        raise UserError(
            f"{target}: the disk is full ({error.strerror}); nothing was changed: free some space and run again"
        ) from error


@contextmanager
def explain_unwritable(target: Path) -> Iterator[None]:
    """Turn an :data:`UNWRITABLE` error inside the block into an UnwritableError, and a full disk into a UserError.

    The block must only create ``target`` or its lock file.
    """
    try:
        with explain_full_disk(target):
            yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        user = f"user {os.geteuid()}, group {os.getegid()}" if hasattr(os, "getuid") else "this user"
        raise UnwritableError(
            f"{target}: cannot be written ({error.strerror}: {error.filename}) by {user}; let this user write there "
            "(on a volume by its owner or group), or name another place"
        ) from error


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Hold a lock on ``target``; raises UserError at once if another process holds it."""
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        with explain_unwritable(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{target}: another run is writing here; wait until it ends, or choose another --out") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def write_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; if the block succeeds, it replaces ``path`` atomically.

    Raises:
        UserError: ``path`` cannot be written, or the disk is full.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with explain_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        partial.unlink()
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
    """Yield an empty folder next to ``path``; if the block succeeds, it replaces ``path``, else it is removed.

    Only one process at a time may write ``path`` (:func:`exclusive`). Remains of a killed run are removed.

    Raises:
        UserError: another process is writing ``path``, it cannot be written, or the disk is full.
    """
    with exclusive(path):
        for stale in path.parent.glob(f".{path.name}.partial-*"):
            shutil.rmtree(stale)
        partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        replaced = partial.with_name(f"{partial.name}-replaced")
        with explain_unwritable(path):
            partial.mkdir(parents=True)
        try:
            with explain_full_disk(path):
                yield partial
            if path.exists():
                # Rename before deletion: if this run is killed, no partly deleted folder has the final name.
                path.replace(replaced)
            partial.replace(path)
        finally:
            for leftover in (partial, replaced):
                if leftover.exists():
                    shutil.rmtree(leftover)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically; raises ValueError on NaN."""
    with write_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read the JSON output of an earlier step; raises UserError if it is missing or invalid."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run the step that writes it first (`dvc repro`)") from None
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of nested lists
        raise UserError(f"{path}: not valid JSON ({error}); run the step that writes it again") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
