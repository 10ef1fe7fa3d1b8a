"""Fail a retry at once if an earlier attempt failed with an error that a retry cannot fix.

Kubeflow cannot treat an exit code as final. So such an error leaves a marker that the next attempt of the task reads.
The marker is in the checkpoints' folder or S3 prefix, if the step has one as a parameter. Otherwise it is under the
pipeline root, if that is in S3 and the step has credentials. Otherwise it is the termination message of the earlier
attempt's pod, if the step may list pods. Without any of these, the step is retried as cluster.yaml says.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from core.errors import UserError
from core.files import write_file
from core.s3 import FAILURES, explain, is_s3, make_client, split_url
from core.terminal import say
from pipelines.tasks import FINAL

ATTEMPT = "KFP_RETRY_INDEX"  # Kubeflow's variable: 0 in the first attempt; unset where there are no retries
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN")
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
WORKFLOW, NODE = "workflows.argoproj.io/workflow", "workflows.argoproj.io/node-name"  # Argo's label and annotation
MARKS = "failed-attempts"
# OSErrors that occur again in the next attempt; others, such as a full disk, may be transient.
LASTING = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)

SERVERS = ("boto3", "botocore", "httpx", "mlflow", "sqlalchemy", "urllib3")  # packages whose errors come from a server


class _InFolder:
    """The markers of one task."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, attempt: int) -> str | None:
        """Return the marker of an attempt, or None if it left none."""
        path = self._folder / f"{attempt}.txt"
        return path.read_text() if path.exists() else None

    def write(self, attempt: int, text: str) -> None:
        """Write the marker of an attempt."""
        with write_file(self._folder / f"{attempt}.txt") as partial:
            partial.write_text(text)


class _InBucket:
    def __init__(self, url: str) -> None:
        self._bucket, self._prefix = split_url(url)
        self._client = make_client(1)

    def read(self, attempt: int) -> str | None:
        found = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._key(attempt), MaxKeys=1)
        if not found.get("KeyCount"):
            return None
        answer = self._client.get_object(Bucket=self._bucket, Key=self._key(attempt))
        return str(answer["Body"].read().decode())

    def write(self, attempt: int, text: str) -> None:
        self._client.put_object(Bucket=self._bucket, Key=self._key(attempt), Body=text.encode())

    def _key(self, attempt: int) -> str:
        return f"{self._prefix.rstrip('/')}/{attempt}.txt"


class _InCluster:
    """Markers in the termination messages of earlier attempts' pods, which Argo labels and names.

    Args:
        client: a client of Kubernetes' API whose base URL is the namespace.
        pod: name of this attempt's pod.
    """

    def __init__(self, client: httpx.Client, pod: str) -> None:
        own = client.get(f"pods/{pod}").raise_for_status().json()["metadata"]
        query = {"labelSelector": f"{WORKFLOW}={own['labels'][WORKFLOW]}"}
        self._task = own["annotations"][NODE].rpartition("(")[0]
        self._pods = client.get("pods", params=query).raise_for_status().json()["items"]

    def read(self, attempt: int) -> str | None:
        for pod in self._pods:
            if pod["metadata"].get("annotations", {}).get(NODE) == f"{self._task}({attempt})":
                for container in pod.get("status", {}).get("containerStatuses", ()):
                    message = str(container.get("state", {}).get("terminated", {}).get("message") or "")
                    if container["name"] == "main" and message.splitlines()[1:2] == [FINAL]:
                        return message
        return None

    def write(self, attempt: int, text: str) -> None:
        """Do nothing: :func:`pipelines.tasks.task` writes the message."""


Marks = _InFolder | _InBucket | _InCluster


def _cluster() -> Marks | None:
    """Return the markers in Kubernetes, or None outside a Kubeflow pod."""
    pod, host = os.environ.get("KFP_POD_NAME"), os.environ.get("KUBERNETES_SERVICE_HOST")
    if not pod or not host or not (ACCOUNT / "token").exists():
        return None
    namespace, token = ((ACCOUNT / name).read_text().strip() for name in ("namespace", "token"))
    address = f"https://{host}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}/api/v1/namespaces/{namespace}/"
    trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, verify=trusted) as client:
        return _InCluster(client, pod)


def marks_of(given: Mapping[str, Any]) -> Marks | None:
    """Return the markers of a task, or None if its attempts share no storage.

    Args:
        given: the executor input, which all attempts of a task share.
    """
    # .../<run>/<task>/<execution number>/<file>
    task = "/".join(Path(given["outputs"]["outputFile"]).parts[-4:-1])
    place = given.get("inputs", {}).get("parameterValues", {}).get("checkpoints") or ""
    if place and not is_s3(place):
        return _InFolder(Path(place) / MARKS / task)
    if not any(os.environ.get(name) for name in CREDENTIALS):
        return _cluster()
    if place:
        return _InBucket(f"{place.rstrip('/')}/{MARKS}/{task}")
    uris = [one["artifacts"][0]["uri"] for one in given["outputs"].get("artifacts", {}).values()]
    if uris and is_s3(uris[0]):
        root = uris[0].removesuffix("/").rsplit("/", 4)[0]
        return _InBucket(f"{root}/{MARKS}/{task}")
    return _cluster()


@contextmanager
def final_errors(given: Mapping[str, Any]) -> Iterator[None]:
    """Write a marker if the block raises a UserError that a retry cannot fix.

    Args:
        given: the executor input.

    Raises:
        UserError: an earlier attempt left a marker; the block is not run, and the error is the earlier one in one line.
    """
    attempt = os.environ.get(ATTEMPT, "")
    marks = None
    if attempt.isdecimal():
        with _tolerant():
            marks = marks_of(given)
    if marks is None:
        yield
        return
    for earlier in range(int(attempt)):
        with _tolerant():
            if text := marks.read(earlier):
                first = text.splitlines()[0]
                raise UserError(f"{first} (attempt {earlier + 1} found it; another attempt cannot fix it)")
    try:
        yield
    except UserError as error:
        if lasting(error):
            with _tolerant():
                marks.write(int(attempt), str(error))
        raise


@contextmanager
def _tolerant() -> Iterator[None]:
    """Log and suppress errors of the marker storage: they must not fail the step or hide its error."""
    try:
        yield
    except FAILURES as error:
        say(f"the marks of failed attempts cannot be used: {explain(error, 'S3')}")
    except (OSError, httpx.HTTPError, KeyError) as error:
        say(f"the marks of failed attempts cannot be used: {error}")


def lasting(error: BaseException | None) -> bool:
    """Return whether an error is permanent: no error in its chain comes from a network, a server or a resource."""
    while error is not None:
        answer = getattr(error, "response", None)
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) if isinstance(answer, dict) else 0
        if isinstance(error, OSError) and not isinstance(error, LASTING):
            return False
        elsewhere = type(error).__module__.partition(".")[0] in SERVERS
        if status >= 500 or status in (408, 429) or (elsewhere and not status):
            return False
        error = error.__cause__ or error.__context__
    return True
