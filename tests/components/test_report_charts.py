"""The report's order, and its charts in a real browser: the first screen, hover, focus, Enter, print."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import altair
import cv2
import numpy as np
import pytest
from playwright.sync_api import Locator, expect

from components.report import PAGE, paper
from components.report.charts import VENDOR, libraries
from components.report.page import LIMIT
from core.cell import CASES, OVERLAYS, Cell
from tests.browser import Browser, Visit
from tests.components.written_run import SIZE, Page, make, write_run, xray_of

SCENARIOS = ["mixed", "montgomery-to-shenzhen"]
NETWORKS = ["unet", "defu_net"]
ACROSS = Cell("unet", "montgomery-to-shenzhen", 0)
Look = Callable[..., Visit]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_run(tmp_path_factory.mktemp("charts"), NETWORKS, SCENARIOS)
    make(root, root / "reports")
    return root


@pytest.fixture
def look(run: Path, browser: Browser) -> Look:
    """A function that opens the page without a network and waits for its charts."""

    def opened(page: Path = run / "reports" / PAGE, **options: object) -> Visit:
        given = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"} | options
        visit = browser(offline=True, **given)
        visit.page.goto(page.as_uri())
        visit.page.wait_for_selector("html[data-drawn]", state="attached")
        return visit

    return opened


def marks(visit: Visit, section: str, title: str, at: int = -1) -> Locator:
    """The marks of one chart of a section, in the order of its arrow keys."""
    chart = visit.page.locator(f"{section} figure.chart", has=visit.page.get_by_text(title, exact=True)).nth(at)
    return chart.locator(".marks_marks > path")


def dice_of(run: Path, cell: Cell) -> dict[str, float]:
    """Dice of a cell's test images against original masks, by id, the lowest first."""
    lines = (run / "evaluations" / cell.folder / CASES).read_text().splitlines()
    heads = lines[0].split(",")
    rows = [dict(zip(heads, line.split(","), strict=True)) for line in lines[1:]]
    chosen = {row["id"]: float(row["dice"]) for row in rows if (row["split"], row["masks"]) == ("test", "original")}
    return dict(sorted(chosen.items(), key=lambda item: item[1]))


def seen(visit: Visit) -> np.ndarray:
    """What the viewer shows, RGB at the middle of each of the X-ray's pixels, int (SIZE, SIZE, 3)."""
    visit.page.wait_for_timeout(150)  # a picture is decoded before it is drawn
    shot = cv2.imdecode(np.frombuffer(visit.page.locator("#viewer .xray").screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert shot is not None
    rows, columns = (((np.arange(SIZE) + 0.5) * side / SIZE).astype(int) for side in shot.shape[:2])
    return shot[np.ix_(rows, columns)][..., ::-1].astype(int)


@pytest.mark.full
def test_of_many_images_a_sample_has_dots_with_the_lowest_among_them(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Look
) -> None:
    whole = (run / "reports" / PAGE).read_text()
    assert "an even sample of the others have dots" not in whole
    monkeypatch.setattr("components.report.spread.MOST_DOTS", 6)
    monkeypatch.setattr("components.report.spread.LOWEST", 2)
    make(run, tmp_path / "reports")
    page = tmp_path / "reports" / PAGE
    assert "Of sites with more than 6 test images the 2 lowest and an even sample" in page.read_text()
    dice = dice_of(run, ACROSS)
    assert len(dice) > 6
    dots = marks(look(page), "#compare", "Montgomery → Shenzhen")
    said = [dots.nth(place).get_attribute("aria-label") or "" for place in range(dots.count())]
    ours = [text.split(",")[0] for text in said if "U-Net" in text and "DEFU" not in text]
    assert 4 <= len(ours) <= 6
    assert set(list(dice)[:2]) <= set(ours)


def test_the_libraries_are_the_files_that_the_readme_names() -> None:
    readme = (VENDOR / "README.md").read_text()
    named = dict(re.findall(r"^\| `(\S+)` \|.*\| `([0-9a-f]{64})` \|$", readme, re.MULTILINE))
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VENDOR.glob("*.js")}
    assert found == named
    assert len(named) == 3
    assert f"vega-lite {altair.SCHEMA_VERSION.removeprefix('v')} " in readme, "altair writes for another Vega-Lite"


def test_the_page_has_the_libraries_and_their_licences(run: Path) -> None:
    text = (run / "reports" / PAGE).read_text()
    assert libraries() in text
    for line in (VENDOR / "LICENSES.txt").read_text().splitlines():
        assert line in text
    # A minified library that ended the page's script, or a comment, would break the page.
    assert not re.search(r"</script|<!--", libraries(), re.IGNORECASE)
    assert len(text.encode()) < LIMIT == 3_000_000


def test_sections_come_in_the_order_of_a_readers_questions(run: Path) -> None:
    page = Page((run / "reports" / PAGE).read_text())
    sections = [str(found["id"]) for found in page.all("section")]
    assert sections == ["results", "cases", "compare", "figures", "tables", "curves", "runs"]
    targets = [address for tag, address in page.addresses if tag == "a" and address[1:] in sections]
    assert targets[1:] == [f"#{name}" for name in sections if name != "figures"], "after the link that skips"
    assert {found.get("class") for found in page.all("details") if "open" in found} == {"outer", "cell"}, (
        "pictures alone"
    )


def test_the_answer_and_the_first_picture_are_on_the_first_screen(look: Look) -> None:
    visit = look()
    for part in ("#results .card >> nth=0", "#results .card >> nth=1", "#viewer .xray", "#viewer .xray img"):
        box = visit.page.locator(part).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 800, part
    # The navigation stays in sight, and does not hide what it leads to.
    visit.page.get_by_role("link", name="Curves").click()
    bar, head = (visit.page.locator(part).bounding_box() for part in ("nav", "#curves-title"))
    assert bar is not None
    assert head is not None
    assert bar["y"] == 0
    assert bar["height"] <= head["y"] < 200
    visit.check()


def test_networks_stand_in_the_order_of_their_dice_and_the_best_is_marked(run: Path, look: Look) -> None:
    visit = look()
    means = {network: np.mean([*dice_of(run, Cell(network, "mixed", 0)).values()]) for network in NETWORKS}
    ranked = [paper.name(network) for network in sorted(means, key=lambda name: -means[name])]
    chart = visit.page.locator("#compare figure.chart").first
    words = chart.locator(".mark-text.role-mark text")
    names = words.all_text_contents()
    assert [name.split(":")[0] for name in names] == [f"1. {ranked[0]} ★ best", f"2. {ranked[1]}"]
    assert [float(name.split()[-4]) for name in names] == pytest.approx(sorted(means.values(), reverse=True), abs=5e-5)
    assert words.evaluate_all("all => all.map(one => getComputedStyle(one).fontWeight)") == ["700", "400"]
    heights = [box["y"] for box in (mark.bounding_box() for mark in marks(visit, "#compare", "Mixed", 0).all()) if box]
    assert heights == sorted(heights)
    card = visit.page.locator("#results .card").first.inner_text()
    assert f"{ranked[0]}, best of 2 networks" in card
    visit.check()


def test_a_dot_shows_its_title_and_value_under_the_mouse(run: Path, look: Look) -> None:
    visit = look()
    tip = visit.page.locator(".tip")
    assert not tip.is_visible()
    dots = marks(visit, "#compare", "Montgomery → Shenzhen")
    dice = dice_of(run, ACROSS)
    (place,) = [n for n, text in enumerate(dots.evaluate_all("all => all.map(one => one.ariaLabel)")) if
                text.startswith(f"{next(iter(dice))}, ") and "U-Net ·" in text and "DEFU" not in text]  # fmt: skip
    dots.nth(place).hover()
    said = tip.inner_text()
    assert said.startswith(f"{next(iter(dice))}, ")
    assert f"U-Net · shenzhen\nDice {min(dice.values()):.4f}, HD95 " in said
    box = tip.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    visit.page.mouse.move(5, 5)
    assert not tip.is_visible()
    dots.nth(place).hover()
    visit.page.keyboard.press("Escape")
    assert not tip.is_visible()
    visit.check()


def test_a_click_on_a_dot_shows_its_x_ray(run: Path, look: Look) -> None:
    visit = look()
    dice = dice_of(run, ACROSS)
    index = json.loads((run / "evaluations" / ACROSS.folder / OVERLAYS).read_text())
    drawn = {entry["id"] for entry in index if entry["kind"] in ("worst", "best")}
    assert 0 < len(drawn) < len(dice)
    dots = marks(visit, "#compare", "Montgomery → Shenzhen")
    labels = dots.evaluate_all("all => all.map(one => one.ariaLabel)")
    caption = visit.page.locator("#viewer figcaption")

    def click(id: str) -> None:
        (place,) = [n for n, text in enumerate(labels) if text.startswith(f"{id}, ") and ", U-Net ·" in text]
        dots.nth(place).dispatch_event("click")  # dots lie close to each other: the mouse may meet a neighbour
        assert id in caption.inner_text()
        assert f"{dice[id]:.4f}" in caption.inner_text()

    # One of the worst, in a gallery that was folded: with its prediction.
    click(next(id for id in dice if id in drawn))
    assert visit.page.locator("details.cell[open] .pick[aria-current]").is_visible()
    assert (np.ptp(seen(visit), axis=2) > 30).mean() > 0.1, "regions in colour"
    # One in between: the X-ray of the contact sheet.
    id = next(id for id in dice if id not in drawn)
    click(id)
    shown = seen(visit)
    assert np.ptp(shown, axis=2).max() < 8, "no regions of another case"
    others = {other: np.abs(shown.mean(axis=2) - xray_of(other)).mean() for other in dice}
    assert min(others, key=lambda other: others[other]) == id
    assert others[id] < 8
    assert visit.page.get_by_label("Prediction", exact=True).is_disabled()
    visit.page.get_by_role("button", name="Next").click()
    assert visit.page.get_by_label("Prediction", exact=True).is_enabled()
    assert (np.ptp(seen(visit), axis=2) > 30).mean() > 0.1
    visit.check()


def test_keys_move_in_a_chart_and_enter_follows_a_dot(run: Path, look: Look) -> None:
    visit = look()
    keys, tip = visit.page.keyboard, visit.page.locator(".tip")
    focused = "document.activeElement.ariaLabel"
    dots = marks(visit, "#compare", "Montgomery → Shenzhen")
    for _ in range(200):
        keys.press("Tab")
        if dots.evaluate_all("all => all.includes(document.activeElement)"):
            break
    order = dots.evaluate_all("all => all.map(one => one.ariaLabel)")
    assert visit.page.evaluate(focused) == order[0]
    assert tip.inner_text().startswith(order[0])
    outline = "getComputedStyle(document.activeElement).strokeWidth"
    assert visit.page.evaluate(outline) == "4px", "the focus is seen"
    keys.press("ArrowRight")
    assert visit.page.evaluate(focused) == order[1]
    assert tip.inner_text().startswith(order[1])
    keys.press("End")
    assert visit.page.evaluate(focused) == order[-1]
    keys.press("Home")
    keys.press("ArrowDown")
    second = visit.page.evaluate(focused)
    assert second.split(", ")[2].split(" · ")[0] != order[0].split(", ")[2].split(" · ")[0], "the next network"
    keys.press("ArrowUp")
    assert visit.page.evaluate(focused) == order[0]
    keys.press("ArrowLeft")
    assert visit.page.evaluate(focused) == order[0], "the first has none before it"
    keys.press("Enter")
    assert order[0].split(",")[0] in visit.page.locator("#viewer figcaption").inner_text()
    assert visit.page.evaluate("document.activeElement.id") == "viewer"
    assert visit.page.locator("#viewer .xray").bounding_box()
    # Back to where the reader was: one stop of the Tab key again.
    visit.page.get_by_role("button", name="Back to chart").press("Enter")
    assert visit.page.evaluate(focused) == order[0]
    keys.press("Tab")
    assert not dots.evaluate_all("all => all.includes(document.activeElement)")
    visit.check()


def test_points_of_curves_have_values_too(run: Path, look: Look) -> None:
    visit = look()
    points = marks(visit, "#curves", "Learning rate")
    points.nth(3).focus()
    assert visit.page.locator(".tip").inner_text() == "U-Net\nEpoch 4: 0.001646"
    for title in ("Mixed", "Mixed, upper left corner"):
        assert marks(visit, "#curves", title).count() > 10
    visit.check()


def test_charts_follow_light_dark_and_the_window(look: Look) -> None:
    visit = look(color_scheme="dark")
    dot = marks(visit, "#compare", "Mixed").first

    def colour() -> str:
        return str(dot.evaluate("one => getComputedStyle(one).fill"))

    dark = colour()
    visit.page.emulate_media(color_scheme="light")
    assert colour() != dark
    plot = visit.page.locator("#compare .plot").last
    before = plot.locator("svg").bounding_box()
    visit.page.set_viewport_size({"width": 390, "height": 800})
    expect(plot.locator("svg")).to_have_attribute("width", re.compile(r"^3\d\d$"))
    after = plot.locator("svg").bounding_box()
    assert before is not None
    assert after is not None
    assert after["width"] < 390 < before["width"]
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    dot.focus()
    assert visit.page.locator(".tip").is_visible(), "the marks can still be reached"
    visit.check()


def test_a_print_has_charts_with_legends_and_the_folded_tables(look: Look, tmp_path: Path) -> None:
    visit = look()
    visit.page.emulate_media(media="print")
    learning = visit.page.locator("#curves figure.chart").first
    legend = learning.locator(".role-legend text").all_text_contents()
    assert {*legend} == {"U-Net", "DEFU-Net", "training", "validation"}
    assert visit.page.locator("#explorer tbody tr").first.is_visible()
    assert visit.page.locator("#table-iii").is_visible()
    assert not visit.page.locator(".tip").is_visible()
    visit.page.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 50_000
    visit.check()


def test_as_many_cases_as_the_page_can_hold(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.report.page.PICTURES", 20_000)
    monkeypatch.setattr("components.report.page.LIMIT", 900_000)
    make(run, tmp_path / "reports")
    text = (tmp_path / "reports" / PAGE).read_text()
    shown = len(re.findall(r'<figure id="case-\d+"', text))
    whole = len(re.findall(r'<figure id="case-\d+"', (run / "reports" / PAGE).read_text()))
    assert len(NETWORKS) * len(SCENARIOS) * 2 <= shown < whole
    assert ".sheet{" not in text
    assert ".sheet{" in (run / "reports" / PAGE).read_text()
