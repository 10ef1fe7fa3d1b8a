"""Read and check the outputs of train, evaluate and preprocess."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import pandas as pd

from components.report import paper
from components.report.cases import Overlay, read_overlays
from components.report.rows import TEXTS, read_rows
from core.cell import CASES, HISTORY, PROVENANCE, RELIABILITY, ROC, ROWS, SCORED, Cell
from core.cohort import read_manifest, read_split
from core.errors import UserError
from core.files import read_json
from core.inputs import read_record
from core.results import METRICS, Row
from model.weights import CONFIG

T = TypeVar("T")

_CASES = ("id", "site", "label", "sex", "age", "split", "masks", *METRICS)
_ROC = ("fpr", "tpr")
_RELIABILITY = ("low", "high", "predicted", "observed", "pixels")
_HISTORY = ("epoch", "size", "learning_rate", "train_loss", "train_dice", "validation_loss", "validation_dice")


@dataclass(frozen=True)
class Evaluated:
    """The outputs of one cell: rows, cases (one per image and kind of masks), curves, overlays and config.

    ``run`` is ``run.json`` for a stored study, else empty, because a report has no values that differ between equal
    runs. For a stored study ``roc``, ``overlays``, ``trained`` (train's ``provenance.json``) and ``scored``
    (evaluate's ``scored.json``) are empty, and ``reliability`` is ``None`` if an earlier release wrote no bins.
    """

    cell: Cell
    rows: list[Row]
    cases: pd.DataFrame
    roc: pd.DataFrame
    history: pd.DataFrame
    overlays: list[Overlay]
    config: dict[str, Any]
    reliability: pd.DataFrame | None = None
    trained: dict[str, Any] = field(default_factory=dict)
    scored: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cohort:
    """The evaluated cohort.

    Attributes:
        name: its name; may be empty.
        synthetic: whether the X-rays are synthetic.
        description: one line; may be empty.
        size: side of the square arrays in pixels.
        kernel: side of the square that dilated the masks, in pixels of a 512-pixel image, or ``None``
            for a stored study, which does not record it.
        unpaired: X-rays that were omitted because they have no mask.
        manifest: one row per paired X-ray (:data:`core.cohort.COLUMNS`).
        splits: {scenario: {split: ids}}.
    """

    name: str
    synthetic: bool
    description: str
    size: int
    kernel: int | None
    unpaired: int
    manifest: pd.DataFrame
    splits: dict[str, dict[str, list[str]]]


def scenario_order(scenario: str) -> tuple[int, str]:
    """Return a sort key: ``mixed`` first, then the paper's scenarios, then others."""
    known = ["mixed", *paper.ACROSS]
    return (known.index(scenario) if scenario in known else len(known), scenario)


def cell_order(cell: Cell) -> tuple[tuple[int, str], tuple[int, str], int]:
    """Return the sort key of a cell: scenario, network in the paper's order, seed."""
    return (scenario_order(cell.scenario), paper.order(cell.network), cell.seed)


def find_cells(evaluations: Path, wanted: list[Cell] | None) -> list[Cell]:
    """Return the cells of the report, sorted: ``wanted``, or all in ``evaluations``.

    Raises:
        UserError: there is none, a folder is not a cell's, or wanted cells are missing (all are listed).
    """
    if wanted is None:
        folders = sorted(path for path in evaluations.glob("*/*/seed-*") if path.is_dir())
        strange = [str(folder) for folder in folders if not folder.name.removeprefix("seed-").isdecimal()]
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
    """Read all cells; raises a UserError that lists every missing or invalid file."""
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
            attempt(read_rows, evaluation / ROWS, cell),
            attempt(_read_csv, evaluation / CASES, _CASES, "evaluate", {"id": "string"}),
            attempt(_read_csv, evaluation / ROC, _ROC, "evaluate", {}),
            attempt(_read_csv, model / HISTORY, _HISTORY, "train", {}),
            attempt(read_overlays, evaluation),
            attempt(_read_object, model / CONFIG),
            attempt(_read_csv, evaluation / RELIABILITY, _RELIABILITY, "evaluate", {}),
            attempt(read_record, model / PROVENANCE, "train"),
            attempt(read_record, evaluation / SCORED, "evaluate"),
        )
        loaded.append(Evaluated(cell, *cast(Any, parts)))
    if problems:
        raise UserError("the report needs these files and cannot read them", problems)
    return loaded


def load_cohort(arrays: Path, splits: Path, cells: list[Evaluated]) -> Cohort:
    """Read the cohort's description and the split of every scenario in ``cells``.

    A cohort is synthetic if the arrays or the configuration of any model say so.
    """
    info = _read_object(arrays / "arrays.json")
    try:
        return Cohort(
            name=info["name"],
            synthetic=info["synthetic"] or any(data.config["cohort"]["synthetic"] for data in cells),
            description=info["description"],
            size=info["size"],
            kernel=info["kernel"],
            unpaired=sum(site["unpaired"] for site in info["sites"].values()),
            manifest=read_manifest(arrays),
            splits={
                scenario: read_split(splits / f"{scenario}.json")
                for scenario in sorted({data.cell.scenario for data in cells}, key=scenario_order)
            },
        )
    except KeyError as error:
        raise UserError(f"{arrays / 'arrays.json'}: lacks {error}; run the preprocess step again") from error


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
    texts = {"id", *TEXTS} - {"age"}  # an image's age is a number, a row's is a group
    for column in columns:
        if column not in texts and not pd.api.types.is_numeric_dtype(frame[column]) and frame[column].notna().any():
            raise UserError(f"{path}: column {column} has a value that is not a number; run the {step} step again")
    return frame
