"""The gate in terminals of several widths: no figure, name or verdict is cut off."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from components.promote import render
from components.promote.gate import Gate, Group, Rule
from registry.versions import Version

FOUND = "-0.0010 (difference +0.0040, up to +0.0091)"
RULES = [
    Rule("floor", "mean Dice of the challenger at least 0.9000", "0.9641", True),
    Rule("margin.montgomery.abnormal", "lower end of the difference's 95 % interval at least -0.0300", FOUND, False),
]
GROUPS = [
    Group(site, label, 20, 0.9641, 0.9652, 0.9601, 0.9611, 0.004, (-0.001, 0.0091))
    for site in ("all", "montgomery", "shenzhen")
    for label in ("all", "abnormal", "normal")
]


@pytest.mark.parametrize(
    ("width", "absent"),
    [(80, ["lower end", "champion ", "pooled", "images ┃"]), (100, ["lower end", "pooled"]), (140, []), (200, [])],
)
def test_the_gate_fits_the_terminal(width: int, absent: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(render, "wide_console", lambda **_: Console(file=shown, width=width, markup=False))
    versions = [Version("lungs", number, (), {}, "run", 0) for number in (3, 2)]
    render.show(Gate(*versions, {"test images": "100 of cxr"}, RULES, GROUPS))
    text = shown.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for always in ("margin.montgomery.abnormal", "NOT MET", "challenger", "-0.0010 to +0.0091", "shenzhen", "0.9641"):
        assert always in text
    tables = text[text.index("Gate") :]
    assert [word for word in absent if word in tables] == []
    if not absent:
        assert "champion, pooled" in tables
        assert "lower end" in tables
