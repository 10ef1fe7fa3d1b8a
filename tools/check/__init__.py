"""Check the requirements of the steps on a machine or pod: MLflow, the cohort, checkpoint storage, GPUs."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import urllib3
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from core.errors import UserError
from core.s3 import explain, is_s3, make_client, split_url
from tools.check.argo import retry_policy
from tracking.store import connect, store_address, store_name

if TYPE_CHECKING:
    import torch

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only its size is read
ASKED = "/api/2.0/mlflow/registered-models/search"
LARGEST_ERROR = 0.05  # of a bfloat16 matrix product, relative to the largest entry; bfloat16 has 8 bits of precision


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        name: name of the check.
        good: whether the check passed.
        text: one line of details.
    """

    name: str
    good: bool
    text: str


def check(source: str | None, checkpoints: str | None, gpus: int, argo: str | None = None) -> Iterator[Finding]:
    """Run the checks and yield each result.

    Args:
        source: the cohort, a folder, a ZIP file or ``s3://bucket/prefix``; None: not checked.
        checkpoints: a folder or ``s3://bucket/prefix``; a small file is written, read and removed. None: not checked.
        gpus: required number of CUDA GPUs; each multiplies two matrices.
        argo: namespace of Argo's workflow controller, to read its retry policy; None: not checked.
    """
    yield _try("MLflow", _mlflow)
    if source is not None:
        yield _try("source", lambda: _source(source))
    if checkpoints is not None:
        yield _try("checkpoints", lambda: _checkpoints(checkpoints))
    yield _try("GPUs", lambda: _gpus(gpus))
    if SHARED_MEMORY.is_dir():
        yield Finding("shared memory", True, f"{SHARED_MEMORY}: {_gib(shutil.disk_usage(SHARED_MEMORY).total)}")
    if argo is not None:
        yield _try("retries", lambda: retry_policy(argo))


def _try(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, look())
    except UserError as error:
        return Finding(name, False, str(error))


def _mlflow() -> str:
    connect()
    if is_open(store_address()):
        return (
            f"{store_name()}: answers. WARNING: it asks for no password: whoever reaches it can replace models, and "
            "`mlflow.pyfunc.load_model` runs code from it; start it with --app-name basic-auth or behind a proxy"
        )
    return f"{store_name()}: answers"


def is_open(address: str) -> bool:
    """Return whether a server on another machine accepts requests without credentials."""
    url = urllib3.util.parse_url(address)
    if url.scheme not in ("http", "https") or not url.host:
        return False
    try:
        found = socket.getaddrinfo(url.host.strip("[]"), url.port, type=socket.SOCK_STREAM)
        if all(ipaddress.ip_address(str(each[4][0])).is_loopback for each in found):
            return False
        asked = url._replace(auth=None, path=f"{(url.path or '').rstrip('/')}{ASKED}", query="max_results=1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)  # the request has no secrets
            pool = urllib3.PoolManager(retries=urllib3.Retry(0, redirect=1), timeout=10, cert_reqs="CERT_NONE")
            answer = pool.request("GET", asked.url)
    except (OSError, urllib3.exceptions.HTTPError):
        return False  # MLflow's client reaches it another way, such as a proxy
    return answer.status == HTTPStatus.OK


def _source(source: str) -> str:
    if not is_s3(source):
        if not Path(source).exists():
            raise UserError(f"{source}: not found; give a folder, a ZIP file or s3://bucket/prefix")
        return f"{source}: there"
    bucket, prefix = split_url(source)
    try:
        client = make_client(1)
        found = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents", [])
        if not found:
            raise UserError(f"{source}: no object found; check the bucket and the prefix")
        client.get_object(Bucket=bucket, Key=found[0]["Key"])["Body"].read(1)
    except (BotoCoreError, ClientError, Boto3Error) as error:
        raise explain(error, source) from error
    return f"{source}: can be listed and read"


def _checkpoints(place: str) -> str:
    if not is_s3(place):
        try:
            Path(place).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place) as file:
                file.write(b"x" * 4096)
            free = shutil.disk_usage(place).free
        except OSError as error:
            raise UserError(
                f"{place}: cannot be written ({error.strerror}); user {os.getuid()} must be able to write to the "
                "volume, since Kubeflow's pods have no fsGroup"
            ) from error
        return f"{place}: can be written, {_gib(free)} free"
    bucket, prefix = split_url(place)
    key = "/".join(filter(None, (prefix.strip("/"), f".check-{uuid.uuid4().hex}")))
    try:
        client = make_client(1)
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
        client.get_object(Bucket=bucket, Key=key)["Body"].read()
        client.delete_object(Bucket=bucket, Key=key)
    except (BotoCoreError, ClientError, Boto3Error) as error:
        raise explain(error, place) from error
    return f"{place}: can be written, read and cleaned up"


def _gpus(wanted: int) -> str:
    import torch

    count = torch.cuda.device_count()
    if count < wanted:
        build = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}" if torch.version.cuda else ""
        why = build or f"torch {torch.__version__} is a CPU build: use the image's target gpu"
        raise UserError(f"{count} of {wanted} found; {why}")
    names = [_multiply(torch.device("cuda", index)) for index in range(count)]
    return f"{wanted} requested, {count} found" + (f": {', '.join(names)}" if names else "")


def _multiply(device: torch.device) -> str:
    """Multiply two matrices on a GPU, compare the product with the CPU's, and return the GPU's name and memory."""
    import torch

    left, right = torch.randn((2, 256, 256), generator=torch.Generator().manual_seed(0))
    try:
        product = (left.to(device, torch.bfloat16) @ right.to(device, torch.bfloat16)).float().cpu()
        about = torch.cuda.get_device_properties(device)
    except RuntimeError as error:
        raise UserError(
            f"{device}: {str(error).splitlines()[0]}; check the node's driver and its CUDA version"
        ) from error
    expected = left @ right
    if (product - expected).abs().max() > LARGEST_ERROR * expected.abs().max():
        raise UserError(f"{device}, {about.name}: computes wrong products; take its node out of the pool")
    return f"{about.name}, {_gib(about.total_memory)}"


def _gib(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB"
