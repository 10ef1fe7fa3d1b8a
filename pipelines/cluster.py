"""Typed and validated settings of ``pipelines/cluster.yaml``: the cluster resources of each step.

Names, labels and amounts must follow Kubernetes' rules. A mistake is reported before submission, not hours later by a
pod that never starts.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import Field, model_validator

from core.errors import UserError
from core.params import check_section, read_yaml
from core.shard import MOST
from model.training.recipe import Section
from pipelines.rules import (
    CpuAmount,
    Folder,
    ImageName,
    Key,
    LabelValue,
    MemoryAmount,
    Name,
    Place,
    QueueName,
    Seconds,
    Variable,
    cores,
    mebibytes,
)

CLUSTER = Path("pipelines/cluster.yaml")

StepName = Literal[
    "plan",
    "ingest",
    "validate",
    "preprocess",
    "train",
    "evaluate",
    "gather",
    "report",
    "register",
    "promote",
    "outcome",
    "merge-cohort",
    "merge-arrays",
    "merge-evaluation",
]
MERGES = ("merge-cohort", "merge-arrays", "merge-evaluation")  # the merge steps of a sharded graph
STEPS: tuple[StepName, ...] = tuple(name for name in get_args(StepName) if name not in MERGES)
TAKES: dict[str, tuple[StepName, ...]] = {
    "train-and-evaluate": ("train", "evaluate"),
    "ingest-shard": ("ingest",),
    "preprocess-shard": ("preprocess",),
    "evaluate-shard": ("evaluate",),
    "merge-evaluation": ("merge-evaluation", "evaluate"),  # it logs to MLflow
}
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def settings_of(step: str) -> tuple[StepName, ...]:
    """Return the steps whose settings a step of the graph uses: resources of the first, variables of all."""
    return TAKES.get(step, cast(tuple[StepName, ...], (step,)))


class Cpu(Section):
    """CPU cores: the scheduler reserves ``request``; above ``limit`` the container is throttled."""

    request: CpuAmount
    limit: CpuAmount

    @model_validator(mode="after")
    def _request_within_limit(self) -> Cpu:
        if not 0 < cores(self.request) <= cores(self.limit):
            raise ValueError(f"the request, {self.request}, must be above 0 and not above the limit, {self.limit}")
        return self


class Memory(Section):
    """Memory: the scheduler reserves ``request``; above ``limit`` the container is killed."""

    request: MemoryAmount
    limit: MemoryAmount

    @model_validator(mode="after")
    def _request_within_limit(self) -> Memory:
        if mebibytes(self.request) > mebibytes(self.limit):
            raise ValueError(f"the request, {self.request}, must not be above the limit, {self.limit}")
        return self


class Gpus(Section):
    """GPUs of a container; training runs one process per GPU."""

    resource: Key = Field(description="what the nodes' device plugin calls them")
    count: Annotated[int, Field(ge=0, le=16)]


class Toleration(Section):
    """A Kubernetes toleration; ``seconds`` is Kubernetes' ``tolerationSeconds``."""

    key: Key | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    seconds: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Toleration:
        if self.key is None and self.operator == "Equal":
            raise ValueError("without a key the operator must be Exists")
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("with the operator Exists there is no value")
        if self.seconds is not None and self.effect != "NoExecute":
            raise ValueError("seconds go with the effect NoExecute alone")
        return self


class Retries(Section):
    """Retry policy of a step."""

    count: Annotated[int, Field(ge=0, le=100)] = Field(description="attempts after the first; 0: none")
    wait: Annotated[int, Field(ge=0)] = Field(description="seconds before the second attempt")
    # Argo parses the factor as an integer: 1.5 would fail the run.
    factor: Annotated[int, Field(ge=1, le=10)] = Field(description="by which each later wait is longer, a whole number")
    within: Seconds = Field(description="seconds from the first attempt's start; Argo ends the task then")

    def needs(self, timeout: int) -> float:
        """Return the total seconds of all attempts and waits if every attempt takes ``timeout`` seconds."""
        return (self.count + 1) * timeout + sum(self.wait * float(self.factor) ** n for n in range(self.count))


class Volume(Section):
    """A PersistentVolumeClaim and its mount path."""

    claim: Name
    path: Folder


class Step(Section):
    """Resources of one step; a missing key defaults to ``every_step``, then to Kubernetes' default."""

    cpu: Cpu | None = None
    memory: Memory | None = None
    gpus: Gpus | None = None
    node_selector: dict[Key, LabelValue] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)
    shared_memory: MemoryAmount | None = Field(None, description="size of /dev/shm; counts as memory of the container")
    volumes: list[Volume] = Field(default_factory=list)
    retries: Retries | None = None
    nodes: Annotated[int, Field(ge=1, le=64)] = Field(1, description="of a training; several are a TrainJob's")
    timeout: Seconds | None = Field(None, description="seconds of one attempt, from the moment its node is found")


class Variables(Section):
    """Environment variables from a Secret or a ConfigMap in the run's namespace."""

    name: Name
    variables: dict[Variable, Annotated[str, Field(pattern=r"^[-._A-Za-z0-9]+$", max_length=253)]] = Field(
        description="the variable, and the key that holds its value", min_length=1
    )
    steps: Annotated[list[StepName], Field(min_length=1)] = Field(description="which get them, and no others")
    optional: bool = Field(False, description="start without what is missing; else the pod waits for it")


class Cluster(Section):
    """All settings of ``cluster.yaml``."""

    image: ImageName
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"]
    image_pull_secrets: list[Name]
    service_account: Name | None = Field(description="of the steps' pods; the client submits with it")
    labels: dict[Key, LabelValue] = Field(description="of every step's pod, for cost reports")
    queue: QueueName | None = Field(None, description="Kueue's LocalQueue of every step's pod; null: no queue")
    parallelism: Annotated[int, Field(ge=1)] = Field(
        description="cells that are trained or evaluated at a time, and shards that are read or preprocessed"
    )
    shards: Annotated[int, Field(ge=1, le=MOST)] = Field(1, description="parts of ingest and preprocess; 1: no parts")
    evaluate_shards: Annotated[int, Field(ge=1, le=MOST)] = Field(
        1, description="parts of evaluate of each cell; 1: no parts"
    )
    one_pod_per_cell: bool = Field(False, description="train and evaluate a cell in one pod, with what train asks")
    run_timeout: Seconds | None = Field(description="seconds of the whole run; null: no end")
    checkpoints: Place | None = Field(description="default of the pipeline's parameter of that name")
    secrets: list[Variables]
    config_maps: list[Variables]
    every_step: Step
    steps: dict[StepName, Step]

    @property
    def digest(self) -> str:
        """The digest in the image's name, ``sha256:...``; empty if the name has only a tag."""
        return self.image.partition("@")[2]

    @property
    def pod_labels(self) -> dict[str, str]:
        """All labels of a step's pod: ``labels`` and Kueue's label of the queue."""
        return self.labels | ({QUEUE_LABEL: self.queue} if self.queue else {})

    def step(self, name: StepName) -> Step:
        """Return the settings of a step: its own keys override ``every_step``."""
        own = self.steps.get(name)
        return self.every_step if own is None else self.every_step.model_copy(update=_set_keys(own))


def _set_keys(step: Step) -> dict[str, Any]:
    return {key: getattr(step, key) for key in step.model_fields_set}


def read_cluster(path: Path = CLUSTER) -> Cluster:
    """Read and validate ``cluster.yaml``; raises a UserError that lists every mistake."""
    if not path.is_file():
        raise UserError(f"{path}: not found; run from the project's folder or pass --cluster FILE")
    return check_cluster(read_yaml(path), str(path))


def check_cluster(values: Any, origin: str) -> Cluster:
    """Return ``values`` as typed settings; raises a UserError that lists every wrong key."""
    cluster = check_section(Cluster, values, origin)
    problems = [*_duplicates(cluster), *_clashes("every_step", cluster.every_step, set(Step.model_fields))]
    for name, own in cluster.steps.items():
        problems += _clashes(f"steps.{name}", cluster.step(name), own.model_fields_set)
    if cluster.queue and QUEUE_LABEL in cluster.labels:
        problems.append(f"labels.{QUEUE_LABEL}: the key queue sets this label; remove one of them")
    problems += [
        f"{where}.nodes: only train has several nodes"
        for where, step in [("every_step", cluster.every_step), *((f"steps.{n}", s) for n, s in cluster.steps.items())]
        if step.nodes > 1 and where != "steps.train"
    ]
    if cluster.step("train").nodes > 1 and cluster.one_pod_per_cell:
        problems.append("one_pod_per_cell: not with steps.train.nodes; evaluate would run in the pod that only follows")
    if cluster.evaluate_shards > 1 and cluster.one_pod_per_cell:
        problems.append("evaluate_shards: not with one_pod_per_cell, whose pod evaluates the whole cell; remove one")
    if cluster.step("train").nodes > 1 and not cluster.checkpoints:
        problems.append("steps.train.nodes: several nodes need checkpoints, in S3 or on a volume that all of them see")
    paths = [volume.path for volume in cluster.step("train").volumes]
    folder = cluster.checkpoints or ""
    if folder.startswith("/") and not any(PurePosixPath(folder).is_relative_to(path) for path in paths):
        problems.append(f"checkpoints: {folder} is on no volume of train, so that no other attempt would find it")
    if problems:
        raise UserError(f"{origin}: {len(problems)} value(s) to correct", problems)
    return cluster


def _duplicates(cluster: Cluster) -> list[str]:
    """Return the problems of variables that a step would get from two sources: their precedence is undefined."""
    clashes: dict[tuple[str, str, str], list[str]] = {}
    given: dict[tuple[StepName, str], str] = {}
    for kind, references in (("secrets", cluster.secrets), ("config_maps", cluster.config_maps)):
        for number, reference in enumerate(references):
            steps = list(reference.steps)
            if "evaluate" in steps and "merge-evaluation" not in steps and cluster.evaluate_shards > 1:
                steps.append("merge-evaluation")  # takes the variables of evaluate
            for step, variable in product(steps, reference.variables):
                where = f"{kind}.{number}"
                first = given.setdefault((step, variable), where)
                if first != where:
                    clashes.setdefault((where, variable, first), []).append(step)
    return [
        f"{where}.variables.{variable}: {first} gives it to {' and '.join(steps)} already"
        for (where, variable, first), steps in clashes.items()
    ]


def _clashes(where: str, step: Step, changed: set[str]) -> list[str]:
    """Return the problems of contradictory keys, if at least one of them is in ``changed``."""
    problems = []
    if changed & {"shared_memory", "memory"} and step.shared_memory and step.memory:
        limit = step.memory.limit
        if mebibytes(step.shared_memory) >= mebibytes(limit):
            problems.append(f"{where}.shared_memory: must be below memory.limit, {limit}, of which it is a part")
    if changed & {"retries", "timeout"} and step.retries and step.retries.count:
        if step.timeout is None:
            problems.append(f"{where}.timeout: must be given where there are retries")
        elif (least := step.retries.needs(step.timeout)) > step.retries.within:
            problems.append(f"{where}.retries.within: must be {least:.0f} or more, or the last attempts never come")
    for key in ("path", "claim"):
        values = [getattr(volume, key) for volume in step.volumes]
        if "volumes" in changed and len(set(values)) < len(values):
            problems.append(f"{where}.volumes: two have the same {key}")
    return problems
