"""What ran: the lines of the table of runs, and in what the recipes of the cells differ."""

from __future__ import annotations

from typing import Any

from components.report import paper
from components.report.layout import Results, scenario_title
from components.report.load import Evaluated
from components.report.text import plain
from core.cell import Cell
from core.inputs import flat


def run_line(data: Evaluated, results: Results) -> dict[str, Any]:
    """Return what the table of runs prints of one cell: nothing that differs between two equal runs."""
    history = data.history
    # The weights that are kept are those of the best epoch at the full size.
    full = history[history["size"] == history["size"].max()]
    return {
        "network": results.named(data.cell),
        "scenario": scenario_title(data.cell.scenario),
        "width": data.config["width"],
        "parameters": data.config["parameters"],
        "epochs": len(history),
        "best_epoch": int(full["epoch"].iloc[int(full["validation_loss"].argmin())]),
        "precision": data.learnt["precision"],
    }


def recipes(cells: list[Evaluated], results: Results) -> tuple[list[str], list[tuple[str, list[str]]], dict[str, str]]:
    """Return in which keys the cells' configurations differ, whose values these are, and what all have in common.

    A line is (whose, values of the keys); cells of equal values share one, so that seven networks in three scenarios
    with some seeds each need seven lines and not a column a cell.
    """
    told_elsewhere = ("network", "scenario", "seed")
    configs = {
        data.cell: {
            key: plain(value)
            for key, value in flat(data.config).items()
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
