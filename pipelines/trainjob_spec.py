"""Build the TrainJob of multi-node training, as plain values, from the cluster settings."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any

from core.cell import Cell
from pipelines.cluster import Cluster
from pipelines.rules import cores

JOB = "TRAIN_JOB"  # variable of the train step with the TrainJob's settings as JSON
RUN = "KUBEFLOW_RUN_ID"
RUNTIME = "lung-segmentation-train"  # the TrainingRuntime in pipelines/manifests/training-runtime.yaml


def settings(cluster: Cluster, image: str) -> dict[str, Any]:
    """Return the settings that the train step needs for a TrainJob, as plain values, from the cluster settings."""
    asked = cluster.step("train")
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    for name, amount in (("cpu", asked.cpu), ("memory", asked.memory)):
        if amount:
            requests[name], limits[name] = amount.request, amount.limit
    processes = max(1, asked.gpus.count if asked.gpus else 1)
    if asked.gpus and asked.gpus.count:
        requests[asked.gpus.resource] = limits[asked.gpus.resource] = str(asked.gpus.count)
    env: list[dict[str, Any]] = []
    for kind, references in (("secretKeyRef", cluster.secrets), ("configMapKeyRef", cluster.config_maps)):
        for reference in references:
            if "train" in reference.steps:
                env += [
                    {
                        "name": variable,
                        "valueFrom": {kind: {"name": reference.name, "key": key, "optional": reference.optional}},
                    }
                    for variable, key in reference.variables.items()
                ]
    if asked.cpu:
        # By default torchrun gives each of several processes one thread, whatever the CPU limit.
        threads = max(1, int(cores(asked.cpu.limit)) // processes)
        env.append({"name": "OMP_NUM_THREADS", "value": str(threads)})
    return {
        "nodes": asked.nodes,
        "processes": processes,
        "image": image,
        "labels": cluster.pod_labels,
        "resources": {"requests": requests, "limits": limits},
        "env": env,
    }


def job_name(cell: Cell, run: str) -> str:
    """Return the TrainJob's name: equal for every attempt of a step, and short enough for its pods' names."""
    words = re.sub(r"[^a-z0-9]+", "-", f"train-{cell.network}-{cell.scenario}-{cell.seed}".lower())
    return f"{words[:36].strip('-')}-{hashlib.sha256(f'{run} {cell.folder}'.encode()).hexdigest()[:8]}"


def train_job(name: str, asked: dict[str, Any], command: list[str], arguments: list[str]) -> dict[str, Any]:
    """Return the TrainJob's object for the Kubernetes API.

    Args:
        name: see :func:`job_name`.
        asked: see :func:`settings`.
        command: command of each pod's container.
        arguments: arguments of the command.
    """
    metadata: dict[str, Any] = {"name": name, "labels": asked["labels"]}
    if (pod := os.environ.get("KFP_POD_NAME")) and (uid := os.environ.get("KFP_POD_UID")):
        # If the step is killed, Kubernetes deletes the TrainJob together with the step's pod.
        metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}]
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": {
            "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": RUNTIME},
            "trainer": {
                "image": asked["image"],
                "command": command,
                "args": arguments,
                "numNodes": asked["nodes"],
                "numProcPerNode": asked["processes"],
                "resourcesPerNode": asked["resources"],
                "env": asked["env"],
            },
        },
    }
