"""The steps of a run's graph and its loops: over the cells, over the shards, and over the shards of each cell."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from core.cell import Cell
from core.params import Matrix
from pipelines.cluster import MERGES, STEPS

IN_ONE_POD = "train-and-evaluate"  # the step with one_pod_per_cell
IN_SHARD = ("ingest-shard", "preprocess-shard")  # the steps of the loop over shards
IN_CELL_AND_SHARD = "evaluate-shard"  # the step of the loop over shards inside the loop over cells
SHARD_STEPS = (IN_SHARD[0], IN_CELL_AND_SHARD)  # a step of each loop over shards
# The steps of the loop over cells, if no node shows them yet.
IN_CELL = {"train", "evaluate", IN_ONE_POD, IN_CELL_AND_SHARD, MERGES[2]}
# In a sharded graph these steps replace ingest and preprocess, or evaluate.
SHARDED: dict[str, tuple[str, ...]] = {
    "ingest": (*IN_SHARD, MERGES[0]),
    "preprocess": (MERGES[1],),
    "evaluate": (IN_CELL_AND_SHARD, MERGES[2]),
}
ORDER = tuple(
    step for each in STEPS for step in (*([IN_ONE_POD] if each == "train" else []), each, *SHARDED.get(each, ()))
)


@dataclass(frozen=True)
class Shape:
    """The loops of a run's graph.

    Attributes:
        cells: the cells of the run's matrix in its order; empty if it is not a run of this pipeline.
        components: names of the graph's components; empty if the server omitted the specification.
        shards: the shards of ingest and preprocess, ``1/4`` to ``4/4``; empty if there are none or they are unknown.
        evaluate_shards: the shards of evaluate, likewise.
    """

    cells: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()
    evaluate_shards: tuple[str, ...] = ()

    @classmethod
    def of(cls, parameters: Mapping[str, Any], spec: Mapping[str, Any]) -> Shape:
        """Return the shape of a run.

        Args:
            parameters: the run's parameters.
            spec: the compiled pipeline with the defaults; may be empty.
        """
        components = tuple(name.removeprefix("comp-") for name in spec.get("components", ()))
        return cls(_cells(parameters, spec), components, *(shards_of(spec, step) for step in SHARD_STEPS))


def _cells(parameters: Mapping[str, Any], spec: Mapping[str, Any]) -> tuple[str, ...]:
    declared = spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    text = parameters.get("matrix") or declared.get("matrix", {}).get("defaultValue")
    try:
        matrix = Matrix(**json.loads(text or ""))
    except (ValueError, TypeError):
        return ()
    return tuple(cell.folder.as_posix() for cell in Cell.every(matrix.networks, matrix.scenarios, matrix.seeds))


def shards_of(spec: Mapping[str, Any], step: str) -> tuple[str, ...]:
    """Return the shards of the loop that has ``step``, such as ``1/4`` to ``4/4``; empty if there is no such loop."""
    components = spec.get("components", {})
    for component in components.values():
        for task in component.get("dag", {}).get("tasks", {}).values():
            raw = task.get("parameterIterator", {}).get("items", {}).get("raw")
            if raw and step in components[task["componentRef"]["name"]]["dag"]["tasks"]:
                return tuple(str(item) for item in json.loads(raw))
    return ()


def steps_of(seen: Collection[str]) -> tuple[str, ...]:
    """Return the steps of the graph, sharded or not, that contains the ``seen`` steps."""
    in_shards = {each for each, steps in SHARDED.items() if set(steps) & set(seen)}
    if in_shards - {"evaluate"}:  # ingest and preprocess have the same shards
        in_shards |= {"ingest", "preprocess"}
    return tuple(step for each in STEPS for step in (SHARDED[each] if each in in_shards else (each,)))
