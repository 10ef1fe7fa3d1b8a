"""Journals in S3, where trainings copy them beside their states."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from core.s3 import explain, make_client
from tracking.journal import LEFT, LIVE


def journals(url: str) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Yield a copy of every journal below ``s3://bucket/prefix``, and what removes the journal itself.

    Raises:
        UserError: S3 cannot be asked, or does not let the journal be removed.
    """
    bucket, _, prefix = url.removeprefix("s3://").partition("/")

    def remove(key: str) -> None:
        try:
            client.delete_object(Bucket=bucket, Key=key)
        except (BotoCoreError, ClientError, Boto3Error) as error:
            called = f"removing s3://{bucket}/{key}, whose records have been sent"
            raise explain(error, called) from error

    try:
        client = make_client(1)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        for key in keys:
            name = PurePosixPath(key)
            if not (name.match(LIVE) or name.match(LEFT)):
                continue
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / name.name
                path.write_bytes(client.get_object(Bucket=bucket, Key=key)["Body"].read())
                yield path, partial(remove, key)
    except (BotoCoreError, ClientError, Boto3Error) as error:
        raise explain(error, url) from error
