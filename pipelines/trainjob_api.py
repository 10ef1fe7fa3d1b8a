"""TrainJobs in the Kubernetes API: create, poll and delete them, and follow the log of rank 0."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from core.errors import UserError
from core.terminal import say

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
CONTAINER = "node"  # the name of the runtime's job, and of its container
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
PATIENCE = 300.0  # seconds for which the API may be unavailable
PAUSE = 2.0
TIMEOUT = 30  # seconds of one request
INSTALL = "install Kubeflow Trainer 2 with JobSet, or set steps.train.nodes: 1"
T = TypeVar("T")


@dataclass(frozen=True)
class TrainJobs:
    """The TrainJobs of a namespace."""

    namespace: str
    custom: Any
    core: Any

    @classmethod
    def connect(cls) -> TrainJobs:
        """Connect with the pod's service account, or with the kubeconfig of a user.

        Raises:
            UserError: neither is available.
        """
        from kubernetes import client, config  # type: ignore[import-untyped]

        try:
            if NAMESPACE.exists():
                config.load_incluster_config()
                namespace = NAMESPACE.read_text().strip()
            else:
                config.load_kube_config()
                namespace = config.list_kube_config_contexts()[1]["context"].get("namespace", "default")
        except config.ConfigException as error:
            raise UserError(f"Kubernetes: no service account and no kubeconfig ({error}); run in a pod") from error
        return cls(namespace, client.CustomObjectsApi(), client.CoreV1Api())

    def require(self) -> None:
        """Raise UserError if the cluster has no TrainJobs, or this account may not list them."""
        self._ask(lambda: self.custom.list_namespaced_custom_object(*self._where, limit=1, _request_timeout=TIMEOUT))

    def create(self, job: dict[str, Any]) -> None:
        """Create a TrainJob, after deleting one of the same name from an earlier attempt.

        Raises:
            UserError: the API refuses it.
        """
        from kubernetes.client import ApiException  # type: ignore[import-untyped]

        limit, name = time.monotonic() + PATIENCE, job["metadata"]["name"]
        while True:
            try:
                self.custom.create_namespaced_custom_object(*self._where, job, _request_timeout=TIMEOUT)
                return
            except ApiException as error:
                if error.status != 409 or time.monotonic() > limit:
                    raise self._explained(error) from error
            self.delete(name)
            time.sleep(PAUSE)

    def status(self, name: str) -> dict[str, Any] | None:
        """Return a TrainJob's status, or None if there is no such TrainJob."""
        found: dict[str, Any] = self._ask(
            lambda: self.custom.get_namespaced_custom_object(*self._where, name, _request_timeout=TIMEOUT),
            missing={"metadata": None},
        )
        return None if found.get("metadata") is None else found.get("status", {})

    def delete(self, name: str) -> None:
        """Delete a TrainJob and its pods; a failure is only logged, because the owner reference also deletes them."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            self.custom.delete_namespaced_custom_object(*self._where, name, _request_timeout=TIMEOUT)
        except (ApiException, HTTPError) as error:
            if getattr(error, "status", None) != 404:
                say(f"warning: TrainJob {name}: delete it with kubectl, for this failed ({_first_line(error)})")

    def rank_zero(self, name: str) -> Any | None:
        """Return the newest pod of rank 0, or None if there is none yet."""
        selector = f"jobset.sigs.k8s.io/jobset-name={name},batch.kubernetes.io/job-completion-index=0"
        pods = self._ask(
            lambda: (
                self.core.list_namespaced_pod(self.namespace, label_selector=selector, _request_timeout=TIMEOUT).items
            )
        )
        return max(pods, key=lambda pod: pod.metadata.creation_timestamp, default=None)

    @property
    def _where(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, PLURAL

    def _ask(self, request: Callable[[], T], missing: T | None = None) -> T:
        """Send a request with retries for :data:`PATIENCE` seconds; on 404 return ``missing`` unless it is None."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        limit, pause = time.monotonic() + PATIENCE, PAUSE
        while True:
            try:
                return request()
            except ApiException as error:
                if error.status == 404 and missing is not None:
                    return missing
                if error.status < 500 or time.monotonic() > limit:
                    raise self._explained(error) from error
            except HTTPError as error:
                if time.monotonic() > limit:
                    raise UserError(f"Kubernetes: no answer for {PATIENCE:.0f} s ({_first_line(error)})") from error
            time.sleep(pause)
            pause = min(2 * pause, 30.0)

    def _explained(self, error: Any) -> UserError:
        what = f"TrainJobs in {self.namespace}"
        if error.status == 404:
            return UserError(f"{what}: the cluster has no {PLURAL}.{GROUP}/{VERSION}; {INSTALL}")
        if error.status in (401, 403):
            return UserError(
                f"{what}: this service account may not use them ({_first_line(error)}); apply "
                "pipelines/manifests/training-runtime.yaml"
            )
        return UserError(f"{what}: refused ({_first_line(error)}); correct the cluster settings of train")


def _first_line(error: Any) -> str:
    try:
        return " ".join(str(json.loads(error.body)["message"]).split())
    except (AttributeError, TypeError, ValueError, KeyError):
        return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Follower:
    """Prints the log of rank 0, also of new pods after a restart of the TrainJob.

    Attributes:
        last: the last line that began with ``error: ``, without this prefix.
        waits: why the container of rank 0 has not started; empty if it has.
    """

    def __init__(self, jobs: TrainJobs, name: str) -> None:
        self.jobs, self.name = jobs, name
        self.last = self.waits = ""
        self._threads: dict[str, threading.Thread] = {}

    def look(self) -> None:
        """Start to print the log of the newest pod if its container has started."""
        pod = self.jobs.rank_zero(self.name)
        if pod is None:
            return
        self.waits = _waits(pod)
        name = pod.metadata.name
        if name in self._threads or self.waits or pod.status.phase == "Pending":
            return
        if self._threads:
            say(f"TrainJob {self.name}: started anew, rank 0 is {name}")
        self._threads[name] = threading.Thread(target=self._print, args=(name,), name=name, daemon=True)
        self._threads[name].start()

    def finish(self) -> None:
        """Print the rest of the logs."""
        self.look()
        for thread in self._threads.values():
            thread.join(TIMEOUT)

    def _print(self, pod: str) -> None:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        seen, limit = "", time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            try:
                log = self.jobs.core.read_namespaced_pod_log(
                    pod, self.jobs.namespace, container=CONTAINER, follow=True, timestamps=True, _preload_content=False
                )
                for raw in log:
                    for line in raw.decode(errors="replace").splitlines():
                        moment, _, text = line.partition(" ")
                        if moment > seen:  # after a reconnect the API sends earlier lines again
                            seen, limit = moment, time.monotonic() + PATIENCE
                            self._tell(text)
                return
            except ApiException as error:
                if error.status == 404:
                    return  # the pod was deleted
            except HTTPError as error:
                say(f"TrainJob {self.name}: the log of {pod} broke off ({_first_line(error)}); reading on")
            time.sleep(PAUSE)

    def _tell(self, line: str) -> None:
        print(line, flush=True)
        if line.startswith("error: "):
            self.last = line.removeprefix("error: ")


def _waits(pod: Any) -> str:
    """Return why the pod's container has not started, in Kubernetes' words; empty if none is given."""
    for status in pod.status.container_statuses or []:
        if status.state and status.state.waiting:
            waiting = status.state.waiting
            return ": ".join(filter(None, (waiting.reason, waiting.message)))
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return ": ".join(filter(None, (condition.reason, condition.message)))
    return ""
