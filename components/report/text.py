"""Format numbers, times and parameters for display."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from core.terminal import seconds


def figure_text(value: float | None, digits: int = 4, signed: bool = False) -> str:
    """Format a value for the tables: a difference with its sign, an undefined value as a dash."""
    if value is None or math.isnan(value):
        return "–"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    # A difference that rounds to 0 keeps its sign, to show whether an interval includes 0.
    return (text if value else text.lstrip("+-")).replace("-", "−")


def digits_for(values: Iterable[float]) -> int:
    """Return the smallest number of decimals, 4 to 8, with which no value other than 0 is printed as 0.

    The end of an interval that just excludes 0 must not be printed as 0. Smaller values are rounding errors.
    """
    defined = [abs(value) for value in values if value and not math.isnan(value)]
    return next((n for n in range(4, 8) if all(round(value, n) for value in defined)), 8)


def duration(took: float | None) -> str:
    """Return seconds as text: ``48 s``, ``3 min 20 s``, ``2 h 05 min``."""
    return "–" if took is None else seconds(took)


def moment(text: Any) -> str:
    """Return an ISO time as text, in UTC if it has a time zone: ``2026-01-02 03:04 UTC``."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text)
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if time.tzinfo else f"{time:%Y-%m-%d %H:%M}"


def parts(text: str) -> list[str]:
    """Split a name where a line may break: after a comma or a scenario's arrow."""
    return re.split("(?<=[,→]) ", text)


def plain(value: Any) -> str:
    """Return a parameter's value as text: lists with commas, a missing value as a dash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
