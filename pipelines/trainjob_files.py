"""Files shared by a TrainJob's pods and the train step: the inputs, and the result of rank 0.

If they are in S3, each pod runs ``python -m pipelines.trainjob_files s3://... ARGUMENTS``: it downloads the inputs,
runs torchrun, and on node 0 uploads the result.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from components.train.result import FILES, copy_result
from core.cell import Cell
from core.cli import exit_on_user_error
from core.cohort import Arrays
from core.errors import UserError
from core.files import explain_unwritable, write_folder, write_json
from core.params import read_params
from core.s3 import explain, make_client, split_url
from model.training.recipe import TrainParams

TORCHRUN = ["python", "-m", "torch.distributed.run"]
ARRAYS, SPLIT, PARAMS, MODEL = "arrays", "split.json", "params.yaml", "model"
DEFAULTS = Path(__file__).parents[1] / "params.yaml"
CONNECTIONS = 8


def shared(name: str, cell: Cell, checkpoints: Path, remote: str) -> Shared:
    """Return the storage of a TrainJob's files, next to the checkpoints of all cells.

    Args:
        name: name of the TrainJob.
        cell: the cell.
        checkpoints: folder of the cell's checkpoints.
        remote: ``s3://bucket/prefix`` of the cell's checkpoints; empty: they are on a volume.
    """
    if not remote:
        root = checkpoints.parents[len(cell.folder.parts) - 1]
        return Volume(root / "jobs" / name, root)
    root_url = remote.removesuffix(f"/{cell.folder.as_posix()}")
    return Bucket(f"{root_url}/jobs/{name}", root_url)


def _arguments(cell: Cell, inputs: str, out: str, states: str) -> list[str]:
    return [
        *("-m", "components.train", f"{inputs}/{ARRAYS}", "--network", cell.network, "--scenario", cell.scenario),
        *("--seed", str(cell.seed), "--split", f"{inputs}/{SPLIT}", "--out", out, "--checkpoints", states),
        *("--params", f"{inputs}/{PARAMS}"),
    ]


def _write_inputs(folder: Path, arrays: Path, split: Path, params: TrainParams, experiment: str) -> None:
    shutil.copytree(arrays, folder / ARRAYS, copy_function=shutil.copyfile)
    shutil.copyfile(split, folder / SPLIT)
    values: dict[str, Any] = read_params(DEFAULTS).model_dump(mode="json", by_alias=True)
    values["train"] = params.model_dump(mode="json")
    values["register"]["experiment"] = experiment
    values["preprocess"]["size"] = Arrays(arrays).info["size"]  # validation requires smaller stages
    write_json(folder / PARAMS, values)  # JSON is YAML


@dataclass(frozen=True)
class Volume:
    """A folder on a volume that the TrainingRuntime mounts at the same path."""

    folder: Path
    states: Path

    def put(self, arrays: Path, split: Path, params: TrainParams, experiment: str) -> None:
        """Write the inputs."""
        self.remove()
        with explain_unwritable(self.folder):
            self.folder.mkdir(parents=True)
        _write_inputs(self.folder, arrays, split, params, experiment)

    def command(self, cell: Cell) -> tuple[list[str], list[str]]:
        """Return the command and the arguments of a pod's container."""
        return TORCHRUN, _arguments(cell, str(self.folder), str(self.folder / MODEL), str(self.states))

    def take(self, out: Path) -> None:
        """Copy the result of rank 0 to ``out``."""
        copy_result(self.folder / MODEL, out)

    def remove(self) -> None:
        """Remove the inputs and the result."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Bucket:
    """A prefix in S3."""

    url: str
    states: str

    def put(self, arrays: Path, split: Path, params: TrainParams, experiment: str) -> None:
        """Upload the inputs."""
        with tempfile.TemporaryDirectory() as temporary:
            _write_inputs(Path(temporary), arrays, split, params, experiment)
            self.send(Path(temporary), [path for path in Path(temporary).rglob("*") if path.is_file()], "inputs")

    def command(self, cell: Cell) -> tuple[list[str], list[str]]:
        """Return the command and the arguments of a pod's container."""
        # main() replaces {inputs} and {out} by folders of the pod.
        arguments = _arguments(cell, "{inputs}", "{out}", self.states)
        return ["python", "-m", "pipelines.trainjob_files"], [self.url, *arguments]

    def take(self, out: Path) -> None:
        """Download the result of rank 0 to ``out``."""
        with write_folder(out) as folder:
            self.fetch(MODEL, folder)

    def remove(self) -> None:
        """Remove the inputs and the result."""
        with self._explained() as (client, bucket, prefix):
            for key in self._keys(client, bucket, f"{prefix}/"):
                client.delete_object(Bucket=bucket, Key=key)

    def send(self, folder: Path, files: list[Path], below: str) -> None:
        """Upload files of a folder under the prefix ``below``."""
        with self._explained() as (client, bucket, prefix):
            for path in files:
                client.upload_file(str(path), bucket, f"{prefix}/{below}/{path.relative_to(folder).as_posix()}")

    def fetch(self, below: str, folder: Path) -> None:
        """Download the files under the prefix ``below`` to a folder; raises UserError if there are none."""
        with self._explained() as (client, bucket, prefix):
            start = f"{prefix}/{below}/"
            keys = self._keys(client, bucket, start)
            if not keys:
                raise UserError(f"{self.url}/{below}: nothing lies there; run the step again")
            for key in keys:
                path = folder / key.removeprefix(start)
                path.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(bucket, key, str(path))

    def _keys(self, client: Any, bucket: str, start: str) -> list[str]:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=start)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    @contextmanager
    def _explained(self) -> Iterator[tuple[Any, str, str]]:
        bucket, prefix = split_url(self.url)
        try:
            yield make_client(CONNECTIONS), bucket, prefix
        except (BotoCoreError, ClientError) as error:
            raise explain(error, self.url) from error
        except Boto3Error as error:
            raise UserError(f"{self.url}: the transfer failed after all retries ({error}); run again") from error


Shared = Volume | Bucket  # storage shared by the step and all pods of its TrainJob


def main(url: str, arguments: list[str]) -> int:
    """Download the inputs, run torchrun and, on node 0, upload the result; return torchrun's exit code."""
    bucket = Bucket(url, "")
    with tempfile.TemporaryDirectory() as temporary:
        inputs, out = Path(temporary) / "inputs", Path(temporary) / MODEL
        bucket.fetch("inputs", inputs)
        filled = [word.format(inputs=inputs, out=out) for word in arguments]
        with subprocess.Popen([sys.executable, *TORCHRUN[1:], *filled]) as torchrun:
            signal.signal(signal.SIGTERM, lambda *_: torchrun.terminate())
            code = torchrun.wait()
        if code == 0 and os.environ.get("PET_NODE_RANK", "0") == "0":
            bucket.send(out, [out / name for name in FILES], MODEL)
    return code


if __name__ == "__main__":
    with exit_on_user_error():
        raise SystemExit(main(sys.argv[1], sys.argv[2:]))
