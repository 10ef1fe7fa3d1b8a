"""Fetching from S3 with boto3's transfers: in parallel, retried, checked to the byte, and no whole object twice.

What is fetched lies in ``.download-<hash>`` beside the output until the run has succeeded. A finished object's file
name carries the SHA-256 of its content, so that a later run trusts a file only after hashing it again; an object that
has changed in the bucket has another ETag, hence another name.
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

from components.ingest.source import File, Source, join
from core.errors import UserError
from core.files import sha256
from core.parallel import parallel
from core.s3 import FAILURES, concerns_one_object, damage, explain, make_client, split_url
from core.terminal import progress

RANGE = 16 << 20  # bytes of one request: a large object comes in several at the same time
WORKERS = 16  # requests at the same time: they wait for the network, not for the processor


@dataclass(frozen=True)
class Remote:
    """One object of a bucket as its listing tells it."""

    key: str
    size: int
    etag: str

    @property
    def name(self) -> str:
        """What its files in the download folder begin with: another content has another name."""
        return hashlib.sha256(f"{self.key}\n{self.etag}\n{self.size}".encode()).hexdigest()[:32]


@contextmanager
def open_s3(url: str, out: Path) -> Iterator[Source]:
    """Yield the objects below ``s3://bucket/prefix``, or the one object of that very name.

    Endpoint, region and credentials come from where boto3 looks for them (environment, profile, instance role).

    Args:
        url: ``s3://bucket``, ``s3://bucket/prefix`` or ``s3://bucket/file.zip``.
        out: the folder that will be written; the download folder is made beside it. The caller holds the right to
            write ``out``, hence that folder too.

    Raises:
        UserError: no bucket of that name, wrong or missing credentials, no connection.
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
        # Keys come in order: an object of the prefix's very name is the first that begins with it.
        first = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents", [])
        if first and first[0]["Key"] == prefix:
            return {"": Remote(prefix, first[0]["Size"], first[0]["ETag"])}
        prefix += "/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return {
        item["Key"].removeprefix(prefix): Remote(item["Key"], item["Size"], item["ETag"])
        for page in pages
        for item in page.get("Contents", [])
        if not item["Key"].endswith("/")  # what consoles make to show a folder
    }


@dataclass
class Downloads:
    """The download folder of one source.

    Attributes:
        client: of boto3, shared by the threads.
        bucket: its name.
        url: the source as the user gave it, for messages.
        folder: where the objects come to lie.
        objects: by their names below the source.
    """

    client: Any
    bucket: str
    url: str
    folder: Path
    objects: dict[str, Remote]
    _failed: dict[str, UserError] = field(default_factory=dict)  # why an object is not there
    _places: dict[str, Path] = field(default_factory=dict)  # where an object lies

    def file(self, name: str) -> File:
        """Return an object as a file that is read after :meth:`fetch`."""
        return File(self.objects[name].size, lambda: self._locate(name).read_bytes(), lambda: self._locate(name))

    def _locate(self, name: str) -> Path:
        if name in self._failed:
            raise self._failed[name]
        return self._places[name]

    def fetch(self, names: Iterable[str]) -> None:
        """Fetch objects that are not there yet. One that cannot be had is told when it is read, with all others.

        Raises:
            UserError: S3 cannot be reached or refuses the credentials, so that no object can be had.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for broken_off in self.folder.glob("*.partial*"):
            broken_off.unlink()
        wanted = [name for name in dict.fromkeys(names) if name not in self._places]
        for _ in parallel(self._find, wanted, WORKERS, "download: earlier files"):
            pass
        missing = [name for name in wanted if name not in self._places]
        config = TransferConfig(max_concurrency=WORKERS, multipart_threshold=RANGE, multipart_chunksize=RANGE)
        # Left by an error or an interrupt, the manager ends first, and with it what the threads of the pool wait for.
        with (
            progress("download", sum(self.objects[name].size for name in missing), True) as advance,
            ThreadPoolExecutor(WORKERS) as pool,
            TransferManager(self.client, config) as manager,
        ):
            for _ in pool.map(partial(self._fetch, manager, advance), missing):
                pass

    def _find(self, name: str) -> None:
        """Take over a finished object of an earlier run if its content is still what its name says."""
        remote = self.objects[name]
        for path in self.folder.glob(f"{remote.name}-*"):
            if path.stat().st_size == remote.size and sha256(path) == path.name.rpartition("-")[2]:
                self._places[name] = path
            else:
                path.unlink()

    def _fetch(self, manager: TransferManager, advance: Callable[[int], None], name: str) -> None:
        """Fetch one object, check it, and give it its final name; keep for later what is wrong with it alone."""
        remote = self.objects[name]
        path, place = self.folder / f"{remote.name}.partial", {"Bucket": self.bucket, "Key": remote.key}
        try:
            manager.download(self.bucket, remote.key, str(path), subscribers=[_Follower(remote, advance)]).result()
            # Asked afterwards, so that an object that was replaced at any time since the listing is noticed.
            about = self.client.head_object(**place, IfMatch=remote.etag, ChecksumMode="ENABLED")
            trouble = damage(self.client, self.bucket, remote.key, about, path)
        except FAILURES as error:
            if not concerns_one_object(error):
                raise explain(error, self.url) from error
            self._failed[name] = explain(error, join(self.url, name))
            return
        if trouble:
            self._failed[name] = UserError(
                f"{join(self.url, name)}: came damaged ({trouble}); run again, and if it stays so upload it anew"
            )
            path.unlink()
        else:
            self._places[name] = path.rename(self.folder / f"{remote.name}-{sha256(path)}")


class _Follower:
    """Tells a transfer the size and ETag of the listing, which spares a request, and the progress what has come."""

    _one_at_a_time = Lock()  # every thread of the manager calls

    def __init__(self, remote: Remote, advance: Callable[[int], None]) -> None:
        self.remote, self.advance = remote, advance

    def on_queued(self, future: Any, **_: Any) -> None:
        future.meta.provide_transfer_size(self.remote.size)
        future.meta.provide_object_etag(self.remote.etag)

    def on_progress(self, bytes_transferred: int, **_: Any) -> None:
        with self._one_at_a_time:
            self.advance(bytes_transferred)
