"""How large the object becomes in which Kubernetes keeps a run, and how many cells fit into it.

Argo Workflows keeps a run, with every step's inputs, in one object of at most 1 MiB; above that it compresses the
steps' part. One step may be given 128 KiB. Both limits end a run halfway, so they are computed before it begins.

:func:`estimate` writes down the nodes that a run of the compiled pipeline makes, as a Kubeflow Pipelines 2.17.0 with
its own Argo defaults made them, and compresses them as Argo does. It was derived from recorded runs: six nodes a step
(driver, task and executor, each with its retry node), each of which holds the pod's patch with the executor
input; the ids, addresses and times in them are random, so they do not compress.
"""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from core.errors import UserError
from pipelines.nodes import Run
from pipelines.workflow import shards_of

LIMIT = 1 << 20  # bytes of a Workflow
RESERVE = 0.03  # share of it for second attempts
ARGUMENT = 131_071  # bytes of a step's template, which is one variable of its pod


@dataclass(frozen=True)
class Size:
    """The size of a run.

    Attributes:
        cells: its number of cells.
        nodes: bytes of the steps' part as JSON, before it is compressed.
        workflow: bytes of the whole object with the steps' part compressed.
        argument: bytes of the largest step's template.
        most: how many cells fit; 0 where not even the steps beside them do.
        shards: its number of shards; 0 where it has none.
    """

    cells: int
    nodes: int
    workflow: int
    argument: int
    most: int
    shards: int

    @property
    def fits(self) -> bool:
        """Tell whether Kubernetes takes the run to its end."""
        return self.workflow <= LIMIT * (1 - RESERVE) and self.argument <= ARGUMENT

    def __str__(self) -> str:
        share = max(self.workflow / LIMIT / (1 - RESERVE), self.argument / ARGUMENT)
        what = f"{self.cells} cells" + (f" and {self.shards} shards" if self.shards else "")
        return (
            f"{what}: about {self.workflow / 1024:.0f} KiB of the {LIMIT // 1024} KiB of a run in "
            f"Kubernetes, {share:.0%} of what fits (about {self.most} cells)"
        )


def require_fit(package: str, cells: list[str]) -> Size:
    """Return the size of a run; raises a UserError if it does not fit, with the way to split it."""
    size = estimate(package, cells)
    if size.fits:
        return size
    if size.shards and size.most < 1:
        raise UserError(
            f"{size.shards} shards do not fit into one run, of which Kubernetes keeps {LIMIT // 1024} KiB; set fewer "
            "shards in cluster.yaml"
        )
    beside = f" beside {size.shards} shards" if size.shards else ""
    raise UserError(
        f"{size.cells} cells do not fit into one run{beside}, of which Kubernetes keeps {LIMIT // 1024} KiB: here "
        f"about {size.most} cells; split it: fewer networks, scenarios or seeds a run under matrix in params.yaml; or "
        "set one_pod_per_cell: true in cluster.yaml, with which more cells fit"
    )


def estimate(package: str, cells: list[str]) -> Size:
    """Return the size of a run of a compiled pipeline on a stock installation.

    Args:
        package: the pipeline as YAML.
        cells: the cells of the run.
    """
    spec, platform = yaml.safe_load_all(package)
    run = Run(spec, platform)
    few, many = (run.measure([cells[n % len(cells)] for n in range(count)]) for count in (20, 60))
    here = run.measure(cells)
    most = LIMIT
    for limit, first, second in ((LIMIT * (1 - RESERVE), few[1], many[1]), (ARGUMENT, few[2], many[2])):
        if second > first:
            most = min(most, int(20 + (limit - first) * 40 / (second - first)))
        elif first > limit:  # a merge of many shards has the largest template, whatever the number of cells
            most = 0
    return Size(len(cells), *here, max(0, most), len(shards_of(spec)))
