"""The full state of a training run, so that a run killed at any moment goes on as if it had not been."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

STATE = "state.pt"


class CheckpointError(Exception):
    """A stored state cannot be read."""


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` so that a kill or a full disk at any moment leaves either the old one or the new one, whole.

    Raises:
        OSError: it cannot be written, for instance because the disk is full.
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
        # torch.save covers the reason why it could not write with a complaint about positions in its archive.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    finally:
        partial.unlink(missing_ok=True)


def load_state(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the unfinished state of the run with this fingerprint, or None where there is nothing to go on from.

    A state of other parameters or data, or one whose run is finished, is not gone on from: the run starts afresh and
    replaces it. Nothing is unpickled but tensors and plain values.

    Raises:
        CheckpointError: the file is damaged, or not of this version; the message says what to do.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state if state["fingerprint"] == fingerprint and not state["finished"] else None
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: cannot be read ({reason}); remove it to train from the start") from error
