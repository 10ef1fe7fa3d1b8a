"""The paper's tables for the page, with each of the paper's values once."""

from __future__ import annotations

from dataclasses import replace

from components.report.layout import Figure, Line, Table
from components.report.tables import LABELS, SOFT, THEIRS_BESIDE

THEIRS_ONCE = "Each figure is ours; the paper’s is with the one that is scored most like it."


def paper_once(table: Table) -> Table:
    """Return one of the paper's tables with each of the paper's values once.

    The value remains in the first group, which is scored most like the paper. The paper's Dice is shown with soft Dice
    if the table has it, else with Dice.
    """
    labels = [column.label for column in table.columns]
    soft = any(label == LABELS[name] for name in SOFT for label in labels)

    def kept(number: int, first: bool, figure: Figure) -> Figure:
        if first and not (soft and labels[number] == LABELS["dice"]):
            return figure
        return replace(figure, paper=None, notes=())

    def line_of(line: Line, first: bool) -> Line:
        return replace(line, figures=[kept(number, first, figure) for number, figure in enumerate(line.figures)])

    groups = [
        replace(group, lines=[line_of(line, group.alone or not place) for line in group.lines])
        for place, group in enumerate(table.groups)
    ]
    return replace(table, caption=table.caption.replace(THEIRS_BESIDE, THEIRS_ONCE), groups=groups)
