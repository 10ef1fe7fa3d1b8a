"""Checkpoints in S3, so that a training run can resume on another machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from components.train.claim import require_bucket
from components.train.result import RESULT
from core.errors import UserError
from core.s3 import damage, explain, is_missing, make_client, split_url
from core.terminal import say
from model.training.checkpoint import STATE, CheckpointError, load_state
from tracking.record import FOLDERS

CONNECTIONS = 8  # parts of a checkpoint that are uploaded in parallel
FINGERPRINT = "fingerprint"  # metadata key that identifies the training run of a stored file


@dataclass
class Remote:
    """Copies of a training run's checkpoint, records and result under ``s3://bucket/prefix``.

    Attributes:
        url: ``s3://bucket/prefix`` of this training run.
        folder: the local folder of checkpoints.
        fingerprint: identifies the training run.
    """

    url: str
    folder: Path
    fingerprint: str
    _sent: dict[str, int] = field(default_factory=dict)  # mtime of the uploaded version by file name, nanoseconds

    def fetch(self, result: bool = False) -> None:
        """Download this run's checkpoint and records, with ``result`` also its result; skip with a local checkpoint.

        Raises:
            UserError: S3 cannot be reached (a fresh start could lose hours of training), or a download is damaged.
        """
        try:
            with suppress(CheckpointError):  # both local checkpoints are damaged: use the one in S3
                if load_state(self.folder, self.fingerprint) is not None:
                    return
            client = self._client()
            require_bucket(client, self.url)
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".fetched-", dir=self.folder) as temporary:
                fetched = Path(temporary)
                folders = [FOLDERS.rstrip("*"), *[f"{RESULT}/"] * result]
                names = [STATE, *(name for start in folders for name in self._names(client, start))]
                found = [name for name in names if self._fetch(client, name, fetched)]
                if STATE in found:
                    self._load(fetched)
                for path in fetched.iterdir():
                    if path.is_dir():
                        shutil.rmtree(self.folder / path.name, ignore_errors=True)
                    path.replace(self.folder / path.name)
        except (BotoCoreError, ClientError) as error:
            raise explain(error, self.url) from error
        except Boto3Error as error:
            raise UserError(f"{self.url}: the transfer failed after all retries ({error}); run again") from error
        if found:
            print(f"checkpoints: continue from those in {self.url}", flush=True)

    def _names(self, client: Any, start: str) -> list[str]:
        """Return the names in S3 with the prefix ``start``."""
        bucket, prefix = self._place(start)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return [key.removeprefix(self._place("")[1]) for key in keys]

    def _fetch(self, client: Any, name: str, folder: Path) -> bool:
        """Download a file of this training run to a folder and check it; return whether the file exists."""
        about = self._head(client, name)
        if about is None or about["Metadata"].get(FINGERPRINT) != self.fingerprint:
            return False
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(*self._place(name), str(path))
        if trouble := damage(client, *self._place(name), about, path):
            raise UserError(f"{self.url}/{name}: the download is damaged ({trouble}); run again")
        return True

    def _load(self, folder: Path) -> None:
        try:
            load_state(folder, self.fingerprint)
        except CheckpointError as error:
            raise UserError(
                f"{self.url}/{STATE}: is damaged there ({error.reason}); remove it to train from the start"
            ) from error

    @contextmanager
    def sending(self) -> Iterator[Callable[[], None]]:
        """Yield a function that uploads the newest checkpoint in a background thread, so that no epoch waits for S3.

        If checkpoints are written faster than they are uploaded, only the newest is uploaded. The last one is uploaded
        before the block is left, also after an error.
        """
        last: Future[None] | None = None

        def send() -> None:
            nonlocal last
            # A waiting upload will read the newest checkpoint when it starts.
            if last is None or last.running() or last.done():
                last = thread.submit(self.send)

        with ThreadPoolExecutor(1, "S3") as thread:
            try:
                yield send
            finally:
                thread.submit(self.send).result()

    def send(self) -> None:
        """Upload the local files that changed; a failure is a warning, and the next call tries again."""
        try:
            client = self._client()
            others = [path for kind in (FOLDERS, RESULT) for path in self.folder.glob(f"{kind}/**/*")]
            files = [path for path in others if path.is_file() and path.name[0] != "."]
            for name in (*sorted(path.relative_to(self.folder).as_posix() for path in files), STATE):
                try:
                    # The open file does not change when training replaces it with the next checkpoint.
                    file = (self.folder / name).open("rb")
                except FileNotFoundError:
                    continue
                with file:
                    written = os.fstat(file.fileno()).st_mtime_ns
                    if written != self._sent.get(name):
                        extra = {"Metadata": {FINGERPRINT: self.fingerprint}}
                        client.upload_fileobj(file, *self._place(name), ExtraArgs=extra)
                        self._sent[name] = written
            for name in [name for name in self._sent if not (self.folder / name).exists()]:
                bucket, key = self._place(name)
                client.delete_object(Bucket=bucket, Key=key)
                del self._sent[name]
        except (BotoCoreError, ClientError, Boto3Error, OSError) as error:
            reason = " ".join(str(error).split())
            say(
                f"warning: {self.url}: the checkpoint could not be sent ({reason}); training continues, and the next "
                "one will be tried"
            )

    def _client(self) -> Any:
        return make_client(CONNECTIONS)

    def _place(self, name: str) -> tuple[str, str]:
        bucket, prefix = split_url(self.url)
        return bucket, f"{prefix}/{name}".lstrip("/")

    def _head(self, client: Any, name: str) -> dict[str, Any] | None:
        bucket, key = self._place(name)
        try:
            about: dict[str, Any] = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        except ClientError as error:
            if is_missing(error):
                return None
            raise
        return about
