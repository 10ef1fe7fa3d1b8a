"""The record of one training run: everything to log to MLflow, in plain files next to the checkpoint."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from core.errors import UserError

FOLDERS = "mlflow-*"  # folder of a record; the star stands for the mark, which is the tag TRAINING of the MLflow run
# Files in this folder. ABOUT: training (the mark), fingerprint, experiment, name, tags, params, datasets (by context),
# start_time and end_time (milliseconds since 1970), status (MLflow's), KEPT.
ABOUT = "record.json"
KEPT = "kept"  # true if the run's process ended before the whole record was sent
# JSON lines {time, step, values}. Steps of HISTORY are epochs from 1, and 0 for the whole run.
HISTORY, SYSTEM = "history.jsonl", "system.jsonl"
ARTIFACTS = "training"  # files that are logged as artifacts under this name at the end
RUNNING, FINISHED = "RUNNING", "FINISHED"  # a failed or killed run may still resume


def now() -> int:
    """Return the current time as in MLflow: milliseconds since 1970."""
    return int(time.time() * 1000)


def read(folder: Path) -> dict[str, Any]:
    """Return the content of a record's ABOUT; raises UserError if the record is missing or damaged."""
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
    """Append a line to HISTORY or SYSTEM; a kill loses at most this line.

    Raises:
        OSError: the line cannot be written, for example because the disk is full.
    """
    line = json.dumps({"time": now(), "step": step, "values": values}) + "\n"
    with file.open("ab+") as out:
        if out.tell():
            out.seek(-1, os.SEEK_END)
            if out.read(1) != b"\n":  # a kill or a full disk truncated the last line
                line = "\n" + line
        out.write(line.encode())
        out.flush()
        os.fsync(out.fileno())


def lines(file: Path) -> list[dict[str, Any]]:
    """Return the lines of HISTORY or SYSTEM, oldest first, without truncated ones."""
    found = file.read_bytes().splitlines() if file.exists() else []
    return [json.loads(line) for line in found if line.endswith(b"}}")]
