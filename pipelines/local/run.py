"""``python -m pipelines.local --source data``: run the whole Kubeflow pipeline on this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from core import cli
from core.errors import UserError
from core.files import exclusive, read_json, write_file, write_folder
from core.params import Params, read_params
from core.provenance import pinned_md5
from core.s3 import is_s3
from core.shard import MOST
from core.terminal import seconds
from pipelines.compile import code_version
from pipelines.local import containers, processes
from pipelines.local.containers import Image, Mount
from pipelines.local.view import View
from pipelines.tasks import KUBERNETES_TERMINATION_LOG, TERMINATION_LOG
from tracking.store import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

ROOT = Path(__file__).resolve().parents[2]
PINNED = Path("data")  # the output of data.dvc
TASKS = "tasks"
REPORTS = "reports"
REGISTERED = "registered.json"
LOG = "log.txt"


class Runner(StrEnum):
    """kfp's local runners: each task in a process or in a container."""

    subprocess = "subprocess"
    docker = "docker"


@dataclass(frozen=True)
class Choices:
    """The arguments of a run.

    Attributes:
        source: the cohort: a folder, a ZIP file or ``s3://bucket/prefix``.
        params: all parameters.
        checkpoints: a folder or ``s3://bucket/prefix`` for the checkpoints of all cells, which later runs can resume;
            empty: next to each model, where the next run deletes them.
        promote: True makes the registered version champion if it passes the gate.
        shards: number of shards of ingest and preprocess; 1: no shards.
        evaluate_shards: number of shards of evaluate of each cell; 1: no shards.
    """

    source: str
    params: Params
    checkpoints: str = ""
    promote: bool = False
    shards: int = 1
    evaluate_shards: int = 1


@dataclass(frozen=True)
class Done:
    """Result of a run.

    Attributes:
        report: folder of the report.
        promotion: one line on the registered version.
        registered: the content of ``registered.json``.
    """

    report: Path
    promotion: str
    registered: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One run: its arguments, its view, and the paths that tasks write to."""

    asked: Choices
    view: View
    artifacts: Path
    scratch: Path
    workspace: Path
    last_words: Path


@dataclass(frozen=True)
class Setting:
    """Environment of the tasks: their path of the cohort, kfp's runner, the code's commit, and the image, if any."""

    source: str
    runner: Any
    git_commit: str
    image: str | None = None
    image_digest: str = ""


def run_locally(asked: Choices, out: Path, image: str | None = None, verbose: bool = False) -> Done:
    """Run the Kubeflow pipeline with one of kfp's local runners.

    Args:
        asked: the cohort, the parameters and the other arguments of the run.
        out: output folder for ``tasks/`` with every artifact in Kubeflow's layout, ``reports/``, ``registered.json``
            and ``log.txt``; the outputs of an earlier run are replaced.
        image: the image of the tasks' containers (DockerRunner); None: run processes (SubprocessRunner).
        verbose: print all output of kfp and of the tasks on the terminal, instead of writing it to ``log.txt``.

    Raises:
        UserError: a step failed; has the step's message.
    """
    if image is not None:
        _refuse(":", asked.checkpoints.removeprefix("s3:"), out)  # Docker separates the two paths of a mount by a colon
    if asked.checkpoints and not is_s3(asked.checkpoints):
        asked = replace(asked, checkpoints=str(Path(asked.checkpoints).absolute()))
    found = None if image is None else containers.find_image(image)
    with exclusive(out / TASKS), tempfile.TemporaryDirectory(prefix="lung-segmentation-") as scratch:
        there = Path(scratch)
        view = View(None if verbose else out / LOG)
        run = Run(asked, view, out.absolute() / TASKS, there, there / "workspace", there / "termination-log")
        shutil.rmtree(run.artifacts, ignore_errors=True)
        for folder in (run.artifacts, run.workspace):
            folder.mkdir()
        run.last_words.touch()
        with _processes(run) if found is None else _containers(run, found) as setting:
            results = _run(run, setting)
        with write_folder(out / REPORTS) as folder:
            shutil.copytree(results / "report/folder", folder, dirs_exist_ok=True)
        with write_file(out / REGISTERED) as partial:
            shutil.copyfile(results / "register/version", partial)
        first, *_ = (results / "promote/champion").read_text().splitlines()
    return Done(out / REPORTS, first.removeprefix("# "), read_json(out / REGISTERED))


def _refuse(word: str, *paths: str | Path) -> None:
    for path in paths:
        if word in str(path if isinstance(path, str) else path.absolute()):
            raise UserError(f"{path}: kfp's local runner garbles paths that hold '{word}'; choose another folder")


@contextmanager
def _processes(run: Run) -> Iterator[Setting]:
    """Run every task as a process that imports the code of this checkout."""
    from kfp import local

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # kfp creates a temporary folder for every task and never removes it.
    os.environ["TMPDIR"] = str(run.scratch)
    os.environ["PYTHONUNBUFFERED"] = "1"
    os.environ[TERMINATION_LOG] = str(run.last_words)
    # Create the database first: parallel training tasks would create it at the same time.
    connect(run.asked.params.register_.experiment)
    with processes.interruptible(run.last_words, run.view):
        yield Setting(run.asked.source, local.SubprocessRunner(use_venv=False), code_version())


@contextmanager
def _containers(run: Run, image: Image) -> Iterator[Setting]:
    """Run every task as a container that mounts the cohort, the artifacts and the MLflow store at their host paths."""
    from kfp import local

    owner = _owner(run.artifacts.parent)
    experiment = run.asked.params.register_.experiment
    store, paths, remote = _store(connect(experiment), experiment)
    folders, source, states = [], run.asked.source, run.asked.checkpoints
    if states and not is_s3(states):
        paths.append(Path(states))
    for path in paths:
        if not path.exists():
            path.mkdir(parents=True)
            os.chown(path, *owner)
        folder = path if path.is_dir() else path.parent  # SQLite creates files next to its database
        for taken in (path, folder):
            if os.geteuid() == 0 and taken.stat().st_uid != owner[0]:
                raise UserError(f"{taken}: must belong to the owner of {run.artifacts.parent}, as whom tasks write")
        folders.append(folder)
    mounts = [Mount(folder, writable=True) for folder in dict.fromkeys(folders)]
    mounts.append(Mount(run.last_words, writable=True, target=KUBERNETES_TERMINATION_LOG))
    remote = remote or any(map(is_s3, (source, states)))
    if not is_s3(source) and Path(source).exists():  # if it does not exist, ingest reports the error
        source = str(Path(source).resolve())
        mounts.append(Mount(Path(source)))
    for path in (run.artifacts, run.workspace, run.last_words):
        os.chown(path, *owner)
    options = containers.options(owner, mounts, remote, MLFLOW_TRACKING_URI=store)
    with containers.reliable(run.last_words, run.view):
        yield Setting(source, local.DockerRunner(**options), image.commit, image.name, image.id)


def _owner(folder: Path) -> tuple[int, int]:
    """Return the user and group id for the tasks: this process's, or for root the owner of ``folder``."""
    if os.geteuid():
        return os.geteuid(), os.getegid()
    found = folder.stat()
    return found.st_uid, found.st_gid


def _store(client: MlflowClient, experiment: str) -> tuple[str, list[Path], bool]:
    """Return MLflow's tracking URI for a container, the local paths it writes to, and whether it needs the network."""
    from mlflow.utils.file_utils import local_file_uri_to_path
    from sqlalchemy.engine import make_url

    address, artifacts = client.tracking_uri, client.get_experiment_by_name(experiment).artifact_location
    paths: list[Path] = []
    local_store, local_artifacts = address.startswith("sqlite:"), urlsplit(artifacts).scheme in ("", "file")
    if local_store:
        url = make_url(address)
        paths.append(Path(url.database or "").absolute())
        address = str(url.set(database=str(paths[0])))
    if local_artifacts:
        paths.append(Path(local_file_uri_to_path(artifacts)))
    return address, paths, not (local_store and local_artifacts)


def _run(run: Run, setting: Setting) -> Path:
    """Run the pipeline and return the folder with one subfolder per task."""
    from kfp import local

    from pipelines.graph import build

    # For every task, kfp warns that display names have no effect.
    warnings.filterwarnings("ignore", message=".*have no effect in the current local runner")
    # kfp removes the workspace after the run.
    local.init(runner=setting.runner, pipeline_root=str(run.artifacts), workspace_root=str(run.workspace))
    asked = run.asked
    graph = (asked.params, setting.image, setting.git_commit)
    pipeline = build(*graph, shards=asked.shards, evaluate_shards=asked.evaluate_shards)
    try:
        with run.view.logged():
            pipeline(
                source=setting.source,
                data_md5=pinned_md5(asked.source) or "",
                image_digest=setting.image_digest,
                checkpoints=asked.checkpoints,
                promote=asked.promote,
            )
    except RuntimeError as error:
        message = run.last_words.read_text().strip()
        raise UserError(message or "a task of the graph failed; its own output says why") from error
    # A pipeline with an exit handler has no outputs.
    (results,) = run.artifacts.iterdir()
    return results


def main(
    source: Annotated[str, typer.Option(help="A folder, a ZIP file or s3://bucket/prefix.")] = str(PINNED),
    params: cli.ParamsFile = Path("params.yaml"),
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder of the run: its report and every task's artifacts.")
    ] = Path("build/local-run"),
    runner: Annotated[Runner, typer.Option(help="Each task in a process of its own, or in a container.")] = (
        Runner.subprocess
    ),
    image: Annotated[
        str | None, typer.Option(help="The image of the containers, in the place of what `make image` builds.")
    ] = None,
    checkpoints: Annotated[
        str,
        typer.Option(
            envvar="TRAIN_CHECKPOINTS",
            help="Folder or s3://bucket/prefix of the checkpoints of all cells; a killed run resumes from them.",
        ),
    ] = "",
    promote: Annotated[
        bool, typer.Option("--promote", help="Make the registered version champion if it passes the gate.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print the output of every task, in the place of a log in --out.")
    ] = False,
    shards: Annotated[
        int, typer.Option(min=1, max=MOST, help="Parts of ingest and preprocess, as in cluster.yaml.")
    ] = 1,
    evaluate_shards: Annotated[
        int, typer.Option(min=1, max=MOST, help="Parts of evaluate of each cell, as in cluster.yaml.")
    ] = 1,
) -> None:
    """Run the whole Kubeflow graph on this machine, without a cluster."""
    since = time.monotonic()
    asked = Choices(source, read_params(params), checkpoints, promote, shards, evaluate_shards)
    if runner is Runner.docker:
        from pipelines.components import IMAGE

        image = image or IMAGE
    elif image is not None:
        raise UserError(f"--image {image}: processes run in none; pass --runner docker, or leave it out")
    done = run_locally(asked, out, image, verbose)
    of = done.registered
    cell = f"{of['network']} {of['scenario']} seed {of['seed']}"
    print(f"report   {done.report / 'index.html'}")
    print(f"Dice     {of['test_dice']:.4f} on test images, {of['validation_dice']:.4f} on validation images ({cell})")
    print(f"time     {seconds(time.monotonic() - since)}")
    print(f"model    {done.promotion}")
