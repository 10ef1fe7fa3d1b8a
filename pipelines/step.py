"""``python -m pipelines.step NAME --executor_input JSON``: run a step of the graph in a Kubeflow task.

Kubeflow's launcher passes the task's paths and values as JSON and reads the outputs' values and metadata from a file.
This module replaces kfp's executor for the functions of :mod:`pipelines.steps`, so that the pod does not import kfp.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from core.files import write_file
from pipelines.archives import pack, unpack
from pipelines.artifacts import ARCHIVE, OUTPUT, Artifact, Status
from pipelines.attempts import ATTEMPT, final_errors, lasting
from pipelines.tasks import task


def execute(body: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Run a step on Kubeflow's executor input and write its executor output.

    Args:
        body: a function of :mod:`pipelines.steps`.
        given: the executor input, as parsed JSON.
    """
    output_file = Path(given["outputs"]["outputFile"])
    output_file.parent.mkdir(parents=True, exist_ok=True)
    # On the artifacts' disk, because /tmp may be in memory.
    with tempfile.TemporaryDirectory(prefix=".work-", dir=output_file.parent) as work:
        task = _Task(given, Path(work))
        arguments = {
            name: task.argument(name, hint)
            for name, hint in get_type_hints(body, include_extras=True).items()
            if name != "return" and task.has(name)
        }
        result = body(**arguments)
        task.pack()
        values = result._asdict() if result is not None else {}
        _write(output_file, values, task.outputs)


class _Task:
    """The inputs and outputs of a task."""

    def __init__(self, given: Mapping[str, Any], work: Path) -> None:
        inputs, self._made = given.get("inputs", {}), given["outputs"].get("artifacts", {})
        self._values, self._artifacts = inputs.get("parameterValues", {}), inputs.get("artifacts", {})
        self._work, self._archives = work, dict[str, Path]()
        self.outputs: dict[str, Artifact] = {}

    def has(self, name: str) -> bool:
        """Return whether the executor input has the argument: Kubeflow omits some that have a default."""
        return name in self._values or name in self._artifacts or name in self._made

    def argument(self, name: str, hint: Any) -> Any:
        """Return the argument ``name`` of a step's function, with the type of its annotation."""
        if hint is Status:
            return Status(self._values[name].get("state", ""), self._values[name].get("error", {}).get("message", ""))
        kind, *marks = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
        if not marks:
            return self._values[name]
        if get_origin(kind) is list:
            return [_artifact(get_args(kind)[0], one) for one in self._artifacts[name].get("artifacts", [])]
        if OUTPUT in marks:
            return self._output(name, kind, ARCHIVE in marks)
        artifact = _artifact(kind, self._artifacts[name]["artifacts"][0])
        if ARCHIVE in marks:
            stored, artifact.path = Path(artifact.path), str(self._work / name)
            unpack(stored, Path(artifact.path))
            if "://" in artifact.uri:  # this pod's copy: free the space
                stored.unlink()
        return artifact

    def _output(self, name: str, kind: type[Artifact], archive: bool) -> Artifact:
        artifact = self.outputs[name] = _artifact(kind, self._made[name]["artifacts"][0])
        if archive:
            self._archives[name], artifact.path = Path(artifact.path), str(self._work / name)
        else:
            Path(artifact.path).parent.mkdir(parents=True, exist_ok=True)
        return artifact

    def pack(self) -> None:
        """Pack the output folders into their archives, and delete the folders."""
        for name, archive in self._archives.items():
            folder = Path(self.outputs[name].path)
            pack(folder, archive)
            shutil.rmtree(folder)


def _artifact(kind: type[Artifact], given: Mapping[str, Any]) -> Artifact:
    return kind(given.get("name", ""), given.get("uri", ""), dict(given.get("metadata", {})))


def _write(path: Path, values: Mapping[str, Any], outputs: Mapping[str, Artifact]) -> None:
    """Write the executor output: values of parameters, and each artifact's address and metadata."""
    artifacts = {
        name: {"artifacts": [{"name": artifact.name, "uri": artifact.uri, "metadata": _told(artifact.metadata)}]}
        for name, artifact in outputs.items()
    }
    with write_file(path) as partial:
        partial.write_text(json.dumps({"parameterValues": dict(values), "artifacts": artifacts}, allow_nan=False))


def _told(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata without null values, which the launcher refuses."""
    return {key: value for key, value in metadata.items() if value is not None}


def main() -> None:
    """Run the step that the command line names."""
    match sys.argv[1:]:
        case [name, "--executor_input", text]:
            pass
        case _:
            raise SystemExit("usage: python -m pipelines.step NAME --executor_input JSON")
    with task(lasting if ATTEMPT in os.environ else None):
        from pipelines import steps

        given = json.loads(text)
        with final_errors(given):
            execute(getattr(steps, name), given)


if __name__ == "__main__":
    main()
