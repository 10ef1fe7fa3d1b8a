"""The tables at the end of a run keep their figures whole in a narrow terminal."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.table import Table

from components.report.paired import NEITHER, Pair
from core.results import Row
from core.terminal import console, fit
from tools.show import DISPENSABLE, comparison_table, result_table

LONGEST = ("incep_res_unet", "montgomery-to-shenzhen")


def rows(seeds: int) -> list[Row]:
    place = {"split": "test", "site": "all", "label": "all", "sex": "all", "age": "all", "reduction": "per_image"}
    figures: dict[str, Any] = {"dice": 0.95, "jaccard": 0.9, "accuracy": 0.98, "hd95": 12.5, "assd": 1.25}
    cell = dict(zip(("network", "scenario"), LONGEST, strict=True))
    return [
        {**place, **figures, **cell, "seed": seed, "masks": masks, "n_images": 566, "dice_ci95": [0.9, 0.97]}  # type: ignore[typeddict-item]
        for seed in range(seeds)
        for masks in ("original", "dilated")
    ]


def pairs() -> list[Pair]:
    figures: dict[str, Any] = {"difference": -0.0089, "ci95": [-0.0200, 0.0011], "verdict": NEITHER, "n_images": 566}
    cell = dict(zip(("other", "scenario"), LONGEST, strict=True))
    return [{**figures, **cell, "reference": "defu_net", "masks": "original"}]  # type: ignore[typeddict-item]


def shown(table: Table, width: int, monkeypatch: pytest.MonkeyPatch, dispensable: Any = DISPENSABLE, **how: Any) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    screen = console(140, **how)
    with screen.capture() as captured:
        screen.print(fit(table, screen, dispensable))
    text = captured.get()
    assert "…" not in text
    assert how or max(map(len, text.splitlines())) <= width
    return text


@pytest.mark.parametrize("width", [80, 100, 140])
def test_results_always_have_scenario_masks_dice_and_interval(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(result_table(rows(1)), width, monkeypatch)
    for word in (*LONGEST, "original", "dilated", "0.9500", "0.900 to 0.970"):
        assert word in text
    assert ("HD95" in text) == (width == 140)


def test_seeds_can_be_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [name for name in DISPENSABLE if name != "seed"]
    text = shown(result_table(rows(2)), 80, monkeypatch, kept)
    assert "seed" in text
    assert re.search(r"montgomery-to-shenzhen\W+1\W+dilated\W+0.9500\W+0.900 to 0.970", text)


@pytest.mark.parametrize("width", [80, 100])
def test_a_comparison_is_whole(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(comparison_table(pairs()), width, monkeypatch)
    for word in (
        *LONGEST,
        "defu_net less the other",
        "original masks",
        "-0.0089",
        "-0.0200 to +0.0011",
        *NEITHER.split(),
    ):
        assert word in text


def test_wide_has_every_column_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(result_table(rows(1)), 80, monkeypatch, wide=True)
    assert all(name in text for name in DISPENSABLE if name not in ("MLflow run", "started", "commit"))
