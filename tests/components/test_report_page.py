"""The report's page in a real browser: what it does with a mouse, with keys alone, offline, and without its script."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import expect

from components.report import PAGE, RESULTS
from core.cell import OVERLAYS, Cell
from core.results import DIFFERENCE_COLOURS, Row
from tests.browser import Browser, Visit
from tests.components.written_run import SIZE, make, write_run

SCENARIOS = ["mixed", "montgomery-to-shenzhen"]
NETWORKS = ["unet", "defu_net"]
FIRST = Cell("unet", "mixed", 0)  # whose gallery is open
VISIBLE = "#explorer tbody tr:visible"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_run(tmp_path_factory.mktemp("page"), NETWORKS, SCENARIOS)
    make(root, root / "reports")
    # The page alone: what lies beside it must not be needed.
    (root / "alone").mkdir()
    shutil.copy(root / "reports" / PAGE, root / "alone" / PAGE)
    return root


@pytest.fixture
def look(run: Path, browser: Browser) -> Callable[..., Visit]:
    """A function that opens the page from its file, with no network."""

    def opened(folder: Path = run / "alone", **options: Any) -> Visit:
        visit = browser(
            offline=True, **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"} | options
        )
        visit.page.goto((folder / PAGE).as_uri())
        if options.get("java_script_enabled", True):
            visit.page.wait_for_selector("html[data-drawn]", state="attached")  # the charts
        return visit

    return opened


def column(visit: Visit, number: int) -> list[str]:
    """The values of the explorer's visible lines in one column."""
    cells: list[str] = visit.page.locator(VISIBLE).evaluate_all(
        f"rows => rows.map(row => row.cells[{number}].dataset.value ?? row.cells[{number}].textContent)"
    )
    return cells


def unfold(visit: Visit) -> None:
    visit.page.locator("summary", has_text="All test results").click()


def picture(visit: Visit) -> np.ndarray:
    """What the viewer shows, RGB at the middle of each of the X-ray's pixels, int (SIZE, SIZE, 3)."""
    visit.page.wait_for_timeout(150)  # a picture is decoded before it is drawn
    shot = cv2.imdecode(np.frombuffer(visit.page.locator("#viewer .xray").screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert shot is not None
    rows, columns = (((np.arange(SIZE) + 0.5) * side / SIZE).astype(int) for side in shot.shape[:2])
    return shot[np.ix_(rows, columns)][..., ::-1].astype(int)


def regions(run: Path, file: str) -> dict[str, np.ndarray]:
    """Where evaluate's picture has each of its regions."""
    drawn = cv2.imread(str(run / "evaluations" / FIRST.folder / file), cv2.IMREAD_UNCHANGED)
    assert drawn is not None
    assert drawn.shape == (SIZE, SIZE, 4)
    found = {
        name: (drawn[..., 2::-1] == colour).all(axis=2) & (drawn[..., 3] > 0)
        for name, colour in DIFFERENCE_COLOURS.items()
    }
    assert all(region.any() for region in found.values())
    assert (sum(found.values()) == (drawn[..., 3] > 0)).all()
    return found


def shows(visit: Visit, where: np.ndarray, colour: Any) -> None:
    seen = picture(visit)[where]
    assert np.abs(seen - np.array(colour)).max() <= 2


def test_it_opens_from_its_file_without_a_network(look: Callable[..., Visit]) -> None:
    visit = look()
    assert visit.page.locator("h1").inner_text() == "Lung segmentation across X-ray machines"
    for part in ("#viewer", "#reliability", "#figures", "#compare svg", "#curves svg"):
        assert visit.page.locator(part).first.is_visible(), part
    broken = visit.page.evaluate(
        """async () => {
          for (const one of document.querySelectorAll("details")) one.open = true;
          const images = [...document.images];
          images.forEach((image) => { image.loading = "eager"; });
          await Promise.allSettled(images.map((image) => image.decode()));
          return images.filter((image) => !image.naturalWidth).length;
        }"""
    )
    assert broken == 0
    visit.check()


def test_a_head_sorts_by_its_figures(look: Callable[..., Visit]) -> None:
    visit = look()
    unfold(visit)
    head = visit.page.locator("#explorer th", has_text="Dice")
    before = column(visit, 7)
    assert before != sorted(before, key=float)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(visit, 7) == sorted(before, key=float)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(visit, 7) == sorted(before, key=float, reverse=True)
    visit.page.locator("#explorer th", has_text="Group").get_by_role("button").click()
    assert visit.page.locator("#explorer [aria-sort]").count() == 1
    groups = [group for group, _ in groupby(column(visit, 3))]
    assert len(groups) == len(set(groups)) > 5, "a label, a sex or an age stands together"
    visit.check()


def test_filters_leave_what_was_asked_for(run: Path, look: Callable[..., Visit]) -> None:
    rows: list[Row] = json.loads((run / "reports" / RESULTS).read_text())
    test = [row for row in rows if row["split"] == "test"]
    wanted = sorted(
        row["dice"] or 0.0
        for row in test
        if (row["network"], row["site"], row["label"], row["sex"], row["age"], row["masks"], row["reduction"])
        == ("unet", "shenzhen", "normal", "all", "all", "dilated", "pooled")
    )
    visit = look()
    unfold(visit)
    form = visit.page.locator("form.filters")
    at_first = visit.page.locator(VISIBLE).count()
    assert set(column(visit, 4)) == {"original"}
    assert set(column(visit, 5)) == {"per image"}
    for name, value in {
        "Network": "U-Net", "Site": "shenzhen", "Group": "normal", "Masks": "dilated", "Aggregation": "pooled",
    }.items():  # fmt: skip
        form.get_by_label(name).select_option(value)
    assert sorted(map(float, column(visit, 7))) == pytest.approx(wanted)
    assert len(wanted) == len(SCENARIOS)
    total = visit.page.locator("#explorer tbody tr").count()
    assert form.locator("output").inner_text() == f"{len(wanted)} of {total} lines"
    form.get_by_role("button", name="Reset").click()
    expect(visit.page.locator(VISIBLE)).to_have_count(at_first)  # the lines come back a moment after the click
    for name in ("Masks", "Aggregation"):
        form.get_by_label(name).select_option("any")
    assert visit.page.locator(VISIBLE).count() == total
    visit.check()


def test_views_and_opacity_change_the_pixels_as_they_say(run: Path, look: Callable[..., Visit]) -> None:
    visit = look()
    index = json.loads((run / "evaluations" / FIRST.folder / OVERLAYS).read_text())
    worst = min((entry for entry in index if entry["kind"] == "worst"), key=lambda entry: entry["dice"])
    caption = visit.page.locator("#viewer figcaption").inner_text()
    assert worst["id"] in caption
    assert f"Dice {worst['dice']:.4f}" in caption
    assert f"HD95 {worst['hd95']:.2f} px" in caption
    found = regions(run, worst["file"])
    lung, outside = sum(found.values()).astype(bool), ~sum(found.values()).astype(bool)
    opacity = visit.page.locator("#opacity-cases")

    visit.page.get_by_label("X-ray", exact=True).check()
    alone = picture(visit)
    grey = cv2.imread(str(run / "evaluations" / FIRST.folder / worst["xray"]), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    assert np.abs(alone.mean(axis=2) - grey).mean() < 8, "embedded with loss, and smoothed"

    visit.page.get_by_label("Difference", exact=True).check()
    seen = picture(visit)
    blended = {name: 0.55 * alone[where] + 0.45 * np.array(DIFFERENCE_COLOURS[name]) for name, where in found.items()}
    assert all(np.abs(seen[found[name]] - expected).max() <= 3 for name, expected in blended.items())
    assert np.abs(seen - alone)[outside].max() <= 1
    opacity.fill("100")
    for name, where in found.items():
        shows(visit, where, DIFFERENCE_COLOURS[name])

    visit.page.get_by_label("Truth", exact=True).check()
    truth = found["true positive"] | found["false negative"]
    seen = picture(visit)
    assert len(np.unique(seen[truth], axis=0)) == 1
    assert np.abs(seen - alone)[~truth].max() <= 1
    visit.page.get_by_label("Prediction", exact=True).check()
    predicted = found["true positive"] | found["false positive"]
    seen_prediction = picture(visit)
    assert len(np.unique(seen_prediction[predicted], axis=0)) == 1
    assert np.abs(seen_prediction - alone)[~predicted].max() <= 1
    assert (seen[truth][0] != seen_prediction[predicted][0]).any()
    assert visit.page.locator("#cases .legend:visible").inner_text() == "prediction"

    opacity.fill("0")
    assert np.abs(picture(visit) - alone)[lung].max() <= 1
    visit.check()


def test_next_and_a_click_choose_another_case(look: Callable[..., Visit]) -> None:
    visit = look()
    caption = visit.page.locator("#viewer figcaption")
    picks = visit.page.locator("details.cell[open] .pick:visible")
    ids = picks.locator("xpath=ancestor::figure[1]//code").all_inner_texts()
    assert len(ids) == len(set(ids)) == 8
    first = picture(visit)
    visit.page.get_by_role("button", name="Next").click()
    assert ids[1] in caption.inner_text()
    assert np.abs(picture(visit) - first).max() > 20
    picks.nth(6).click()
    assert ids[6] in caption.inner_text()
    assert visit.page.locator(".pick[aria-current]").count() == 1
    visit.page.locator("summary", has_text="DEFU-Net, Mixed").click()
    visit.page.locator("details.cell", has_text="DEFU-Net, Mixed").locator(".pick").first.click()
    assert "DEFU-Net, Mixed" in caption.inner_text()
    visit.check()


def test_keys_alone_do_it(look: Callable[..., Visit]) -> None:
    visit = look()
    keys = visit.page.keyboard

    def tab_to(selector: str) -> None:
        for _ in range(150):
            keys.press("Tab")
            if visit.page.evaluate("selector => document.activeElement.matches(selector)", selector):
                outline = visit.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"{selector}: the focus is not seen"
                return
        raise AssertionError(f"{selector} is not reached")

    keys.press("Tab")
    assert visit.page.evaluate("document.activeElement.textContent") == "Skip to the results"
    keys.press("Enter")
    tab_to("[data-step='1']")
    caption = visit.page.locator("#viewer figcaption").inner_text()
    keys.press("Space")
    assert visit.page.locator("#viewer figcaption").inner_text() != caption
    tab_to("#cases input[name=view]")
    before = picture(visit)
    keys.press("ArrowLeft")
    assert visit.page.locator("#cases").get_attribute("data-view") == "prediction"
    assert np.abs(picture(visit) - before).max() > 20
    tab_to("#opacity-cases")
    before = picture(visit)
    keys.press("End")
    assert visit.page.locator("#viewer output").inner_text() == "100 %"
    assert np.abs(picture(visit) - before).max() > 20
    tab_to(".pick:not([aria-current])")
    keys.press("Enter")
    assert visit.page.evaluate("document.activeElement.getAttribute('aria-current')") == "true"
    tab_to("#all > summary")
    keys.press("Enter")
    tab_to("select[name=network]")
    keys.press("ArrowDown")
    assert {text.split(",")[0] for text in column(visit, 0)} == {"U-Net"}
    tab_to("#explorer th[data-column='8'] button")
    keys.press("Enter")
    hd95 = [float(value) for value in column(visit, 8)]
    assert hd95 == sorted(hd95)
    visit.check()


def test_without_its_script_everything_stands(look: Callable[..., Visit]) -> None:
    visit = look(java_script_enabled=False)
    page = visit.page
    unfold(visit)
    assert page.locator(VISIBLE).count() == page.locator("#explorer tbody tr").count() > 0
    assert page.get_by_text("The charts need JavaScript").is_visible()
    assert page.locator("#compare figure.chart", has_text="U-Net · shenzhen: median 0.9").first.is_visible()
    assert not page.locator("#viewer").is_visible()
    assert not page.locator(".opacity").first.is_visible()
    shot = cv2.imdecode(np.frombuffer(page.locator("#cases .xray:visible").first.screenshot(), np.uint8), 1)
    assert shot is not None
    assert (np.ptp(shot.astype(int), axis=2) > 30).mean() > 0.1, "regions in colour over the grey X-ray"


def test_dark_and_printed_it_stays_legible(look: Callable[..., Visit]) -> None:
    def ink_and_paper(visit: Visit) -> tuple[float, float]:
        style = visit.page.evaluate(
            "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))"
        )
        ink, paper = (np.array([float(part) for part in text[4:-1].split(",")[:3]]).mean() for text in style)
        return float(ink), float(paper)

    ink, paper = ink_and_paper(look())
    assert paper - ink > 180
    dark = look(color_scheme="dark")
    ink, paper = ink_and_paper(dark)
    assert ink - paper > 180
    dark.page.emulate_media(media="print")
    ink, paper = ink_and_paper(dark)
    assert paper - ink > 180
    for hidden in ("nav", "#viewer", "form.filters"):
        assert not dark.page.locator(hidden).is_visible(), hidden
    assert dark.page.locator("#cases .xray:visible").count() > 0
    dark.check()


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (768, "dark")])
def test_a_narrow_screen_does_not_scroll_sideways(look: Callable[..., Visit], width: int, scheme: str) -> None:
    visit = look(viewport={"width": width, "height": 740}, color_scheme=scheme)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    widths = visit.page.locator(".plot").evaluate_all("all => all.map(one => [one.scrollWidth, one.clientWidth])")
    assert len(widths) > 10
    assert all(inside <= own for inside, own in widths), "no chart is wider than its place"
    visit.check()


def test_single_seeds_are_sorted_and_filtered_with_their_mean(tmp_path: Path, look: Callable[..., Visit]) -> None:
    write_run(tmp_path, ["defu_net", "unet"], ["mixed"], seeds=(0, 1))
    make(tmp_path, tmp_path / "reports")
    visit = look(tmp_path / "reports")
    unfold(visit)
    assert {text.split(", ")[1] for text in column(visit, 0)} == {"mean of 2 seeds"}
    visit.page.get_by_label("Show each seed too").check()
    visit.page.locator("#explorer th", has_text="Dice").get_by_role("button").click()
    visit.page.locator("form.filters").get_by_label("Network").select_option("DEFU-Net")
    names = column(visit, 0)
    assert names == ["DEFU-Net, mean of 2 seeds", "DEFU-Net, seed 0", "DEFU-Net, seed 1"] * (len(names) // 3)
    means = [float(value) for value in column(visit, 7)[::3]]
    assert means == sorted(means)
    assert len(means) == 9 + 6 + 5, "three places by label, by two sexes, and by the ages that each place has"
    visit.check()
