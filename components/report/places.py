"""The tables by site and label, with boundary distances and with metrics at the stored size."""

from __future__ import annotations

from components.report.layout import Column, Figure, Group, Line, Results, Table, scenario_title
from components.report.tables import LABELS, MASKS, figure_of, mean_figure
from core.cell import Cell

METRICS = ("dice", "jaccard", "hd95", "assd")
KINDS = ("original", "dilated")
STORED_METRICS = ("stored_dice", "nsd2", "nsd4", "soft_dice")


def place_table(results: Results, scenario: str) -> Table:
    """Return the test metrics of one scenario by site and label, with boundary distances, mean over images."""
    of_seeds = " or, of several seeds, their standard deviation below each figure" if results.several_seeds else ""
    return _table(
        results,
        scenario,
        METRICS,
        f"places-{scenario}",
        f"{scenario_title(scenario)}: by site and label",
        f"Test images, mean over images, 95 % bootstrap interval below Dice{of_seeds}. HD95 and ASSD in pixels.",
    )


def stored_table(results: Results, scenario: str) -> Table:
    """Return test metrics of one scenario at the stored size by site and label, with soft Dice, mean over images."""
    return _table(
        results,
        scenario,
        STORED_METRICS,
        f"stored-{scenario}",
        f"{scenario_title(scenario)}: at the stored size, and soft",
        "Test images, mean over images. The mask is drawn at the stored size and compared with the stored mask. NSD: "
        "share of both outlines that is right to within 2 or 4 pixels of a 512-pixel image. "
        "Soft Dice: of an image’s probabilities at the network’s size (the paper’s Eq. 2).",
    )


def _table(results: Results, scenario: str, metrics: tuple[str, ...], name: str, title: str, caption: str) -> Table:
    columns, spans = [Column("Images")], [("", 1)]
    for masks in KINDS:
        columns += [Column(LABELS[metric]) for metric in metrics]
        spans.append((f"Against {MASKS[masks]}", len(metrics)))
    groups = []
    for network in results.networks(scenario):
        cells = results.seeds(network, scenario)
        parts = [_places(results, cell, metrics) for cell in cells]
        if len(cells) > 1:
            groups.append(Group(results.named_all(cells), _mean_places(parts)))
        groups += [
            Group(results.named(cell), part, seed=len(cells) > 1) for cell, part in zip(cells, parts, strict=True)
        ]
    return Table(name, title, caption, ("Site", "Label"), columns, groups, spans)


def _places(results: Results, cell: Cell, metrics: tuple[str, ...]) -> list[Line]:
    lines = []
    for site, label in results.sites[cell]:
        rows = [results.row(cell, masks, "per_image", site=site, label=label) for masks in KINDS]
        counted = rows[0] or rows[1]
        figures = [Figure(counted["n_images"] if counted else None, 0)]
        figures += [figure_of(row, metric) for row in rows for metric in metrics]
        lines.append(Line((site, label), figures))
    return lines


def _mean_places(parts: list[list[Line]]) -> list[Line]:
    """Return the means over seeds for every site and label that all seeds have; the image count is not averaged."""
    by_place = [{line.heads: line for line in part} for part in parts]
    lines = []
    for first in parts[0]:
        same = [found[first.heads] for found in by_place if first.heads in found]
        if len(same) == len(parts):
            means = [mean_figure(column) for column in zip(*(line.figures[1:] for line in same), strict=True)]
            lines.append(Line(first.heads, [first.figures[0], *means]))
    return lines
