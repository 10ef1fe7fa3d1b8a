"""Download from S3 with s3transfer: in parallel, with retries and checksums; finished objects are not repeated.

Downloads are in ``.download-<hash>`` next to the output until the run succeeds. The name of a finished file has the
SHA-256 of its content, which a later run checks. The name also depends on the ETag, so that an object that changed in
the bucket is downloaded again.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from boto3.s3.transfer import TransferConfig
from s3transfer.manager import TransferManager

from components.ingest.ranges import WORKERS, Ranges
from components.ingest.source import File, Source, join
from core.errors import UserError
from core.files import sha256
from core.parallel import parallel
from core.s3 import FAILURES, concerns_one_object, damage, explain, make_client, split_url
from core.terminal import progress

RANGE = 16 << 20  # bytes per request; a large object is downloaded with several requests in parallel


@dataclass(frozen=True)
class Remote:
    """An object of a bucket, from the bucket's listing."""

    key: str
    size: int
    etag: str

    @property
    def name(self) -> str:
        """Prefix of the object's file names in the download folder; it depends on key, ETag and size."""
        return hashlib.sha256(f"{self.key}\n{self.etag}\n{self.size}".encode()).hexdigest()[:32]


@contextmanager
def open_s3(url: str, out: Path) -> Iterator[Source]:
    """Yield the objects below ``s3://bucket/prefix``, or the one object with exactly that name.

    boto3 finds endpoint, region and credentials (environment, profile, instance role).

    Args:
        url: ``s3://bucket``, ``s3://bucket/prefix`` or ``s3://bucket/file.zip``.
        out: the output folder; the download folder is next to it. The caller holds the lock of ``out``, which also
            protects that folder.

    Raises:
        UserError: there is no such bucket, credentials are wrong or missing, or S3 cannot be reached.
    """
    bucket, prefix = split_url(url)
    try:
        client = make_client(WORKERS)
        objects = _list(client, bucket, prefix)
    except FAILURES as error:
        raise explain(error, url) from error
    key = hashlib.sha256(f"{client.meta.endpoint_url}\n{url}\n{out.name}".encode()).hexdigest()[:16]
    downloads = Downloads(client, bucket, url, out.parent / f".download-{key}", objects)
    yield Source({name: downloads.file(name) for name in objects}, downloads.fetch)
    shutil.rmtree(downloads.folder, ignore_errors=True)


def _list(client: Any, bucket: str, prefix: str) -> dict[str, Remote]:
    """Return the objects by their names below the prefix; one object named exactly so has the empty name."""
    if prefix:
        # Keys are sorted: an object with exactly the prefix as its name is the first result.
        first = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents", [])
        if first and first[0]["Key"] == prefix:
            return {"": Remote(prefix, first[0]["Size"], first[0]["ETag"])}
        prefix += "/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return {
        item["Key"].removeprefix(prefix): Remote(item["Key"], item["Size"], item["ETag"])
        for page in pages
        for item in page.get("Contents", [])
        if not item["Key"].endswith("/")  # an empty object with which S3 consoles show a folder
    }


@dataclass
class Downloads:
    """The download folder of one source.

    Attributes:
        client: the boto3 client, shared by the threads.
        bucket: name of the bucket.
        url: the source as the user gave it, for messages.
        folder: the download folder.
        objects: the objects by their names relative to the source.
    """

    client: Any
    bucket: str
    url: str
    folder: Path
    objects: dict[str, Remote]
    _failed: dict[str, UserError] = field(default_factory=dict)  # errors by object
    _places: dict[str, Path] = field(default_factory=dict)  # local paths by object

    def file(self, name: str) -> File:
        """Return an object as a file that is read after :meth:`fetch`."""
        return File(
            self.objects[name].size,
            lambda: self._locate(name).read_bytes(),
            lambda: self._locate(name),
            lambda: self._ranges(name),
        )

    def _ranges(self, name: str) -> Ranges:
        """Open an object to read ranges of it; each request checks that the object is still the listed one."""
        remote = self.objects[name]

        def get(start: int, end: int) -> bytes:
            place = {"Bucket": self.bucket, "Key": remote.key, "IfMatch": remote.etag}
            try:
                found = self.client.get_object(**place, Range=f"bytes={start}-{end - 1}")
                return bytes(found["Body"].read())
            except FAILURES as error:
                raise explain(error, join(self.url, name)) from error

        self.folder.mkdir(parents=True, exist_ok=True)
        return Ranges(get, remote.size, self.folder)

    def _locate(self, name: str) -> Path:
        if name in self._failed:
            raise self._failed[name]
        return self._places[name]

    def fetch(self, names: Iterable[str]) -> None:
        """Download missing objects. The error of a single object is raised when it is read.

        Raises:
            UserError: S3 cannot be reached or refuses the credentials.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for broken_off in self.folder.glob("*.partial*"):
            broken_off.unlink()
        wanted = [name for name in dict.fromkeys(names) if name not in self._places]
        for _ in parallel(self._find, wanted, WORKERS, "check earlier downloads"):
            pass
        missing = [name for name in wanted if name not in self._places]
        config = TransferConfig(max_concurrency=WORKERS, multipart_threshold=RANGE, multipart_chunksize=RANGE)
        # After an error or interrupt the manager stops first, which ends the waiting threads of the pool.
        with (
            progress("download", sum(self.objects[name].size for name in missing), True) as advance,
            ThreadPoolExecutor(WORKERS) as pool,
            TransferManager(self.client, config) as manager,
        ):
            for _ in pool.map(partial(self._fetch, manager, advance), missing):
                pass

    def _find(self, name: str) -> None:
        """Reuse a finished file of an earlier run if its content still has the SHA-256 of its name."""
        remote = self.objects[name]
        for path in self.folder.glob(f"{remote.name}-*"):
            if path.stat().st_size == remote.size and sha256(path) == path.name.rpartition("-")[2]:
                self._places[name] = path
            else:
                path.unlink()

    def _fetch(self, manager: TransferManager, advance: Callable[[int], None], name: str) -> None:
        """Download one object, check it and rename it; store an error that concerns only this object."""
        remote = self.objects[name]
        path, place = self.folder / f"{remote.name}.partial", {"Bucket": self.bucket, "Key": remote.key}
        try:
            manager.download(self.bucket, remote.key, str(path), subscribers=[_Follower(remote, advance)]).result()
            # Requested after the download, to detect an object that was replaced since the listing.
            about = self.client.head_object(**place, IfMatch=remote.etag, ChecksumMode="ENABLED")
            trouble = damage(self.client, self.bucket, remote.key, about, path)
        except FAILURES as error:
            if not concerns_one_object(error):
                raise explain(error, self.url) from error
            self._failed[name] = explain(error, join(self.url, name))
            return
        if trouble:
            self._failed[name] = UserError(
                f"{join(self.url, name)}: the download is damaged ({trouble}); run again, or upload the object again"
            )
            path.unlink()
        else:
            self._places[name] = path.rename(self.folder / f"{remote.name}-{sha256(path)}")


class _Follower:
    """Gives a transfer the listing's size and ETag, which saves a request, and updates the progress display."""

    _one_at_a_time = Lock()  # called by every thread of the manager

    def __init__(self, remote: Remote, advance: Callable[[int], None]) -> None:
        self.remote, self.advance = remote, advance

    def on_queued(self, future: Any, **_: Any) -> None:
        future.meta.provide_transfer_size(self.remote.size)
        future.meta.provide_object_etag(self.remote.etag)

    def on_progress(self, bytes_transferred: int, **_: Any) -> None:
        with self._one_at_a_time:
            self.advance(bytes_transferred)
