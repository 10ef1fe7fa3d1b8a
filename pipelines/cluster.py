"""``pipelines/cluster.yaml``: what the steps ask of a cluster, typed and bounded, so that the graph names none of it.

Names, labels and amounts are held to Kubernetes' own rules here, where a mistake is told before anything is submitted,
and not hours later by a pod that never starts.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from components.errors import UserError
from components.params import check_section, read_yaml
from model.recipe import Section

CLUSTER = Path("pipelines/cluster.yaml")

StepName = Literal[
    "plan", "ingest", "validate", "preprocess", "train", "evaluate", "report", "register", "promote", "outcome"
]
STEPS: tuple[StepName, ...] = get_args(StepName)

# A DNS subdomain, as Kubernetes wants the names of Secrets, ConfigMaps, claims and service accounts.
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
# A label's key, or a resource's: an optional DNS subdomain, a slash, up to 63 characters.
Key = Annotated[
    str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Folder = Annotated[str, Field(pattern=r"^/[^:\s]*[^:\s/]$")]
Seconds = Annotated[int, Field(ge=1, le=2**31 - 1)]
CpuAmount = Annotated[str, Field(pattern=r"^([1-9][0-9]*m|[0-9]+(\.[0-9]+)?)$")]
# Powers of 1024 alone: kfp takes "K" and Kubernetes "k".
MemoryAmount = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Mi|Gi|Ti)$")]


def cores(amount: str) -> float:
    """Return a CPU amount, ``500m`` or ``0.5``, in cores."""
    return int(amount[:-1]) / 1000 if amount.endswith("m") else float(amount)


def mebibytes(amount: str) -> int:
    """Return a memory amount, such as ``4Gi``, in MiB."""
    return int(amount[:-2]) * 1024 ** ("Mi", "Gi", "Ti").index(amount[-2:])


class Cpu(Section):
    """Cores: ``request`` is what the scheduler keeps free, ``limit`` where the container is slowed down."""

    request: CpuAmount
    limit: CpuAmount

    @model_validator(mode="after")
    def _ascend(self) -> Cpu:
        if not 0 < cores(self.request) <= cores(self.limit):
            raise ValueError(f"the request, {self.request}, must be above 0 and not above the limit, {self.limit}")
        return self


class Memory(Section):
    """Memory: ``request`` is what the scheduler keeps free, ``limit`` where the container is killed."""

    request: MemoryAmount
    limit: MemoryAmount

    @model_validator(mode="after")
    def _ascend(self) -> Memory:
        if mebibytes(self.request) > mebibytes(self.limit):
            raise ValueError(f"the request, {self.request}, must not be above the limit, {self.limit}")
        return self


class Gpus(Section):
    """GPUs of a container; a training takes one process for each."""

    resource: Key = Field(description="what the nodes' device plugin calls them")
    count: Annotated[int, Field(ge=0, le=16)]


class Toleration(Section):
    """Lets pods onto nodes with a taint; the fields and their rules are those of Kubernetes."""

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
    """How often a failed attempt is followed by another, and when."""

    count: Annotated[int, Field(ge=0, le=100)] = Field(description="attempts after the first; 0: none")
    wait: Annotated[int, Field(ge=0)] = Field(description="seconds before the second attempt")
    factor: Annotated[float, Field(ge=1, le=10)] = Field(description="by which each later wait is longer")
    within: Seconds = Field(description="seconds from the first attempt's start; Argo ends the task then")

    def needs(self, timeout: int) -> float:
        """Return the seconds that all attempts and waits take when every attempt ends at its timeout (seconds)."""
        return (self.count + 1) * timeout + sum(self.wait * self.factor**n for n in range(self.count))


class Volume(Section):
    """A PersistentVolumeClaim that is mounted into the step."""

    claim: Name
    path: Folder


class Step(Section):
    """What one step asks for. What is left out is what ``every_step`` says, and else Kubernetes' default."""

    cpu: Cpu | None = None
    memory: Memory | None = None
    gpus: Gpus | None = None
    node_selector: dict[Key, LabelValue] = {}
    tolerations: list[Toleration] = []
    shared_memory: MemoryAmount | None = Field(None, description="size of /dev/shm; counts as memory of the container")
    volumes: list[Volume] = []
    retries: Retries | None = None
    timeout: Seconds | None = Field(None, description="seconds of one attempt, from the moment its node is found")


class Variables(Section):
    """Environment variables whose values lie in a Secret or a ConfigMap of the run's namespace."""

    name: Name
    variables: dict[Variable, Annotated[str, Field(pattern=r"^[-._A-Za-z0-9]+$", max_length=253)]] = Field(
        description="the variable, and the key that holds its value", min_length=1
    )
    steps: Annotated[list[StepName], Field(min_length=1)] = Field(description="which get them, and no others")
    optional: bool = Field(False, description="start without what is missing; else the pod waits for it")


class Cluster(Section):
    """The whole of ``cluster.yaml``."""

    image: Annotated[str, Field(pattern=r"^[A-Za-z0-9][^\s]*$")]
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"]
    image_pull_secrets: list[Name]
    service_account: Name | None = Field(description="of the steps' pods; the client submits with it")
    labels: dict[Key, LabelValue] = Field(description="of every step's pod, for cost reports")
    parallelism: Annotated[int, Field(ge=1)] = Field(description="cells that are trained or evaluated at a time")
    run_timeout: Seconds | None = Field(description="seconds of the whole run; null: no end")
    checkpoints: Folder | None = Field(description="default of the pipeline's parameter of that name")
    secrets: list[Variables]
    config_maps: list[Variables]
    every_step: Step
    steps: dict[StepName, Step]

    @property
    def digest(self) -> str:
        """The digest that the image's name pins, ``sha256:...``; empty where it is a tag that may move."""
        return self.image.partition("@")[2]

    def step(self, name: StepName) -> Step:
        """Return what a step asks for: its own keys over those of ``every_step``."""
        own = self.steps.get(name)
        return self.every_step if own is None else self.every_step.model_copy(update=_set_keys(own))


def _set_keys(step: Step) -> dict[str, Any]:
    return {key: getattr(step, key) for key in step.model_fields_set}


def read_cluster(path: Path = CLUSTER) -> Cluster:
    """Read and check ``cluster.yaml``; a :class:`UserError` lists every mistake in it, one a line."""
    if not path.is_file():
        raise UserError(f"{path}: not found; run from the project's folder or say --cluster FILE")
    return check_cluster(read_yaml(path), str(path))


def check_cluster(values: Any, origin: str) -> Cluster:
    """Return ``values`` as typed settings, or raise a :class:`UserError` that lists every wrong key at once."""
    cluster = check_section(Cluster, values, origin)
    problems = [*_names_twice(cluster), *(line for name in STEPS for line in _clashes(cluster, name))]
    if problems:
        raise UserError(f"{origin}: {len(problems)} value(s) to correct", problems)
    return cluster


def _names_twice(cluster: Cluster) -> list[str]:
    problems = []
    for name in STEPS:
        given: dict[str, str] = {}
        for kind, references in (("secrets", cluster.secrets), ("config_maps", cluster.config_maps)):
            for number, reference in enumerate(references):
                for variable in reference.variables if name in reference.steps else ():
                    where = f"{kind}.{number}.variables.{variable}"
                    if variable in given:
                        problems.append(f"{where}: {name} has it from {given[variable]} already")
                    given.setdefault(variable, where)
    return problems


def _clashes(cluster: Cluster, name: StepName) -> list[str]:
    """Return what is wrong with a step's settings taken together, where the step itself or the defaults say so."""
    step, own = cluster.step(name), cluster.steps.get(name)
    if own is None and name != STEPS[0]:
        return []  # the same as every_step, which the first step stands for

    def where(*keys: str) -> str:
        return f"steps.{name}" if own and own.model_fields_set & set(keys) else "every_step"

    problems = []
    if step.shared_memory and step.memory and mebibytes(step.shared_memory) >= mebibytes(step.memory.limit):
        place = where("shared_memory", "memory")
        problems.append(f"{place}.shared_memory: must be below memory.limit, {step.memory.limit}, of which it is a part")
    if step.retries and step.retries.count:
        place = where("retries", "timeout")
        if step.timeout is None:
            problems.append(f"{place}.timeout: must be given where retries.count is above 0")
        elif step.retries.needs(step.timeout) > step.retries.within:
            least = step.retries.needs(step.timeout)
            problems.append(f"{place}.retries.within: must be {least:.0f} or more, or the last attempts never come")
    paths = [volume.path for volume in step.volumes] + (["/dev/shm"] if step.shared_memory else [])  # noqa: S108
    if len(set(paths)) < len(paths):
        problems.append(f"{where('volumes', 'shared_memory')}.volumes: two have the same path")
    claims = [volume.claim for volume in step.volumes]
    if len(set(claims)) < len(claims):
        problems.append(f"{where('volumes')}.volumes: two have the same claim")
    if name == "train" and cluster.checkpoints and not _is_on(cluster.checkpoints, paths):
        problems.append(f"checkpoints: {cluster.checkpoints} is on no volume of train, so that no retry would find it")
    return problems


def _is_on(folder: str, mounts: list[str]) -> bool:
    path = PurePosixPath(folder)
    return any(path.is_relative_to(mount) for mount in mounts)


