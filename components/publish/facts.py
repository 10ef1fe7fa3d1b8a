"""What the studies come to: the figures that ``docs/results.md`` states beside the tables of each study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import pandas as pd

from components.errors import UserError
from components.publish.studies import FIGURES, WORST, Study
from components.report import paper
from components.report.layout import Results, scenario_title
from components.report.load import Evaluated, scenario_order
from components.report.paired import REFERENCE, Pair, pair_of
from model.metrics import paired_difference

MIXED = "mixed"
PAPER_EPOCHS = 145  # section IV: "Our model can train 145 epochs"
WORST_IMAGES = 10
DIGITS = 5  # of the figures of a case, as they are kept
RESAMPLES, SEED = 10_000, 0


@dataclass(frozen=True)
class Reached:
    """The test Dice of DEFU-Net in one scenario beside what was to be reached."""

    scenario: str
    masks: str
    dice: float
    interval: list[float] | None
    deviation: float | None
    seeds: int
    target: float | None
    paper: float | None


@dataclass(frozen=True)
class Dropped:
    """What leaving one thing out of the recipe does to the test Dice of one scenario (paired over images).

    Of several seeds each image's Dice is the mean over those that have been trained without it.
    """

    scenario: str
    seeds: int
    dice: float
    difference: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Case:
    """One of the worst test images of a scenario, with what a reader saw in it."""

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
    """The first epoch whose validation Dice is the paper's, and the time until then; None: not reached."""

    cell: Evaluated
    target: float
    best: float
    epoch: int | None
    seconds: float | None
    images: int | None


def test_dice(data: Evaluated, masks: str) -> tuple[float, list[float] | None]:
    """Return a cell's test Dice, mean over images, and its 95 % interval."""
    for row in data.rows:
        where = (row["split"], row["site"], row["label"], row["reduction"], row["masks"])
        if where == ("test", "all", "all", "per_image", masks) and row["dice"] is not None:
            return row["dice"], row["dice_ci95"]
    raise UserError(f"{data.cell.folder}: no test Dice against {masks} masks; evaluate it again")


def reference(study: Study, scenario: str) -> list[Evaluated]:
    """Return the seeds of DEFU-Net in one scenario."""
    return list(_seeds(study, REFERENCE, scenario).values())


def scenarios(study: Study) -> list[str]:
    """Return the study's scenarios in the paper's order."""
    return sorted({data.cell.scenario for data in study.cells}, key=scenario_order)


def reached(study: Study) -> list[Reached]:
    """Return DEFU-Net's test Dice beside its targets; of several seeds their mean and standard deviation."""
    lines = []
    for masks, targets in (("original", study.about.reach), ("dilated", study.about.dilated)):
        for scenario in scenarios(study):
            found = [test_dice(data, masks) for data in reference(study, scenario)]
            if not found:
                continue
            figures = [dice for dice, _ in found]
            published = paper.MIXED["test"] if scenario == MIXED else paper.ACROSS.get(scenario, {})
            lines.append(
                Reached(
                    scenario,
                    masks,
                    fmean(figures),
                    found[0][1] if len(found) == 1 else None,
                    stdev(figures) if len(figures) > 1 else None,
                    len(figures),
                    targets.get(scenario),
                    published.get(REFERENCE, {}).get("dice") if masks == "dilated" else None,
                )
            )
    return lines


def dropped(study: Study) -> dict[str, list[Dropped]]:
    """Return, by ablation, DEFU-Net's test Dice against the study's masks without it, less the whole recipe's."""
    table: dict[str, list[Dropped]] = {}
    for name, cells in study.ablations.items():
        for scenario in dict.fromkeys(data.cell.scenario for data in cells):
            without = [data for data in cells if data.cell.scenario == scenario]
            known = {one.cell: one for one in reference(study, scenario)}
            for data in without:
                if data.cell not in known:
                    raise UserError(f"{study.folder}: ablation {name} has {data.cell.folder}, the study itself has not")
            seeds = [
                pd.concat([_dice(one, study.masks) for one in of], axis=1).mean(axis=1, skipna=False)
                for of in (without, [known[data.cell] for data in without])
            ]
            both = pd.concat(seeds, axis=1, join="inner").dropna().sort_index().to_numpy(float)
            difference, interval = paired_difference(both[:, 0], both[:, 1], resamples=RESAMPLES, seed=SEED)
            dice = fmean(test_dice(data, study.masks)[0] for data in without)
            table.setdefault(name, []).append(Dropped(scenario, len(without), dice, difference, interval))
    return table


def _dice(data: Evaluated, masks: str) -> pd.Series[float]:
    chosen = data.cases[(data.cases["split"] == "test") & (data.cases["masks"] == masks)]
    return chosen.dropna(subset=["dice"]).set_index("id")["dice"]


def beside(study: Study, other: Study) -> list[Pair]:
    """Return this study's test Dice less another's, image by image, of every network and scenario that both have.

    Against this study's masks, on the seeds that both have. Where sizes differ, each is scored at its own.
    """
    pairs = []
    for scenario in scenarios(study):
        for network in Results(study.cells).networks(scenario):
            ours, theirs = (_seeds(of, network, scenario) for of in (study, other))
            if shared := sorted(ours.keys() & theirs.keys()):
                mine, others = ([of[seed] for seed in shared] for of in (ours, theirs))
                pairs.append(pair_of(mine, others, study.masks, RESAMPLES, SEED))
    return pairs


def _seeds(study: Study, network: str, scenario: str) -> dict[int, Evaluated]:
    return {
        data.cell.seed: data for data in study.cells if (data.cell.network, data.cell.scenario) == (network, scenario)
    }


def worst_images(data: Evaluated, count: int = WORST_IMAGES) -> pd.DataFrame:
    """Return the cases of the worst test images against original masks, worst first."""
    chosen = data.cases[(data.cases["split"] == "test") & (data.cases["masks"] == "original")]
    return chosen.sort_values(["dice", "id"]).head(count)


def worst(study: Study) -> list[Case]:
    """Return the worst images of DEFU-Net's first seed in every scenario, each with the remark that was written of it.

    Raises:
        UserError: an image among the worst has no remark, or a remark is about one that is not among them.
    """
    path = study.folder / WORST
    if not path.exists():
        return []
    remarks = pd.read_csv(path, dtype="string").set_index(["scenario", "id"])
    cases, known = [], set()
    for scenario in scenarios(study):
        cells = reference(study, scenario)
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
    """Return when each network's mixed validation Dice first is the paper's for that network (Table II)."""
    lines = []
    for data in study.cells:
        if data.cell.scenario != MIXED or data.cell.network not in paper.MIXED["validation"]:
            continue
        target = paper.MIXED["validation"][data.cell.network]["dice"]
        best = float(data.history["validation_dice"].max())
        there = data.history[data.history["validation_dice"] >= target]
        if there.empty:
            lines.append(Reaching(data, target, best, None, None, None))
            continue
        epoch = int(there["epoch"].iloc[0])
        until = data.history[data.history["epoch"] <= epoch]
        images = float((until["images_per_second"] * until["seconds"]).sum())
        lines.append(Reaching(data, target, best, epoch, float(until["seconds"].sum()), round(images)))
    return lines


def figures(study: Study) -> list[Path]:
    """Return the study's pictures in the order of their names."""
    return sorted((study.folder / FIGURES).glob("*.jpg"))


def figure_title(path: Path) -> str:
    """Return what a picture is called from the name of its file: ``worst-mixed``, ``figure-5-shenzhen``."""
    kind, _, rest = path.stem.partition("-")
    if kind == "worst":
        return f"The {WORST_IMAGES} worst test images, {scenario_title(rest)}"
    number, _, site = rest.partition("-")
    return f"Figure {number}, {site.capitalize()}"
