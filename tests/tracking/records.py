"""Records as trainings leave them, written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tracking.record import ABOUT, ARTIFACTS, HISTORY, append

DATA = {"name": "c train", "digest": "d", "source_type": "code", "source": "{}", "schema": None, "profile": None}


def write_record(beside: Path, epochs: int = 2, **changes: Any) -> Path:
    """Write the record ``mlflow-m`` of a training that is under way, or ended as ``changes`` say."""
    folder = beside / "mlflow-m"
    (folder / ARTIFACTS).mkdir(parents=True)
    about = {"training": "m", "fingerprint": "f", "experiment": "lung-segmentation", "name": "n", "tags": {"a": "b"}}
    about |= {"params": {"p": "1"}, "datasets": {"train": DATA}, "start_time": 1000, "status": "RUNNING"}
    (folder / ABOUT).write_text(json.dumps(about | {"end_time": 9000} | changes))
    for step in range(1, epochs + 1):
        append(folder / HISTORY, step, {"train_loss": 1 / step, "validation_dice": step / 10})
    (folder / ARTIFACTS / "config.json").write_text("{}")
    return folder
