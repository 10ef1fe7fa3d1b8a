"""Report how a run ended, in one line: from Kubeflow's API if it is reachable, else from the exit handler's status.

The status alone is not enough: it has no error, and is RUNNING after a cancelled run and after a run whose cells were
all cached.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from pipelines.artifacts import Status
from pipelines.shape import Shape
from pipelines.workflow import FAILED, nodes_of, rows_of

RUN_ID = "KUBEFLOW_RUN_ID"  # variable with the id of the run
API = "KUBEFLOW_API"  # variable with the API's address, if it is not a default one
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")  # mounted by a multi-user installation
PATIENCE = 30.0  # seconds to wait until the API has the end of the last step; it is updated every few seconds

KNOWN = {"COMPLETE": "succeeded", "SUCCEEDED": "succeeded", "CACHED": "succeeded", "FAILED": "failed"}


def sentence(manifest: Mapping[str, Any], run: Mapping[str, Any]) -> str | None:
    """Return how the steps before the exit handler ended, in one line; None while they run.

    Args:
        manifest: the Argo workflow of the run.
        run: the run from the v2beta1 API.
    """
    nodes, canceling = nodes_of(manifest) or [], _is_cancelled(run)
    guarded = [node for node in nodes if re.fullmatch(r"exit-handler-1(\(0\))?", node.get("displayName", ""))]
    phases = {node.get("phase") for node in guarded}
    if not guarded or phases & {"Pending", "Running"}:
        return "cancelled" if canceling else None
    if phases <= {"Succeeded"}:
        return "succeeded"
    if canceling:
        return "cancelled"
    if any("retry exceeded workflow deadline" in node.get("message", "") for node in nodes):
        return "failed: the time of the run was up (run_timeout in cluster.yaml)"
    spec = run.get("pipeline_spec") or {}
    spec = spec.get("pipeline_spec", spec)
    shape = Shape.of((run.get("runtime_config") or {}).get("parameters") or {}, spec)
    rows = rows_of(manifest, shape, ended=True, cancelled=False) or []
    failed = [row for row in rows if row.state == FAILED and row.step != "outcome"]
    if not failed:
        others = [node for node in nodes if node.get("phase") in ("Failed", "Error") and node.get("message")]
        return f"failed: {' '.join(others[0]['message'].split()) if others else 'Kubeflow gives no reason'}"
    first, more = failed[0], len(failed) - 1
    why = first.reason.strip().partition("\n")[0]
    also = (
        f" (and {more} more: {', '.join(row.name for row in failed[1:4])}{', ...' if more > 3 else ''})" if more else ""
    )
    return f"failed: {first.name}: {why}{also}"


def _is_cancelled(run: Mapping[str, Any]) -> bool:
    states = [entry.get("state") for entry in run.get("state_history", [])]
    begun = len(states) - 1 - states[::-1].index("RUNNING") if "RUNNING" in states else 0
    return "CANCELING" in states[begun:]


def addresses() -> Iterator[str]:
    """Yield possible addresses of Kubeflow's API: KUBEFLOW_API, in the pod's namespace, in Kubeflow's namespace."""
    if named := os.environ.get(API):
        yield named.rstrip("/")
        return
    namespace = ACCOUNT / "namespace"
    names = [namespace.read_text().strip()] if namespace.exists() else []
    yield from (f"http://ml-pipeline.{name}:8888" for name in dict.fromkeys([*names, "kubeflow"]))


def asked(run: str, patience: float = PATIENCE) -> tuple[str | None, str]:
    """Ask Kubeflow's API how the steps of a run ended.

    Args:
        run: the run's id.
        patience: seconds to wait until the API has the end of the last step.

    Returns:
        The line of :func:`sentence` or None, and the reason if it is None.
    """
    headers = {"Authorization": f"Bearer {TOKEN.read_text().strip()}"} if TOKEN.exists() else {}
    why = "no API was named"
    for address in addresses():
        until = time.monotonic() + patience
        try:
            with httpx.Client(base_url=address, headers=headers, timeout=10) as client:
                while True:
                    found = sentence(*_asked_once(client, run))
                    if found is not None or time.monotonic() > until:
                        return found, f"{address} still says that the steps run"
                    time.sleep(2)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            why = f"{address}: {' '.join(str(error).split()) or type(error).__name__}"
    return None, why


def _asked_once(client: httpx.Client, run: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the run's Argo workflow, and the run from the v2beta1 API."""
    answer = client.get(f"/apis/v1beta1/runs/{run}").raise_for_status().json()
    manifest = json.loads(answer["pipeline_runtime"]["workflow_manifest"])
    return manifest, client.get(f"/apis/v2beta1/runs/{run}").raise_for_status().json()


def ended(status: Status, facts: Mapping[str, str]) -> tuple[str, str]:
    """Return how a run ended as one line, and as Markdown with ``facts``.

    Args:
        status: the exit handler's status from Kubeflow.
        facts: data and code of the run; empty values are omitted.
    """
    run, known = os.environ.get(RUN_ID), KNOWN.get(status.state)
    found, why = asked(run) if run else (None, "")
    if found is None and known is not None and (known == "succeeded" or status.error or not run):
        words = " ".join(status.error.split())
        found = known + (f": {words}" if words else "")
    elif found is None and known is not None:
        found = f"{known}; the reason could not be read ({why}): `defunet status {run}` tells it"
    elif found is None:
        found = (
            f"not known: Kubeflow says {status.state or 'nothing'}, which it says of cancelled and of cached runs too"
        )
        found += f" ({why}); `defunet status {run}` tells it" if run else ""
    rows = [f"| {name} | `{value}` |" for name, value in facts.items() if value]
    table = ["", "| | |", "|---|---|", *rows] if rows else []
    return f"run {found}", "\n".join([f"**Run {found}**", *table]) + "\n"
