"""Send the unsent records of training runs, from folders or from S3."""

from __future__ import annotations

import os
import shlex
import shutil
from contextlib import nullcontext
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from core.errors import UserError
from core.files import exclusive
from core.runs import read_run
from tracking.record import ABOUT, FINISHED, FOLDERS, read
from tracking.send import send
from tracking.store import answered, store_name


def command(place: str) -> str:
    """Return the shell command that sends the records in ``place``, without passwords."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    shown = "" if uri is None else f"MLFLOW_TRACKING_URI={shlex.quote(store_name())} "
    return f"{shown}python -m tracking {shlex.quote(place)}"


def send_unsent(model: Path) -> None:
    """Send a model's unsent record if it is on this machine; raises UserError if MLflow does not answer."""
    kept = read_run(model).get("mlflow_records")
    if kept is not None and (Path(kept) / ABOUT).is_file():
        _send(Path(kept), kept)


def send_records(place: str) -> list[str]:
    """Send every record below ``place``; sending a record twice logs it once.

    The record of a finished training run is removed after it has been sent; others are kept.

    Args:
        place: a record, a folder (of checkpoints), or ``s3://bucket/prefix``.

    Returns:
        The ids of the MLflow runs.

    Raises:
        UserError: ``place`` does not exist, a training run is writing there, or MLflow or S3 cannot be reached.
    """
    if place.startswith("s3://"):  # importing core.s3 takes time
        return _send_from_s3(place)
    folder = Path(place)
    if not folder.exists():
        raise UserError(f"{place}: not found; name a record, a folder of checkpoints, or s3://bucket/prefix")
    found = [folder] if folder.match(FOLDERS) else [about.parent for about in folder.rglob(f"{FOLDERS}/{ABOUT}")]
    return [_send(record, str(record)) for record in sorted(found)]


def _send_from_s3(url: str) -> list[str]:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    from core.s3 import explain, make_client, split_url

    (bucket, prefix), sent, asked = split_url(url), [], url
    try:
        client = make_client(1)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [PurePosixPath(item["Key"]) for page in pages for item in page.get("Contents", [])]
        for folder in [key.parent for key in keys if key.match(f"{FOLDERS}/{ABOUT}")]:
            own = [key for key in keys if key.is_relative_to(folder)]
            with TemporaryDirectory() as scratch:
                copy = Path(scratch) / "cell" / folder.name  # so that its lock file is in the scratch folder too
                for key in own:
                    path = copy / key.relative_to(folder)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    client.download_file(bucket, str(key), str(path))
                sent.append(_send(copy, f"s3://{bucket}/{folder}"))
                asked = f"removing s3://{bucket}/{folder}, whose records have been sent"
                for key in own if not copy.exists() else []:
                    client.delete_object(Bucket=bucket, Key=str(key))
                asked = url
    except (BotoCoreError, ClientError, Boto3Error) as error:
        raise explain(error, asked) from error
    return sent


def _send(folder: Path, called: str) -> str:
    """Send one record, print the result, and return the run's id; raises UserError if a training run is writing it."""
    over = read(folder)["status"] == FINISHED
    with nullcontext() if over else exclusive(folder.parent), answered(called):
        run_id = send(folder)
    if over:
        shutil.rmtree(folder, ignore_errors=True)
    kept = "" if over else "; the record is kept, because its training has not come to its end"
    print(f"{called}: sent to {store_name()}, run {run_id}{kept}")
    return run_id
