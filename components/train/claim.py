"""Claims: only one process at a time executes a training run; another process with the same run waits."""

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

HOLDER = "running.json"  # the holder: host, processes (the PID namespace), pid, since
POLL = 2.0  # seconds between checks of a claim that another process holds
# Seconds. A claim in S3 is renewed every RENEW; without renewal for STALE it may be taken over.
RENEW, STALE = 10.0, 45.0


def _me() -> dict[str, Any]:
    """Return the identity of this process, from which others can check whether it is alive."""
    with suppress(OSError):  # systems that are not Linux
        return _holder(str(Path("/proc/self/ns/pid").readlink()))
    return _holder("")


def _holder(processes: str) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "processes": processes, "pid": os.getpid(), "since": now}


def describe(holder: dict[str, Any]) -> str:
    """Return a holder as text."""
    if not holder:
        return "another process"
    return f"{holder['host']}, process {holder['pid']}, since {holder['since']}"


@contextmanager
def claimed(folder: Path, url: str, waiting: Callable[[str], None]) -> Iterator[bool]:
    """Hold the claim on a training run inside the block; yield whether this process had to wait for another one.

    Args:
        folder: the run's checkpoints. The lock file next to it is released when its process ends, in any case.
        url: ``s3://bucket/prefix`` of their copies, shared with other machines; empty: no copies.
        waiting: called with the holder as text every :data:`POLL` seconds while another process holds the claim.

    Raises:
        UserError: the folder cannot be written, or S3 cannot be reached.
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
    """Call ``take`` until it succeeds; return whether it failed at first."""
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
    """Return the holder of a local claim; empty while the claim passes from one process to another."""
    with suppress(OSError, ValueError):
        return dict(json.loads((folder / HOLDER).read_text()))
    return {}


@dataclass
class Lease:
    """A claim as an object in S3, created and renewed by conditional writes.

    It is advisory. If a process loses S3 for :data:`STALE` seconds, two may hold the claim; both then write the same
    checkpoints of the same training run.

    Attributes:
        url: ``s3://bucket/prefix`` of the training run.
        holder: the holder at the last check.
    """

    url: str
    holder: dict[str, Any] = field(default_factory=dict)
    _etag: str = ""  # ETag of this process's last write; empty: no claim held

    def take(self) -> bool:
        """Take the claim if it is free or its holder has died; return whether it was taken.

        A claim that cannot be written counts as taken, with a warning.

        Raises:
            UserError: S3 cannot be reached, or the bucket does not exist.
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
            # Checkpoints cannot be uploaded either; training continues, and each upload warns.
            say(f"warning: {self.url}: no claim can be written ({error}); another run of this training would not wait")
            return True
        except BotoCoreError as error:
            raise explain(error, self.url) from error
        return False

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the claim in a thread inside the block, and release it afterwards."""
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
            # 412 and 409: another process was first. 404: the object was deleted.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 409, 412):
                return False
            raise
        self._etag = str(answer["ETag"])
        return True

    def _is_gone(self, found: dict[str, Any]) -> bool:
        here = _me()
        if all(self.holder.get(key) == here[key] for key in ("host", "processes")):
            return not psutil.pid_exists(int(self.holder["pid"]))
        # The claim's age by S3's clock.
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
    """Leave the block if the object no longer exists, because its holder has released the claim."""
    try:
        yield
    except ClientError as error:
        if not is_missing(error):
            raise


def require_bucket(client: Any, url: str) -> None:
    """Check the bucket at the start, because later upload failures are only warnings; raises UserError, ClientError."""
    try:
        client.head_bucket(Bucket=split_url(url)[0])
    except ClientError as error:
        if is_missing(error):
            what = "check its name, and AWS_ENDPOINT_URL if it is not with Amazon"
            raise UserError(f"{url}: there is no such bucket; {what}") from error
        raise
