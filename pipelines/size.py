"""Estimate the size of a run's Kubernetes object, and the number of cells that fit into it.

Argo Workflows stores a run, with every step's inputs, in one object of at most 1 MiB; above that it compresses the
nodes. A step's template may have 128 KiB. A run that exceeds a limit fails halfway, so both are checked before it
starts.

:func:`estimate` simulates the nodes of a run of the compiled pipeline and compresses them as Argo does. It is modelled
on recorded runs of Kubeflow Pipelines 2.17.0 with its default Argo settings. A step has six nodes: driver, task and
executor, each with its retry node. Each node contains the pod's patch with the executor input. Ids, addresses and times
are random, so they do not compress.
"""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from core.errors import UserError
from pipelines.nodes import Run
from pipelines.workflow import shards_of

LIMIT = 1 << 20  # bytes of a Workflow
RESERVE = 0.03  # share of it for second attempts
ARGUMENT = 131_071  # bytes of a step's template, which is an environment variable of its pod


@dataclass(frozen=True)
class Size:
    """The estimated size of a run.

    Attributes:
        cells: number of cells.
        nodes: bytes of the nodes as JSON, uncompressed.
        workflow: bytes of the whole object with compressed nodes.
        argument: bytes of the largest template of a step.
        most: number of cells that fit; 0 if the other steps alone do not fit.
        shards: number of shards; 0 if the graph has none.
    """

    cells: int
    nodes: int
    workflow: int
    argument: int
    most: int
    shards: int

    @property
    def fits(self) -> bool:
        """Whether the run fits into Kubernetes' limits."""
        return self.workflow <= LIMIT * (1 - RESERVE) and self.argument <= ARGUMENT

    def __str__(self) -> str:
        share = max(self.workflow / LIMIT / (1 - RESERVE), self.argument / ARGUMENT)
        what = f"{self.cells} cells" + (f" and {self.shards} shards" if self.shards else "")
        return (
            f"{what}: about {self.workflow / 1024:.0f} KiB of the {LIMIT // 1024} KiB of a run in "
            f"Kubernetes, {share:.0%} of what fits (about {self.most} cells)"
        )


def require_fit(package: str, cells: list[str]) -> Size:
    """Return the size of a run; raises a UserError, with a way to split the run, if it does not fit."""
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
        elif first > limit:  # the template of a merge of many shards does not depend on the number of cells
            most = 0
    return Size(len(cells), *here, max(0, most), len(shards_of(spec)))
