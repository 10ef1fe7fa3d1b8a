"""Tables on terminals of any width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def fit(table: Table, console: Console, dispensable: Sequence[str]) -> Table:
    """Drop columns of a table until it is no wider than the console; shortened figures would say nothing.

    Args:
        table: it is changed.
        console: where it is printed.
        dispensable: headers of columns that may go, the first one first.

    Returns:
        The table.
    """
    from rich.measure import Measurement

    endless = console.options.update(width=10_000)
    for header in dispensable:
        if Measurement.get(console, endless, table).maximum <= console.width:
            break
        table.columns = [column for column in table.columns if column.header != header]
    return table
