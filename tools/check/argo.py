"""Check the retry policy of Argo's workflow controller, which the pipeline itself cannot set."""

from __future__ import annotations

import os
from typing import Any

import yaml

from core.errors import UserError

CONFIG_MAP = "workflow-controller-configmap"
KEY = "workflowDefaults"
FIX = "apply pipelines/manifests/argo-retries.yaml"
# Failures that each policy does not retry; OnFailure is Argo's default.
MISSED = {
    "OnError": "a step that fails is not retried",
    "OnFailure": "a step whose pod is lost is not retried",
    "OnTransientError": "only errors that Argo considers transient are retried",
}


def retry_policy(namespace: str) -> str:
    """Return the retry policy of Argo's ConfigMap in one line.

    Args:
        namespace: namespace of Argo's workflow controller, usually Kubeflow's own.

    Raises:
        UserError: there is no access to a cluster or to the ConfigMap, or the policy is not ``Always``.
    """
    from kubernetes import client, config  # type: ignore[import-untyped]
    from urllib3.exceptions import HTTPError

    where = f"{namespace}/{CONFIG_MAP}"
    try:
        # Pass it, because the library reads its default at import.
        file = os.environ.get("KUBECONFIG")
        config.load_config(**({"config_file": file} if file else {}))
        api = client.CoreV1Api()
        found = api.read_namespaced_config_map(CONFIG_MAP, namespace, _request_timeout=10)
    except config.ConfigException as error:
        raise UserError(f"{where}: no access to a cluster ({error}); set KUBECONFIG") from error
    except client.ApiException as error:
        raise UserError(f"{where}: cannot be read ({error.status} {error.reason}); use an account that may") from error
    except (HTTPError, OSError) as error:
        raise UserError(f"{where}: Kubernetes does not answer ({error}); check the kubeconfig") from error
    policy = _policy((found.data or {}).get(KEY) or "", where)
    if policy != "Always":
        missed = MISSED.get(policy, "Argo has no such policy")
        raise UserError(f"{where}: retryPolicy {policy}: {missed}; {FIX}")
    return f"{where}: retryPolicy Always"


def _policy(text: str, where: str) -> str:
    """Return ``spec.templateDefaults.retryStrategy.retryPolicy`` of the YAML in ``workflowDefaults``."""
    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: {KEY} is not valid YAML; {FIX}") from error
    for key in ("spec", "templateDefaults", "retryStrategy", "retryPolicy"):
        value = value.get(key) if isinstance(value, dict) else None
    return str(value or "OnFailure")
