"""The record of one training run: plain files next to its checkpoint with everything for MLflow."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from core.errors import UserError

FOLDERS = "mlflow-*"  # a record's folder; the star is the mark by which MLflow's run is found (its tag TRAINING)
# In this folder. ABOUT: training (the mark), fingerprint, experiment, name, tags, params, datasets (by context),
# start_time and end_time (milliseconds since 1970), status (MLflow's), KEPT.
ABOUT = "record.json"
KEPT = "kept"  # true once the run's process has ended without having sent the whole record
# JSON lines {time, step, values}. Steps of HISTORY are epochs from 1, and 0 for the whole run.
HISTORY, SYSTEM = "history.jsonl", "system.jsonl"
ARTIFACTS = "training"  # files that are logged as artifacts under this name at the end
RUNNING, FINISHED = "RUNNING", "FINISHED"  # a failed or killed run may still resume


def now() -> int:
    """Return the time as MLflow counts it: milliseconds since 1970."""
    return int(time.time() * 1000)


def read(folder: Path) -> dict[str, Any]:
    """Return what a record's ABOUT says; :class:`UserError` where there is no record, or a damaged one."""
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text())
        if FOLDERS.replace("*", about["training"]) != folder.name:
            raise ValueError("its mark is not the folder's")
    except FileNotFoundError:
        raise UserError(f"{folder}: not found; records that have been sent are removed") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: not the record of a training ({error}); move it away") from error
    return about


def append(file: Path, step: int, values: dict[str, float]) -> None:
    """Add a line to HISTORY or SYSTEM; a kill loses no more than this line.

    Raises:
        OSError: it cannot be written, for instance because the disk is full.
    """
    line = json.dumps({"time": now(), "step": step, "values": values}) + "\n"
    with file.open("ab+") as out:
        if out.tell():
            out.seek(-1, os.SEEK_END)
            if out.read(1) != b"\n":  # a kill or a full disk has cut the last line off
                line = "\n" + line
        out.write(line.encode())
        out.flush()
        os.fsync(out.fileno())


def lines(file: Path) -> list[dict[str, Any]]:
    """Return the lines of HISTORY or SYSTEM, oldest first, without those that were cut off."""
    found = file.read_bytes().splitlines() if file.exists() else []
    return [json.loads(line) for line in found if line.endswith(b"}}")]
