"""Helpers of the Kubeflow tasks: parameters, error reports, distributed training, cells and promotion."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from core.cell import Cell
from core.cli import exit_on_user_error
from core.errors import UserError
from core.files import read_json
from core.inputs import flat
from core.params import Matrix, Params, Sections, check, check_section, read_params
from core.terminal import say
from model.threads import settle

if TYPE_CHECKING:
    from components.promote import Promotion

# Variable with the file of the termination message, set by pipelines.local.run; default: the file Kubernetes reads.
TERMINATION_LOG = "TERMINATION_LOG"
KUBERNETES_TERMINATION_LOG = "/dev/termination-log"
FINAL = "  (no retry can mend this)"
TERMINATION_LOG_BYTES = 4096  # Kubernetes reads at most this many

PROCESSES = "TRAIN_PROCESSES"  # number of processes per cell, one per GPU; also read by `python -m components.train`
TOLD = 3  # exit code of a training process that has already printed a UserError

SHIPPED = Path(__file__).parents[1] / "params.yaml"

CELL = "cell"  # key of the artifact metadata with the cell, <network>/<scenario>/seed-<seed>
SHARD = "shard"  # parameter of the steps of a loop over shards, i/N


Result = TypeVar("Result")


@contextmanager
def task(final: Callable[[UserError], bool] | None = None) -> Iterator[None]:
    """Run a step in a Kubeflow task; a UserError is one log line and the termination message, with exit code 1.

    Args:
        final: returns whether an error is permanent, which the termination message's second line then says; None if
            there are no retries.
    """
    with exit_on_user_error():
        try:
            yield
        except UserError as error:
            first, *rest = str(error).splitlines()
            _write_termination_message("\n".join([first, *([FINAL] if final and final(error) else []), *rest]))
            raise


def _write_termination_message(message: str) -> None:
    path = Path(os.environ.get(TERMINATION_LOG) or KUBERNETES_TERMINATION_LOG)
    if path.exists():
        with path.open("ab") as file:
            file.write(message.encode()[: TERMINATION_LOG_BYTES - 1] + b"\n")


def in_processes(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call ``function(*arguments)`` in TRAIN_PROCESSES processes, or in a TrainJob, and return the result of rank 0.

    A single process is this one. Several are started as by ``torchrun``; if one fails, the others are stopped.

    Args:
        function: a picklable function; with the variable TRAIN_JOB, :func:`components.train.train`.
        *arguments: its arguments, picklable.

    Raises:
        SystemExit: one of several processes has printed a UserError.
    """
    if os.environ.get("KFP_RETRY_INDEX", "0") != "0":
        os.environ.setdefault("TRAIN_TAKES_SINCE", "0")  # accept a result that an earlier attempt finished
    if "TRAIN_JOB" in os.environ:  # set by pipelines.placement if train has several nodes
        from pipelines.trainjob import train_over_nodes

        return cast(Result, train_over_nodes(*arguments))
    count = int(os.environ.get(PROCESSES) or 1)
    if count == 1:
        return function(*arguments)
    settle(count)  # the new processes import torch before they run this project's code
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Like `torchrun --standalone`: a rendezvous on a free port.
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,  # Kubeflow retries
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

    A string, because Kubeflow's structs turn integers into floating-point numbers. Keys keep their order, because the
    order of the splits decides ties.
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


def reference(text: str, name: str) -> str:
    """Return a section as JSON of its differences from the image's ``params.yaml`` and a digest of the whole section.

    Every cell carries its sections in an object of limited size (:mod:`pipelines.size`). The reference is a valid part
    of the cache key, because the digest changes with every value. A section that a reference cannot restore is returned
    whole.
    """
    values = from_json(text, name)
    shipped = flat(_shipped().get(name, {}))
    changes = {key: value for key, value in flat(values).items() if shipped.get(key, ...) != value}
    short = {"sha256": _digest(values), "changes": changes}
    try:
        return to_json(short) if _digest(_resolved(short, name)) == short["sha256"] else to_json(values)
    except UserError:  # the keys or their order differ
        return to_json(values)


def _resolved(values: Any, name: str) -> Any:
    """Return the values of a section, which may be given by :func:`reference`."""
    if not isinstance(values, dict) or set(values) != {"sha256", "changes"}:
        return values
    whole = copy.deepcopy(_shipped().get(name, {}))
    for key, value in values["changes"].items():
        *path, last = key.split(".")
        part = whole
        for step in path:
            part = part.get(step, {})
        part[last] = value
    if _digest(whole) != values["sha256"]:
        raise UserError(
            f"pipeline parameter {name}: refers to another params.yaml than {SHIPPED}; all steps must run in one image"
        )
    return whole


@cache
def _shipped() -> dict[str, Any]:
    return read_params(SHIPPED).model_dump(mode="json", by_alias=True) if SHIPPED.is_file() else {}


def _digest(values: Any) -> str:
    return hashlib.sha256(to_json(values).encode()).hexdigest()[:16]


def section(kind: type[Sections], text: str, name: str) -> Sections:
    """Return the pipeline parameter ``name`` as typed parameters; raises a UserError on wrong values."""
    return check_section(kind, _resolved(from_json(text, name), name), f"pipeline parameter {name}")


def whole(parts: dict[str, str]) -> Params:
    """Return all sections together as typed parameters; raises a UserError on a wrong value in any section."""
    return check({name: from_json(text, name) for name, text in parts.items()}, "pipeline parameters")


def cells_of(matrix: Matrix) -> list[str]:
    """Return the cells of the matrix as ``<network>/<scenario>/seed-<seed>``, in the matrix's order."""
    return [cell.folder.as_posix() for cell in Cell.every(matrix.networks, matrix.scenarios, matrix.seeds)]


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
        promote: called with the version's number; None: do not promote.
    """
    registered = read_json(version)
    name, number = str(registered["name"]), int(registered["version"])
    if promote is None:
        line = f"{name}: version {number} is registered; `defunet promote` makes it champion if it passes the gate"
        print(line)
        return f"{line}\n"
    done = promote(number)
    if done.passed is False:
        print(done.line)
    return done.page
