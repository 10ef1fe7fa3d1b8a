"""Reading what train, evaluate and preprocess left, checked whole before anything is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import cv2
import numpy as np
import pandas as pd

from components.cohort import SPLITS, read_manifest, read_split
from components.errors import UserError
from components.files import read_json
from components.report import paper
from components.results import CASES, CONFIG, HISTORY, METRICS, OVERLAYS, ROC, ROWS, RUN, Cell, Row

T = TypeVar("T")

_TEXTS = ("network", "scenario", "split", "site", "label", "masks", "reduction")
_CASES = ("id", "site", "label", "split", "masks", *METRICS)
_ROC = ("fpr", "tpr")
HISTORY_COLUMNS = ("epoch", "learning_rate", "train_loss", "train_dice", "validation_loss", "validation_dice")
_CHOICES = {"split": SPLITS, "masks": ("original", "dilated"), "reduction": ("pooled", "per_image")}
_KINDS = ("worst", "figure")


@dataclass(frozen=True)
class Overlay:
    """One X-ray with its prediction drawn over it: ``kind`` is ``worst`` or ``figure`` (Figures 5 and 6)."""

    path: Path
    kind: str
    id: str
    site: str
    label: str
    dice: float | None
    width: int
    height: int


@dataclass(frozen=True)
class Evaluated:
    """All that one cell left: its rows, cases (one an image and kind of masks), curves, overlays, config and run."""

    cell: Cell
    rows: list[Row]
    cases: pd.DataFrame
    roc: pd.DataFrame
    history: pd.DataFrame
    overlays: list[Overlay]
    config: dict[str, Any]
    run: dict[str, Any]


@dataclass(frozen=True)
class Cohort:
    """The cohort that was evaluated.

    Attributes:
        name: as its source calls itself; empty where it has no name.
        synthetic: whether the X-rays are drawn by a program; ``None`` where nothing says.
        description: one line about it, or empty.
        size: side of the square arrays in pixels, or ``None``.
        kernel: side of the square that dilated the masks, in pixels at that size, or ``None``.
        unpaired: X-rays that were left out because they have no mask.
        manifest: one row a paired X-ray (:data:`components.cohort.COLUMNS`).
        splits: {scenario: {split: ids}}.
    """

    name: str
    synthetic: bool | None
    description: str
    size: int | None
    kernel: int | None
    unpaired: int
    manifest: pd.DataFrame
    splits: dict[str, dict[str, list[str]]]


def scenario_order(scenario: str) -> tuple[int, str]:
    """Return the sorting key that puts ``mixed`` first, then the paper's directions, then what a user added."""
    known = ["mixed", *paper.ACROSS]
    return (known.index(scenario) if scenario in known else len(known), scenario)


def cell_order(cell: Cell) -> tuple[tuple[int, str], tuple[int, str], int]:
    """Return the sorting key of a cell: scenario, network in the paper's order, seed."""
    return (scenario_order(cell.scenario), paper.order(cell.network), cell.seed)


def find_cells(evaluations: Path, wanted: list[Cell] | None) -> list[Cell]:
    """Return the cells to report on, in order: those asked for, or every one below ``evaluations``.

    Raises:
        UserError: there is none, a folder's name is no cell's, or one that was asked for is missing (all are named).
    """
    if wanted is None:
        folders = sorted(path for path in evaluations.glob("*/*/seed-*") if path.is_dir())
        strange = [str(folder) for folder in folders if not folder.name.removeprefix("seed-").isdigit()]
        if strange:
            raise UserError(f"{evaluations}: not the folder of a seed, remove or rename it", strange)
        wanted = [Cell.of(folder) for folder in folders]
    if not wanted:
        raise UserError(f"{evaluations}: no evaluation found; run the evaluate step first (`dvc repro`)")
    missing = [str(cell.folder) for cell in wanted if not (evaluations / cell.folder).is_dir()]
    if missing:
        raise UserError(
            f"{evaluations}: not evaluated yet; run the evaluate step (`dvc repro`) for these cells", missing
        )
    return sorted(set(wanted), key=cell_order)


def load_cells(evaluations: Path, models: Path, cells: list[Cell]) -> list[Evaluated]:
    """Read every cell; raise one :class:`UserError` that lists every file that is missing or broken."""
    problems: list[str] = []

    def attempt(read: Callable[..., T], *arguments: Any) -> T | None:
        try:
            return read(*arguments)
        except UserError as error:
            problems.append(str(error))
            return None

    loaded = []
    for cell in cells:
        evaluation, model = evaluations / cell.folder, models / cell.folder
        parts = (
            attempt(_read_rows, evaluation / ROWS, cell),
            attempt(_read_csv, evaluation / CASES, _CASES, "evaluate", {"id": "string"}),
            attempt(_read_csv, evaluation / ROC, _ROC, "evaluate", {}),
            attempt(_read_csv, model / HISTORY, HISTORY_COLUMNS, "train", {}),
            attempt(_read_overlays, evaluation),
            attempt(_read_object, model / CONFIG),
            attempt(_read_object, model / RUN),
        )
        loaded.append(Evaluated(cell, *cast(Any, parts)))
    if problems:
        raise UserError("the report needs these files and cannot read them", problems)
    return loaded


def load_cohort(arrays: Path, splits: Path, cells: list[Evaluated]) -> Cohort:
    """Read what the cohort says of itself and the frozen split of every scenario in ``cells``.

    A cohort counts as synthetic as soon as preprocess or the configuration of any model says so: the warning must not
    be lost because one of them is silent.
    """
    info = _read_object(arrays / "arrays.json")
    card = info.get("cohort") if isinstance(info.get("cohort"), dict) else info
    trained_on = [data.config.get("cohort") for data in cells]
    cards = [value for value in [card, info, *trained_on] if isinstance(value, dict)]
    said = [value["synthetic"] for value in cards if isinstance(value.get("synthetic"), bool)]
    return Cohort(
        name=next((str(value["name"]) for value in cards if value.get("name")), ""),
        synthetic=any(said) if said else None,
        description=next((str(value["description"]) for value in cards if value.get("description")), ""),
        size=_whole(info, "size"),
        kernel=_whole(info, "kernel"),
        unpaired=sum(_whole(site, "unpaired") or 0 for site in _objects(cards)),
        manifest=read_manifest(arrays),
        splits={
            scenario: _read_scenario(splits / f"{scenario}.json")
            for scenario in sorted({data.cell.scenario for data in cells}, key=scenario_order)
        },
    )


def _whole(value: dict[str, Any], name: str) -> int | None:
    return value[name] if isinstance(value.get(name), int) else None


def _objects(cards: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the first card that counts its sites says of each."""
    sites: dict[str, Any] = next((card["sites"] for card in cards if isinstance(card.get("sites"), dict)), {})
    return [site for site in sites.values() if isinstance(site, dict)]


def _read_scenario(path: Path) -> dict[str, list[str]]:
    try:
        return read_split(path)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a split with {', '.join(SPLITS)} ({error}); run the preprocess step again"
        ) from error


def _read_object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object; run the step that writes it again")
    return value


def _read_csv(path: Path, columns: tuple[str, ...], step: str, types: dict[str, str]) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path, dtype=cast(Any, types))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run the {step} step first (`dvc repro`)") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: not a CSV file ({' '.join(str(error).split())}); run the {step} step again"
        ) from error
    missing = [column for column in columns if column not in frame]
    if missing:
        raise UserError(f"{path}: columns missing: {', '.join(missing)}; run the {step} step again")
    texts = {"id", *_TEXTS}
    for column in columns:
        if column not in texts and not pd.api.types.is_numeric_dtype(frame[column]) and frame[column].notna().any():
            raise UserError(f"{path}: column {column} holds something that is no number; run the {step} step again")
    return frame


def _read_rows(path: Path, cell: Cell) -> list[Row]:
    values = read_json(path)
    if not isinstance(values, list) or not values:
        raise UserError(f"{path}: not a list of rows; run the evaluate step again")
    rows, problems = [], []
    for number, value in enumerate(values):
        try:
            rows.append(check_row(value, cell))
        except ValueError as error:
            problems.append(f"row {number}: {error}")
    keys = [row_key(row) for row in rows]
    problems += [f"twice: {' '.join(map(str, key))}" for key in sorted({key for key in keys if keys.count(key) > 1})]
    if problems:
        more = [] if len(problems) <= 5 else [f"and {len(problems) - 5} more"]
        raise UserError(f"{path}: not the rows of {cell.folder}; run the evaluate step again", problems[:5] + more)
    return rows


def check_row(value: Any, cell: Cell) -> Row:
    """Return ``value`` as a :class:`Row` of ``cell``, NaN as ``None``, or raise a ValueError saying what is wrong."""
    if not isinstance(value, dict):
        raise ValueError("not an object")
    wrong = sorted(set(Row.__annotations__) ^ set(value))
    if wrong:
        raise ValueError(f"keys missing or unknown: {', '.join(wrong)}")
    row = {name: value[name] for name in Row.__annotations__}
    for name in _TEXTS:
        if not isinstance(row[name], str) or row[name] not in _CHOICES.get(name, (row[name],)):
            raise ValueError(f"{name} is {row[name]!r}")
    for name in ("seed", "n_images"):
        if type(row[name]) is not int or row[name] < 0:
            raise ValueError(f"{name} is {row[name]!r}")
    if (row["network"], row["scenario"], row["seed"]) != (cell.network, cell.scenario, cell.seed):
        raise ValueError(f"belongs to {row['network']}/{row['scenario']}/seed-{row['seed']}")
    for name in METRICS:
        row[name] = _number(name, row[name])
    interval = row["dice_ci95"]
    if interval is not None:
        if not isinstance(interval, list) or len(interval) != 2:
            raise ValueError(f"dice_ci95 is {interval!r}")
        ends = [_number("dice_ci95", end) for end in interval]
        row["dice_ci95"] = None if None in ends else ends
    return cast(Row, row)


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
        raise ValueError(f"{name} is {value!r}")
    return None if math.isnan(value) else float(value)


def row_key(row: Row) -> tuple[str, str, int, int, str, str, str, str]:
    """Return what no two rows share, in the order in which ``results.json`` is sorted."""
    split = SPLITS.index(row["split"])
    place = (row["site"], row["label"], row["masks"], row["reduction"])
    return (row["network"], row["scenario"], row["seed"], split, *place)


def _read_overlays(evaluation: Path) -> list[Overlay]:
    path = evaluation / OVERLAYS
    values = read_json(path)
    overlays = []
    try:
        for value in values:
            kind = value["kind"]
            if kind not in _KINDS:
                raise ValueError(f"kind is {kind!r}")
            file = evaluation / "overlays" / str(value["file"]).removeprefix("overlays/")
            width, height = _picture_size(file)
            id, site, label = (str(value[name]) for name in ("id", "site", "label"))
            overlays.append(Overlay(file, kind, id, site, label, _number("dice", value["dice"]), width, height))
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a list of overlays ({error}); run the evaluate step again") from error
    return overlays


def _picture_size(path: Path) -> tuple[int, int]:
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run the evaluate step again") from None
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if picture is None:
        raise UserError(f"{path}: not a picture that can be read; run the evaluate step again")
    return picture.shape[1], picture.shape[0]
