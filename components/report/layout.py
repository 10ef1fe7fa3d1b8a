"""What a table of the report is, and how its figures are found among the rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from components.report import paper
from components.report.load import Evaluated, scenario_order
from core.cell import Cell
from core.results import FEW, Row

FEW_NOTE = f"fewer than {FEW} images: the interval is not reliable"


def scenario_title(scenario: str) -> str:
    """Return a scenario's name for readers: ``montgomery-to-shenzhen`` is Montgomery → Shenzhen."""
    whole, _, fold = scenario.partition("-fold-")
    if fold.isdecimal():
        return f"{scenario_title(whole)}, fold {fold}"
    return " → ".join(part.capitalize() for part in scenario.split("-to-"))


@dataclass(frozen=True)
class Column:
    """One column of figures, with the numbers of the footnotes that hold for all of it."""

    label: str
    notes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Figure:
    """One figure of ours (``None``: not defined, or not evaluated) and what stands beside it in its place.

    Attributes:
        value: our figure.
        digits: after the decimal point.
        paper: the paper's figure.
        interval: ends of the 95 % confidence interval.
        deviation: standard deviation over seeds, where ``value`` is a mean of them.
        notes: numbers of the footnotes.
        signed: whether it is a difference, to be written with its sign.
        text: stands in the place of a figure.
        few: whether the interval, or the deviation, is of too few images to be relied on.
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
    """One row of a table: the texts of its head columns, then its figures; ``seed``: one of several seeds alone."""

    heads: tuple[str, ...]
    figures: list[Figure]
    seed: bool = False


@dataclass(frozen=True)
class Group:
    """Lines that belong together under a heading (or under none).

    ``alone``: of the paper's figures only; ``seed``: of one of several seeds alone.
    """

    title: str
    lines: list[Line]
    alone: bool = False
    seed: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    ``spans`` are headings over several columns of figures: (text, number of columns). ``filters`` says what the
    filters of its head columns choose at first, by head; ``None`` is a table without filters.
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
        """What the marker of figures of few images means; empty where none has it."""
        marked = any(figure.few for group in self.groups for line in group.lines for figure in line.figures)
        return FEW_NOTE if marked else ""


class Results:
    """All rows of a report, found by what they say.

    Attributes:
        cells: in the order of the report.
        sites: {cell: (site, label) of its test rows}, ``all`` first.
        people: {cell: (site, sex, age) of its test rows by sex or by age}, in the order of the rows.
        several_seeds: whether a cell's name needs its seed.
        scenarios: mixed first, then the paper's.
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
                # One site only: its lines and those over all sites would say the same twice.
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
        """Return one row, or ``None`` where evaluate left none."""
        return self._rows.get((cell, split, site, label, sex, age, masks, reduction))

    def defined(self, metrics: Iterable[str]) -> tuple[str, ...]:
        """Return those of some metrics that any row has: kept rows of an earlier version lack what came later."""
        rows: list[dict[str, object]] = [dict(row) for row in self._rows.values()]
        return tuple(metric for metric in metrics if any(row[metric] is not None for row in rows))

    def networks(self, scenario: str | None = None) -> list[str]:
        """Return the networks evaluated in ``scenario`` (or in any), in the order of the paper's tables."""
        found = {cell.network for cell in self.cells if scenario in (None, cell.scenario)}
        return sorted(found, key=paper.order)

    def seeds(self, network: str, scenario: str) -> list[Cell]:
        """Return the cells of one network in one scenario, by seed."""
        cells = [cell for cell in self.cells if (cell.network, cell.scenario) == (network, scenario)]
        return sorted(cells, key=lambda cell: cell.seed)

    def named(self, cell: Cell) -> str:
        """Return the network's name, with the seed where the report holds several."""
        return f"{paper.name(cell.network)}, seed {cell.seed}" if self.several_seeds else paper.name(cell.network)

    def named_all(self, cells: list[Cell]) -> str:
        """Return the name of what is the mean over the seeds of one network."""
        if len(cells) == 1:
            return self.named(cells[0])
        return f"{paper.name(cells[0].network)}, mean of {len(cells)} seeds"
