"""One process at a time trains one training; another one of the very same training waits for it."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import psutil
from botocore.exceptions import BotoCoreError, ClientError
from filelock import FileLock, Timeout

from core.errors import UserError
from core.files import explain_unwritable, write_json
from core.s3 import explain, is_missing, make_client, split_url
from core.terminal import say

HOLDER = "running.json"  # who trains: host, processes (its process namespace), pid, since
POLL = 2.0  # seconds between two looks at a claim that another process holds
# A claim in S3 is renewed while its process lives. One that was not for STALE seconds is taken over.
RENEW, STALE = 10.0, 45.0


def _me() -> dict[str, Any]:
    """Return who this process is, as far as another one can tell whether it still lives."""
    with suppress(OSError):  # systems that are not Linux
        return _holder(str(Path("/proc/self/ns/pid").readlink()))
    return _holder("")


def _holder(processes: str) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "processes": processes, "pid": os.getpid(), "since": now}


def describe(holder: dict[str, Any]) -> str:
    """Return a holder in words."""
    if not holder:
        return "another process"
    return f"{holder['host']}, process {holder['pid']}, since {holder['since']}"


@contextmanager
def claimed(folder: Path, url: str, waiting: Callable[[str], None]) -> Iterator[bool]:
    """Hold the claim on a training inside the block; yield whether another run of the same training held it before.

    Args:
        folder: the training's states. The lock next to it ends with its process, in any case.
        url: ``s3://bucket/prefix`` of their copies, which other machines share; empty: there are none.
        waiting: called every :data:`POLL` seconds while another process holds the claim, with who that is.

    Raises:
        UserError: the folder cannot be written, or S3 cannot be asked.
    """
    with ExitStack() as stack:
        with explain_unwritable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder.parent / f".{folder.name}.lock")
            waited = _wait(lambda: _try(lock), lambda: _read(folder), waiting)
            stack.callback(lock.release)
            write_json(folder / HOLDER, _me())
            stack.callback((folder / HOLDER).unlink, missing_ok=True)
        if url:
            lease = Lease(url)
            waited |= _wait(lease.take, lambda: lease.holder, waiting)
            stack.enter_context(lease.renewed())
        yield waited


def _wait(take: Callable[[], bool], holder: Callable[[], dict[str, Any]], waiting: Callable[[str], None]) -> bool:
    """Call ``take`` until it succeeds; return whether it did not at once."""
    waited = False
    while not take():
        waited = True
        waiting(describe(holder()))
        time.sleep(POLL)
    return waited


def _try(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _read(folder: Path) -> dict[str, Any]:
    """Return who holds a local claim; empty in the moment in which it changes hands."""
    with suppress(OSError, ValueError):
        return dict(json.loads((folder / HOLDER).read_text()))
    return {}


@dataclass
class Lease:
    """A claim as an object in S3, made and renewed by conditional writes.

    It is no more than a courtesy: two runs that both hold it, because one was cut off from S3 for :data:`STALE`
    seconds, write the same states of the same training.

    Attributes:
        url: ``s3://bucket/prefix`` of the training.
        holder: who held it at the last look.
    """

    url: str
    holder: dict[str, Any] = field(default_factory=dict)
    _etag: str = ""  # of the object that this process has written last; empty: none

    def take(self) -> bool:
        """Take the claim if it is free or its holder has died; return whether this process holds it.

        Raises:
            UserError: S3 cannot be reached, or there is no such bucket.
        """
        client = make_client(1)
        try:
            require_bucket(client, self.url)
            if self._put(client, IfNoneMatch="*"):
                return True
            with _absent():
                found = client.get_object(**self._place)
                self.holder = json.loads(found["Body"].read())
                return self._is_gone(found) and self._put(client, IfMatch=found["ETag"])
        except ClientError as error:
            if error.operation_name != "PutObject":
                raise explain(error, self.url) from error
            # The states cannot be uploaded either; the training continues, and each upload warns.
            say(f"warning: {self.url}: no claim can be written ({error}); another run of this training would not wait")
            return True
        except BotoCoreError as error:
            raise explain(error, self.url) from error
        return False

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the claim in a thread inside the block, and give it back afterwards."""
        over = threading.Event()
        thread = threading.Thread(target=self._renew, args=(over,), name="claim", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            if self._etag:
                with self._told("be given back"):
                    make_client(1).delete_object(**self._place)

    def _renew(self, over: threading.Event) -> None:
        client = make_client(1)
        while self._etag and not over.wait(RENEW):
            with self._told("be renewed"):
                if not self._put(client, IfMatch=self._etag):
                    self._etag = ""
                    say(f"warning: {self.url}: another run has taken the claim over; both write the same states")

    def _put(self, client: Any, **condition: str) -> bool:
        try:
            answer = client.put_object(**self._place, Body=json.dumps(_me()).encode(), **condition)
        except ClientError as error:
            # 412 and 409: somebody else was there first. 404: it is there no more.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 409, 412):
                return False
            raise
        self._etag = str(answer["ETag"])
        return True

    def _is_gone(self, found: dict[str, Any]) -> bool:
        here = _me()
        if all(self.holder.get(key) == here[key] for key in ("host", "processes")):
            return not psutil.pid_exists(int(self.holder["pid"]))
        # S3's own clock says how old it is.
        now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])
        return bool((now - found["LastModified"]).total_seconds() > STALE)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            say(f"warning: {self.url}: the claim could not {what} ({' '.join(str(error).split())})")

    @property
    def _place(self) -> dict[str, str]:
        bucket, prefix = split_url(self.url)
        return {"Bucket": bucket, "Key": f"{prefix}/{HOLDER}".lstrip("/")}


@contextmanager
def _absent() -> Iterator[None]:
    """Leave the block where the object is there no more, since its holder has given it back."""
    try:
        yield
    except ClientError as error:
        if not is_missing(error):
            raise


def require_bucket(client: Any, url: str) -> None:
    """Tell a mistaken name at the start: later, what cannot be sent ends nothing; raises UserError, ClientError."""
    try:
        client.head_bucket(Bucket=split_url(url)[0])
    except ClientError as error:
        if is_missing(error):
            what = "check its name, and AWS_ENDPOINT_URL if it is not with Amazon"
            raise UserError(f"{url}: there is no such bucket; {what}") from error
        raise
