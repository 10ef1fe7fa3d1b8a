"""Read and validate the rows of an evaluation (:class:`core.results.Row`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

from core.cell import Cell
from core.cohort import SPLITS
from core.errors import UserError
from core.files import read_json
from core.results import ADDED, AGES, ROW_METRICS, SEXES, Row

TEXTS = ("network", "scenario", "split", "site", "label", "sex", "age", "masks", "reduction")
_CHOICES = {
    "split": SPLITS,
    "sex": ("all", *SEXES),
    "age": ("all", *AGES),
    "masks": ("original", "dilated"),
    "reduction": ("pooled", "per_image"),
}


def read_rows(path: Path, cell: Cell) -> list[Row]:
    """Read the rows of a cell; raises a UserError that lists the first invalid or duplicate rows."""
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


def check_row(value: Any, cell: Cell, kept: bool = False) -> Row:
    """Return ``value`` as a :class:`Row` of ``cell``, with NaN as ``None``.

    Args:
        value: the JSON value.
        cell: the cell that the row must belong to.
        kept: True accepts rows of earlier versions, which lack groups by sex and age and newer metrics.

    Raises:
        ValueError: the row is invalid.
    """
    if not isinstance(value, dict):
        raise ValueError("not an object")
    if kept:
        value = ADDED | value
    wrong = sorted(set(Row.__annotations__) ^ set(value))
    if wrong:
        raise ValueError(f"keys missing or unknown: {', '.join(wrong)}")
    row = {name: value[name] for name in Row.__annotations__}
    for name in TEXTS:
        if not isinstance(row[name], str) or row[name] not in _CHOICES.get(name, (row[name],)):
            raise ValueError(f"{name} is {row[name]!r}")
    for name in ("seed", "n_images"):
        if type(row[name]) is not int or row[name] < 0:
            raise ValueError(f"{name} is {row[name]!r}")
    if type(row["few"]) is not bool:
        raise ValueError(f"few is {row['few']!r}")
    if (row["network"], row["scenario"], row["seed"]) != (cell.network, cell.scenario, cell.seed):
        raise ValueError(f"belongs to {row['network']}/{row['scenario']}/seed-{row['seed']}")
    for name in ROW_METRICS:
        row[name] = number_or_none(name, row[name])
    interval = row["dice_ci95"]
    if interval is not None:
        if not isinstance(interval, list) or len(interval) != 2:
            raise ValueError(f"dice_ci95 is {interval!r}")
        ends = [number_or_none("dice_ci95", end) for end in interval]
        row["dice_ci95"] = None if None in ends else ends
    return cast(Row, row)


def number_or_none(name: str, value: Any) -> float | None:
    """Return a finite number as float, ``None`` for ``None`` and NaN; raises ValueError on anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
        raise ValueError(f"{name} is {value!r}")
    return None if math.isnan(value) else float(value)


def row_key(row: Row) -> tuple[str, str, int, int, str, str, str, str, str, str]:
    """Return the unique key of a row, by which ``results.json`` is sorted."""
    split = SPLITS.index(row["split"])
    place = (row["site"], row["label"], row["sex"], row["age"], row["masks"], row["reduction"])
    return (row["network"], row["scenario"], row["seed"], split, *place)
