"""Train one network in one scenario with one seed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from components.train.claim import claimed
from components.train.load import load_images
from components.train.notices import TRAINING, WAITING, ChangeWarning, Waiting
from components.train.progress import Progress
from components.train.result import RESULT, copy_result, has_result, keep_result, read_result, speed, stages
from components.train.start import RANDOM, start_from
from core.cell import HISTORY, PROVENANCE, RUN, Cell
from core.cohort import Arrays, read_split
from core.errors import UserError
from core.files import explain_full_disk, sha256, write_folder, write_json
from core.inputs import Inputs, code_digest
from core.provenance import git_state, hardware, versions
from core.runs import TIMES
from model import networks
from model.threads import settle
from model.training.recipe import TrainParams
from model.weights import CONFIG
from tracking.run import TrackedRun, describe

if TYPE_CHECKING:
    from model.training.batches import MappedSubset, Subset
    from model.training.loop import Monitor, Result, Trainer

# The code that determines the weights of a training run, as in dvc.yaml.
CODE = (
    "components/train",
    "model/networks",
    "model/training",
    "model/inputs.py",
    "model/measured.py",
    "model/threads.py",
    "model/weights.py",
    "core/cell.py",
    "core/cohort.py",
)

# Environment variable: reuse a finished result of the same training run that started at or after this time (UTC,
# ISO 8601), for example if an attempt's pod was lost after it finished. "0": any time.
TAKES = "TRAIN_TAKES_SINCE"
COLLAPSED = 0.01  # validation Dice below which a network predicts almost no lung
DIGITS = 12  # digits of the fingerprint in the name of the folder of checkpoints
HASHED_AT_ONCE = 256  # images


@dataclass(frozen=True)
class TrainResult:
    """The result of a training run.

    ``validation_dice`` is the best epoch's, pooled over the pixels of all images, 0 to 1. ``best_epoch`` counts from 1.
    ``resumed_from`` is the number of epochs before a resume, 0 for an uninterrupted run.
    """

    folder: Path
    validation_dice: float
    epochs: int
    best_epoch: int
    resumed_from: int


def train(
    cell: Cell,
    arrays: Path,
    split: Path,
    params: TrainParams,
    experiment: str,
    out: Path,
    checkpoints: Path,
    remote: str = "",
    reread: Callable[[], TrainParams] | None = None,
    signatures: str = "auto",
) -> TrainResult:
    """Train a cell and write its weights, configuration, history, provenance and run record.

    A killed training run that is started again with the same arguments resumes from its last checkpoint; on the CPU it
    gives exactly the weights of an uninterrupted run. Under ``torchrun``, the processes share every batch. If another
    process is already training the same run, this one waits and copies its result, or resumes if it dies.

    Args:
        cell: network, scenario and seed.
        arrays: output of preprocess.
        split: the scenario's frozen split, ``<scenario>.json``.
        params: the recipe.
        experiment: name of the MLflow experiment.
        out: output folder for ``weights.safetensors``, ``config.json``, ``history.csv``, ``provenance.json`` and
            ``run.json``.
        checkpoints: folder of the cell's checkpoints, outside ``out`` so that they survive a failed attempt. Each
            training run has a subfolder, named by the digest of parameters, data, split and code.
        remote: ``s3://bucket/prefix`` for a copy of the subfolder, from which another machine can resume.
        reread: reads ``params`` again from its file, to detect an edit during training.
        signatures: as for :func:`registry.seal.verify`, of the package that ``train.start_from`` names.

    Raises:
        UserError: parameters, arrays, split or code changed during training, the network is unknown, the data do not
            match, the model to start from cannot be used, the loss is not finite, the disk or the GPU's memory is
            full, a folder cannot be written, or MLflow's address or credentials are wrong. A tracking server that is
            down is not an error (docs/tracking.md).
    """
    settled = settle()
    import torch

    from core.terminal import Terminal, say
    from model.training.checkpoint import STATE, remove_states, restore_state
    from model.training.distributed import DistributedContext
    from model.training.loop import Trainer, TrainingError
    from model.weights import WEIGHTS, save_weights

    if cell.network not in networks.NETWORKS:
        raise UserError(f"unknown network {cell.network!r}; known are {', '.join(sorted(networks.NETWORKS))}")
    started, (load, *_) = datetime.now(UTC), os.getloadavg()
    commit, dirty = git_state()
    installed = versions()
    cohort = Arrays(arrays)
    ids = read_split(split, cell.scenario)
    subsets = load_images(cohort, {name: ids[name] for name in ("train", "validation")}, params.masks, params.resident)
    torch.manual_seed(cell.seed)
    options = params.defu_net.model_dump() if cell.network == "defu_net" else {}
    network = networks.build(cell.network, params.width, norm=params.norm, **options)
    config = {
        "network": cell.network,
        "width": params.width,
        "in_channels": 1,
        "norm": params.norm,
        "options": options,
        "parameters": sum(p.numel() for p in network.parameters()),
        "scenario": cell.scenario,
        "seed": cell.seed,
        "input": {key: cohort.info[key] for key in ("size", "interpolation", "intensity_percentiles")},
        "train": params.model_dump(mode="json"),
        "cohort": cohort.card,
    }
    if params.start_from != RANDOM:
        config["started_from"] = start_from(params.start_from, network, config, signatures)
    files = {"images": arrays / "images.npy", "masks": arrays / f"masks-{params.masks}.npy", "split": split}
    inputs = Inputs(files, CODE, params, reread)
    title = f"train {cell.network} {cell.scenario} seed {cell.seed}"
    world = DistributedContext.join()
    fingerprint = world.agree_on(_fingerprint(config | {"code": code_digest(inputs.code)}, subsets))
    checkpoints = checkpoints / fingerprint[:DIGITS]
    remote = remote and f"{remote}/{fingerprint[:DIGITS]}"
    make = partial(
        Trainer,
        network,
        subsets["train"],
        subsets["validation"],
        params,
        cell.seed,
        world,
        checkpoints,
        fingerprint,
    )
    if not world.first:
        while (word := world.agree_on("")) == WAITING:
            pass
        if word != TRAINING:
            world.leave()
            return TrainResult(out, **json.loads(word))
        world.wait()
        world.copy_file(checkpoints / STATE)
        result = _follow(make)
        world.leave()
        best = result.history[result.best_epoch]
    else:
        about = describe(
            cell, experiment, config, fingerprint, cohort, {name: subset.ids for name, subset in subsets.items()}
        )
        with ExitStack() as stack:
            waited = stack.enter_context(claimed(checkpoints, remote, Waiting(title, world)))
            stack.enter_context(explain_full_disk(checkpoints))
            if repaired := restore_state(checkpoints):
                say(f"warning: {title}: {repaired}")
            since = None if waited else os.environ.get(TAKES)
            send = stack.enter_context(_copied(remote, checkpoints, fingerprint, waited or since is not None))
            ended = has_result(checkpoints, since) and not (checkpoints / STATE).exists()
            if ended and (waited or since is not None):
                copy_result(checkpoints / RESULT, out)
                taken = read_result(out)
                world.agree_on(json.dumps(taken))
                world.leave()
                which = "run that it waited for" if waited else "attempt before"
                print(f"{title}: took the result of the {which}; wrote {out}")
                return TrainResult(out, **taken)
            world.agree_on(TRAINING)
            tracked = stack.enter_context(TrackedRun(about, checkpoints, remote))
            send()
            world.wait()
            world.copy_file(checkpoints / STATE)
            try:
                warn = ChangeWarning(title, inputs)
                progress = Progress(sum(stage.epochs for stage in params.plan(cohort.info["size"])))
                trainer = make(Terminal(title, [tracked.log_epoch, lambda _: send(), progress, warn]))
                # A kill may have come between an epoch's checkpoint and its record.
                for row in trainer.state["history"] if trainer.state else []:
                    tracked.log_epoch(row)
                precision = str(trainer.precision.dtype).removeprefix("torch.")
                print(f"{title}: {precision} ({trainer.precision.reason})")
                threads = f"{trainer.threads} thread{'s' * (trainer.threads > 1)} ({trainer.threads_reason})"
                waiting = f"OpenMP wait policy: {settled.waiting} ({settled.waiting_reason})"
                print(f"{title}: {threads}; {waiting}; load {load:.1f}", flush=True)
                result = trainer.run()
            except TrainingError as error:
                raise UserError(f"{title}: {error}") from error
            progress.finish()
            world.leave()  # only this process writes and uploads; the others need not wait
            record = {
                **tracked.record,
                "commit": commit,
                "dirty": dirty,
                "started": started.isoformat(timespec="seconds"),
                "seconds": round(result.seconds, 3),
                **speed(result.history),
                "stages": stages(result.history),
                "epochs": len(result.history),
                "best_epoch": result.best_epoch + 1,
                "resumed_from": result.resumed_from,
                "precision": precision,
                "precision_reason": trainer.precision.reason,
                "processes": world.size,
                "threads": trainer.threads,
                "threads_reason": trainer.threads_reason,
                "waiting": settled.waiting,
                "waiting_reason": settled.waiting_reason,
                "load": round(load, 2),
                "device": str(world.device),
                "hardware": hardware(),
                "versions": installed,
            }
            inputs.require_unchanged(title)
            manifest = str(cohort.info["manifest_sha256"])
            history = pd.DataFrame(result.history).astype({"epoch": int})
            times = history[["epoch", *TIMES]].to_dict("records")
            with write_folder(out) as folder:
                save_weights(folder / WEIGHTS, result.weights)
                weights = sha256(folder / WEIGHTS)
                write_json(folder / CONFIG, config)
                write_json(folder / PROVENANCE, inputs.record(manifest) | {"precision": precision, "weights": weights})
                history.drop(columns=list(TIMES)).to_csv(folder / HISTORY, index=False)
                write_json(folder / RUN, record | {"weights": weights, "per_epoch": times})
            keep_result(out, checkpoints)
            best = result.history[result.best_epoch]
            tracked.finish(out, result.history, best)
            # Only after the result is safe; the same run, started again, then trains from the beginning.
            remove_states(checkpoints)
            send()
        dice = best["validation_dice"]
        if dice < COLLAPSED:
            say(
                f"warning: {title}: the network marks almost no pixel as lung (validation Dice {dice:.4f}); the "
                "training collapsed: try a lower train.learning_rate, train.precision: float32 or another seed"
            )
        print(f"{title}: best validation Dice {dice:.4f} in epoch {result.best_epoch + 1}; wrote {out}")
    return TrainResult(out, best["validation_dice"], len(result.history), result.best_epoch + 1, result.resumed_from)


@contextmanager
def _copied(url: str, checkpoints: Path, fingerprint: str, result: bool) -> Iterator[Callable[[], None]]:
    """Download the checkpoint, with ``result`` also the result, if ``url`` is not empty; yield the upload function."""
    if not url:
        yield lambda: None
        return
    from components.train.checkpoints_s3 import Remote

    remote = Remote(url, checkpoints, fingerprint)
    remote.fetch(result)
    with remote.sending() as send:
        yield send


def _follow(make: Callable[[Monitor], Trainer]) -> Result:
    """Train as a rank other than 0; only rank 0 tracks, writes and reports errors."""
    from model.training.loop import Silent, TrainingError

    try:
        return make(Silent()).run()
    except TrainingError:
        raise SystemExit(1) from None


def _fingerprint(config: dict[str, Any], subsets: Mapping[str, Subset | MappedSubset]) -> str:
    """Return the SHA-256 of the configuration, the ids and all pixels; it identifies a training run."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for subset in subsets.values():
        digest.update("\n".join(subset.ids).encode())
        for pictures in (subset.images, subset.masks):
            for start in range(0, len(subset), HASHED_AT_ONCE):
                digest.update(pictures[start : start + HASHED_AT_ONCE].tobytes())
    return digest.hexdigest()
