"""Check that the cells of a report have the same parameters, cohort and code."""

from __future__ import annotations

import json

from components.report.load import Evaluated
from core.errors import UserError
from core.inputs import flat


def require_one_origin(cells: list[Evaluated]) -> None:
    """Check that the results of the cells are comparable.

    Raises:
        UserError: an evaluation used other weights than the model's, or cells differ in parameters, cohort or code;
            every difference is one line with the cells.
    """
    names = [data.cell.folder.as_posix() for data in cells]
    problems = [
        f"{data.cell.folder}: the evaluation is of other weights than the model's"
        for data in cells
        if data.scored["files"]["weights"] != data.trained["weights"]
    ]
    for step, records in (("train", [d.trained for d in cells]), ("evaluate", [d.scored for d in cells])):
        lines = [
            {f"{step}.{key}": value for key, value in flat(record["params"]).items()}
            | {"cohort": record["manifest"][:12]}
            | ({"precision": record["precision"]} if step == "train" else {})
            | {name: digest[:12] for name, digest in record["code"].items()}
            for record in records
        ]
        for key in sorted(set[str]().union(*lines)):
            # Networks share most code files but not all; files that a cell does not read are not compared.
            values = {name: json.dumps(line[key]) for name, line in zip(names, lines, strict=True) if key in line}
            if len(set(values.values())) > 1:
                problems.append(f"{key}: {_cells_by_value(values)}")
    if problems:
        raise UserError(
            "the cells of this report do not match; run `dvc repro`, or pass --mixed to report on them as they are",
            problems,
        )


def _cells_by_value(values: dict[str, str]) -> str:
    """Return ``12 (a, b), 24 (c)``: each value with the cells that have it."""
    owners: dict[str, list[str]] = {}
    for cell, value in values.items():
        owners.setdefault(value, []).append(cell)
    return ", ".join(f"{value} ({', '.join(cells)})" for value, cells in owners.items())
