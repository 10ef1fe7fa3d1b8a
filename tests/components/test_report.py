"""The report step through its two doors, on evaluations written by the contract of core.results."""

from __future__ import annotations

import csv
import html
import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.report import COMPARISONS, HEADLINES, MARKDOWN, PAGE, RESULTS, paper
from components.report.text import duration, figure_text
from core.cell import CASES, OVERLAYS, ROWS, RUN, Cell
from core.results import DIFFERENCE_COLOURS, FIGURE_COLOURS, METRICS, Row
from model.weights import CONFIG
from tests.components.written_run import REPOSITORY, SCENARIOS, SIZE, Page, command, make, write_run

NETWORKS = ["defu_net", "unet", "r2_unet"]
PLACE = ("split", "site", "label", "sex", "age", "masks", "reduction")


@pytest.fixture(scope="module")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("full"), NETWORKS, list(SCENARIOS))


@pytest.fixture(scope="module")
def full_report(full_run: Path) -> Path:
    make(full_run, full_run / "reports")
    return full_run / "reports"


@pytest.fixture(scope="module")
def page(full_report: Path) -> Page:
    return Page((full_report / PAGE).read_text())


@pytest.fixture
def small_run(tmp_path: Path) -> Path:
    return write_run(tmp_path, ["defu_net"], ["mixed"])


def test_results_hold_every_row_sorted(full_run: Path, full_report: Path) -> None:
    rows = json.loads((full_report / RESULTS).read_text())
    written = [
        row for path in (full_run / "evaluations").glob("*/*/*/rows.json") for row in json.loads(path.read_text())
    ]
    assert len(rows) == len(written) > 0
    assert all(set(row) == set(Row.__annotations__) for row in rows)
    order = ("network", "scenario", "seed", "split", "site", "label", "sex", "age", "masks", "reduction")
    keys = [tuple(row[name] for name in order) for row in rows]
    rank = {"train": 0, "validation": 1, "test": 2}
    assert keys == sorted(keys, key=lambda key: (*key[:3], rank[key[3]], *key[4:]))
    by_key = dict(zip(keys, rows, strict=True))
    for row in written:
        assert by_key[tuple(row[name] for name in order)] == row


def test_function_returns_what_it_wrote(small_run: Path) -> None:
    rows = make(small_run, small_run / "reports")
    assert rows == json.loads((small_run / "reports" / RESULTS).read_text())


def test_equal_results_give_equal_bytes_whatever_the_runs_took(small_run: Path) -> None:
    make(small_run, small_run / "first")
    run = small_run / "models" / "defu_net/mixed/seed-0" / RUN
    run.write_text(json.dumps(json.loads(run.read_text()) | {"seconds": 999.0, "commit": "feed", "mlflow_run_id": "z"}))
    make(small_run, small_run / "second")
    run.unlink()
    make(small_run, small_run / "third")
    first, *others = (
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
        for folder in (small_run / "first", small_run / "second", small_run / "third")
    )
    assert set(first) == {RESULTS, COMPARISONS, HEADLINES, MARKDOWN, PAGE, "plots/dice.csv"}
    assert others == [first, first]


def test_headline_figures_are_means_over_images_against_original_masks(full_run: Path, full_report: Path) -> None:
    figures = json.loads((full_report / HEADLINES).read_text())
    assert {network: list(found) for network, found in figures.items()} == {name: list(SCENARIOS) for name in NETWORKS}
    for network, scenario in product(NETWORKS, SCENARIOS):
        cases = pd.read_csv(full_run / "evaluations" / network / scenario / "seed-0" / CASES)
        test = cases[(cases["split"] == "test") & (cases["masks"] == "original")]
        found = figures[network][scenario]
        assert found == pytest.approx({"test_dice": test["dice"].mean(), "test_hd95": test["hd95"].mean()})


def test_headline_figures_of_several_seeds_are_their_mean(tmp_path: Path) -> None:
    root = write_run(tmp_path, ["defu_net"], ["mixed"], (0, 1))
    figures = []
    for number, cells in enumerate(([Cell("defu_net", "mixed", 0)], [Cell("defu_net", "mixed", 1)], None)):
        make(root, root / str(number), cells)
        figures.append(json.loads((root / str(number) / HEADLINES).read_text())["defu_net"]["mixed"])
    assert figures[0] != figures[1]
    assert figures[2] == pytest.approx({name: (figures[0][name] + figures[1][name]) / 2 for name in figures[0]})


def test_plots_hold_the_points_of_the_curves(full_run: Path, full_report: Path) -> None:
    dice = pd.read_csv(full_report / "plots" / "dice.csv")
    cases = pd.read_csv(full_run / "evaluations/unet/mixed/seed-0" / CASES)
    wanted = cases[(cases["split"] == "test")]
    found = dice[(dice["network"] == "unet") & (dice["scenario"] == "mixed")]
    assert found["dice"].tolist() == wanted["dice"].tolist()


def test_an_earlier_report_is_replaced_whole(small_run: Path) -> None:
    (small_run / "reports").mkdir()
    (small_run / "reports" / "stale.txt").write_text("of an earlier run")
    make(small_run, small_run / "reports")
    there = {path.name for path in (small_run / "reports").iterdir()}
    assert there == {RESULTS, COMPARISONS, HEADLINES, MARKDOWN, PAGE, "plots"}


def test_page_asks_for_nothing_outside_itself(full_report: Path, page: Page) -> None:
    ids = {attributes["id"] for _, attributes in page.tags if attributes.get("id")}
    assert page.addresses
    for tag, address in page.addresses:
        assert address.startswith(("data:", "#")), f"<{tag}> points to {address[:80]}"
        if address.startswith("#"):
            assert address[1:] in ids, f"{address} is nowhere on the page"
    # Without the scripts: the licences name addresses, and test_report_page.py looks at what a browser asks for.
    text = re.sub(r"<script>.*?</script>", "", (full_report / PAGE).read_text(), flags=re.DOTALL)
    for found in re.findall(r"url\(([^)]*)\)", text):
        assert found.startswith("data:image/webp;base64,"), found[:80]
    assert "@import" not in text
    assert not re.search(r"https?://", text)
    assert not any("src" in attributes for attributes in page.all("script"))


def test_page_is_well_formed_and_no_id_means_two_things(page: Page, full_report: Path) -> None:
    assert page.open == []
    text = re.sub(r"<script>.*?</script>", "", (full_report / PAGE).read_text(), flags=re.DOTALL)
    ids = re.findall(r'\sid="([^"]*)"', text)
    assert len(ids) == len(set(ids)) > 100


def test_pictures_are_data_with_words_and_sizes(page: Page) -> None:
    images = page.all("img")
    cells, figures = 9, 3 * 4  # four worst and best a cell; figures of three networks, two sites, two X-rays
    assert len(images) == cells * (4 + 4) + figures
    for image in images:
        assert str(image["src"]).startswith("data:image/png;base64,")
        assert image["alt"]
        assert (image["width"], image["height"]) == (str(SIZE), str(SIZE))


def test_an_x_ray_is_embedded_once_for_all_cells(full_report: Path) -> None:
    text = (full_report / PAGE).read_text()
    rules = re.findall(r"\.x(\d+)\{background-image:url\(data:image/webp;base64,([^)]+)\)\}", text)
    numbers, pictures = zip(*rules, strict=True)
    assert len(set(numbers)) == len(set(pictures)) == len(rules)
    uses = re.findall(r'class="xray x(\d+)"', text)
    assert set(uses) == set(numbers), "what no picture shows is not embedded"
    assert len(uses) > 2 * len(rules)


def test_tables_have_captions_scopes_and_sortable_heads(page: Page) -> None:
    assert {"table-i", "table-ii", "table-iii", "table-iv", "data", "run-list"} <= set(page.tables)
    assert {"explorer", "calibration"} <= set(page.tables)
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(head.get("scope") for head in page.all("th"))
    sortable = [table for table in page.all("table") if "sortable" in str(table.get("class"))]
    assert len(sortable) >= 9
    for table in sortable:
        rows = page.tables[str(table["id"])]
        heads = rows[1] if not rows[0][0] else rows[0]
        assert all(heads)
        assert {len(row) for row in rows if len(row) > 1} - {len(heads)} <= {len(rows[0])}


def line_of(page: Page, table: str, network: str) -> list[str]:
    return next(row for row in page.rows(table) if row[0] == network)


def test_papers_figures_stand_beside_ours(full_run: Path, page: Page) -> None:
    rows = json.loads((full_run / "evaluations/defu_net/mixed/seed-0" / ROWS).read_text())
    ours = next(
        row for row in rows
        if [row[name] for name in PLACE] == ["test", "all", "all", "all", "all", "dilated", "per_image"]
    )  # fmt: skip
    line = line_of(page, "table-iii", "DEFU-Net")
    low, high = ours["dice_ci95"]
    assert line[1] == f"{ours['dice']:.4f} {low:.4f}–{high:.4f}†", "of eight images"
    assert line[2] == f"{ours['soft_dice_batch2']:.4f} paper 0.9667", "what the paper calls Dice is soft"
    assert line[4] == f"{ours['jaccard']:.4f}", "the true Jaccard has no figure of the paper"
    assert line[5].startswith(f"{ours['paper_iou']:.4f} paper 0.9901")
    assert line[9] == f"{ours['auc']:.4f} paper 0.9816"
    assert "“Dice coefficient” is soft: minus its loss" in page.text()
    assert "† fewer than 20 images: the interval is not reliable" in page.text()


@pytest.mark.parametrize(("split", "table"), [("train", "table-i"), ("validation", "table-ii"), ("test", "table-iii")])
def test_each_table_scores_four_ways_and_lists_all_seven_networks(page: Page, split: str, table: str) -> None:
    rows = page.rows(table)
    groups = [row[0] for row in rows if len(row) == 1]
    assert [text.split(" (")[0] for text in groups[:4]] == [
        "Against dilated masks, mean over images",
        "Against original masks, mean over images",
        "Against dilated masks, pooled over pixels",
        "Against original masks, pooled over pixels",
    ]
    for network, name in paper.NAMES.items():
        lines = [row for row in rows if row[0] == name]
        assert len(lines) == (4 if network in NETWORKS else 1)
        # The paper's Dice is soft: it is with ours that is soft, once.
        theirs = f"paper {paper.MIXED[split][network]['dice']:.4f}"
        assert [theirs in line[2] for line in lines] == [True, False, False, False][: len(lines)]
        assert not any("paper" in line[1] for line in lines)
        assert lines[0][2].startswith("paper") == (network not in NETWORKS)
        for metric, figure in paper.MIXED[split][network].items():
            said = [cell for line in lines for cell in line if f"paper {figure:.4f}" in cell]
            assert len(said) == list(paper.MIXED[split][network].values()).count(figure), metric


def test_misprints_have_footnotes(page: Page) -> None:
    text = page.text()
    assert "(1 + AC) / 2" in text
    assert "most likely a misprint" in text
    assert "most likely a copy" in text
    assert "never reset" in text
    (bcdu,) = [row for row in page.rows("table-iv") if row[0] == "BCDU-Net"]
    assert bcdu[4:] == ["–", "paper 0.76712", "paper 0.90822"], "footnote 2; R2U-Net, above it, has 1"


def test_across_table_has_both_directions(full_run: Path, page: Page) -> None:
    rows = page.rows("table-iv")
    assert rows[0] == ["", "Montgomery → Shenzhen", "Shenzhen → Montgomery"]
    line = line_of(page, "table-iv", "U-Net")
    theirs = [cell.split("paper ")[1] if "paper " in cell else None for cell in line[1:]]
    assert theirs == [None, "0.8556", "0.8568", None, "0.7706", "0.7739"]
    others = [row for row in rows if row[0] == "U-Net" and row != line]
    assert len(others) == 3
    assert "paper" not in str(others)
    evaluated = json.loads((full_run / "evaluations/unet/shenzhen-to-montgomery/seed-0" / ROWS).read_text())
    dice = next(
        row["dice"]
        for row in evaluated
        if (row["split"], row["masks"], row["reduction"]) == ("test", "dilated", "per_image")
    )
    assert line[4].startswith(f"{dice:.4f}")


def test_every_test_row_stands_in_one_table(full_run: Path, page: Page) -> None:
    heads, *lines = page.rows("explorer")
    assert heads[:9] == [
        "Network", "Scenario", "Site", "Group", "Masks", "Aggregation", "Images", "Dice", "HD95, px",
    ]  # fmt: skip
    found = {tuple(line[:6]): line[6:] for line in lines}
    assert len(found) == len(lines)
    counted = 0
    for network, scenario in product(NETWORKS, SCENARIOS):
        rows = json.loads((full_run / "evaluations" / Cell(network, scenario, 0).folder / ROWS).read_text())
        title = " → ".join(part.capitalize() for part in scenario.split("-to-"))
        for row in rows:
            # Tested on one site, its lines over all sites would say the same again.
            if row["split"] != "test" or (scenario != "mixed" and row["site"] == "all"):
                continue
            reduction = "pooled" if row["reduction"] == "pooled" else "per image"
            group = next((row[name] for name in ("label", "sex", "age") if row[name] != "all"), "all")
            images, dice, hd95, *_ = found[(paper.NAMES[network], title, row["site"], group, row["masks"], reduction)]
            assert ("†" in dice) == row["few"]
            assert int(images) == row["n_images"]
            assert dice.startswith(f"{row['dice']:.4f}")
            assert hd95 == ("–" if row["hd95"] is None else f"{row['hd95']:.2f}")
            counted += 1
    assert counted == len(lines)
    whole = [line for line in lines if line[3] == "all"]
    assert len({(*line[:2], *line[4:]) for line in whole}) == len(whole), "a site's line is that of all sites again"
    assert page.rows("data")[-1][:3] == ["all", "all", "52"]


def test_the_stored_size_has_a_table_a_scenario(full_run: Path, page: Page, full_report: Path) -> None:
    rows = json.loads((full_run / "evaluations/unet/shenzhen-to-montgomery/seed-0" / ROWS).read_text())
    lines = page.rows("stored-shenzhen-to-montgomery")
    start = next(number for number, line in enumerate(lines) if line == ["U-Net"])
    line = next(line for line in lines[start:] if line[:2] == ["montgomery", "abnormal"])
    chosen = {
        row["masks"]: row
        for row in rows
        if [row[name] for name in PLACE if name != "masks"]
        == ["test", "montgomery", "abnormal", "all", "all", "per_image"]
    }
    wanted = [chosen[masks][name] for masks in chosen for name in ("stored_dice", "nsd2", "nsd4", "soft_dice")]
    assert line[2:] == ["10", *(f"{value:.4f}" for value in wanted)]
    assert "## Mixed: at the stored size, and soft" in (full_report / MARKDOWN).read_text()


def test_a_split_that_was_not_scored_has_the_papers_figures_alone(small_run: Path) -> None:
    path = small_run / "evaluations/defu_net/mixed/seed-0"
    rows = [row for row in json.loads((path / ROWS).read_text()) if row["split"] != "train"]
    (path / ROWS).write_text(json.dumps(rows))
    cases = pd.read_csv(path / CASES)
    cases[cases["split"] != "train"].to_csv(path / CASES, index=False)
    make(small_run, small_run / "reports")
    page = Page((small_run / "reports" / PAGE).read_text())
    lines = [row for row in page.rows("table-i") if len(row) > 1][1:]
    assert [line[0] for line in lines] == list(paper.NAMES.values())
    assert all(line[2].startswith("paper") for line in lines)
    assert not line_of(page, "table-ii", "DEFU-Net")[2].startswith("paper")


def test_figures_five_and_six_and_worst_cases(page: Page, full_report: Path) -> None:
    captions = [rows[0][0] for rows in page.tables.values()]
    text = page.text()
    assert text.index("Figure 5: shenzhen") < text.index("Figure 6: montgomery")
    assert captions.count("X-ray") == 2
    for name in (*DIFFERENCE_COLOURS, *FIGURE_COLOURS):
        assert name in text
    # Worst first although the files are listed best first.
    html = (full_report / PAGE).read_text()
    gallery = html[html.index("<summary>U-Net, Mixed") :]
    shown = [float(found) for found in re.findall(r"Dice <strong>([\d.]+)", gallery[: gallery.index("</details>")])]
    assert len(shown) == 8
    assert shown[:4] == sorted(shown[:4])
    assert shown[4:] == sorted(shown[4:], reverse=True)
    assert max(shown[:4]) <= min(shown[4:])


def test_an_image_of_a_small_split_is_among_the_worst_or_the_best(small_run: Path) -> None:
    index = small_run / "evaluations/defu_net/mixed/seed-0" / OVERLAYS
    drawn = json.loads(index.read_text())
    again = [
        entry | {"kind": {"worst": "best", "best": "worst"}[entry["kind"]]}
        for entry in drawn
        if entry["kind"] != "figure"
    ]
    index.write_text(json.dumps(drawn + again))
    make(small_run, small_run / "reports")
    html = (small_run / "reports" / PAGE).read_text()
    gallery = html[html.index("<summary>DEFU-Net, Mixed") :]
    gallery = gallery[: gallery.index("</details>")]
    worst, best = (
        re.findall(r"<code>(.*?)</code>.*?Dice <strong>([\d.]+)", part) for part in gallery.split("Best, best first")
    )
    assert len({id for id, _ in worst + best}) == len(worst + best) == len(again)
    assert max(dice for _, dice in worst) <= min(dice for _, dice in best)


@pytest.mark.parametrize("synthetic", [True, False])
def test_banner_only_where_synthetic(tmp_path: Path, synthetic: bool) -> None:
    write_run(tmp_path, ["defu_net"], ["mixed"], synthetic=synthetic)
    make(tmp_path, tmp_path / "reports")
    for name in (PAGE, MARKDOWN):
        text = (tmp_path / "reports" / name).read_text().lower()
        assert ("synthetic sample: figures say nothing about real x-rays" in text) == synthetic


def test_one_silent_source_does_not_lose_the_banner(small_run: Path) -> None:
    path = small_run / "arrays" / "arrays.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"synthetic": False}))
    make(small_run, small_run / "reports")
    assert "Synthetic sample" in (small_run / "reports" / PAGE).read_text()


@pytest.mark.parametrize(("kernel", "told"), [(0, True), (1, True), (3, False)])
def test_masks_that_were_not_dilated_are_told(small_run: Path, kernel: int, told: bool) -> None:
    path = small_run / "arrays" / "arrays.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kernel": kernel}))
    make(small_run, small_run / "reports")
    for name in (PAGE, MARKDOWN):
        text = (small_run / "reports" / name).read_text()
        assert ("Nothing was dilated" in text) == told
        assert f"{kernel} × {kernel} pixels" not in text or kernel == 3
        assert ("the original masks themselves score" in text) != told


def test_a_network_of_another_cohort_is_told(small_run: Path) -> None:
    config = small_run / "models/defu_net/mixed/seed-0" / CONFIG
    config.write_text(json.dumps(json.loads(config.read_text()) | {"cohort": {"name": "elsewhere", "synthetic": True}}))
    make(small_run, small_run / "reports")
    assert "Trained on another cohort: elsewhere" in Page((small_run / "reports" / PAGE).read_text()).text()


def test_what_original_masks_score_against_dilated_ones_is_told(small_run: Path) -> None:
    make(small_run, small_run / "reports")
    cases = pd.read_csv(small_run / "evaluations/defu_net/mixed/seed-0" / CASES)
    areas = cases[cases["split"] == "test"].assign(area=cases["tp"] + cases["fn"]).pivot(index="id", columns="masks")
    small, large = areas["area", "original"], areas["area", "dilated"]
    told = f"the original masks themselves score {(2 * small / (small + large)).mean():.4f} (Mixed)"
    for name in (PAGE, MARKDOWN):
        assert told in (small_run / "reports" / name).read_text()


@pytest.mark.parametrize("masks", ["original", "dilated"])
def test_the_headline_is_against_the_masks_that_were_learnt(small_run: Path, masks: str) -> None:
    path = small_run / "models/defu_net/mixed/seed-0" / CONFIG
    config = json.loads(path.read_text())
    config["train"]["masks"] = masks
    path.write_text(json.dumps(config))
    rows = make(small_run, small_run / "reports")
    (row,) = (
        row
        for row in rows
        if [row[key] for key in PLACE] == ["test", *["all"] * 4, masks, "per_image"]  # type: ignore[literal-required]
    )
    head = (small_run / "reports" / MARKDOWN).read_text().split("## Table I")[0]
    assert f"Mean over test images against {masks} masks" in head
    assert re.search(rf"\| Mixed \| DEFU-Net \| \d+ \| {row['dice']:.4f} \|", head)
    page = (small_run / "reports" / PAGE).read_text()
    assert f"Mean over test images against {masks} masks" in page
    filters = html.unescape(re.findall(r'id="explorer" data-filters="([^"]*)"', page)[0])
    assert json.loads(filters)["Masks"] == masks  # what the table of all results shows first


def test_names_are_escaped_and_facts_are_shown(full_report: Path, page: Page) -> None:
    text = (full_report / PAGE).read_text()
    assert "sample &lt;one&gt; &amp; only" in text
    assert "<one>" not in text
    assert "52: 20 montgomery, 32 shenzhen; 6 more without a mask left out" in page.text()
    assert "3 × 3 pixels" in text
    run = line_of(page, "run-list", "DEFU-Net")
    assert run[2:] == ["0.125", "715,473", "12", "12", "float32"]


def test_several_seeds_get_a_mean_with_its_deviation(tmp_path: Path) -> None:
    write_run(tmp_path, ["defu_net"], ["mixed"], seeds=(0, 1, 2))
    rows = make(tmp_path, tmp_path / "reports")
    page = Page((tmp_path / "reports" / PAGE).read_text())
    dice = [
        row["dice"] or 0.0 for row in rows
        if [row[key] for key in PLACE] == ["test", *["all"] * 4, "dilated", "per_image"]  # type: ignore[literal-required]
    ]  # fmt: skip
    assert len(dice) == 3
    line = line_of(page, "table-iii", "DEFU-Net, mean of 3 seeds")
    assert line[1] == f"{np.mean(dice):.4f}† ± {np.std(dice, ddof=1):.4f}"
    assert line[2].endswith("paper 0.9667")
    assert line_of(page, "table-iii", "DEFU-Net, seed 2")[1].startswith(f"{dice[2]:.4f}")


def test_other_scenarios_and_networks_enter_too(tmp_path: Path) -> None:
    write_run(tmp_path, ["my_net"], ["third-to-shenzhen"])
    make(tmp_path, tmp_path / "reports")
    page = Page((tmp_path / "reports" / PAGE).read_text())
    assert "Third → Shenzhen" in page.rows("table-iv")[0]
    assert line_of(page, "table-iv", "my_net")[7] != "–"
    assert len([row for row in page.rows("table-iii") if len(row) > 1]) == 1 + len(paper.NAMES)


def test_undefined_figures_are_dashes(small_run: Path) -> None:
    path = small_run / "evaluations/defu_net/mixed/seed-0" / ROWS
    rows = json.loads(path.read_text())
    for row in rows:
        row["auc"], row["hd95"] = None, float("nan")
    path.write_text(json.dumps(rows))
    written = make(small_run, small_run / "reports")
    assert {row["hd95"] for row in written} == {None}
    page = Page((small_run / "reports" / PAGE).read_text())
    assert line_of(page, "table-iii", "DEFU-Net")[9] == "– paper 0.9816"
    assert page.rows("explorer")[1][8] == "–"
    assert not re.search(r"\b(nan|None)\b", page.text())
    assert not re.search(r"\b(nan|None)\b", (small_run / "reports" / MARKDOWN).read_text())


def test_numbers_are_written_for_reading() -> None:
    assert [figure_text(value) for value in (0.96666, None, float("nan"))] == ["0.9667", "–", "–"]
    assert [duration(value) for value in (None, 48.4, 200, 7500)] == ["–", "48 s", "3 min 20 s", "2 h 05 min"]


def test_markdown_tables_are_whole(full_report: Path) -> None:
    text = (full_report / MARKDOWN).read_text()
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(blocks) > 15
    for block in blocks:
        lines = block.splitlines()
        assert re.fullmatch(r"\|(-+:?\|)+", lines[1].replace(" ", "")), block
        assert len(lines) > 2
        assert {line.count("|") for line in lines} == {lines[0].count("|")}, block
    assert "(0.9667)" in text
    assert "51 s" not in text


def test_cells_of_an_earlier_matrix_stay_out(full_run: Path, tmp_path: Path) -> None:
    rows = make(full_run, tmp_path / "reports", [Cell("unet", "mixed", 0)])
    assert {(row["network"], row["scenario"]) for row in rows} == {("unet", "mixed")}
    assert "table-iv" not in Page((tmp_path / "reports" / PAGE).read_text()).tables


def test_command_takes_the_matrix_of_params(tmp_path: Path) -> None:
    run = write_run(tmp_path, ["defu_net", "unet"], ["mixed"])
    text = (REPOSITORY / "params.yaml").read_text()
    text = re.sub(r"(?m)^  scenarios: \[.*\]$", "  scenarios: [mixed]", text, count=1)
    text = re.sub(r"(?m)^  networks: \[.*\]", "  networks: [defu_net]", text)
    text = re.sub(r"(?m)^  seeds: \[.*\]", "  seeds: [0]", text)
    (tmp_path / "params.yaml").write_text(text)
    done = command(run, tmp_path / "reports", "--params", str(tmp_path / "params.yaml"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "index.html: 1 cell(s)" in done.stdout
    rows = json.loads((tmp_path / "reports" / RESULTS).read_text())
    assert {row["network"] for row in rows} == {"defu_net"}


def test_the_papers_tables_are_consistent_with_what_is_said_of_them() -> None:
    """The footnotes' claims, computed from the figures as typed: a slip of the pen would break one of them."""
    for split in paper.MIXED.values():
        for figures in split.values():
            assert figures["paper_iou"] == pytest.approx((1 + figures["accuracy"]) / 2, abs=0.0008)
            assert figures["f1"] == pytest.approx(figures["dice"], abs=0.0005)
    for network in paper.NAMES:
        assert paper.MIXED["train"][network]["auc"] == pytest.approx(
            paper.MIXED["validation"][network]["auc"], abs=0.00061
        )
    odd = [
        (scenario, network)
        for scenario, table in paper.ACROSS.items()
        for network, figures in table.items()
        if abs(figures["dice"] - figures["f1"]) > 0.006
    ]
    assert odd == [("shenzhen-to-montgomery", "bcdu_net")]


def test_cases_written_here_follow_the_contract(full_run: Path) -> None:
    """The fixture itself: its files have the columns that core.results states."""
    with (full_run / "evaluations/unet/mixed/seed-0" / CASES).open() as file:
        columns = next(csv.reader(file))
    assert columns == [
        "id",
        "site",
        "label",
        "sex",
        "age",
        "split",
        "masks",
        *METRICS,
        "tp",
        "fp",
        "fn",
        "tn",
        "soft_overlap",
        "soft_square",
    ]
