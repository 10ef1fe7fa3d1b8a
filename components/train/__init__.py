"""Train one network in one scenario with one seed."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from components.cohort import Arrays, read_split
from components.errors import UserError
from components.files import exclusive, explain_full_disk, write_folder, write_json
from components.provenance import git_state, hardware, versions
from components.results import CONFIG, HISTORY, RUN, Cell
from components.tracking import explained
from components.train.tracking import TrackedRun
from model import networks
from model.recipe import TrainParams

if TYPE_CHECKING:
    from model.training import Subset


@dataclass(frozen=True)
class TrainResult:
    """Where a trained cell is and how it did on its validation split."""

    folder: Path
    validation_dice: float
    epochs: int
    best_epoch: int
    resumed_from: int


def train(
    cell: Cell, arrays: Path, split: Path, params: TrainParams, experiment: str, out: Path, checkpoints: Path
) -> TrainResult:
    """Train a cell and leave its weights, what rebuilds the network, its history and where it was tracked.

    Killed at any moment and started again with the same arguments, it goes on from the last checkpoint; on the CPU it
    then ends with the very weights of an uninterrupted run.

    Args:
        cell: which network, scenario and seed.
        arrays: the preprocessed cohort.
        split: the scenario's frozen split, ``<scenario>.json``.
        params: the recipe.
        experiment: MLflow's experiment.
        out: the folder to write: ``weights.safetensors``, ``config.json``, ``history.csv``, ``run.json``.
        checkpoints: the folder of the full state, kept outside ``out`` so that it outlives a failed attempt.

    Raises:
        UserError: the network is unknown, the data do not fit, the loss is not a number, the disk is full, MLflow
            cannot be reached, or another run trains this cell.
    """
    import torch

    from model.predictor import WEIGHTS, save_weights
    from model.progress import Terminal
    from model.training import Trainer, TrainingError

    if cell.network not in networks.NETWORKS:
        raise UserError(f"unknown network {cell.network!r}; known are {', '.join(sorted(networks.NETWORKS))}")
    started, clock = datetime.now(UTC), time.monotonic()
    commit, dirty = git_state()
    cohort = Arrays(arrays)
    ids = read_split(split, cell.scenario)
    subsets = {name: _subset(cohort, ids[name], params.masks) for name in ("train", "validation")}
    torch.manual_seed(cell.seed)
    network = networks.build(cell.network, params.width)
    config = {
        "network": cell.network,
        "width": params.width,
        "in_channels": 1,
        "parameters": sum(p.numel() for p in network.parameters()),
        "scenario": cell.scenario,
        "seed": cell.seed,
        "input": {key: cohort.info[key] for key in ("size", "interpolation", "intensity_percentiles")},
        "train": params.model_dump(mode="json"),
        "cohort": cohort.card,
    }
    fingerprint = _fingerprint(config, subsets)
    title = f"train {cell.network} {cell.scenario} seed {cell.seed}"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with (
        exclusive(checkpoints),
        explain_full_disk(checkpoints),
        explained(f"experiment {experiment}"),
        TrackedRun(cell, experiment, config, fingerprint, checkpoints) as tracked,
    ):
        tracked.log_data(cohort, {name: subset.ids for name, subset in subsets.items()})
        trainer = Trainer(
            network,
            subsets["train"],
            subsets["validation"],
            params,
            cell.seed,
            device,
            checkpoints,
            fingerprint,
            Terminal(title, after_epoch=tracked.log_epoch),
        )
        try:
            result = trainer.run()
        except TrainingError as error:
            raise UserError(f"{title}: {error}") from error
        training_seconds = sum(row["seconds"] for row in result.history)
        record = {
            "mlflow_run_id": tracked.run_id,
            "commit": commit,
            "dirty": dirty,
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - clock, 3),
            "training_seconds": round(training_seconds, 3),
            "images_per_second": round(len(subsets["train"]) * len(result.history) / training_seconds, 2),
            "epochs": len(result.history),
            "best_epoch": result.best_epoch + 1,
            "resumed_from": result.resumed_from,
            "device": str(device),
            "hardware": hardware(),
            "versions": versions(),
        }
        with write_folder(out) as folder:
            save_weights(folder / WEIGHTS, result.weights)
            write_json(folder / CONFIG, config)
            pd.DataFrame(result.history).astype({"epoch": int}).to_csv(folder / HISTORY, index=False)
            write_json(folder / RUN, record)
        best = result.history[result.best_epoch]
        tracked.finish(out, result.history, best)
        trainer.finish(result)
    print(f"{title}: best validation Dice {best['validation_dice']:.4f} in epoch {result.best_epoch + 1}; wrote {out}")
    return TrainResult(out, best["validation_dice"], len(result.history), result.best_epoch + 1, result.resumed_from)


def _subset(cohort: Arrays, ids: list[str], masks: str) -> Subset:
    from model.training import Subset

    rows = cohort.rows(ids)
    # A copy in memory, one byte a pixel: 704 images of 512 x 512 are 185 MB.
    return Subset(cohort.images[rows], cohort.masks[masks][rows], ids)


def _fingerprint(config: dict[str, Any], subsets: dict[str, Subset]) -> str:
    """Return what two runs share only if they would end with the same weights: configuration and every pixel."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for subset in subsets.values():
        digest.update("\n".join(subset.ids).encode())
        digest.update(subset.images.tobytes())
        digest.update(subset.masks.tobytes())
    return digest.hexdigest()
