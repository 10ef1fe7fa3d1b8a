"""Simulate the nodes of a run in its Argo Workflow, modelled on recorded runs, for :mod:`pipelines.size`."""

from __future__ import annotations

import base64
import gzip
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pipelines.shape import IN_CELL, IN_CELL_AND_SHARD, IN_SHARD, SHARD_STEPS, shards_of
from pipelines.tasks import to_json

TEMPLATE = 2_000  # bytes of a step's template without the pod's patch
GO = 1.075  # size of the recorded nodes compressed by Go, relative to Python
SPEC = 37_000  # bytes of a recorded Workflow without its components, tasks and nodes
# The number of loops around a step, if there are any.
LOOPS = dict.fromkeys((*IN_CELL, *IN_SHARD), 1) | {IN_CELL_AND_SHARD: 2}
At = tuple[int, ...]  # a step's numbers in the loops around it, the outer loop's first
NAME = "lung-segmentation-xxxxx"
# Kubeflow's driver adds this to the metadata of every artifact of a stock installation.
SESSION = json.dumps(
    {
        "Provider": "minio",
        "Params": {
            "accessKeyKey": "accesskey",
            "disableSSL": "true",
            "endpoint": "seaweedfs.kubeflow:9000",
            "fromEnv": "false",
            "maxRetries": "5",
            "region": "minio",
            "secretKeyKey": "secretkey",
            "secretName": "mlpipeline-minio-artifact",
        },
    },
    separators=(",", ":"),
)
METADATA = {"display_name": "evaluation", "store_session_info": SESSION}
REFERENCE = to_json({"sha256": "0123456789abcdef", "changes": {"width": 0.125, "epochs": 100, "batch_size": 16}})
LAUNCHER = [
    "--pod_name",
    "$(KFP_POD_NAME)",
    "--pod_uid",
    "$(KFP_POD_UID)",
    "--ml_pipeline_server_address",
    "ml-pipeline.kubeflow.svc.cluster.local",
    "--ml_pipeline_server_port",
    "8887",
    "--mlmd_server_address",
    "metadata-grpc-service.kubeflow.svc.cluster.local",
    "--mlmd_server_port",
    "8080",
    "--publish_logs",
    "true",
    "--publish_logs",
    "true",
    "--",
]


@dataclass
class Run:
    """The nodes of one run."""

    spec: Mapping[str, Any]
    platform: Mapping[str, Any]
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    def measure(self, cells: list[str]) -> tuple[int, int, int]:
        """Return the bytes of the uncompressed nodes, of the Workflow and of the largest template."""
        self._random.seed(0)
        self._cells, self._largest = cells, 0
        self._shards, self._parts = (shards_of(self.spec, step) for step in SHARD_STEPS)
        self._run, self._places = self._uuid(), dict[tuple[str, At], str]()
        root = {"inputs": {}, "taskInfo": {"name": "root"}}
        nodes = {str(node["id"]): node for node in self._dag(f"{NAME}(0)", "root", root, self.spec["root"], ())}
        text = _text(nodes, sort=True).encode()
        compressed = len(base64.b64encode(gzip.compress(text, 6))) * GO
        parts = [*self.spec["components"].values(), *self._executors.values(), *self._kubernetes.values()]
        tasks = [task for part in [*parts, self.spec["root"]] for task in part.get("dag", {}).get("tasks", {}).values()]
        fixed = SPEC + sum(len(_text(_text(part))) for part in [*parts, *tasks, self.spec["root"]])
        return len(text), int(fixed + compressed), self._largest

    @property
    def _executors(self) -> dict[str, Any]:
        return {name: one["container"] for name, one in self.spec["deploymentSpec"]["executors"].items()}

    @property
    def _kubernetes(self) -> dict[str, Any]:
        return dict(self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"])

    def _uuid(self) -> str:
        return str(UUID(int=self._random.getrandbits(128)))

    def _dag(
        self, path: str, name: str, task: Any, component: Any, at: At, alone: bool = True
    ) -> Iterator[dict[str, Any]]:
        """Yield the nodes of a task that contains other tasks; for a loop, once per cell or shard."""
        given = {"component": component, "task": task, "task-name": name, "parent-dag-id": "205", "driver-type": "DAG"}
        yield from self._pair(f"{path}.{name}-driver", given, "system-dag-driver", pod=True)
        yield from self._pair(f"{path}.{name}", {"parent-dag-id": "205"}, f"comp-{name}")
        if "parameterIterator" in task and alone:
            bare = {key: value for key, value in task.items() if key != "taskInfo"}
            for number, _ in enumerate(self._items(task, at)):
                item = f"{path}.{name}(0).iteration-iterations({number}:{number})"
                yield from self._pair(item, {"parent-dag-id": "204", "iteration-index": str(number)}, "comp-iteration")
                yield from self._dag(f"{item}(0)", "iteration-item", bare, component, (*at, number), alone=False)
            return
        for inner, its in component["dag"]["tasks"].items():
            its_component = self.spec["components"][its["componentRef"]["name"]]
            if "dag" in its_component:
                yield from self._dag(f"{path}.{name}(0)", inner, its, its_component, at)
            else:
                yield from self._step(f"{path}.{name}(0)", inner, its, its_component, at)

    def _items(self, loop: Any, at: At) -> Sequence[str]:
        """Return the items of a loop: the cells, the shards, or the shards of a cell."""
        if "raw" not in loop["parameterIterator"]["items"]:
            return self._cells
        return self._parts if at else self._shards

    def _step(self, path: str, name: str, task: Any, component: Any, at: At) -> Iterator[dict[str, Any]]:
        """Yield the six nodes of a step."""
        label = component["executorLabel"]
        container, kubernetes = self._executors[label], self._kubernetes.get(label, {})
        patch = self._patch(name, task, component, container, kubernetes, at)
        self._largest = max(self._largest, len(_text(patch)) + TEMPLATE)
        driver = {"component": component, "task": task, "container": container, "task-name": name}
        driver |= {"parent-dag-id": "205", "iteration-index": "-1", "kubernetes-config": kubernetes}
        yield from self._pair(f"{path}.{name}-driver", driver, "system-container-driver", pod=True, made=patch)
        labels = kubernetes.get("podMetadata", {}).get("labels", {})
        retries = {f"retry-{key}": str(value) for key, value in task.get("retryPolicy", {}).items()}
        marked = {f"pod-metadata-label-key-{n}": text for n, text in enumerate([*labels, *labels.values()])}
        own = {"pod-spec-patch": patch, **marked, **retries}
        template = "metadata-0-2-retry-system-container-"
        yield from self._pair(f"{path}.{name}", own | {"cached-decision": "false"}, template + "executor")
        yield from self._pair(f"{path}.{name}(0).executor", own, template + "impl", pod=True)

    def _pair(
        self, name: str, given: Mapping[str, Any], template: str, pod: bool = False, made: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Yield the retry node of a template and the node of its one attempt."""
        inputs = [
            {"name": key, "value": value if isinstance(value, str) else _text(value)} for key, value in given.items()
        ]
        outputs: dict[str, Any] = {}
        if pod:
            key = f"private-artifacts/kubeflow/{NAME}/2026/11/29/{NAME}-{template}-{self._number()}/main.log"
            outputs = {"artifacts": [{"name": "main-logs", "s3": {"key": key}}], "exitCode": "0"}
            if "driver" in template:
                values = {"pod-spec-patch": made, "cached-decision": "false", "condition": "nil"}
                outputs["parameters"] = [
                    {"name": key, "value": value, "valueFrom": {"path": f"/tmp/outputs/{key}", "default": "false"}}  # noqa: S108
                    for key, value in values.items()
                ]
        ids = [f"{NAME}-{self._number()}" for _ in range(3)]
        for number, (full, kind) in enumerate(((name, "Retry"), (f"{name}(0)", "Pod" if pod else "DAG"))):
            yield {
                "id": ids[number],
                "name": full,
                "displayName": full.rpartition(".")[2],
                "type": kind,
                "templateName": template,
                "templateScope": f"local/{NAME}",
                "phase": "Succeeded",
                "boundaryID": ids[2],
                "startedAt": f"2026-11-29T05:{self._random.randrange(60):02}:{self._random.randrange(60):02}Z",
                "finishedAt": f"2026-11-29T05:{self._random.randrange(60):02}:{self._random.randrange(60):02}Z",
                "progress": "1/1",
                "resourcesDuration": {"cpu": self._random.randrange(99), "memory": self._random.randrange(999)},
                "inputs": {"parameters": inputs},
                "outputs": outputs,
                "children": [f"{NAME}-{self._number()}" for _ in range(1 if number or pod else 2)],
                **(
                    {"hostNodeName": "node1", "taskResultSynced": True, "nodeFlag": {"retried": True}} if number else {}
                ),
            }

    def _number(self) -> int:
        return self._random.getrandbits(32)

    def _patch(
        self, name: str, task: Any, component: Any, container: Any, kubernetes: Mapping[str, Any], at: At
    ) -> str:
        """Return the patch of a step's pod, as Kubeflow's driver writes it."""
        logs = {"executor-logs": {"artifactType": {"schemaTitle": "system.Artifact"}}}
        command = ["/kfp-launcher/launch", "--pipeline_name", "lung-segmentation", "--run_id", self._run]
        command += ["--execution_id", str(self._random.randrange(9999)), "--executor_input"]
        command += [
            _text(self._input(name, task, component, at)),
            "--component_spec",
            _text(component | logs),
            *LAUNCHER,
        ]
        references = [
            {"name": entry["envVar"], "valueFrom": {f"{kind}KeyRef": {"name": one[name_key], "key": entry[key]}}}
            for kind, name_key, key in (
                ("secret", "secretName", "secretKey"),
                ("configMap", "configMapName", "configMapKey"),
            )
            for one in kubernetes.get(f"{kind}AsEnv", ())
            for entry in one["keyToEnv"]
        ]
        main = {
            "name": "main",
            "image": container["image"],
            "command": command,
            "args": [*container.get("command", ()), *container.get("args", ())],
            "env": [*container.get("env", ()), *references],
            "resources": {
                kind: {"cpu": container["resources"].get(f"resourceCpu{part}"), "memory": "32Gi"}
                for kind, part in (("limits", "Limit"), ("requests", "Request"))
                if "resources" in container
            },
            "volumeMounts": [*kubernetes.get("pvcMount", ()), *kubernetes.get("emptyDirMounts", ())],
            "imagePullPolicy": "IfNotPresent",
        }
        rest = {
            key: kubernetes[key]
            for key in ("tolerations", "nodeSelector", "activeDeadlineSeconds")
            if key in kubernetes
        }
        return _text({"volumes": main["volumeMounts"], "containers": [main], **rest})

    def _input(self, name: str, task: Any, component: Any, at: At) -> dict[str, Any]:
        """Return the executor input of a step."""
        values = {key: self._value(source, at) for key, source in task["inputs"].get("parameters", {}).items()}
        artifacts = {}
        for key, source in task.get("inputs", {}).get("artifacts", {}).items():
            listed = component["inputDefinitions"]["artifacts"][key].get("isArtifactList")
            places = [(*at, number) for number, _ in enumerate(self._collected(source))] if listed else [at]
            artifacts[key] = {"artifacts": [self._artifact(source, each) for each in places]}
        place = f"minio://mlpipeline/v2/artifacts/lung-segmentation/{self._run}/{name}/{self._place(name, at)}"
        outputs = component.get("outputDefinitions", {})
        made_here = {
            key: {"artifacts": [{"name": key, "type": kind["artifactType"], "uri": f"{place}/{key}"}]}
            for key, kind in {**outputs.get("artifacts", {}), "executor-logs": {"artifactType": {}}}.items()
        }
        told = {key: {"outputFile": f"/kfp/outputs/{key}"} for key in outputs.get("parameters", {})}
        output_file = f"/{place.replace('://', '/')}/output_metadata.json"
        return {
            "inputs": {"artifacts": artifacts, "parameterValues": values},
            "outputs": {"artifacts": made_here, "parameters": told, "outputFile": output_file},
        }

    def _collected(self, source: Mapping[str, Any]) -> Sequence[str]:
        """Return the items of the loop whose outputs a step collects."""
        key = source["taskOutputArtifact"]["outputArtifactKey"].removeprefix("pipelinechannel--")
        if key.startswith(IN_CELL_AND_SHARD):
            return self._parts
        return self._shards if key.startswith(IN_SHARD) else self._cells

    def _artifact(self, source: Mapping[str, Any], at: At) -> dict[str, Any]:
        """Return an artifact of an earlier step, with a different address for every cell and shard."""
        if "taskOutputArtifact" in source:
            made = source["taskOutputArtifact"]
            step, name = made["producerTask"], made["outputArtifactKey"].rpartition("--")[2]
            step = step if step == name or "-" not in name else name.rpartition("-")[0]
        else:
            step, _, name = source["componentInputArtifact"].removeprefix("pipelinechannel--").rpartition("-")
        name = name.rpartition("-")[2]
        uri = f"minio://mlpipeline/v2/artifacts/lung-segmentation/{self._run}/{step}/{self._place(step, at)}/{name}"
        return {"name": str(self._number() % 10000), "uri": uri, "metadata": METADATA}

    def _place(self, step: str, at: At) -> str:
        return self._places.setdefault((step, at[: LOOPS.get(step, 0)]), self._uuid())

    def _value(self, source: Mapping[str, Any], at: At) -> Any:
        """Return the value of a step's argument: the pipeline's default, or one like an earlier step's output."""
        if "runtimeValue" in source:
            return source["runtimeValue"].get("constant")
        if "taskFinalStatus" in source:
            return {"state": "COMPLETE", "pipelineTaskName": "exit-handler-1", "pipelineJobResourceName": self._run}
        given = source.get("componentInputParameter") or source["taskOutputParameter"]["outputParameterKey"]
        given = given.removeprefix("pipelinechannel--").removeprefix("plan-")
        defaults = self.spec["root"]["inputDefinitions"]["parameters"]
        if given in ("Output", "Output-loop-item"):
            return self._cells if given == "Output" else self._cells[at[0]]
        if given.startswith("loop-item-param-"):
            return self._shards[at[0]] if len(at) == 1 else self._parts[at[1]]
        if given == "params":
            return to_json({name: one.get("defaultValue", "") for name, one in defaults.items()})
        if given in ("training", "scoring"):
            return REFERENCE
        return defaults.get(given, {}).get("defaultValue", "like s3://bucket/prefix")


def _text(value: Any, sort: bool = False) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=sort)
