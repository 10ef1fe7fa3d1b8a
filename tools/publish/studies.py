"""Studies stored in the repository: rows, cases, history and configuration of every cell, without large files.

``results/<study>/study.yaml`` describes the study. The folder has one folder per cell, as in ``models/``, and one per
ablation, ``ablations/<name>/``, with its cells. ``figures/`` has small drawings, and ``worst.csv`` has a reader's
remarks on the worst X-rays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

from components.report.layout import Results
from components.report.load import Cohort, Evaluated, find_cells, scenario_order
from components.report.rows import check_row
from components.report.tables import trained_masks
from core.cell import CASES, HISTORY, RELIABILITY, ROWS, RUN, Cell
from core.cohort import SPLITS
from core.errors import UserError
from core.files import read_json
from core.params import Name, check_section, read_yaml
from model.training.recipe import Section
from model.weights import CONFIG

STUDY = "study.yaml"
ABLATIONS = "ablations"
FIGURES = "figures"
WORST = "worst.csv"
COLUMNS = {"network": "dice", "stored": "stored_dice"}


class About(Section):
    """The content of ``study.yaml``."""

    title: str
    text: str = Field(description="how it was run and its results, Markdown")
    headline: bool = Field(default=False, description="whether the main page begins with it; true for one study")
    at: Literal["network", "stored"] = Field(default="network", description="the size at which its Dice is taken")
    folds: int = Field(default=0, ge=0, description="number of its folds, scenarios <name>-fold-1 to -fold-N; 0: none")
    ablations: dict[Name, str] = Field(default={}, description="{folder: what was left out of the recipe}")
    beside: dict[Name, str] = Field(default={}, description="{another study: how it differs from this one}")


@dataclass(frozen=True)
class Study:
    """One study: its cells, and the cells of its ablations."""

    name: str
    folder: Path
    about: About
    cells: list[Evaluated]
    ablations: dict[str, list[Evaluated]]

    @property
    def masks(self) -> str:
        """The kind of masks that its networks were trained on, used for the main results."""
        return trained_masks(self.cells)

    @property
    def size(self) -> int:
        """Side of the network's input in pixels."""
        return int(self.cells[0].config["input"]["size"])

    @property
    def width(self) -> float:
        """Number of channels relative to the paper's."""
        return float(self.cells[0].config["width"])

    @property
    def column(self) -> str:
        """The column of the cases with the Dice of the main results."""
        return COLUMNS[self.about.at]

    @property
    def scenarios(self) -> list[str]:
        """The scenarios in the paper's order."""
        return Results(self.cells).scenarios

    @property
    def networks(self) -> list[str]:
        """The networks in the order of the paper's tables."""
        return Results(self.cells).networks()

    @property
    def cohort(self) -> Cohort:
        """The cohort, reconstructed from the cases: every image of every split once."""
        frames = {data.cell.scenario: data.cases for data in self.cells}
        manifest = pd.concat(frames.values())[["id", "site", "label"]].drop_duplicates("id", ignore_index=True)
        card = self.cells[0].config["cohort"]
        return Cohort(
            name=card["name"],
            synthetic=card["synthetic"],
            description=card["description"],
            size=self.cells[0].config["input"]["size"],
            kernel=None,
            unpaired=0,
            manifest=manifest,
            splits={name: _split(frames[name]) for name in sorted(frames, key=scenario_order)},
        )


def _split(cases: pd.DataFrame) -> dict[str, list[str]]:
    return {name: list(cases.loc[cases["split"] == name, "id"].unique()) for name in SPLITS}


def read_studies(results: Path) -> list[Study]:
    """Return the studies of a folder, sorted by the number in front of their names, then by name.

    Raises:
        UserError: there is no study, or files are missing or invalid (all of a study are listed).
    """
    found = sorted((path.parent for path in results.glob(f"*/{STUDY}")), key=_order)
    if not found:
        raise UserError(f"{results}: no study found; store one with `python -m tools.publish.archive`")
    studies = [_read_study(folder) for folder in found]
    for study in studies:
        if unknown := sorted(set(study.about.beside) - {folder.name for folder in found}):
            raise UserError(f"{study.folder / STUDY}: beside names no study below {results}", unknown)
    if len(first := [study.name for study in studies if study.about.headline]) != 1:
        raise UserError(f"{results}: one study must have `headline: true` in its {STUDY}; {len(first)} do", first)
    return studies


def _order(folder: Path) -> tuple[int, str]:
    number = re.match(r"\d*", folder.name)
    return (int(number[0]) if number and number[0] else 0, folder.name)


def _read_study(folder: Path) -> Study:
    about = check_section(About, read_yaml(folder / STUDY), str(folder / STUDY))
    problems: list[str] = []
    cells = _read_cells(folder, problems)
    ablations = {name: _read_cells(folder / ABLATIONS / name, problems) for name in about.ablations}
    unnamed = {path.name for path in (folder / ABLATIONS).glob("*/")} - set(about.ablations)
    problems += [f"{folder / ABLATIONS / name}: not named under ablations in {STUDY}" for name in sorted(unnamed)]
    sizes = {(data.config["input"]["size"], data.config["width"]) for data in cells}
    if len(sizes) > 1:
        problems.append(f"cells of several sizes and widths: {sorted(sizes)}")
    if problems:
        raise UserError(f"{folder}: an incomplete study; correct or store these again", problems)
    return Study(folder.name, folder, about, cells, ablations)


def _read_cells(folder: Path, problems: list[str]) -> list[Evaluated]:
    cells = []
    for cell in find_cells(folder, None):
        try:
            cells.append(_read_cell(folder / cell.folder, cell))
        except (UserError, ValueError) as error:
            problems.append(f"{folder / cell.folder}: {error}")
    return cells


def _read_cell(folder: Path, cell: Cell) -> Evaluated:
    """Return a stored cell, without ROC curve and images, which are not stored."""
    frames = {}
    for name, types in ((CASES, {"id": "string"}), (HISTORY, {})):
        try:
            frames[name] = pd.read_csv(folder / name, dtype=types)
        except OSError as error:
            raise UserError(f"{name} cannot be read ({error.strerror})") from error
    return Evaluated(
        cell=cell,
        rows=[check_row(value, cell, kept=True) for value in read_json(folder / ROWS)],
        cases=frames[CASES],
        roc=pd.DataFrame({"fpr": [], "tpr": []}),
        history=frames[HISTORY],
        overlays=[],
        config=read_json(folder / CONFIG),
        run=read_json(folder / RUN),
        reliability=pd.read_csv(folder / RELIABILITY) if (folder / RELIABILITY).exists() else None,
    )
