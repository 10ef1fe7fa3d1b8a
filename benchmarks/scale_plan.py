"""Estimate the cost of a cohort on a cluster, from measured rates: hours, bytes and requests of the sharded graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from core import terminal

Records = dict[str, dict[str, Any]]  # the records of one cohort size, by step
LISTED = 1000  # maximum number of keys in a response of S3's list
SHARDED = ("ingest", "preprocess")  # steps that `shards` of cluster.yaml divides


@dataclass(frozen=True)
class Cost:
    """A step's CPU time: ``fixed`` seconds plus ``each`` seconds per X-ray."""

    fixed: float
    each: float

    @classmethod
    def of(cls, few: int, less: float, many: int, more: float) -> Cost:
        """Return the line through (``few``, ``less``) and (``many``, ``more``): X-rays and CPU seconds."""
        each = max(0.0, (more - less) / (many - few))
        return cls(max(0.0, less - each * few), each)

    def seconds(self, images: float) -> float:
        """Return the CPU seconds of one process for ``images`` X-rays."""
        return self.fixed + self.each * images


@dataclass(frozen=True)
class Plan:
    """A run of the sharded graph: numbers of X-rays, of pods that share a step, and of cells of the matrix."""

    images: int
    pods: int
    cells: int


def costs(found: dict[int, Records]) -> dict[str, Cost]:
    """Return the cost of each step from the two largest measured sizes."""
    few, many = sorted(found)[-2:]
    return {
        name: Cost.of(few, found[few][name]["processor_seconds"], many, used["processor_seconds"])
        for name, used in found[many].items()
    }


def seconds(plan: Plan, name: str, cost: Cost) -> tuple[float, float]:
    """Return a step's wall time with one core per pod, and the CPU time of all its pods, in seconds."""
    pods = plan.pods if name in SHARDED else 1
    repeated = plan.cells if name in ("train", "evaluate") else 1
    return cost.seconds(plan.images / pods), repeated * (pods * cost.fixed + cost.each * plan.images)


def moved(plan: Plan, found: dict[int, Records]) -> list[tuple[str, float, float]]:
    """Return the network traffic for all X-rays: each artifact with its bytes written and bytes read.

    The shards of ingest and of preprocess are written, read by the merge and written again. Validate reads the merged
    cohort. Per cell, training reads the arrays, and evaluation the arrays and the masks. Report, register and promote
    read the arrays.
    """
    largest = max(found)
    share = plan.images / largest
    source, raw, arrays, masks = (
        found[largest][step][key] * share
        for step, key in (
            ("ingest", "source_bytes"),
            ("ingest", "bytes"),
            ("preprocess", "bytes"),
            ("ingest", "mask_bytes"),
        )
    )
    return [
        ("source, by ingest", 0.0, source),
        ("raw cohort", 2 * raw + masks, 3 * raw + plan.cells * masks),
        ("arrays", 2 * arrays, (1 + 2 * plan.cells + 3) * arrays),
    ]


def requests(plan: Plan, found: dict[int, Records]) -> dict[str, int]:
    """Return the S3 requests of ingest: one GET per file, and the lists of every shard."""
    largest = max(found)
    files = math.ceil(found[largest]["ingest"]["source_files"] * plan.images / largest)
    return {"GET": files, "LIST": plan.pods * math.ceil(files / LISTED)}


def table(plan: Plan, found: dict[int, Records]) -> Table:
    """Return the hours of each step, as wall time on ``plan.pods`` pods with one core each and as total CPU time."""
    title = f"{plan.images:,} X-rays, pods of one core, {plan.cells} cell(s)"
    shown = terminal.table(title, ["step"], ["pods", "ms each", "hours", "core hours"])
    walls, total = 0.0, 0.0
    for name, cost in costs(found).items():
        wall, cores = seconds(plan, name, cost)
        walls, total = walls + wall, total + cores
        pods = plan.pods if name in SHARDED else 1
        shown.add_row(name, str(pods), f"{1e3 * cost.each:.2f}", f"{wall / 3600:.2f}", f"{cores / 3600:.2f}")
    shown.add_section()
    shown.add_row("in sum", "", "", f"{walls / 3600:.2f}", f"{total / 3600:.2f}")
    return shown


def lines(plan: Plan, found: dict[int, Records]) -> list[str]:
    """Return the network traffic and the requests as text."""
    parts = moved(plan, found)
    text = [f"{name}: {written / 1e9:,.1f} GB written, {read / 1e9:,.1f} GB read" for name, written, read in parts]
    asked = requests(plan, found)
    text.append(f"S3 requests of ingest: {asked['GET']:,} GET, {asked['LIST']:,} LIST ({LISTED:,} keys each)")
    return text
