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
from pipelines.shape import SHARD_STEPS, shards_of

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
        shards: number of shards of ingest and preprocess; 0 if the graph has none.
        evaluate_shards: number of shards of evaluate of each cell, likewise.
    """

    cells: int
    nodes: int
    workflow: int
    argument: int
    most: int
    shards: int
    evaluate_shards: int

    @property
    def fits(self) -> bool:
        """Whether the run fits into Kubernetes' limits."""
        return self.workflow <= LIMIT * (1 - RESERVE) and self.argument <= ARGUMENT

    def __str__(self) -> str:
        share = max(self.workflow / LIMIT / (1 - RESERVE), self.argument / ARGUMENT)
        what = f"{self.cells} cells"
        what += f" of {self.evaluate_shards} evaluate shards" if self.evaluate_shards else ""
        what += f" and {self.shards} shards" if self.shards else ""
        return (
            f"{what}: about {self.workflow / 1024:.0f} KiB of the {LIMIT // 1024} KiB of a run in "
            f"Kubernetes, {share:.0%} of what fits (about {self.most} cells)"
        )


def require_fit(package: str, cells: list[str]) -> Size:
    """Return the size of a run; raises a UserError, with a way to split the run, if it does not fit."""
    size = estimate(package, cells)
    if size.fits:
        return size
    parts = {
        "shards": f"{size.shards} shards" if size.shards else "",
        "evaluate_shards": f"{size.evaluate_shards} evaluate shards of a cell" if size.evaluate_shards else "",
    }
    there = {key: words for key, words in parts.items() if words}
    if there and size.most < 1:
        raise UserError(
            f"{' and '.join(there.values())} do not fit into one run, of which Kubernetes keeps {LIMIT // 1024} KiB; "
            f"set fewer {' or '.join(there)} in cluster.yaml"
        )
    of = f" of {size.evaluate_shards} evaluate shards" if size.evaluate_shards else ""
    beside = f" beside {size.shards} shards" if size.shards else ""
    way = "fewer evaluate_shards" if size.evaluate_shards else "one_pod_per_cell: true"
    raise UserError(
        f"{size.cells} cells{of} do not fit into one run{beside}, of which Kubernetes keeps {LIMIT // 1024} KiB: here "
        f"about {size.most} cells; split it: fewer networks, scenarios or seeds a run under matrix in params.yaml; or "
        f"set {way} in cluster.yaml, with which more cells fit"
    )


def estimate(package: str, cells: list[str]) -> Size:
    """Return the size of a run of a compiled pipeline on a stock installation.

    Args:
        package: the pipeline as YAML.
        cells: the cells of the run.
    """
    spec, platform = yaml.safe_load_all(package)
    run = Run(spec, platform)
    shards, evaluate_shards = (len(shards_of(spec, step)) for step in SHARD_STEPS)
    less = max(1, 60 // (2 + max(1, evaluate_shards)))
    more = 3 * less
    few, many = (run.measure([cells[n % len(cells)] for n in range(count)]) for count in (less, more))
    most = LIMIT
    for limit, first, second in ((LIMIT * (1 - RESERVE), few[1], many[1]), (ARGUMENT, few[2], many[2])):
        if second > first:
            most = min(most, int(less + (limit - first) * (more - less) / (second - first)))
        elif first > limit:  # the template of a merge of many shards does not depend on the number of cells
            most = 0
    here = run.measure(cells[: 2 * max(most, more)])  # twice what fits is enough to see that the cells do not
    return Size(len(cells), *here, max(0, most), shards, evaluate_shards)
