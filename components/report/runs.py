"""What ran: the lines of the table of runs, and in what the recipes of the cells differ."""

from __future__ import annotations

from typing import Any

from components.report import paper
from components.report.layout import Results, scenario_title
from components.report.load import Evaluated
from components.report.text import duration, plain
from components.results import Cell


def run_line(data: Evaluated, results: Results) -> dict[str, Any]:
    """Return what the table of runs prints of one cell; what the run does not tell is ``None``."""
    run = data.run
    told = run.get("hardware")
    hardware: dict[str, Any] = told if isinstance(told, dict) else {}
    memory = hardware.get("memory_gib")
    machine = [
        hardware.get("gpu"),
        hardware.get("cpu"),
        f"{hardware['cores']} cores" if hardware.get("cores") else None,
        f"{memory:.0f} GiB" if isinstance(memory, int | float) else None,
    ]
    return {
        "network": results.named(data.cell),
        "scenario": scenario_title(data.cell.scenario),
        "seed": data.cell.seed,
        "width": data.config.get("width"),
        "parameters": data.config.get("parameters"),
        "epochs": run.get("epochs"),
        "best_epoch": run.get("best_epoch"),
        "seconds": run.get("seconds"),
        "stages": _stages(run),
        "images_per_second": run.get("images_per_second"),
        "commit": str(run["commit"])[:10] if run.get("commit") else None,
        "dirty": bool(run.get("dirty")),
        "machine": ", ".join(str(part) for part in machine if part),
        "mlflow": run.get("mlflow_run_id"),
        "versions": run.get("versions") if isinstance(run.get("versions"), dict) else {},
    }


def columns_apart(runs: list[dict[str, Any]]) -> list[str]:
    """Return which of stages, commit and hardware the table of runs needs.

    What is the same in all runs stands in the page's head; the table is wide enough without it.
    """
    told = {"commit": {(run["commit"], run["dirty"]) for run in runs}, "machine": {run["machine"] for run in runs}}
    stages = ["stages"] if any(run["stages"] for run in runs) else []
    return stages + [name for name, values in told.items() if len(values) > 1]


def _stages(run: dict[str, Any]) -> str | None:
    """Return what each stage of a run cost, in words; ``None`` for a run at one size."""
    stages = run.get("stages")
    if not isinstance(stages, list) or len(stages) < 2:
        return None
    costs = (f"{s['epochs']} at {s['size']} px, {duration(s['training_seconds'])}" for s in stages)
    return "; ".join(costs)


def _flat(value: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            flat |= _flat(item, f"{before}{key}.")
        else:
            flat[before + key] = item
    return flat


def recipes(cells: list[Evaluated], results: Results) -> tuple[list[str], list[tuple[str, list[str]]], dict[str, str]]:
    """Return in which keys the cells' configurations differ, whose values these are, and what all have in common.

    A line is (whose, values of the keys); cells of equal values share one, so that seven networks in three scenarios
    with some seeds each need seven lines and not a column a cell.
    """
    told_elsewhere = ("network", "scenario", "seed")
    configs = {
        data.cell: {
            key: plain(value)
            for key, value in _flat(data.config).items()
            if key not in told_elsewhere and not key.startswith("cohort.")
        }
        for data in cells
    }
    keys = list(dict.fromkeys(key for config in configs.values() for key in config))
    values = {key: [config.get(key, "–") for config in configs.values()] for key in keys}
    differing = [key for key in keys if len(set(values[key])) > 1]
    common = {key: values[key][0] for key in keys if key not in differing}
    sharing: dict[tuple[str, ...], list[Cell]] = {}
    for cell, config in configs.items():
        sharing.setdefault(tuple(config.get(key, "–") for key in differing), []).append(cell)
    return differing, [(_whose(owners, results), list(line)) for line, owners in sharing.items()], common


def _whose(owners: list[Cell], results: Results) -> str:
    """Return the names of cells, of a network alone where all of its cells are among them."""
    names = []
    for network in results.networks():
        here = [cell for cell in owners if cell.network == network]
        if here and len(here) == sum(cell.network == network for cell in results.cells):
            names.append(paper.name(network))
        else:
            names += [f"{results.named(cell)}, {scenario_title(cell.scenario)}" for cell in here]
    return "; ".join(names)
