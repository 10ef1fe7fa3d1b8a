"""Checkpoints of training runs: their cell, progress and size, and whether they can be removed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from components.train.claim import HOLDER, STALE
from components.train.result import RESULT
from core.cell import RUN
from core.errors import UserError
from core.files import exclusive
from core.s3 import explain, is_missing, is_s3, make_client, split_url
from model.training.checkpoint import STATE
from tracking.record import ABOUT, FINISHED, HISTORY, KEPT

Read = Callable[[str], bytes]


@dataclass
class Kept:
    """The files of one training run.

    Attributes:
        cell: network/scenario/seed-n.
        training: first digits of the run's fingerprint; ``-`` for a checkpoint of an earlier version, which has none.
        place: the folder, or ``s3://bucket/prefix``.
        files: size in bytes and modification time of every file, by its path relative to ``place``.
        read: returns a file's content.
    """

    cell: str
    training: str
    place: str
    read: Read
    files: dict[str, tuple[int, datetime]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Size of all files in bytes."""
        return sum(size for size, _ in self.files.values())

    @property
    def changed(self) -> datetime:
        """Modification time of the newest file."""
        return max(moment for _, moment in self.files.values())

    @property
    def finished(self) -> bool:
        """Whether there is a result and no checkpoint to resume from."""
        return f"{RESULT}/{RUN}" in self.files and STATE not in self.files

    @property
    def epochs(self) -> int | None:
        """Number of completed epochs; None if there is no record of them."""
        if self.finished:
            return int(json.loads(self._content(f"{RESULT}/{RUN}") or b'{"epochs": 0}')["epochs"])
        steps = [
            json.loads(line)["step"]
            for name in self.files
            if PurePosixPath(name).name == HISTORY
            for line in self._content(name).splitlines()
            if line.endswith(b"}}")
        ]
        return max(steps, default=None)

    @property
    def unsent(self) -> bool:
        """Whether there is an MLflow record of a finished run that has not been sent yet."""
        names = [name for name in self.files if PurePosixPath(name).name == ABOUT]
        abouts = [json.loads(self._content(name) or b"{}") for name in names]
        return any(about.get("status") == FINISHED and about.get(KEPT) for about in abouts)

    def _content(self, name: str) -> bytes:
        """Return a file's content; empty if the training run has removed it since it was listed."""
        try:
            return self.read(name)
        except FileNotFoundError:
            return b""
        except ClientError as error:
            if not is_missing(error):
                raise explain(error, self.place) from error
            return b""


def find(place: str) -> list[Kept]:
    """Return the training runs in a folder or ``s3://bucket/prefix`` of all cells, sorted by cell and time.

    Raises:
        UserError: the folder does not exist, or S3 cannot be read.
    """
    found: dict[str, Kept] = {}
    for name, size, moment, read in _in_s3(place) if is_s3(place) else _in_folder(place):
        parts = PurePosixPath(name).parts
        seeds = [number for number, part in enumerate(parts) if part.startswith("seed-")]
        if not seeds or seeds[0] < 2 or len(parts) < seeds[0] + 2:
            continue
        cell, rest = "/".join(parts[seeds[0] - 2 : seeds[0] + 1]), parts[seeds[0] + 1 :]
        earlier = rest[0] == STATE or rest[0].startswith("mlflow-")
        if not earlier and (len(rest) == 1 or rest[0].startswith(".")):
            continue  # a lock
        training, inner = ("-", rest) if earlier else (rest[0], rest[1:])
        below = "/".join(parts[: len(parts) - len(inner)])
        kept = found.setdefault(below, Kept(cell, training, f"{place.rstrip('/')}/{below}", _below(read, below)))
        kept.files["/".join(inner)] = (size, moment)
    return sorted(found.values(), key=lambda kept: (kept.cell, kept.changed))


def _below(read: Read, folder: str) -> Read:
    return lambda name: read(f"{folder}/{name}")


def _in_folder(place: str) -> Iterator[tuple[str, int, datetime, Read]]:
    root = Path(place)
    if not root.is_dir():
        raise UserError(f"{place}: no such folder; name the folder of checkpoints or s3://bucket/prefix")
    for path in sorted(root.rglob("*")):
        if path.is_file():
            status = path.stat()
            moment = datetime.fromtimestamp(status.st_mtime, UTC)
            yield (
                path.relative_to(root).as_posix(),
                status.st_size,
                moment,
                lambda name: (root / name).read_bytes(),
            )


def _in_s3(place: str) -> Iterator[tuple[str, int, datetime, Read]]:
    bucket, prefix = split_url(place)
    start = f"{prefix}/" if prefix else ""
    try:
        client = make_client(1)

        def read(name: str) -> bytes:
            return bytes(client.get_object(Bucket=bucket, Key=start + name)["Body"].read())

        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=start):
            for item in page.get("Contents", []):
                yield item["Key"].removeprefix(start), item["Size"], item["LastModified"], read
    except (BotoCoreError, ClientError, Boto3Error) as error:
        raise explain(error, place) from error


def remove(kept: Kept) -> str:
    """Remove the files of a training run; return why they were not removed, or an empty text.

    Raises:
        UserError: a file cannot be removed.
    """
    if kept.unsent:
        return f"its record for MLflow is not sent yet: python -m tracking {kept.place}"
    if is_s3(kept.place):
        return _remove_from_s3(kept)
    folder = Path(kept.place)
    try:
        with exclusive(folder):
            for name in kept.files:
                (folder / name).unlink(missing_ok=True)
            if kept.training != "-":
                shutil.rmtree(folder)
    except UserError as error:
        return str(error)
    except OSError as error:
        raise UserError(f"{kept.place}: cannot be removed ({error.strerror}: {error.filename})") from error
    return ""


def _remove_from_s3(kept: Kept) -> str:
    _, moment = kept.files.get(HOLDER, (0, None))
    if moment and datetime.now(UTC) - moment < timedelta(seconds=STALE):
        return "a training is writing there"
    bucket, prefix = split_url(kept.place)
    try:
        client: Any = make_client(1)
        for name in kept.files:
            client.delete_object(Bucket=bucket, Key=f"{prefix}/{name}")
    except (BotoCoreError, ClientError, Boto3Error) as error:
        raise explain(error, f"removing {kept.place}") from error
    return ""
