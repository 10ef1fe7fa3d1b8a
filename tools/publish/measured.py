"""Read further tables: robustness to corrupted images, and the cost of a prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from core.errors import UserError
from tools.publish.studies import Study

ROBUSTNESS = "robustness.csv"  # in a cell's folder
COST = "cost.csv"  # in the folder of the studies; written by benchmarks.cost
SEVERITIES = 5
CORRUPTIONS = {"noise": "Noise", "blur": "Blur", "gamma": "Gamma", "contrast": "Contrast", "jpeg": "JPEG"}

_ROBUSTNESS_TEXTS, _ROBUSTNESS_NUMBERS = ("corruption", "site"), ("severity", "dice", "low", "high")
_COST_TEXTS = ("network", "hardware")
_COST_NUMBERS = ("width", "size", "parameters", "gmac", "milliseconds", "least", "most")


def read_robustness(study: Study) -> pd.DataFrame | None:
    """Return the test Dice on corrupted images of a study's cells; ``None`` if no cell has it.

    Returns:
        Columns ``network``, ``scenario``, ``seed``, ``corruption`` (a key of :data:`CORRUPTIONS`), ``severity`` (0,
        clean, to 5), ``site`` (``all`` or one), ``dice`` and its interval over images, ``low`` and ``high``.

    Raises:
        UserError: a file is invalid, or has an unknown corruption or severity.
    """
    parts = []
    for data in study.cells:
        path = study.folder / data.cell.folder / ROBUSTNESS
        if not path.exists():
            continue
        frame = _read(path, _ROBUSTNESS_TEXTS, _ROBUSTNESS_NUMBERS)
        if unknown := sorted(set(frame["corruption"]) - set(CORRUPTIONS)):
            raise UserError(f"{path}: unknown corruption; known are {', '.join(CORRUPTIONS)}", unknown)
        if not frame["severity"].isin(range(SEVERITIES + 1)).all():
            raise UserError(f"{path}: a severity is not a whole number from 0 to {SEVERITIES}")
        if frame.duplicated(["corruption", "severity", "site"]).any():
            raise UserError(f"{path}: a corruption, severity and site occur twice")
        cell = data.cell
        parts.append(frame.assign(network=cell.network, scenario=cell.scenario, seed=cell.seed))
    return pd.concat(parts, ignore_index=True) if parts else None


def read_cost(results: Path) -> pd.DataFrame | None:
    """Return the results of ``benchmarks.cost``; ``None`` if there are none.

    Returns:
        Columns ``network``, ``width`` (share of the paper's), ``size`` (pixels per side), ``parameters``, ``gmac``
        (10^9 multiply-accumulates per image), ``milliseconds`` (per image, median of rounds), ``least`` and ``most``
        (of the rounds), ``hardware``.

    Raises:
        UserError: the file is invalid.
    """
    path = results / COST
    return _read(path, _COST_TEXTS, _COST_NUMBERS) if path.exists() else None


def _read(path: Path, texts: tuple[str, ...], numbers: tuple[str, ...]) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path, dtype=dict.fromkeys(texts, "string"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if missing := [column for column in (*texts, *numbers) if column not in frame]:
        raise UserError(f"{path}: columns missing: {', '.join(missing)}")
    for column in numbers:
        values = frame[column]
        if not pd.api.types.is_numeric_dtype(values) or not np.isfinite(values.astype(float)).all():
            raise UserError(f"{path}: column {column} has a value that is not a number")
    if frame.empty:
        raise UserError(f"{path}: no rows")
    return frame
