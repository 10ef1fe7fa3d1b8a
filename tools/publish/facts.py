"""More content of a study's page: worst images, time to the paper's validation Dice, and drawings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from components.report import paper
from components.report.layout import scenario_title
from components.report.load import Evaluated
from components.report.paired import REFERENCE
from core.errors import UserError
from tools.publish.scores import MIXED, runs_of
from tools.publish.studies import FIGURES, WORST, Study

PAPER_EPOCHS = 145  # section IV: "Our model can train 145 epochs"
PAPER_IMAGES = 528  # in the mixed scenario's training split
WORST_IMAGES = 10
DIGITS = 5  # decimals of the stored cases


@dataclass(frozen=True)
class Case:
    """One of the worst test images of a scenario, with a reader's remark."""

    scenario: str
    id: str
    site: str
    label: str
    dice: float
    hd95: float | None
    cause: str
    remark: str


@dataclass(frozen=True)
class Reaching:
    """The first epoch that reaches the paper's validation Dice, and the time until then; None if not reached."""

    cell: Evaluated
    target: float
    best: float
    epoch: int | None
    seconds: float | None
    images: int | None


def worst_images(data: Evaluated) -> pd.DataFrame:
    """Return the cases of the worst test images against original masks, worst first."""
    chosen = data.cases[(data.cases["split"] == "test") & (data.cases["masks"] == "original")]
    return chosen.sort_values(["dice", "id"]).head(WORST_IMAGES)


def worst(study: Study) -> list[Case]:
    """Return the worst images of DEFU-Net's first seed in every scenario, each with its remark.

    Raises:
        UserError: a worst image has no remark, or a remark is on another image.
    """
    path = study.folder / WORST
    if not path.exists():
        return []
    remarks = pd.read_csv(path, dtype="string").set_index(["scenario", "id"])
    cases, known = [], set()
    for scenario in study.scenarios:
        cells = runs_of(study.cells, REFERENCE, scenario)
        for row in worst_images(cells[0]).itertuples() if cells else ():
            key = (scenario, str(row.id))
            known.add(key)
            if key not in remarks.index:
                raise UserError(f"{path}: no line for {scenario}, {row.id}; look at it and write what went wrong")
            cause, remark = (str(remarks.loc[key, column]) for column in ("cause", "remark"))
            hd95 = None if pd.isna(row.hd95) else float(row.hd95)  # type: ignore[arg-type]
            cases.append(Case(*key, str(row.site), str(row.label), float(row.dice), hd95, cause, remark))  # type: ignore[arg-type]
    if stale := [f"{scenario}, {id}" for scenario, id in remarks.index if (scenario, id) not in known]:
        raise UserError(f"{path}: not among the {WORST_IMAGES} worst (any more); remove", stale)
    return cases


def reaching(study: Study) -> list[Reaching]:
    """Return when each network first reaches the paper's validation Dice in scenario mixed (Table II)."""
    lines = []
    for data in study.cells:
        if data.cell.scenario != MIXED or data.cell.network not in paper.MIXED["validation"]:
            continue
        target = paper.MIXED["validation"][data.cell.network]["dice"]
        # In a run with stages only epochs at the full size are comparable to the paper; the time includes the others.
        size = data.history.get("size", pd.Series(0, data.history.index))
        full = data.history[size == size.max()]
        best = float(full["validation_dice"].max())
        there = full[full["validation_dice"] >= target]
        if there.empty:
            lines.append(Reaching(data, target, best, None, None, None))
            continue
        epoch = int(there["epoch"].iloc[0])
        until = data.history[data.history["epoch"] <= epoch]
        images = float((until["images_per_second"] * until["seconds"]).sum())
        lines.append(Reaching(data, target, best, epoch, float(until["seconds"].sum()), round(images)))
    return lines


def figures(study: Study) -> list[Path]:
    """Return the study's drawings, sorted by name."""
    return sorted((study.folder / FIGURES).glob("*.jpg"))


def figure_title(path: Path) -> str:
    """Return the title of a drawing from its file name, such as ``worst-mixed`` or ``figure-5-shenzhen``."""
    kind, _, rest = path.stem.partition("-")
    if kind == "worst":
        return f"The {WORST_IMAGES} worst test images, {scenario_title(rest)}"
    number, _, site = rest.partition("-")
    return f"Figure {number}, {site.capitalize()}"
