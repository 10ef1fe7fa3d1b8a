"""Checkpoints in S3, so that a training whose machine is taken away goes on on another one."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from components.errors import UserError
from components.files import write_file
from components.s3 import explain, make_client
from components.train.tracking import NOTE
from model.checkpoint import STATE, CheckpointError, load_state

CONNECTIONS = 8  # parts of a state that are sent at the same time
MISSING = ("404", "NoSuchKey", "NotFound")
FINGERPRINT = "fingerprint"  # the metadata that says which training a stored state is of


@dataclass
class Remote:
    """The states of one training under ``s3://bucket/prefix``, copies of what lies in a local folder.

    Attributes:
        url: ``s3://bucket/prefix`` of this very cell.
        folder: the local states.
        fingerprint: of the training.
    """

    url: str
    folder: Path
    fingerprint: str
    _sent: dict[str, int] = field(default_factory=dict)  # when what was sent last was written, nanoseconds

    def fetch(self) -> None:
        """Bring the state of this training here, unless one lies here already.

        Raises:
            UserError: S3 cannot be asked. Starting afresh instead could throw away hours.
        """
        try:
            if load_state(self.folder, self.fingerprint) is not None:
                return
            client, found = self._client(), 0
            self._bucket_exists(client)
            for name in (NOTE, STATE):
                about = self._head(client, name)
                if about is not None and about["Metadata"].get(FINGERPRINT) == self.fingerprint:
                    with write_file(self.folder / name) as partial:
                        client.download_file(*self._place(name), str(partial))
                    found += 1
        except CheckpointError as error:
            raise UserError(str(error)) from error
        except (BotoCoreError, ClientError) as error:
            raise explain(error, self.url) from error
        if found:
            print(f"checkpoints: took up what {self.url} holds of this training", flush=True)

    def send(self) -> None:
        """Copy the local state there; a failure is told and does not end the training: the next is tried again."""
        try:
            client = self._client()
            for name in (NOTE, STATE):
                path = self.folder / name
                written = path.stat().st_mtime_ns if path.exists() else None
                if written is not None and written != self._sent.get(name):
                    extra = {"Metadata": {FINGERPRINT: self.fingerprint}}
                    client.upload_file(str(path), *self._place(name), ExtraArgs=extra)
                    self._sent[name] = written
        except (BotoCoreError, ClientError, Boto3Error, OSError) as error:
            reason = " ".join(str(error).split())
            print(
                f"warning: {self.url}: the checkpoint could not be sent ({reason}); training goes on, and the next "
                "one will be tried",
                file=sys.stderr,
                flush=True,
            )

    def _bucket_exists(self, client: Any) -> None:
        """Tell a mistaken name at the start: later, what cannot be sent ends nothing."""
        try:
            client.head_bucket(Bucket=self._place("")[0])
        except ClientError as error:
            if error.response["Error"]["Code"] in MISSING:
                what = "check its name, and AWS_ENDPOINT_URL if it is not with Amazon"
                raise UserError(f"{self.url}: there is no such bucket; {what}") from error
            raise

    def _client(self) -> Any:
        return make_client(CONNECTIONS)

    def _place(self, name: str) -> tuple[str, str]:
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        return bucket, f"{prefix.rstrip('/')}/{name}".lstrip("/")

    def _head(self, client: Any, name: str) -> dict[str, Any] | None:
        bucket, key = self._place(name)
        try:
            about: dict[str, Any] = client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] in MISSING:
                return None
            raise
        return about
