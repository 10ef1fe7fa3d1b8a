"""Multi-node training: the train step submits, follows and deletes a TrainJob of Kubeflow Trainer.

All pods must share files, so inputs and result go through the storage of the checkpoints: S3, or a volume that the
TrainingRuntime also mounts. A lost pod restarts all pods, and the training run resumes from its checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.train import TAKES, TrainResult
from components.train.result import read_result
from core.cell import Cell
from core.errors import UserError
from core.terminal import say
from model.training.recipe import TrainParams
from pipelines.trainjob_api import CONTAINER, Follower, TrainJobs
from pipelines.trainjob_files import Shared, shared
from pipelines.trainjob_spec import JOB, RUN, job_name, train_job
from tracking.store import STEP_RUN

POLL = 2.0  # seconds between two polls of a TrainJob


def train_over_nodes(
    cell: Cell,
    arrays: Path,
    split: Path,
    params: TrainParams,
    experiment: str,
    out: Path,
    checkpoints: Path,
    remote: str = "",
) -> TrainResult:
    """Train a cell like :func:`components.train.train`, on the nodes of a TrainJob.

    Args:
        cell: network, scenario and seed.
        arrays: the preprocessed cohort.
        split: the scenario's frozen split.
        params: the recipe.
        experiment: the MLflow experiment.
        out: the folder to write.
        checkpoints: folder of the cell's checkpoints, on a volume.
        remote: ``s3://bucket/prefix`` of the cell's checkpoints; empty: they are on the volume.

    Raises:
        UserError: the pods share no storage, the cluster has no TrainJobs or refuses this one, or it failed.
    """
    asked = json.loads(os.environ[JOB])
    if not remote and checkpoints.absolute().is_relative_to(out.parent.absolute()):
        raise UserError(
            f"steps.train.nodes: {asked['nodes']} nodes need checkpoints that all of them see; set checkpoints of the "
            "cluster settings to s3://bucket/prefix, or to a folder on a volume that the TrainingRuntime mounts"
        )
    name = job_name(cell, os.environ.get(RUN, ""))
    place = shared(name, cell, checkpoints, remote)
    since = datetime.now(UTC).isoformat(timespec="seconds")
    asked["env"].append({"name": TAKES, "value": os.environ.get(TAKES, since)})
    if parent := os.environ.get(STEP_RUN):
        asked["env"].append({"name": STEP_RUN, "value": parent})
    jobs = TrainJobs.connect()
    jobs.require()
    jobs.delete(name)  # of a killed attempt, whose pods would lose their files
    place.put(arrays, split, params, experiment)
    with _ended(jobs, name, place):
        jobs.create(train_job(name, asked, *place.command(cell)))
        say(f"TrainJob {jobs.namespace}/{name}: sent, {asked['nodes']} nodes")
        _follow(jobs, name)
        place.take(out)
    return TrainResult(out, **read_result(out))


@contextmanager
def _ended(jobs: TrainJobs, name: str, place: Shared) -> Iterator[None]:
    """Delete the TrainJob and its shared files at the end of the block, also after an error or SIGTERM."""

    def terminated(_number: int, _frame: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        jobs.delete(name)
        place.remove()
        signal.signal(signal.SIGTERM, before)


def _follow(jobs: TrainJobs, name: str) -> None:
    """Print the log of rank 0 and the TrainJob's progress until it is complete.

    Raises:
        UserError: the TrainJob failed, with rank 0's last error in the message, or was deleted.
    """
    told, follower = "", Follower(jobs, name)
    while True:
        status = jobs.status(name)
        if status is None:
            raise UserError(f"TrainJob {name}: somebody has deleted it; run the step again")
        follower.look()
        met = {each["type"]: each for each in status.get("conditions", []) if each.get("status") == "True"}
        if "Complete" in met:
            follower.finish()
            return
        if "Failed" in met:
            follower.finish()
            why = " ".join(str(met["Failed"].get("message", "")).split())
            last = f"; rank 0 said: {follower.last}" if follower.last else ""
            raise UserError(f"TrainJob {name}: failed ({why}){last}")
        if (words := _words(status, follower.waits)) != told:
            told = words
            say(f"TrainJob {name}: {words}")
        time.sleep(POLL)


def _words(status: dict[str, Any], waits: str) -> str:
    (node, *_) = [each for each in status.get("jobsStatus", []) if each.get("name") == CONTAINER] or [{}]
    counts = ", ".join(f"{node[key]} {key}" for key in ("active", "ready", "failed") if node.get(key))
    return f"{counts or 'starting'}{f'; rank 0 waits: {waits}' if waits else ''}"
