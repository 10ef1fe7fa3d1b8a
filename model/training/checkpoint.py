"""Checkpoints: the full state of a training run, from which a killed run resumes exactly."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

STATE = "state.pt"


class CheckpointError(Exception):
    """A checkpoint cannot be read."""


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` atomically: after a kill or a full disk there is either the old or the new checkpoint.

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
        partial.replace(folder / STATE)
    except RuntimeError as error:
        # torch.save hides the OSError behind an error about positions in its archive.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    finally:
        partial.unlink(missing_ok=True)


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
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state if state["fingerprint"] == fingerprint else None
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: cannot be read ({reason}); remove it to train from the start") from error
