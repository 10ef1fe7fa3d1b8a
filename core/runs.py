"""The record of a training run: its time, machine, commit and MLflow run. No result depends on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.cell import PROVENANCE, RUN
from core.errors import UserError
from core.files import read_json
from core.inputs import read_record

TIMES = ("seconds", "images_per_second")  # per epoch; in MLflow and in RUN's ``per_epoch``, not in HISTORY


def read_run(model: Path) -> dict[str, Any]:
    """Return ``run.json`` of a trained cell, empty if it is missing or belongs to other weights.

    DVC does not track the file, so that equal training runs have equal outputs. After `dvc pull` the file is missing;
    after `dvc checkout` it may belong to other weights.

    Args:
        model: output folder of train.

    Raises:
        UserError: the file is damaged, or there is no ``provenance.json``.
    """
    if not (model / RUN).exists():
        return {}
    run = read_json(model / RUN)
    if not isinstance(run, dict):
        raise UserError(f"{model / RUN}: not an output of the train step; remove it")
    return run if run.get("weights") == read_record(model / PROVENANCE, "train")["weights"] else {}
