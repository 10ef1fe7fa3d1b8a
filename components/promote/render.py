"""Render a gate result as terminal tables and Markdown."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from components.promote.gate import Gate, Group
from core.terminal import fit
from registry import wide_console

# A narrower terminal shows the rules without the column "asks"; docs/registry.md explains them.
WIDTH_OF_ALL = 110
DISPENSABLE = ("champion, pooled", "challenger, pooled", "images", "champion")
VERDICT = {True: "met", False: "NOT MET"}


def show(gate: Gate, *, wide: bool = False) -> None:
    """Print every rule with its values and verdict, and the comparison by site and label; ``wide``: every column."""
    console = wide_console(wide=wide)
    console.print(f"{gate.challenger} against {gate.champion or 'no champion'}")
    for name, value in gate.about.items():
        console.print(f"  {name}: {value}")
    table = Table(title="Gate", title_justify="left")
    for heading in ("rule", "asks", "found", "verdict"):
        table.add_column(heading, no_wrap=heading == "rule")
    for rule in gate.rules:
        style = "green" if rule.passed else "bold red"
        table.add_row(rule.name, rule.asks, rule.found, Text(VERDICT[rule.passed], style))
    if console.width < WIDTH_OF_ALL:
        table.columns = [column for column in table.columns if column.header != "asks"]
    console.print(table)
    figures = Table(title="Dice on the test images, mean over images, original masks", title_justify="left")
    for heading in HEADINGS:
        figures.add_column(heading, justify="left" if heading in ("site", "label") else "right")
    for group in gate.groups:
        figures.add_row(*_cells(group))
    console.print(fit(figures, console, DISPENSABLE))


HEADINGS = (
    "site",
    "label",
    "images",
    "champion",
    "challenger",
    "difference",
    "95 % interval",
    "champion, pooled",
    "challenger, pooled",
)


def _cells(group: Group) -> list[str]:
    return [
        group.site,
        group.label,
        str(group.images),
        _number(group.champion_mean),
        _number(group.mean),
        _number(group.difference, "+"),
        f"{group.interval[0]:+.4f} to {group.interval[1]:+.4f}" if group.interval else "-",
        _number(group.champion_pooled),
        _number(group.pooled),
    ]


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.4f}"


def markdown(gate: Gate, outcome: str, facts: dict[str, str]) -> str:
    """Render a decision as Markdown.

    Args:
        gate: the result of the gate.
        outcome: the decision in one line.
        facts: facts of the decision, such as user and reason; empty ones are omitted.
    """
    about = {**facts, **gate.about}
    lines = [
        f"# {gate.challenger}: {outcome}",
        "",
        *(f"- {name}: {_plain(value)}" for name, value in about.items() if value),
        "",
        "| rule | asks | found | verdict |",
        "|---|---|---|---|",
        *(
            f"| {rule.name} | {_plain(rule.asks)} | {_plain(rule.found)} | {VERDICT[rule.passed]} |"
            for rule in gate.rules
        ),
        "",
        "Dice on the test images, mean over images, original masks; difference: challenger less champion, with its "
        "paired 95 % bootstrap interval over images.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|---|---|{'---:|' * (len(HEADINGS) - 2)}",
        *(f"| {' | '.join(_cells(group))} |" for group in gate.groups),
    ]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Return text in one line, escaped for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
