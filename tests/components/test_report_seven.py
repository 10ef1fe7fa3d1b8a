"""The page of the paper's whole comparison: seven networks in three scenarios with two seeds, and still readable."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

import pytest

from components.report import COMPARISONS, MARKDOWN, PAGE, RESULTS, paper
from components.report.page import LIMIT
from core.cell import Cell
from core.results import Row
from model.weights import CONFIG
from tests.browser import Browser
from tests.components.written_run import SCENARIOS, Page, make, write_run

pytestmark = pytest.mark.full
SEEDS = (0, 1)
NAMES = list(paper.NAMES.values())


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_run(tmp_path_factory.mktemp("seven"), list(paper.NAMES), list(SCENARIOS), SEEDS)
    for number, network in enumerate(paper.NAMES):
        for path in (root / "models" / network).rglob(CONFIG):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"parameters": 1000 + number}))
    make(root, root / "reports")
    return root


@pytest.fixture(scope="module")
def page(reported: Path) -> Page:
    return Page((reported / "reports" / PAGE).read_text())


def dice(
    reported: Path, network: str, scenario: str, masks: str, reduction: str, split: str = "test", **place: str
) -> list[float]:
    """Dice of every seed."""
    wanted: dict[str, object] = {"network": network, "scenario": scenario, "split": split, "masks": masks}
    wanted |= {"site": "all", "label": "all", "sex": "all", "age": "all", "reduction": reduction} | place
    rows: list[Row] = json.loads((reported / "reports" / RESULTS).read_text())
    return [row["dice"] or 0.0 for row in rows if all(row[name] == value for name, value in wanted.items())]


def mean_and_spread(values: list[float], few: bool = True) -> str:
    """What a table says of the seeds' Dice; over fewer than 20 images it is marked."""
    assert len(values) == len(SEEDS)
    return f"{fmean(values):.4f}{'†' if few else ''} ± {stdev(values):.4f}"


@pytest.mark.parametrize(("split", "table"), [("train", "table-i"), ("validation", "table-ii"), ("test", "table-iii")])
def test_tables_show_every_network_once_with_its_spread(reported: Path, page: Page, split: str, table: str) -> None:
    rows = page.rows(table)
    variants = [row[0] for row in rows if len(row) == 1]
    assert len(variants) == 4
    assert "Not in this run" not in page.text()
    for network, name in paper.NAMES.items():
        lines = [row for row in rows if row[0] == f"{name}, mean of 2 seeds"]
        assert len(lines) == 4
        theirs = f"paper {paper.MIXED[split][network]['dice']:.4f}"
        scored = product(("per_image", "pooled"), ("dilated", "original"))
        for line, (reduction, masks) in zip(lines, scored, strict=True):
            assert line[1] == mean_and_spread(
                dice(reported, network, "mixed", masks, reduction, split), split != "train"
            )
        assert [line[2].endswith(theirs) for line in lines] == [True, False, False, False], "the paper's figure once"
        # The paper tells of one training and not of which: its figures stand beside the mean alone.
        singles = [row for row in rows if row[0] in {f"{name}, seed {seed}" for seed in SEEDS}]
        assert len(singles) == 8
        assert not any("paper" in cell for line in singles for cell in line)


def test_table_iv_has_both_directions_of_every_network(reported: Path, page: Page) -> None:
    lines = [row for row in page.rows("table-iv") if row[0].endswith("mean of 2 seeds")]
    assert [row[0] for row in lines[:7]] == [f"{name}, mean of 2 seeds" for name in NAMES]
    for network, line in zip(paper.NAMES, lines[:7], strict=True):
        for column, scenario in ((1, "montgomery-to-shenzhen"), (4, "shenzhen-to-montgomery")):
            assert line[column] == mean_and_spread(dice(reported, network, scenario, "dilated", "per_image"), few=False)
            assert f"paper {paper.ACROSS[scenario][network]['dice']:.4f}" in line[column + 1]


def test_single_seeds_are_there_to_be_shown(reported: Path, page: Page) -> None:
    (switch,) = [found for found in page.all("input") if found["type"] == "checkbox"]
    assert (switch["type"], switch["id"]) == ("checkbox", "each-seed")
    assert "checked" not in switch
    html = (reported / "reports" / PAGE).read_text()
    assert "body:not(:has(#each-seed:checked)) .seed { display: none; }" in html
    tables = html[html.index('<details id="paper"') : html.index('<section id="curves"')]
    tables = tables[: tables.index("</details>")]
    found = re.findall(r'<tr( class="seed")?>\s*<th scope="row">(.*?)</th>', tables)
    lines = [(seed, re.sub("<[^>]*>", "", text)) for seed, text in found]
    hidden, visible = ([text for seed, text in lines if bool(seed) == single] for single in (True, False))
    variants = 4 * 4  # four in each of four tables
    assert sorted(hidden) == sorted([f"{name}, seed {seed}" for name in NAMES for seed in SEEDS] * variants)
    assert sorted(visible) == sorted([f"{name}, mean of 2 seeds" for name in NAMES] * variants)


def test_places_have_the_mean_over_seeds_alone_where_single_seeds_are_too_many(reported: Path, page: Page) -> None:
    place = {"site": "shenzhen", "label": "normal"}
    group = ["Mixed", *place.values(), "original", "per image"]
    lines = [row for row in page.rows("explorer") if row[1:6] == group and row[0].startswith("U-Net")]
    assert [line[0] for line in lines] == ["U-Net, mean of 2 seeds"]
    assert "Single seeds are in results.json." in page.text()
    assert [line[6] for line in lines] == ["2"]
    assert lines[0][7] == mean_and_spread(dice(reported, "unet", "mixed", "original", "per_image", **place))


def test_headlines_are_the_best_network_of_each_scenario(reported: Path, page: Page) -> None:
    html = (reported / "reports" / PAGE).read_text()
    cards = re.findall(r'<div class="card">(.*?)</div>', html, flags=re.DOTALL)
    assert len(cards) == len(SCENARIOS)
    for scenario, card in zip(SCENARIOS, cards, strict=True):
        found = {network: dice(reported, network, scenario, "original", "per_image") for network in paper.NAMES}
        best = max(found, key=lambda network: fmean(found[network]))
        assert f'<p class="big">{fmean(found[best]):.4f}</p>' in card
        assert f"{paper.NAMES[best]}, best of 7 networks" in card
        assert f"± {stdev(found[best]):.4f} over 2 seeds" in card
    text = (reported / "reports" / MARKDOWN).read_text()
    spread = mean_and_spread(dice(reported, "defu_net", "mixed", "original", "per_image"), False).replace(" ", " | ", 1)
    assert f"| Mixed | DEFU-Net, mean of 2 seeds | 8 | {spread} | 0.9667 |" in text


@pytest.mark.full
@pytest.mark.parametrize("width", [1280, 1600])
def test_no_table_scrolls_sideways(reported: Path, browser: Browser, width: int) -> None:
    visit = browser(offline=True, viewport={"width": width, "height": 900})
    visit.page.goto((reported / "reports" / PAGE).as_uri())
    visit.page.get_by_label("Show each seed too").check()
    visit.page.locator("summary", has_text="All test results").click()
    for name in ("Masks", "Aggregation"):
        visit.page.locator("form.filters").get_by_label(name).select_option("any")
    wide = visit.page.evaluate(
        """() => {
          for (const one of document.querySelectorAll("details")) one.open = true;
          const boxes = [...document.querySelectorAll(".scroll")];
          return [boxes.length, boxes.filter((box) => box.scrollWidth > box.clientWidth).map((box) => box.innerText)];
        }"""
    )
    assert wide[0] > 10
    assert wide[1] == []
    visit.check()


def test_figures_show_all_networks_on_the_same_x_rays(reported: Path, page: Page) -> None:
    figures = [rows for rows in page.tables.values() if rows[0][0] == "X-ray"]
    assert len(figures) == 2
    text = page.text()
    assert text.index("Figure 5: shenzhen") < text.index("Figure 6: montgomery")
    assert "each network’s first (0)" in text
    html = (reported / "reports" / PAGE).read_text()
    drawn = re.findall(r'alt="Prediction over ground truth on (\S+), ', html)
    assert len(drawn) == 2 * 2 * 7
    for start, rows in zip((0, 14), figures, strict=True):
        assert rows[0] == ["X-ray", *NAMES]
        for number, row in enumerate(rows[1:]):
            ids = drawn[start + 7 * number : start + 7 * number + 7]
            assert len(set(ids)) == 1
            assert row[0].startswith(ids[0])
            assert all(cell.strip().startswith("Dice 0.") for cell in row[1:])


def test_six_comparisons_in_every_scenario(reported: Path, page: Page) -> None:
    pairs = json.loads((reported / "reports" / COMPARISONS).read_text())
    assert len(pairs) == len(SCENARIOS) * 6 * 2
    for scenario in SCENARIOS:
        assert [row[0] for row in page.rows(f"paired-{scenario}")[2:]] == NAMES[:-1]
    assert page.text().count("Six comparisons with no correction for their number") == len(SCENARIOS)


def test_charts_and_galleries_are_not_crowded(reported: Path, page: Page) -> None:
    html = (reported / "reports" / PAGE).read_text()
    # Ranking; spread; loss and Dice, of training and of validation apart, and rate; ROC and its corner; reliability.
    assert html.count('<figure class="chart">') == len(SCENARIOS) * (1 + 1 + 5 + 2 + 1)
    assert len(html.encode()) < LIMIT
    assert "Mixed: training loss over the epochs" in html
    strips = html[html.index('no-script">Mixed: Dice of each test image') :].split("</p>")[0]
    assert strips.count("median") == 7 * 2, "a strip a network and site, the seeds in one"
    outer = re.findall(r'<details class="outer"( open)?>\s*<summary>(.*?)</summary>', html)
    assert outer == [(" open", "Mixed"), ("", "Montgomery → Shenzhen"), ("", "Shenzhen → Montgomery")]


def test_runs_and_recipes_are_told_without_repeating_what_is_common(reported: Path, page: Page) -> None:
    assert page.rows("recipes") == [
        ["Runs", "parameters"],
        *([name, f"{1000 + number}"] for number, name in enumerate(NAMES)),
    ]
    runs = page.rows("run-list")
    assert len(runs) == 1 + 7 * 3 * 2
    assert runs[0] == ["Network", "Scenario", "Width", "Parameters", "Epochs", "Best epoch", "Precision"]
    assert {tuple(row[4:]) for row in runs[1:]} == {("12", "12", "float32")}


def test_recipe_that_differs_within_a_network_names_its_cells(tmp_path: Path) -> None:
    root = write_run(tmp_path, ["defu_net", "unet"], ["mixed"], SEEDS)
    cell = root / "models" / Cell("unet", "mixed", 1).folder
    (cell / CONFIG).write_text(json.dumps(json.loads((cell / CONFIG).read_text()) | {"width": 0.5}))
    make(root, root / "reports")
    page = Page((root / "reports" / PAGE).read_text())
    assert page.rows("recipes") == [
        ["Runs", "width"], ["U-Net, seed 0, Mixed; DEFU-Net", "0.125"], ["U-Net, seed 1, Mixed", "0.5"],
    ]  # fmt: skip
