"""Read the state of a run's pods from Kubernetes, with a kubeconfig or a pod's service account."""

from __future__ import annotations

from typing import Any

from kubernetes import client  # type: ignore[import-untyped]
from kubernetes.client import ApiException  # type: ignore[import-untyped]
from urllib3.exceptions import HTTPError

TIMEOUTS = (5.0, 10.0)  # of the connection and of the response, in seconds
WARNING = "Warning"


class Pods:
    """Reads workflows, events and Kueue's workloads; without permission a result is unknown, not an error.

    Args:
        api: a configured client of Kubernetes.
    """

    def __init__(self, api: Any) -> None:
        api.configuration.retries = False
        self._objects, self._core = client.CustomObjectsApi(api), client.CoreV1Api(api)

    def has_workflow(self, namespace: str, name: str) -> bool | None:
        """Return whether an Argo Workflow exists; None if unknown."""
        where = ("argoproj.io", "v1alpha1", namespace, "workflows", name)
        try:
            self._objects.get_namespaced_custom_object(*where, _request_timeout=TIMEOUTS)
        except ApiException as error:
            return False if error.status == 404 else None
        except HTTPError:
            return None
        return True

    def why_queued(self, namespace: str, pod: str) -> str:
        """Return why Kueue has not admitted a pod; empty if unknown."""
        where = ("kueue.x-k8s.io", "v1beta1", namespace, "workloads")
        try:
            found = self._objects.list_namespaced_custom_object(*where, _request_timeout=TIMEOUTS)
        except (ApiException, HTTPError):
            return ""
        for workload in found.get("items", ()):
            owners = [owner.get("name") for owner in workload["metadata"].get("ownerReferences", ())]
            if pod in owners:
                conditions = workload.get("status", {}).get("conditions", ())
                reserved = [
                    each for each in conditions if each["type"] == "QuotaReserved" and each["status"] == "False"
                ]
                return str(reserved[0].get("message", "")) if reserved else ""
        return ""

    def last_warning(self, namespace: str, pod: str) -> str:
        """Return the message of a pod's newest warning event; empty if there is none or it is unknown."""
        try:
            found = self._core.list_namespaced_event(
                namespace, field_selector=f"involvedObject.name={pod},type={WARNING}", _request_timeout=TIMEOUTS
            )
        except (ApiException, HTTPError):
            return ""
        events = [each for each in found.items if each.type == WARNING and each.involved_object.name == pod]
        events.sort(key=lambda each: str(each.last_timestamp or each.event_time or ""))
        return str(events[-1].message) if events else ""
