"""What a training recorded of itself: its time, machine, commit and MLflow run, which no result depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.cell import PROVENANCE, RUN
from core.errors import UserError
from core.files import read_json
from core.inputs import read_record

TIMES = ("seconds", "images_per_second")  # of an epoch: in MLflow and in RUN's ``per_epoch``, not in HISTORY


def read_run(model: Path) -> dict[str, Any]:
    """Return ``run.json`` of a trained cell, empty where nothing is recorded of the weights that are there now.

    DVC does not track the file, so that two equal trainings leave equal outputs: a model that came by `dvc pull` has
    none, one that came by `dvc checkout` has perhaps that of other weights.

    Args:
        model: the folder that training left, weights or not.

    Raises:
        UserError: it is damaged, or the training left no ``provenance.json``.
    """
    if not (model / RUN).exists():
        return {}
    run = read_json(model / RUN)
    if not isinstance(run, dict):
        raise UserError(f"{model / RUN}: not what the train step leaves; remove it")
    return run if run.get("weights") == read_record(model / PROVENANCE, "train")["weights"] else {}
