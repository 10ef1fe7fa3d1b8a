"""Read the steps of a run from its Argo Workflow: one row for each step and cell, in the graph's order."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from core.cell import Cell
from core.params import Matrix
from pipelines.cluster import MERGES, STEPS

SUCCEEDED, CACHED, RUNNING, PENDING, FAILED = "SUCCEEDED", "CACHED", "RUNNING", "PENDING", "FAILED"
STARTING = "STARTING"  # Kubeflow's driver prepares the step's pod
RETRYING = "RETRYING"  # an attempt failed, and Argo waits before the next one
CANCELED, NOT_STARTED, NOT_RUN = "CANCELED", "NOT STARTED", "NOT RUN"
DONE = (SUCCEEDED, CACHED)

IN_ONE_POD = "train-and-evaluate"  # the step with one_pod_per_cell
IN_CELL = {"train", "evaluate", IN_ONE_POD}  # the steps of the loop over cells, if no node shows them yet
IN_SHARD = ("ingest-shard", "preprocess-shard")  # the steps of the loop over shards
# In a sharded graph these steps replace ingest and preprocess.
SHARDED: dict[str, tuple[str, ...]] = {"ingest": (*IN_SHARD, MERGES[0]), "preprocess": (MERGES[1],)}
IN_SHARDS = tuple(step for each in STEPS for step in SHARDED.get(each, (each,)))
ORDER = tuple(
    step
    for each in STEPS
    for step in ((each, *SHARDED[each]) if each in SHARDED else (IN_ONE_POD, each) if each == "train" else (each,))
)
# A node's name is its path in the graph. Kubeflow's default settings add "(attempt)" to every part.
_NODE = re.compile(r"\.(?P<step>[a-z0-9-]+?)(?P<driver>-driver)?(\(\d+\))?(?P<executor>\.executor)?(\(\d+\))?$")
_ITERATION = re.compile(r"\.iteration-iterations\((\d+):\d+\)")
_GROUPS = re.compile(r"^(root|iteration.*|executor|onExit|(for-loop|exit-handler|condition)-\d+.*)$")
# Messages of Argo's Retry nodes that say less than the message of the pod.
_RETRY_NODE = re.compile(r"^(No more retries left|retry exceeded workflow deadline|$)")
_DEADLINE = re.compile(r"exceeded (its|workflow) deadline")
_CONTAINER = re.compile(r"^\w+: (?P<kind>\w+) \(exit code (?P<code>\d+)\)(?:: (?P<text>.*))?$", re.DOTALL)
_POD_PATH = re.compile(r"^/(minio|s3|gcs)/\S*?: ")  # path in a deleted pod, omitted from reasons
SIGTERM = 143  # exit code after SIGTERM


@dataclass(frozen=True)
class Attempt:
    """One pod of a step. ``node`` is the Kubernetes node. Unknown times are None, unknown texts empty."""

    pod: str
    phase: str
    started: datetime | None
    ended: datetime | None
    node: str
    message: str


@dataclass(frozen=True)
class Row:
    """A step of a run; in the loop over cells, of one cell.

    Attributes:
        step: name of the component, such as ``train``.
        cell: ``network/scenario/seed-n``, or ``cell 3`` if the matrix is unknown; empty outside the loop over cells.
        state: one of the states of this module.
        reason: why it waits or failed, in the server's words without Argo's prefix.
        attempts: its pods, oldest first; empty for a cached step.
        shard: ``2/4``, or ``2`` if the number of shards is unknown; empty outside the loop over shards.
    """

    step: str
    cell: str
    state: str
    reason: str = ""
    attempts: tuple[Attempt, ...] = ()
    shard: str = ""

    @property
    def name(self) -> str:
        """The step with its cell or shard, such as ``train defu_net mixed seed 0`` or ``ingest-shard 2/4``."""
        return " ".join(filter(None, [self.step, self.shard, self.cell.replace("/seed-", " seed ").replace("/", " ")]))

    @property
    def started(self) -> datetime | None:
        """The start of its first pod."""
        return self.attempts[0].started if self.attempts else None

    @property
    def ended(self) -> datetime | None:
        """The end of its last pod; None while it runs."""
        return self.attempts[-1].ended if self.attempts else None


def nodes_of(manifest: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the nodes of a workflow, decompressed if Argo compressed them (above 1 MiB); None if it has none."""
    status = manifest.get("status") or {}
    if packed := status.get("compressedNodes"):
        status = {"nodes": json.loads(gzip.decompress(base64.b64decode(packed)))}
    nodes = status.get("nodes")
    return None if nodes is None else list(nodes.values())


def cells_of(parameters: Mapping[str, Any], spec: Mapping[str, Any]) -> list[str]:
    """Return the cells of a run's matrix in its order; empty if it is not a run of this pipeline.

    Args:
        parameters: the run's parameters.
        spec: the compiled pipeline with the defaults; may be empty.
    """
    declared = spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    text = parameters.get("matrix") or declared.get("matrix", {}).get("defaultValue")
    try:
        matrix = Matrix(**json.loads(text or ""))
    except (ValueError, TypeError):
        return []
    return [cell.folder.as_posix() for cell in Cell.every(matrix.networks, matrix.scenarios, matrix.seeds)]


def components_of(spec: Mapping[str, Any]) -> list[str]:
    """Return the names of a compiled pipeline's components; empty if the server omitted the specification."""
    return [name.removeprefix("comp-") for name in spec.get("components", ())]


def shards_of(spec: Mapping[str, Any]) -> list[str]:
    """Return the shards of a compiled pipeline, such as ``1/4`` to ``4/4``; empty if it has none."""
    for component in spec.get("components", {}).values():
        for task in component.get("dag", {}).get("tasks", {}).values():
            if raw := task.get("parameterIterator", {}).get("items", {}).get("raw"):
                return [str(item) for item in json.loads(raw)]
    return []


def steps_of(seen: Collection[str]) -> tuple[str, ...]:
    """Return the steps of the graph, sharded or not, that contains the ``seen`` steps."""
    return IN_SHARDS if {*IN_SHARD, *MERGES} & set(seen) else STEPS


def rows_of(
    manifest: Mapping[str, Any],
    cells: Sequence[str],
    ended: bool,
    cancelled: bool,
    components: Collection[str] = (),
    shards: Sequence[str] = (),
) -> list[Row] | None:
    """Return every step of the graph as a row, in the graph's order, including steps that never ran.

    Args:
        manifest: the Argo Workflow.
        cells: the cells of the run's matrix, in its order; may be empty.
        ended: whether the run has ended.
        cancelled: whether it was cancelled.
        components: names of the graph's components; empty if the server omitted the specification.
        shards: the run's shards in order; empty if it has none or the server omitted the specification.

    Returns:
        The rows, or None if the server omitted the nodes.
    """
    nodes = nodes_of(manifest)
    if nodes is None:
        return None
    found: dict[tuple[str, int | None], _Nodes] = {}
    for node in nodes:
        match, loop = _NODE.search(node["name"]), _ITERATION.search(node["name"])
        if match and not _GROUPS.match(match["step"]):
            kind = "driver" if match["driver"] else "executor" if match["executor"] else "task"
            key = match["step"], int(loop[1]) if loop else None
            getattr(found.setdefault(key, _Nodes()), kind).append(node)
    seen = {step for step, _ in found}
    looped = {step for step, number in found if number is not None} - set(IN_SHARD)
    loop_steps = looped | IN_CELL if looped & IN_CELL or not looped else looped
    there = seen | set(components or steps_of(seen))
    steps = [step for step in (*ORDER, *sorted(seen - set(ORDER))) if step in there]
    in_cell = [step for step in steps if step in loop_steps]
    count = _count(found, loop_steps, cells)
    parts = _count(found, IN_SHARD, shards)
    order: list[tuple[str, int | None]] = []
    for step in steps:
        if in_cell and step == in_cell[0]:  # cell by cell, each with all its steps
            order += [(each, number) for number in range(count) for each in in_cell]
        elif step in IN_SHARD:  # ingest of all shards, then preprocess of all shards
            order += [(step, number) for number in range(parts)]
        elif step not in loop_steps | IN_CELL:
            order.append((step, None))
    deadline = (manifest.get("spec") or {}).get("activeDeadlineSeconds")
    read = _Reader(manifest["metadata"]["name"], ended, cancelled, deadline)
    names = [*cells, *(f"cell {number + 1}" for number in range(len(cells), count))]
    names_of_shards = [*shards, *(f"{number + 1}" for number in range(len(shards), parts))]
    rows = []
    for step, number in order:
        its = found.get((step, number), _Nodes())
        if step in IN_SHARD and number is not None:
            rows.append(replace(read.row(step, "", its), shard=names_of_shards[number]))
        else:
            rows.append(read.row(step, "" if number is None else names[number], its))
    return rows


def _count(found: Mapping[tuple[str, int | None], _Nodes], steps: Collection[str], known: Sequence[str]) -> int:
    """Return the number of items of the loop over ``steps``: the known ones, or more if nodes show more."""
    return max([len(known), *(number + 1 for step, number in found if number is not None and step in steps)])


@dataclass
class _Nodes:
    """The nodes of one step: executor pods and their Retry nodes, driver nodes, and the group of both."""

    executor: list[dict[str, Any]] = field(default_factory=list)
    driver: list[dict[str, Any]] = field(default_factory=list)
    task: list[dict[str, Any]] = field(default_factory=list)

    def pods(self, nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the pods among the nodes, oldest first."""
        return sorted((node for node in nodes if node["type"] == "Pod"), key=lambda node: node["startedAt"] or "")


@dataclass(frozen=True)
class _Reader:
    workflow: str
    ended: bool
    cancelled: bool
    deadline: int | None

    def row(self, step: str, cell: str, nodes: _Nodes) -> Row:
        """Return the row of a step from all nodes that belong to it."""
        pods = nodes.pods(nodes.executor)
        attempts = tuple(self._attempt(node) for node in pods)
        if not pods:
            if any(node["type"] == node["phase"] == "Skipped" for node in nodes.executor):
                return Row(step, cell, CACHED)
            return Row(step, cell, *self._without_pod(nodes.pods(nodes.driver)))
        phase, message = pods[-1]["phase"], pods[-1].get("message") or ""
        if phase in ("Succeeded", "Running"):
            return Row(step, cell, phase.upper(), "", attempts)
        if phase == "Pending":
            return Row(step, cell, PENDING, reason(message), attempts)
        retries = [node for node in nodes.executor if node["type"] == "Retry"]
        if not self.ended and any(node["phase"] in ("Running", "Pending") for node in (*retries, *nodes.task)):
            return Row(step, cell, RETRYING, reason(message), attempts)
        # The Retry node has Argo's own errors, such as an invalid retry policy.
        above = [node.get("message") or "" for node in retries if node["phase"] == "Error"]
        argo = next((reason(text) for text in above if not _RETRY_NODE.match(text) and text != message), "")
        state, why = self._failed(message)
        return Row(step, cell, state, f"{argo}, after: {why}" if argo else why, attempts)

    def _without_pod(self, drivers: Sequence[dict[str, Any]]) -> tuple[str, str]:
        if not drivers:
            return (NOT_RUN if self.ended else NOT_STARTED), ""
        phase, message = drivers[-1]["phase"], drivers[-1].get("message") or ""
        if phase == "Pending":
            return PENDING, reason(message)
        if phase in ("Failed", "Error"):
            return self._failed(message)
        return (NOT_RUN, "") if self.ended else (STARTING, "")

    def _failed(self, message: str) -> tuple[str, str]:
        match = _CONTAINER.match(message)
        stopped = bool(_DEADLINE.search(message)) or (match is not None and int(match["code"]) == SIGTERM)
        if self.cancelled and stopped:
            return CANCELED, ""
        if stopped and self.deadline and _DEADLINE.search(message):
            return FAILED, f"the run had {self.deadline} s (run_timeout in cluster.yaml)"
        return FAILED, reason(message)

    def _attempt(self, node: dict[str, Any]) -> Attempt:
        # Argo's pod names: workflow, template, and the hash at the end of the node's id.
        pod = f"{self.workflow}-{node['templateName']}-{node['id'].rpartition('-')[2]}"
        host = node.get("hostNodeName") or ""
        times = _time(node.get("startedAt")), _time(node.get("finishedAt"))
        return Attempt(pod, node["phase"], *times, host, (node.get("message") or "").strip())


def reason(message: str) -> str:
    """Return the reason in a node's message, such as ``1 Insufficient nvidia.com/gpu``."""
    text = message.strip()
    if match := _CONTAINER.match(text):
        if match["text"]:
            return _POD_PATH.sub("", match["text"].strip())
        if match["kind"] != "Error":
            return match["kind"]  # such as OOMKilled
        return f"exit code {match['code']}, without a message"
    if "nodes are available: " in text:
        return text.partition("nodes are available: ")[2].split(". ")[0].rstrip(".")
    # Prefixes such as "task '...' errored: " and "CreateContainerConfigError: ".
    return re.sub(r"^(task '[^']*' errored|[A-Z][A-Za-z]+): ", "", text)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).astimezone(UTC) if text else None
