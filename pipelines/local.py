"""``python -m pipelines.local --source data``: the whole Kubeflow graph on this machine, each task a process."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Annotated

import typer

from components import cli
from components.errors import UserError
from components.files import exclusive, write_file, write_folder
from components.params import Params, read_params
from components.provenance import data_md5
from components.tracking import connect
from pipelines.compile import code_version
from pipelines.tasks import TERMINATION_LOG

ROOT = Path(__file__).resolve().parent.parent
PINNED = Path("data")  # what data.dvc pins
TASKS = "tasks"
REPORTS = "reports"
REGISTERED = "registered.json"


def run_locally(source: str, params: Params, out: Path) -> Path:
    """Run the Kubeflow graph with kfp's SubprocessRunner and return the folder of the report.

    Args:
        source: the cohort, as ingest takes it.
        params: all parameters.
        out: gets ``tasks/`` with every artifact as Kubeflow lays them out, ``reports/`` and ``registered.json``; those
            of an earlier run are replaced.

    Raises:
        UserError: a step failed; what it said is repeated.
    """
    for path in (source, str(out.resolve())):
        # It puts the interpreter's path in the place of the word wherever it stands, in the steps' arguments too.
        if "python3" in path:
            raise UserError(f"{path}: kfp's local runner garbles paths that hold 'python3'; choose another folder")
    with exclusive(out / TASKS), tempfile.TemporaryDirectory(prefix="lung-segmentation-") as scratch:
        last_words = Path(scratch) / "termination-log"
        last_words.touch()
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        # Every task leaves a folder there, which kfp never removes.
        os.environ["TMPDIR"] = scratch
        os.environ["PYTHONUNBUFFERED"] = "1"
        os.environ[TERMINATION_LOG] = str(last_words)
        # The first to come makes the database, and two trainings would come at the same time.
        connect(params.register_.experiment)
        shutil.rmtree(out / TASKS, ignore_errors=True)
        report, registered = _run(source, params, out / TASKS, Path(scratch) / "workspace", last_words)
        with write_folder(out / REPORTS) as folder:
            shutil.copytree(report, folder, dirs_exist_ok=True)
        with write_file(out / REGISTERED) as partial:
            shutil.copyfile(registered, partial)
    return out / REPORTS


def _run(source: str, params: Params, artifacts: Path, workspace: Path, last_words: Path) -> tuple[Path, Path]:
    from kfp import local

    from pipelines.graph import build

    # Said of every task: the names that Kubeflow's page shows do nothing here.
    warnings.filterwarnings("ignore", message=".*have no effect in the current local runner")
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(artifacts),
        workspace_root=str(workspace),  # removed after the run, whatever it is
    )
    try:
        build(params, git_commit=code_version())(source=source, data_md5=_md5_of(source))
    except RuntimeError as error:
        said = last_words.read_text().strip()
        raise UserError(said or "a task of the graph failed; its own output, above, says why") from error
    # A pipeline with an exit handler has no outputs of its own.
    (run,) = artifacts.iterdir()
    return run / "report/folder", run / "register/version"


def _md5_of(source: str) -> str:
    """Return the MD5 that pins the source, empty where it is not what ``data.dvc`` pins."""
    pinned = data_md5() if Path(source).resolve() == PINNED.resolve() else None
    return pinned or ""


def main(
    source: Annotated[str, typer.Option(help="A folder, a ZIP file or s3://bucket/prefix.")] = str(PINNED),
    params: cli.ParamsFile = Path("params.yaml"),
    out: Annotated[Path, typer.Option(help="The folder of the run: its report and every task's artifacts.")] = Path(
        "build/local-run"
    ),
) -> None:
    """Run the whole Kubeflow graph on this machine, without a cluster."""
    print(f"report   {run_locally(source, read_params(params), out) / 'index.html'}")


if __name__ == "__main__":
    cli.run(main)
