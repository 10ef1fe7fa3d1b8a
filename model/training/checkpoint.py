"""Checkpoints: the full state of a training run, from which a killed run resumes exactly.

The newest two are kept. Each is a ZIP archive from torch.save with a CRC-32 of every record. torch does not check it;
this module does before it uses a checkpoint.
"""

from __future__ import annotations

import lzma
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

STATE = "state.pt"
PREVIOUS = "state.previous.pt"  # the checkpoint before it
# What zipfile raises on a damaged archive.
DAMAGE = (
    *(EOFError, ValueError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)


class CheckpointError(Exception):
    """A checkpoint cannot be read.

    Attributes:
        reason: the reason, without the path.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: cannot be read ({reason}); remove its folder to train from the start")
        self.reason = reason


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` atomically: after a kill or a full disk there is the old or the new checkpoint, or both.

    Raises:
        OSError: the checkpoint cannot be written, for example because the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{STATE}.partial"
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        _keep_previous(folder)
        partial.replace(folder / STATE)
    except RuntimeError as error:
        # torch.save hides the OSError behind an error about positions in its archive.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    finally:
        partial.unlink(missing_ok=True)


def _keep_previous(folder: Path) -> None:
    """Keep the newest checkpoint as the previous one; with hard links, a newest one exists at any moment."""
    newest, spare = folder / STATE, folder / f".{PREVIOUS}.partial"
    if not newest.exists():
        return
    spare.unlink(missing_ok=True)
    try:
        os.link(newest, spare)
    except OSError:  # a file system without hard links
        newest.replace(folder / PREVIOUS)
    else:
        spare.replace(folder / PREVIOUS)


def restore_state(folder: Path) -> str:
    """Replace the newest checkpoint with the previous one if the newest is damaged or missing.

    Returns:
        A message if a damaged checkpoint was replaced, else empty.
    """
    newest, before = folder / STATE, folder / PREVIOUS
    try:
        if not before.exists() or not (damage := _damage(newest)) or _damage(before):
            return ""
        was_there = newest.exists()
        before.replace(newest)
    except OSError:
        return ""  # an unreadable disk is not damage: load_state reports it
    # Without hard links, a kill between the two renames of save_state leaves no newest one: nothing is lost.
    return f"{newest}: damaged ({damage}); the checkpoint before it is used" if was_there else ""


def remove_states(folder: Path) -> None:
    """Remove the checkpoints, so that the same run starts from the beginning."""
    for name in (PREVIOUS, STATE):  # in this order: without a newest one, the previous one would be used
        (folder / name).unlink(missing_ok=True)


def _damage(path: Path) -> str:
    """Return what is wrong with a checkpoint file, empty if nothing is; raises OSError if it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except FileNotFoundError:
        return "missing"
    except DAMAGE as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return f"the checksum of {record} is wrong" if record else ""


def load_state(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the checkpoint of the run with this fingerprint, or None if there is none.

    A checkpoint of other parameters or data is ignored and later replaced. Only tensors and plain values are unpickled.

    Raises:
        CheckpointError: the file is damaged or of another version; the message names the fix.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        if damage := _damage(path):
            raise CheckpointError(path, damage)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state if state["fingerprint"] == fingerprint else None
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(path, str(error).partition("\n")[0]) from error
