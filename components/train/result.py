"""A copy of a training run's result next to its checkpoints, for a process that waited for it."""

from __future__ import annotations

import shutil
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from core.cell import HISTORY, PROVENANCE, RUN
from core.files import read_json, write_folder
from model.weights import CONFIG, WEIGHTS

RESULT = "result"  # the folder, a copy of ``out``
FILES = (WEIGHTS, CONFIG, PROVENANCE, HISTORY, RUN)


def keep_result(out: Path, checkpoints: Path) -> None:
    """Copy a training run's result to its folder of checkpoints, before the checkpoints are removed."""
    for stale in checkpoints.glob(f".{RESULT}-*"):  # left by a killed run
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(prefix=f".{RESULT}-", dir=checkpoints) as temporary:
        copy = Path(temporary) / RESULT
        copy.mkdir()
        for name in FILES:
            shutil.copyfile(out / name, copy / name)
        shutil.rmtree(checkpoints / RESULT, ignore_errors=True)
        copy.replace(checkpoints / RESULT)


def has_result(checkpoints: Path, since: str | None = None) -> bool:
    """Return whether there is a result; with ``since`` (UTC, ISO 8601), of a run started at or after this time."""
    run = checkpoints / RESULT / RUN
    return run.exists() and (since is None or str(read_json(run)["started"]) >= since)


def copy_result(kept: Path, out: Path) -> None:
    """Copy the result of another run from ``kept`` to ``out``."""
    with write_folder(out) as folder:
        for name in FILES:
            shutil.copyfile(kept / name, folder / name)


def read_result(out: Path) -> dict[str, Any]:
    """Return the fields of ``TrainResult``, except ``folder``, from the output of train."""
    run, history = read_json(out / RUN), pd.read_csv(out / HISTORY)
    dice = history.set_index("epoch")["validation_dice"][run["best_epoch"]]
    counts = {name: int(run[name]) for name in ("epochs", "best_epoch", "resumed_from")}
    return {"validation_dice": float(dice), **counts}


def speed(history: list[dict[str, float]]) -> dict[str, float]:
    """Return the training seconds of all epochs, and the images per second."""
    seconds = sum(row["seconds"] for row in history)
    images = sum(row["images_per_second"] * row["seconds"] for row in history)
    return {"training_seconds": round(seconds, 3), "images_per_second": round(images / seconds, 2)}


def stages(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return size, epochs, training seconds and images per second of each stage."""
    costs = []
    for size, rows in groupby(history, key=lambda row: row["size"]):
        epochs = list(rows)
        costs.append({"size": size, "epochs": len(epochs), **speed(epochs)})
    return costs
