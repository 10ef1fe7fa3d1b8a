"""S3: the client, the check of a downloaded file, and readable errors."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError, S3ValidationError

from core.errors import UserError
from core.masking import mask

SCHEME = "s3://"
BROKEN_OFF = (
    *(IncompleteReadError, ReadTimeoutError, ResponseStreamingError, FlexibleChecksumError),
    *(RetriesExceededError, S3ValidationError),  # raised by s3transfer
)
FAILURES = (BotoCoreError, ClientError, S3DownloadFailedError, *BROKEN_OFF)
BAD_CREDENTIALS = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "InvalidClientTokenId",
)
# Permissions of the operations whose permission is not named after them.
RIGHTS = {
    "HeadObject": "s3:GetObject and s3:ListBucket",  # without ListBucket a missing object is a 403
    "HeadBucket": "s3:ListBucket",
    "ListObjects": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "DeleteObjects": "s3:DeleteObject",
}
CHANGED = "changed during the download; run again"
ENCRYPTED = ("SSEKMSKeyId", "SSECustomerAlgorithm")  # the ETag of such an object is not the MD5 of its content


def is_s3(place: str) -> bool:
    """Return whether ``place`` is an address in S3 and not a local path."""
    return place.startswith(SCHEME)


def split_url(url: str) -> tuple[str, str]:
    """Return the bucket and the prefix of ``s3://bucket/prefix``; the prefix has no slash at its end.

    Raises:
        UserError: no bucket is named.
    """
    bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise UserError(f"{url}: no bucket named; use s3://bucket/prefix")
    return bucket, prefix.rstrip("/")


def make_client(connections: int) -> Any:
    """Return an S3 client for ``connections`` threads; boto3 finds credentials (environment, profile, role).

    Raises:
        BotoCoreError: the profile or region named in the environment is unknown.
    """
    # "standard" retries failed connections, throttling and 5xx with backoff and jitter; AWS_MAX_ATTEMPTS applies.
    config = Config(retries={"mode": "standard"}, max_pool_connections=connections, connect_timeout=10, read_timeout=60)
    return boto3.session.Session().client("s3", config=config)


def is_missing(error: ClientError) -> bool:
    """Return whether S3 reports that an object or bucket does not exist."""
    return error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound", "NoSuchBucket")


def damage(client: Any, bucket: str, key: str, about: dict[str, Any], path: Path) -> str:
    """Return how a downloaded file differs from its object; empty if no check fails.

    The check uses the object's SHA-256 if it has one, else its ETag: the MD5 of the content, or for a multipart upload
    the MD5 of its parts' MD5s. The sizes of the parts come from S3.

    Args:
        client: see :func:`make_client`.
        bucket: name of the bucket.
        key: key of the object.
        about: fields of a HEAD response: ContentLength, ETag, ChecksumSHA256, SSEKMSKeyId, ...
        path: the file.

    Raises:
        BotoCoreError, ClientError: a request for the size of a part failed.
    """
    size = path.stat().st_size
    if size != about["ContentLength"]:
        return f"{size} bytes, not {about['ContentLength']}"
    checksum = about.get("ChecksumSHA256", "")
    if checksum and "-" not in checksum:
        with path.open("rb") as file:
            right = base64.b64encode(hashlib.file_digest(file, "sha256").digest()).decode() == checksum
        return "" if right else "its SHA-256 is not the object's"
    etag = about["ETag"].strip('"')
    form = re.fullmatch(r"[0-9a-f]{32}(?:-(\d+))?", etag)
    if form is None or any(field in about for field in ENCRYPTED):
        return ""
    if form[1] is None:
        with path.open("rb") as file:
            right = hashlib.file_digest(file, "md5").hexdigest() == etag
        return "" if right else "its MD5 is not its ETag"
    count = int(form[1])
    first = size if count == 1 else _part_size(client, bucket, key, about["ETag"], 1)
    if first * (count - 1) < size <= first * count and multipart_etag(path, [first] * count) == etag:
        return ""
    # Parts of different lengths, which few tools write: ask for each.
    sizes = [first, *(_part_size(client, bucket, key, about["ETag"], number) for number in range(2, count + 1))]
    if sum(sizes) != size:
        return ""  # the server does not report the sizes of parts: only the total size was checked
    return "" if multipart_etag(path, sizes) == etag else "its parts' MD5s are not its ETag"


def _part_size(client: Any, bucket: str, key: str, etag: str, number: int) -> int:
    return int(client.head_object(Bucket=bucket, Key=key, IfMatch=etag, PartNumber=number)["ContentLength"])


def multipart_etag(path: Path, sizes: list[int]) -> str:
    """Return the ETag that S3 gives a file uploaded in parts: MD5 of the parts' MD5s, a dash, their number."""
    parts = []
    with path.open("rb") as file:
        for size in sizes:
            part = hashlib.md5(usedforsecurity=False)
            while size and (block := file.read(min(size, 1 << 20))):
                part.update(block)
                size -= len(block)
            parts.append(part.digest())
    return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(sizes)}"


def concerns_one_object(error: Exception) -> bool:
    """Return whether an error concerns one object, so that others can still be downloaded.

    A 5xx after all retries concerns the server: trying every other object would take hours.
    """
    if isinstance(error, ClientError):
        ill = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500
        return not ill and error.response["Error"]["Code"] not in BAD_CREDENTIALS
    return isinstance(error, (*BROKEN_OFF, S3DownloadFailedError))


def explain(error: Exception, called: str) -> UserError:
    """Convert one of :data:`FAILURES` to one line: what is wrong with ``called`` and how to fix it."""
    if isinstance(error, ClientError):
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code in BAD_CREDENTIALS:
            text = f"the credentials are refused ({code}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE"
        elif code in ("NoSuchBucket", "InvalidBucketName"):
            text = "no such bucket; check its name, and AWS_ENDPOINT_URL unless it is on AWS"
        elif code in ("AccessDenied", "403", "Forbidden", "AllAccessDisabled"):
            right = RIGHTS.get(error.operation_name, f"s3:{error.operation_name}")
            text = f"access denied; ask the bucket's owner for {right}, or use other credentials"
        elif code in ("NoSuchKey", "404", "NotFound"):
            text = "deleted since the bucket was listed; run again"
        elif code in ("PreconditionFailed", "412"):
            text = CHANGED
        elif code == "InvalidObjectState":
            text = "archived; restore it in the bucket first"
        elif code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"):
            text = f"the bucket is in another region; set AWS_REGION ({message})"
        else:
            text = f"S3 answered {code}: {message}; fix it and run again"
    elif isinstance(error, NoCredentialsError | PartialCredentialsError):
        text = "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    elif isinstance(error, ParamValidationError):
        text = "not a valid bucket name; use s3://bucket/prefix"
    elif isinstance(error, S3DownloadFailedError):  # of one range: the object was replaced during the download
        text = CHANGED
    elif isinstance(error, BROKEN_OFF):
        last = getattr(error, "last_exception", error)
        text = f"the download failed or was damaged after all retries ({last}); run again: finished files are kept"
    elif isinstance(error, ConnectionError | HTTPClientError):
        text = f"S3 cannot be reached ({error}); check the network and AWS_ENDPOINT_URL, and run again"
    else:
        text = f"{error}; check the AWS settings"
    return UserError(f"{called}: {mask(' '.join(text.split()))}")
