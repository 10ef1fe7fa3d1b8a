"""Argo Workflows for runs that the tests' server plays, with the nodes that the recorded servers had."""

from __future__ import annotations

import json
import zlib
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

STEPS = ("plan", "ingest", "validate", "preprocess", "train", "evaluate", "report", "register", "promote")
WORKFLOW = "lung-segmentation-x7k2p"
TEMPLATE = "metadata-0-2-retry-system-container-impl"
HANDLER = f"{WORKFLOW}(0).root(0).exit-handler-1"
ITERATION = ".for-loop-2(0).iteration-iterations(0:0)(0).iteration-item(0)"
FAILURE, STOPPED = "main: Error (exit code 1): the GPU ran out of memory\n", "main: Error (exit code 143)"
RECORDED = Path(__file__).with_name("recorded")


@cache
def recorded(case: str) -> Any:
    """Return what a real server answered of a run."""
    return json.loads((RECORDED / f"{case}.json").read_text())


def pod_of(step: str) -> str:
    """Return the name of a step's pod in a played run."""
    return f"{WORKFLOW}-{TEMPLATE}-{_number(f'{_group(step)}.{step}(0).executor(0)')}"


def workflow(run: dict[str, Any], done: int, phase: str, stopped: bool) -> dict[str, Any]:
    """Return the workflow of a run in which ``done`` steps have succeeded.

    Args:
        run: the run of the API.
        done: how many steps have succeeded.
        phase: Argo's phase of the step after them, for example Running or Failed; empty before anything started.
        stopped: whether the run was cancelled.
    """
    start = datetime.fromisoformat(run["created_at"])
    nodes: dict[str, dict[str, Any]] = {}

    def add(name: str, kind: str, template: str, phase: str, message: str = "", second: int = 0) -> None:
        began, ended = (start + timedelta(seconds=each) for each in (second, second + 1))
        node = {
            "id": f"{WORKFLOW}-{_number(name)}",
            "name": name,
            "displayName": name.rpartition(".")[2],
            "type": kind,
            "templateName": template,
            "phase": phase,
            "startedAt": _text(began),
            "finishedAt": None if phase in ("Running", "Pending") else _text(ended),
        }
        if message:
            node["message"] = message
        if kind == "Pod":
            node["hostNodeName"] = "node1"
        nodes[node["id"]] = node

    def step(group: str, name: str, phase: str, message: str = "", second: int = 0) -> None:
        add(f"{group}.{name}-driver", "Retry", "system-container-driver", "Succeeded", second=second)
        add(f"{group}.{name}-driver(0)", "Pod", "system-container-driver", "Succeeded", second=second)
        add(f"{group}.{name}", "Retry", "metadata-0-2-retry-system-container-executor", phase, second=second)
        add(f"{group}.{name}(0)", "DAG", "metadata-0-2-retry-system-container-executor", phase, second=second)
        add(f"{group}.{name}(0).executor", "Retry", TEMPLATE, phase, message, second)
        add(f"{group}.{name}(0).executor(0)", "Pod", TEMPLATE, phase, message, second)

    if phase:
        add(WORKFLOW, "Retry", "entrypoint", phase)
        add(HANDLER, "Retry", "comp-exit-handler-1", phase)
    for number, name in enumerate(STEPS):
        if number < done:
            step(_group(name), name, "Succeeded", second=2 * number)
        elif number == done and phase not in ("", "Succeeded"):
            message = {True: STOPPED, False: FAILURE}[stopped] if phase == "Failed" else ""
            step(_group(name), name, phase, message, second=2 * number)
        elif phase == "Failed" and name not in ("train", "evaluate"):
            add(f"{_group(name)}.{name}", "Skipped", "", "Omitted", "omitted: depends condition not met")
    if phase in ("Succeeded", "Failed"):
        step(f"{HANDLER}.onExit(0)", "outcome", "Succeeded", second=2 * len(STEPS))
    return {"metadata": {"name": WORKFLOW, "namespace": "kubeflow"}, "status": {"phase": phase, "nodes": nodes}}


def tasks(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the v2beta1 API's list of tasks: one for every node, and a task that never ran has no state."""
    states = {"Succeeded": "SUCCEEDED", "Running": "RUNNING", "Pending": "RUNNING", "Failed": "FAILED"}
    return [
        {
            "task_id": node["id"],
            "display_name": node["displayName"],
            "start_time": node["startedAt"],
            "end_time": node["finishedAt"] or "0001-01-01T00:00:00Z",
            **({"state": states[node["phase"]]} if node["phase"] in states else {}),
        }
        for node in manifest["status"]["nodes"].values()
    ]


def _group(step: str) -> str:
    return f"{HANDLER}(0)" + (ITERATION if step in ("train", "evaluate") else "")


def _number(name: str) -> int:
    return zlib.crc32(name.encode())


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
