"""Target Dice of ``results/targets.yaml``, and whether the studies reach them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from components.report.paired import REFERENCE
from core.errors import UserError
from core.params import Name, check_section, read_yaml
from model.training.recipe import Section
from tools.publish.scores import ALL, Score, published, score_at
from tools.publish.studies import COLUMNS, Study

TARGETS = "targets.yaml"
REACHED, MISSED, NOT_SHOWN, NOT_RUN, NOT_SCORED = "reached", "**missed**", "not shown", "not run", "not scored"


class Target(Section):
    """A target Dice of DEFU-Net, and the requirements on a study."""

    label: str = Field(description="name of the row")
    size: int = Field(gt=0, description="side of the network's input in pixels")
    width: float = Field(gt=0, description="share of the paper's channels")
    scenario: Name = Field(description="of folds, without their number")
    masks: Literal["original", "dilated"] = Field(description="of training and of scoring")
    at: Literal["network", "stored"] = Field(description="the size at which Dice is taken")
    at_least: float = Field(gt=0, le=1, description="mean test Dice")
    outside: str = Field(default="", description="results of other authors")
    paper: bool = Field(default=False, description="whether to print the paper's figure")
    site: Name = Field(default=ALL, description="of the test images; all: every site")
    folds: int = Field(default=0, ge=0, description="number of the study's folds; 0: none")


@dataclass(frozen=True)
class Reach:
    """A target with the matching study and score, if any, and the result."""

    target: Target
    study: Study | None
    score: Score | None
    state: str

    @property
    def outside(self) -> str:
        """The results of the paper and of others."""
        figure = published(self.target.scenario, REFERENCE) if self.target.paper else None
        parts = [self.target.outside] if figure is None else [f"{figure:.4f} (paper)", self.target.outside]
        return "; ".join(text for text in parts if text)


def read_targets(results: Path) -> list[Target]:
    """Return the targets in the order of the file; empty without a file.

    Raises:
        UserError: the file is not a valid list of targets.
    """
    path = results / TARGETS
    if not path.exists():
        return []
    values = read_yaml(path)
    if not isinstance(values, list):
        raise UserError(f"{path}: not a list of targets")
    return [check_section(Target, value, f"{path}, target {number}") for number, value in enumerate(values, start=1)]


def reach(targets: Sequence[Target], studies: Sequence[Study]) -> list[Reach]:
    """Return the result for each target, from the (first) matching study with the most runs."""
    return [_reach(target, studies) for target in targets]


def _reach(target: Target, studies: Sequence[Study]) -> Reach:
    column = COLUMNS[target.at]
    fitting = [study for study in studies if _fits(target, study)]
    scored = [study for study in fitting if all(column in data.cases for data in study.cells)]
    found = [(study, score_at(study, REFERENCE, target.scenario, column, target.site)) for study in scored]
    known = [(study, score) for study, score in found if score is not None]
    if not known:
        return Reach(target, fitting[0] if fitting else None, None, NOT_SCORED if fitting else NOT_RUN)
    study, score = max(known, key=lambda pair: pair[1].runs)
    return Reach(target, study, score, _state(target.at_least, score.interval))


def _fits(target: Target, study: Study) -> bool:
    names = {data.cell.scenario.partition("-fold-")[0] for data in study.cells if data.cell.network == REFERENCE}
    wanted = (target.size, target.width, target.masks, target.folds)
    return (study.size, study.width, study.masks, study.about.folds) == wanted and target.scenario in names


def _state(at_least: float, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return NOT_SHOWN
    return REACHED if interval[0] >= at_least else MISSED if interval[1] < at_least else NOT_SHOWN
