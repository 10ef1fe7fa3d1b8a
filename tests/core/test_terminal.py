"""Tables keep their figures whole on narrow terminals."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from core.terminal import console, fit


@pytest.mark.parametrize(("width", "shown"), [(80, "abcd"), (26, "acd"), (18, "ad"), (5, "ad")])
def test_columns_go_in_order_until_the_rest_fits(width: int, shown: str) -> None:
    table = Table()
    for name in "abcd":
        table.add_column(name, no_wrap=True)
    for _ in range(2):
        table.add_row(*(name * 5 for name in "abcd"))
    console = Console(file=io.StringIO(), width=width)
    fit(table, console, ["b", "c"])
    assert [column.header for column in table.columns] == list(shown)
    if width > 5:
        console.print(table)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert text.count("\n") == 6
        assert all(text.count(name * 5) == 2 for name in shown)
        assert "…" not in text


@pytest.mark.parametrize(("columns", "width"), [("60", 60), ("", 200), (None, 200), ("many", 200)])
def test_a_pipe_is_as_wide_as_columns_says(monkeypatch: pytest.MonkeyPatch, columns: str | None, width: int) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert console(200).width == width
