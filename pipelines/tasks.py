"""Helpers of the Kubeflow tasks: parameters, error reports, several processes, and the artifacts of all cells."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from core.cell import Cell
from core.cli import exit_on_user_error
from core.errors import UserError
from core.files import read_json
from core.params import Matrix, Params, Sections, check, check_section
from core.terminal import say
from model.threads import settle

if TYPE_CHECKING:
    from components.promote import Promotion

# Kubernetes shows this file's text as the container's termination message; pipelines.local.run sets another file.
TERMINATION_LOG = "TERMINATION_LOG"
KUBERNETES_TERMINATION_LOG = "/dev/termination-log"
TERMINATION_LOG_BYTES = 4096  # Kubernetes reads no more

PROCESSES = "TRAIN_PROCESSES"  # number of processes per cell, one per GPU; also read by `python -m components.train`
TOLD = 3  # exit code of a training process that has already printed a UserError

CELL = "cell"  # key of the artifact metadata with the cell, <network>/<scenario>/seed-<seed>


Result = TypeVar("Result")


class Artifact(Protocol):
    """The attributes of a Kubeflow artifact that are used here."""

    path: str
    metadata: dict[str, Any]


@contextmanager
def task() -> Iterator[None]:
    """Run a step in a Kubeflow task; a UserError is one log line and the termination message, with exit code 1."""
    with exit_on_user_error():
        try:
            yield
        except UserError as error:
            _write_termination_message(str(error))
            raise


def _write_termination_message(message: str) -> None:
    path = Path(os.environ.get(TERMINATION_LOG) or KUBERNETES_TERMINATION_LOG)
    if path.exists():
        with path.open("ab") as file:
            file.write(message.encode()[: TERMINATION_LOG_BYTES - 1] + b"\n")


def in_processes(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call ``function(*arguments)`` in TRAIN_PROCESSES processes, or over nodes, and return the result of rank 0.

    One process is this process. Several are started as by ``torchrun``; if one fails, the others are stopped.

    Args:
        function: a picklable function.
        *arguments: its arguments, picklable.

    Raises:
        SystemExit: one of several processes has printed a UserError.
    """
    if os.environ.get("KFP_RETRY_INDEX", "0") != "0":
        os.environ.setdefault("TRAIN_TAKES_SINCE", "0")  # what the attempt before may have finished is taken
    if "TRAIN_JOB" in os.environ:  # pipelines.graph sets it where train has several nodes
        from pipelines.trainjob import train_over_nodes

        return cast(Result, train_over_nodes(*arguments))
    count = int(os.environ.get(PROCESSES) or 1)
    if count == 1:
        return function(*arguments)
    settle(count)  # the new processes import torch before they run this project's code
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # As `torchrun --standalone`: a rendezvous on a free port.
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,  # Kubeflow makes the retries
        start_method="spawn",
    )
    try:
        results: dict[int, Result] = elastic_launch(config, _child_process)(function, arguments)
    except ChildFailedError as error:
        if any(failure.exitcode == TOLD for failure in error.failures.values()):
            raise SystemExit(1) from None
        raise
    return results[0]


def _child_process(function: Callable[..., Result], arguments: Sequence[Any]) -> Result:
    try:
        return function(*arguments)
    except UserError as error:
        say(f"error: {error}")
        _write_termination_message(str(error))
        raise SystemExit(TOLD) from None


def to_json(values: Any) -> str:
    """Return plain values as the JSON text of a pipeline parameter; raises ValueError on NaN.

    Text, because Kubeflow's structures turn every integer into a floating-point number. The order of the keys is kept,
    because the order of the splits decides ties.
    """
    return json.dumps(values, allow_nan=False)


def sections(params: Params) -> dict[str, str]:
    """Return every section of ``params.yaml`` as the pipeline parameter of the same name."""
    return {name: to_json(values) for name, values in params.model_dump(mode="json", by_alias=True).items()}


def from_json(text: str, name: str) -> Any:
    """Parse the pipeline parameter ``name``; raises a UserError on invalid JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"pipeline parameter {name}: not valid JSON ({error}); correct it and submit again") from error


def section(kind: type[Sections], text: str, name: str) -> Sections:
    """Return the pipeline parameter ``name`` as typed parameters; raises a UserError on wrong values."""
    return check_section(kind, from_json(text, name), f"pipeline parameter {name}")


def whole(parts: dict[str, str]) -> Params:
    """Return all sections together as typed parameters; raises a UserError on a wrong value in any section."""
    return check({name: from_json(text, name) for name, text in parts.items()}, "pipeline parameters")


def cells(matrix: Matrix) -> list[str]:
    """Return the cells of the matrix as ``<network>/<scenario>/seed-<seed>``, in the matrix's order."""
    return [cell.folder.as_posix() for cell in Cell.every(matrix.networks, matrix.scenarios, matrix.seeds)]


@contextmanager
def gathered(artifacts: Sequence[Artifact]) -> Iterator[Path]:
    """Yield a temporary folder with the artifacts of all cells as ``<network>/<scenario>/seed-<seed>``.

    The files are hard links, or copies if the file system has no hard links. MLflow does not accept symbolic links.
    """
    with tempfile.TemporaryDirectory() as name:
        for artifact in artifacts:
            shutil.copytree(artifact.path, Path(name) / artifact.metadata[CELL], copy_function=_link_or_copy)
        yield Path(name)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def validation_table(result: Path) -> str:
    """Render ``validation.json`` as Markdown: counts, and the result of each expectation."""
    content = read_json(result)
    counts = content["statistics"]
    lines = [
        f"**{counts['images']} X-rays**, {counts['paired']} with a mask, {counts['unpaired']} without",
        "",
        "| expectation | outcome |",
        "|---|---|",
        *(f"| {entry['title']} | {'met' if entry['success'] else 'failed'} |" for entry in content["expectations"]),
    ]
    return "\n".join(lines) + "\n"


def promoted(version: Path, promote: Callable[[int], Promotion] | None) -> str:
    """Promote the version that register wrote to ``version`` and return the result as Markdown.

    A version that does not pass the gate does not fail the run.

    Args:
        version: the JSON file of the registered version.
        promote: called with the version's number; None does not promote.
    """
    registered = read_json(version)
    name, number = str(registered["name"]), int(registered["version"])
    if promote is None:
        line = f"{name}: version {number} is registered; submit with promote=True, or promote it by hand"
        print(line)
        return f"{line}\n"
    done = promote(number)
    if done.passed is False:
        print(done.line)
    return done.page


def ended(state: str, message: str | None, facts: Mapping[str, str]) -> tuple[str, str]:
    """Return the final state of a run as one line, and as Markdown with ``facts``.

    Args:
        state: Kubeflow's state: SUCCEEDED, FAILED, CANCELLED.
        message: Kubeflow's error message.
        facts: data and code of the run; empty values are omitted.
    """
    words = " ".join((message or "").split())
    line = f"run {state.lower()}" + (f": {words}" if words else "")
    rows = [f"| {name} | `{value}` |" for name, value in facts.items() if value]
    table = ["", "| | |", "|---|---|", *rows] if rows else []
    return line, "\n".join([f"**Run {state.lower()}**", *(["", "```", words, "```"] if words else []), *table]) + "\n"
