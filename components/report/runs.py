"""The table of training runs, and the differences between the cells' configurations."""

from __future__ import annotations

from typing import Any

from components.report import paper
from components.report.layout import Results, scenario_title
from components.report.load import Evaluated
from components.report.text import plain
from core.cell import Cell
from core.inputs import flat


def run_line(data: Evaluated, results: Results) -> dict[str, Any]:
    """Return one line of the table of runs, without values that differ between equal runs."""
    history = data.history
    # The final weights are those of the best epoch at the full size.
    full = history[history["size"] == history["size"].max()]
    return {
        "network": results.named(data.cell),
        "scenario": scenario_title(data.cell.scenario),
        "width": data.config["width"],
        "parameters": data.config["parameters"],
        "epochs": len(history),
        "best_epoch": int(full["epoch"].iloc[int(full["validation_loss"].argmin())]),
        "precision": data.trained["precision"],
    }


def recipes(cells: list[Evaluated], results: Results) -> tuple[list[str], list[tuple[str, list[str]]], dict[str, str]]:
    """Return the keys in which the cells' configurations differ, their values by cell, and the common values.

    A line is (names of cells, values of the keys). Cells with equal values share a line, so that seven networks in
    three scenarios with several seeds need only seven lines.
    """
    other_columns = ("network", "scenario", "seed")
    configs = {
        data.cell: {
            key: plain(value)
            for key, value in flat(data.config).items()
            if key not in other_columns and not key.startswith("cohort.")
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
    return differing, [(_cell_names(owners, results), list(line)) for line, owners in sharing.items()], common


def _cell_names(owners: list[Cell], results: Results) -> str:
    """Return the names of cells; a network's name alone means all of its cells."""
    names = []
    for network in results.networks():
        here = [cell for cell in owners if cell.network == network]
        if here and len(here) == sum(cell.network == network for cell in results.cells):
            names.append(paper.name(network))
        else:
            names += [f"{results.named(cell)}, {scenario_title(cell.scenario)}" for cell in here]
    return "; ".join(names)
