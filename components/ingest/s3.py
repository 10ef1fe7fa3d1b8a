"""Fetching from S3: in parallel ranges, retried, resumed after a broken run, and checked to the byte.

What is fetched lies in ``.download-<hash>`` beside the output until the run has succeeded. A finished object's file
name carries the SHA-256 of its content, so that a later run trusts a file only after hashing it again; an object that
has changed in the bucket has another ETag, hence another name.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from components.ingest.source import File, Source, join
from core.errors import UserError
from core.files import sha256
from core.parallel import parallel
from core.s3 import concerns_one_object, damage, explain, get, make_client, split_url

RANGE = 16 << 20  # bytes of one request; what a broken run loses at most of each object under way
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

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """First byte and length of each request."""
        return [(start, min(RANGE, self.size - start)) for start in range(0, max(self.size, 1), RANGE)]


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
    except (BotoCoreError, ClientError) as error:
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
    _about: dict[str, dict[str, Any]] = field(default_factory=dict)  # what S3 said of an object when giving it

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
        wanted = [name for name in dict.fromkeys(names) if name not in self._places]
        for _ in parallel(self._find, wanted, WORKERS, "download: earlier files"):
            pass
        missing = [name for name in wanted if name not in self._places]
        requests = [(name, *span) for name in missing for span in self.objects[name].ranges]
        for _ in parallel(self._fetch, requests, WORKERS, "download", [length for _, _, length in requests]):
            pass
        complete = [name for name in missing if name not in self._failed]
        for _ in parallel(self._finish, complete, WORKERS, "download: checking"):
            pass

    def _find(self, name: str) -> None:
        """Take over a finished object of an earlier run if its content is still what its name says."""
        remote = self.objects[name]
        for path in self.folder.glob(f"{remote.name}-*"):
            if path.stat().st_size == remote.size and sha256(path) == path.name.rpartition("-")[2]:
                self._places[name] = path
            else:
                path.unlink()

    def _fetch(self, request: tuple[str, int, int]) -> None:
        """Fetch one range of an object into a file of its own, unless an earlier run has."""
        name, start, length = request
        remote, place = self.objects[name], self._part(name, start)
        if name in self._failed or (place.exists() and place.stat().st_size == length):
            return
        span = (start, length) if length < remote.size else None
        try:
            data, about = get(self.client, self.bucket, remote.key, remote.etag, span)
        except (BotoCoreError, ClientError) as error:
            self._fail(name, error)
            return
        if len(data) != length:
            self._failed[name] = UserError(f"{join(self.url, name)}: {len(data)} bytes came, not {length}; run again")
            return
        if span is None:
            self._about[name] = about
        partial = place.with_name(f"{place.name}.partial")
        partial.write_bytes(data)
        partial.replace(place)

    def _finish(self, name: str) -> None:
        """Join an object's ranges, check the whole, and give it its final name."""
        remote = self.objects[name]
        parts = [self._part(name, start) for start, _ in remote.ranges]
        whole = parts[0]
        if len(parts) > 1:
            whole = self.folder / f"{remote.name}.whole"
            with whole.open("wb") as file:
                for part in parts:
                    file.write(part.read_bytes())
        try:
            about = self._about.pop(name, None) or self.client.head_object(
                Bucket=self.bucket, Key=remote.key, IfMatch=remote.etag, ChecksumMode="ENABLED"
            )
            trouble = damage(self.client, self.bucket, remote.key, about, whole)
        except (BotoCoreError, ClientError) as error:
            self._fail(name, error)
            return
        if trouble:
            self._failed[name] = UserError(
                f"{join(self.url, name)}: came damaged ({trouble}); run again, and if it stays so upload it anew"
            )
            whole.unlink()
        else:
            self._places[name] = whole.rename(self.folder / f"{remote.name}-{sha256(whole)}")
        for part in parts:
            part.unlink(missing_ok=True)

    def _part(self, name: str, start: int) -> Path:
        return self.folder / f"{self.objects[name].name}.{start}"

    def _fail(self, name: str, error: BotoCoreError | ClientError) -> None:
        """Keep what is wrong with one object for later; raise what is wrong with all."""
        if not concerns_one_object(error):
            raise explain(error, self.url) from error
        self._failed[name] = explain(error, join(self.url, name))
