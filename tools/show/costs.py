"""Times and machines of the training runs; the report omits them, because they differ between equal runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table

from components.report.text import duration, moment
from core.cell import Cell
from core.results import Row
from core.runs import read_run


def cost_table(models: Path, rows: Iterable[Row]) -> Table:
    """Return a table with one line per cell, from its ``run.json``.

    Args:
        models: folder of all cells' models.
        rows: the report's rows, which determine the cells.

    Raises:
        UserError: a record is damaged.
    """
    cells = list(dict.fromkeys(Cell(row["network"], row["scenario"], row["seed"]) for row in rows))
    runs = {cell: read_run(models / cell.folder) for cell in cells}
    machines = list(dict.fromkeys(_machine(run) for run in runs.values() if run))
    table = Table(title="Training runs", caption=f"Trained on {machines[0]}" if len(machines) == 1 else None)
    for name in ("network", "scenario", "seed", "started"):
        table.add_column(name, no_wrap=True)
    for name in ("time", "images/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("commit", "MLflow run"):
        table.add_column(name, no_wrap=True)
    if len(machines) > 1:
        table.add_column("machine", max_width=24)  # wrap it before dropping columns
    for cell, run in runs.items():
        where = [cell.network, cell.scenario, str(cell.seed)]
        if not run:
            table.add_row(*where, "not recorded", *["–"] * (len(table.columns) - 4))
            continue
        commit = str(run["commit"] or "–")[:10] + (" +changes" if run["commit"] and run["dirty"] else "")
        took = [_time(run), f"{run['images_per_second']:.1f}"]
        last = [_machine(run)] if len(machines) > 1 else []
        table.add_row(*where, moment(run["started"]), *took, commit, str(run["mlflow_run_id"] or "–")[:8], *last)
    return table


def _time(run: dict[str, Any]) -> str:
    """Return the time of a training run, and of each stage on its own line if there are several."""
    stages = [f"{stage['size']} px: {duration(stage['training_seconds'])}" for stage in run["stages"]]
    return "\n".join([duration(run["seconds"]), *(stages if len(stages) > 1 else [])])


def _machine(run: dict[str, Any]) -> str:
    has = run["hardware"]
    parts = [has["gpu"], has["cpu"], f"{has['cores']} cores", f"{has['memory_gib']:.0f} GiB", run["precision"]]
    return ", ".join(str(part) for part in parts if part)
