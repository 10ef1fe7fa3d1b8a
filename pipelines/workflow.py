"""Read the steps of a run from its Argo Workflow: one row for each step and cell, in the graph's order."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from pipelines.shape import IN_CELL, IN_CELL_AND_SHARD, IN_SHARD, ORDER, Shape, steps_of

SUCCEEDED, CACHED, RUNNING, PENDING, FAILED = "SUCCEEDED", "CACHED", "RUNNING", "PENDING", "FAILED"
STARTING = "STARTING"  # Kubeflow's driver prepares the step's pod
RETRYING = "RETRYING"  # an attempt failed, and Argo waits before the next one
CANCELED, NOT_STARTED, NOT_RUN = "CANCELED", "NOT STARTED", "NOT RUN"
DONE = (SUCCEEDED, CACHED)

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
        shard: ``2/4``, or ``2`` if the number of shards is unknown; empty outside a loop over shards.
    """

    step: str
    cell: str
    state: str
    reason: str = ""
    attempts: tuple[Attempt, ...] = ()
    shard: str = ""

    @property
    def name(self) -> str:
        """The step with its shard and cell, such as ``evaluate-shard 2/4 defu_net mixed seed 0``."""
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


def rows_of(manifest: Mapping[str, Any], shape: Shape, ended: bool, cancelled: bool) -> list[Row] | None:
    """Return every step of the graph as a row, in the graph's order, including steps that never ran.

    Args:
        manifest: the Argo Workflow.
        shape: the run's cells, components and shards, as far as they are known.
        ended: whether the run has ended.
        cancelled: whether it was cancelled.

    Returns:
        The rows, or None if the server omitted the nodes.
    """
    nodes = nodes_of(manifest)
    if nodes is None:
        return None
    found: dict[_Key, _Nodes] = {}
    for node in nodes:
        match = _NODE.search(node["name"])
        if match and not _GROUPS.match(match["step"]):
            kind = "driver" if match["driver"] else "executor" if match["executor"] else "task"
            loops = tuple(map(int, _ITERATION.findall(node["name"])))
            key = match["step"], loops[: 2 if match["step"] == IN_CELL_AND_SHARD else 1]
            getattr(found.setdefault(key, _Nodes()), kind).append(node)
    deadline = (manifest.get("spec") or {}).get("activeDeadlineSeconds")
    read = _Reader(manifest["metadata"]["name"], ended, cancelled, deadline)
    return [
        replace(read.row(key[0], cell, found.get(key, _Nodes())), shard=shard)
        for key, cell, shard in _order(set(found), shape)
    ]


_Key = tuple[str, tuple[int, ...]]  # a step, and its numbers in the loops around it, the outer loop's first


def _order(found: Collection[_Key], shape: Shape) -> Iterator[tuple[_Key, str, str]]:
    """Yield every row's step with its numbers in the loops, its cell and its shard, in the graph's order."""
    seen = {step for step, _ in found}
    looped = {step for step, numbers in found if numbers} - set(IN_SHARD)
    loop_steps = looped | IN_CELL if looped & IN_CELL or not looped else looped
    there = seen | set(shape.components or steps_of(seen))
    steps = [step for step in (*ORDER, *sorted(seen - set(ORDER))) if step in there]
    in_cell = [step for step in steps if step in loop_steps]
    cells = _items(shape.cells, "cell ", {numbers[0] for step, numbers in found if numbers and step in loop_steps})
    shards = _items(shape.shards, "", {numbers[0] for step, numbers in found if numbers and step in IN_SHARD})
    parts = _items(shape.evaluate_shards, "", {numbers[1] for _, numbers in found if len(numbers) > 1})
    for step in steps:
        if in_cell and step == in_cell[0]:  # cell by cell, each with all its steps
            for number, cell in enumerate(cells):
                for each in in_cell:
                    if each == IN_CELL_AND_SHARD:
                        yield from (((each, (number, part)), cell, shard) for part, shard in enumerate(parts))
                    else:
                        yield (each, (number,)), cell, ""
        elif step in IN_SHARD:  # ingest of all shards, then preprocess of all shards
            yield from (((step, (number,)), "", shard) for number, shard in enumerate(shards))
        elif step not in loop_steps | IN_CELL:
            yield (step, ()), "", ""


def _items(known: Sequence[str], title: str, seen: Collection[int]) -> list[str]:
    """Return the names of a loop's items: the known ones, and ``title`` and a number for further ones with nodes."""
    return [*known, *(f"{title}{number + 1}" for number in range(len(known), max(seen, default=-1) + 1))]


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
