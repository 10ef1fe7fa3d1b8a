"""Data model of the report's tables, and lookup of rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from components.report import paper
from components.report.load import Evaluated, scenario_order
from core.cell import Cell
from core.results import FEW, Row

FEW_NOTE = f"fewer than {FEW} images: the interval is not reliable"


def scenario_title(scenario: str) -> str:
    """Return a scenario's display name: Montgomery → Shenzhen for ``montgomery-to-shenzhen``."""
    whole, _, fold = scenario.partition("-fold-")
    if fold.isdecimal():
        return f"{scenario_title(whole)}, fold {fold}"
    return " → ".join(part.capitalize() for part in scenario.split("-to-"))


@dataclass(frozen=True)
class Column:
    """One column of values, with the numbers of its footnotes."""

    label: str
    notes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Figure:
    """The content of one table cell.

    Attributes:
        value: our value; ``None`` if undefined or not evaluated.
        digits: number of decimals.
        paper: the paper's value.
        interval: ends of the 95 % confidence interval.
        deviation: standard deviation over seeds, if ``value`` is their mean.
        notes: numbers of the footnotes.
        signed: True for a difference, printed with its sign.
        text: text to print instead of a value.
        few: True if there are too few images for a reliable interval or deviation.
    """

    value: float | None
    digits: int = 4
    paper: float | None = None
    interval: tuple[float, float] | None = None
    deviation: float | None = None
    notes: tuple[int, ...] = ()
    signed: bool = False
    text: str | None = None
    few: bool = False


@dataclass(frozen=True)
class Line:
    """One row of a table: the texts of its head columns, then its values; ``seed``: it is for one of several seeds."""

    heads: tuple[str, ...]
    figures: list[Figure]
    seed: bool = False


@dataclass(frozen=True)
class Group:
    """Lines of a table with a common heading, which may be empty.

    ``alone``: it has only the paper's values; ``seed``: it is for one of several seeds.
    """

    title: str
    lines: list[Line]
    alone: bool = False
    seed: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    ``spans`` are headings over several columns of values: (text, number of columns). ``filters`` are the initial
    filters by head column; ``None``: no filters.
    """

    id: str
    title: str
    caption: str
    heads: tuple[str, ...]
    columns: list[Column]
    groups: list[Group]
    spans: list[tuple[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    filters: dict[str, str] | None = None

    @property
    def few(self) -> str:
        """The legend of the marker for few images; empty if no value has the marker."""
        marked = any(figure.few for group in self.groups for line in group.lines for figure in line.figures)
        return FEW_NOTE if marked else ""


class Results:
    """All rows of a report, with lookup by their keys.

    Attributes:
        cells: the cells, in the order of the report.
        sites: {cell: (site, label) of its test rows}, ``all`` first.
        people: {cell: (site, sex, age) of its test rows by sex or by age}, in the order of the rows.
        several_seeds: whether the report has several seeds.
        scenarios: mixed first, then the paper's, then others.
    """

    def __init__(self, cells: Iterable[Evaluated]) -> None:
        self.cells: list[Cell] = []
        self._rows: dict[tuple[object, ...], Row] = {}
        self.sites: dict[Cell, list[tuple[str, str]]] = {}
        self.people: dict[Cell, list[tuple[str, str, str]]] = {}
        for data in cells:
            self.cells.append(data.cell)
            for row in data.rows:
                place = (row["split"], row["site"], row["label"], row["sex"], row["age"])
                self._rows[(data.cell, *place, row["masks"], row["reduction"])] = row
            test = [row for row in data.rows if row["split"] == "test"]
            tested = {(row["site"], row["label"]) for row in test if row["sex"] == row["age"] == "all"}
            people = dict.fromkeys((row["site"], row["sex"], row["age"]) for row in test)
            if len({site for site, _ in tested} - {"all"}) == 1:
                # With one site, the lines over all sites would be equal to its lines.
                tested = {(site, label) for site, label in tested if site != "all"}
                people = {place: None for place in people if place[0] != "all"}
            self.people[data.cell] = [(site, sex, age) for site, sex, age in people if (sex, age) != ("all", "all")]
            self.sites[data.cell] = sorted(
                tested, key=lambda pair: (pair[0] != "all", pair[0], pair[1] != "all", pair[1])
            )
        self.several_seeds = len({cell.seed for cell in self.cells}) > 1
        self.scenarios = sorted({cell.scenario for cell in self.cells}, key=scenario_order)

    def row(
        self,
        cell: Cell,
        masks: str,
        reduction: str,
        split: str = "test",
        site: str = "all",
        label: str = "all",
        sex: str = "all",
        age: str = "all",
    ) -> Row | None:
        """Return one row, or ``None`` if evaluate wrote none."""
        return self._rows.get((cell, split, site, label, sex, age, masks, reduction))

    def defined(self, metrics: Iterable[str]) -> tuple[str, ...]:
        """Return the metrics that at least one row has; rows of earlier releases lack newer metrics."""
        rows: list[dict[str, object]] = [dict(row) for row in self._rows.values()]
        return tuple(metric for metric in metrics if any(row[metric] is not None for row in rows))

    def networks(self, scenario: str | None = None) -> list[str]:
        """Return the networks evaluated in ``scenario`` (``None``: in any), in the order of the paper's tables."""
        found = {cell.network for cell in self.cells if scenario in (None, cell.scenario)}
        return sorted(found, key=paper.order)

    def seeds(self, network: str, scenario: str) -> list[Cell]:
        """Return the cells of one network in one scenario, by seed."""
        cells = [cell for cell in self.cells if (cell.network, cell.scenario) == (network, scenario)]
        return sorted(cells, key=lambda cell: cell.seed)

    def named(self, cell: Cell) -> str:
        """Return the network's name, with the seed if the report has several."""
        return f"{paper.name(cell.network)}, seed {cell.seed}" if self.several_seeds else paper.name(cell.network)

    def named_all(self, cells: list[Cell]) -> str:
        """Return the name for the mean over the seeds of one network."""
        if len(cells) == 1:
            return self.named(cells[0])
        return f"{paper.name(cells[0].network)}, mean of {len(cells)} seeds"
