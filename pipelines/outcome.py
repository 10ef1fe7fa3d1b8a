"""How a run ended, in one line: from Kubeflow's API where the exit handler reaches it, else from the status it gets.

The status alone does not tell: it holds no error, and says RUNNING after a cancelled run and after one whose cells all
came from the cache.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from pipelines.artifacts import Status

RUN_ID = "KUBEFLOW_RUN_ID"  # variable with the id of the run
API = "KUBEFLOW_API"  # variable with the API's address, if it is none of the usual ones
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")  # where a multi-user installation mounts one
PATIENCE = 30.0  # seconds until the API, which is told every few seconds, has the end of the last step

EXIT_CODE = re.compile(r"^main: Error \(exit code \d+\)(: ?)?")
POD_PATH = re.compile(r"^/(minio|s3|gcs)/\S*?: ")  # of a pod that is gone: of no use to anybody
ATTEMPT = re.compile(r"\((\d+)\)$")
CELL_NUMBER = re.compile(r"iteration-iterations\((\d+):")
CELL_NAME = re.compile(r"cell[\\\"]+:\s*[\\\"]+([^\\\"]+)")
DEADLINE = ("retry exceeded workflow deadline", "Step exceeded its deadline", "exit code 143")
KNOWN = {"COMPLETE": "succeeded", "SUCCEEDED": "succeeded", "CACHED": "succeeded", "FAILED": "failed"}


@dataclass(frozen=True)
class Row:
    """The last attempt of a step: its name, with the cell if it has one, Argo's phase and message, and the attempt."""

    step: str
    phase: str
    message: str
    attempt: int


def nodes_of(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes of an Argo workflow; above 1 MiB they are compressed."""
    status = manifest.get("status", {})
    if packed := status.get("compressedNodes"):
        return list(json.loads(gzip.decompress(base64.b64decode(packed))).values())
    return list(status.get("nodes", {}).values())


def read_rows(nodes: list[dict[str, Any]]) -> list[Row]:
    """Return one row a step and cell that has begun, in the order in which they ended; without the exit handler's."""
    rows: dict[str, Row] = {}
    for node in sorted(nodes, key=lambda node: node.get("finishedAt") or "9"):
        name = node["name"]
        if node["type"] not in ("Pod", "Skipped") or ".executor" not in name or "onExit" in name:
            continue
        task, _, last = name.rpartition(".executor")
        attempt = int(found[1]) if (found := ATTEMPT.search(last)) else 0
        if task not in rows or attempt >= rows[task].attempt:
            phase, message = node.get("phase", ""), (node.get("message") or "").strip()
            rows[task] = Row(_title(task, node), phase, message, attempt)
    return list(rows.values())


def _title(task: str, node: Mapping[str, Any]) -> str:
    step = ATTEMPT.sub("", task.rpartition(".")[2]) or task.rpartition(".")[2]
    number = CELL_NUMBER.search(task)
    if number is None:
        return step
    patches = [given.get("value", "") for given in node.get("inputs", {}).get("parameters", ())]
    names = [found[1] for patch in patches if (found := CELL_NAME.search(patch))]
    which = names[0].replace("/", " ").replace("seed-", "seed ") if names else f"cell {int(number[1]) + 1}"
    return f"{step} {which}"


def sentence(manifest: Mapping[str, Any], canceling: bool) -> str | None:
    """Return how the steps before the exit handler ended, in one line, or None while they still run.

    Args:
        manifest: the Argo workflow of the run.
        canceling: somebody has asked to cancel the run.
    """
    nodes = nodes_of(manifest)
    guarded = [node for node in nodes if re.fullmatch(r"exit-handler-1(\(0\))?", node.get("displayName", ""))]
    phases = {node.get("phase") for node in guarded}
    if not guarded or phases & {"Pending", "Running"}:
        return "cancelled" if canceling else None
    if phases <= {"Succeeded"}:
        return "succeeded"
    if canceling:
        return "cancelled"
    failed = [row for row in read_rows(nodes) if row.phase in ("Failed", "Error")]
    if any(reason in node.get("message", "") for node in nodes for reason in DEADLINE[:1]):
        return "failed: the time of the run was up (run_timeout in cluster.yaml)"
    # A step that was stopped because another had failed is no reason.
    reasons = [row for row in failed if not any(reason in row.message for reason in DEADLINE)] or failed
    if not reasons:
        others = [node for node in nodes if node.get("phase") in ("Failed", "Error") and node.get("message")]
        told = " ".join(others[0]["message"].split()) if others else "Kubeflow tells no reason"
        return f"failed: {told}"
    first, more = reasons[0], len(reasons) - 1
    also = f" (and {more} more: {', '.join(row.step for row in reasons[1:4])}{', ...' if more > 3 else ''})"
    return f"failed: {first.step}: {_reason(first.message)}" + (also if more else "")


def _reason(message: str) -> str:
    first, *_ = POD_PATH.sub("", EXIT_CODE.sub("", message)).splitlines() or [""]
    return first.strip() or f"{message or 'no reason is told'}; its log says more"


def addresses() -> Iterator[str]:
    """Yield where Kubeflow's API may answer: the variable KUBEFLOW_API, the pod's namespace, Kubeflow's own."""
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
        patience: seconds to wait until the API knows the end of the last step.

    Returns:
        The line of :func:`sentence`, or None and why it is not known.
    """
    headers = {"Authorization": f"Bearer {TOKEN.read_text().strip()}"} if TOKEN.exists() else {}
    why = "no API was named"
    for address in addresses():
        until = time.monotonic() + patience
        try:
            with httpx.Client(base_url=address, headers=headers, timeout=10) as client:
                while True:
                    manifest, canceling = _manifest(client, run)
                    found = sentence(manifest, canceling)
                    if found is not None or time.monotonic() > until:
                        return found, f"{address} still says that the steps run"
                    time.sleep(2)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            why = f"{address}: {' '.join(str(error).split()) or type(error).__name__}"
    return None, why


def _manifest(client: httpx.Client, run: str) -> tuple[dict[str, Any], bool]:
    """Return the run's Argo workflow, and whether somebody has asked to cancel the run."""
    answer = client.get(f"/apis/v1beta1/runs/{run}").raise_for_status().json()
    manifest = json.loads(answer["pipeline_runtime"]["workflow_manifest"])
    history = client.get(f"/apis/v2beta1/runs/{run}").raise_for_status().json().get("state_history", [])
    states = [entry.get("state") for entry in history]
    begun = len(states) - 1 - states[::-1].index("RUNNING") if "RUNNING" in states else 0
    return manifest, "CANCELING" in states[begun:]


def ended(status: Status, facts: Mapping[str, str]) -> tuple[str, str]:
    """Return the end of a run as one line, and as Markdown with ``facts``.

    Args:
        status: what Kubeflow tells the exit handler.
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
