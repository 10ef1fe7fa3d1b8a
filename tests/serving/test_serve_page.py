"""The service's own page in a real browser: what it shows of an X-ray, to whom and on which screen."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.images import read_image
from model.lungs import halves
from tests.conftest import ROOT
from tests.serving.dicoms import dicom
from tests.serving.page_visits import colour, contrast, drop, found, inner, mask_of, page
from tests.serving.serving import Served, chest, png

if TYPE_CHECKING:
    from playwright.sync_api import Route

    from tests.browser import Browser, Visit

__all__ = ["page"]
SAMPLE = read_image(ROOT / "samples/ChinaSet_AllFiles/CXR_png/CHNCXR_0010_1.png")
SIDED = re.compile(r"\b(?:left|right|[LR])\b", re.IGNORECASE)  # words that name a side
FOCUSED = """() => {
  const { id, className, dataset } = document.activeElement;
  return id || dataset.tool || dataset.slider || className;
}"""


def test_a_dropped_picture_is_shown_with_its_findings(page: Visit, service: Served) -> None:
    data = png(chest())
    drop(page, (data, "one.png"))
    found(page, "one.png")
    told = service.predict(data).json()
    assert f"{told['findings']['lungs']['pixels']:,}" in page.page.inner_text("#areas")
    assert told["model"]["version"] in page.page.inner_text("#facts")
    for flag in told["findings"]["flags"]:
        assert flag["reason"] in page.page.inner_text("#flags")
    assert page.page.evaluate("document.querySelector('#viewer img').naturalWidth") == 100
    page.check()


def test_the_page_says_what_its_model_is(page: Visit, service: Served, package: Path) -> None:
    page.page.wait_for_selector("#model a")
    text = page.page.inner_text("#model")
    card = json.loads((package / "card.json").read_text())
    with service.client() as client:
        told = client.get("/model").json()
    assert told["cohort"] == card["data"]["name"]
    assert (told["version"] in text, told["cohort"] in text, f"Dice {told['dice']:.3f}" in text) == (True,) * 3
    assert "trained on drawings, not on X-rays of patients" in text
    page.page.click("#model a")
    assert "What goes in" in page.page.inner_text("main")
    assert page.page.locator("table").count() > 1
    page.check()


def test_the_patients_sides_have_colours_and_letters(page: Visit, service: Served) -> None:
    data = png(SAMPLE)
    drop(page, (data, "one.png"))
    found(page, "one.png")
    mask = mask_of(service, data)
    places = [inner(each) for each in halves(mask)]
    plain = [colour(page, *place, mask.shape) for place in places]
    assert all(max(one) - min(one) < 6 for one in plain), "the outline leaves the lung as it is"
    page.page.keyboard.press("f")
    right, left = (colour(page, *place, mask.shape) for place in places)
    assert right[0] > right[2] + 20, "the patient's right lung, on the picture's left, is orange"
    assert left[2] > left[0] + 20
    page.page.fill("[data-slider=opacity]", "0")
    assert [colour(page, *place, mask.shape) for place in places] == plain
    page.page.focus("#viewer .pane")
    page.page.keyboard.press("r")
    assert colour(page, *places[0], mask.shape) == right
    page.page.keyboard.press("h")
    assert [colour(page, *place, mask.shape) for place in places] == plain
    assert page.page.locator("#viewer .letter").count() == 0
    page.page.keyboard.press("h")
    for side, letter in (("left", "L"), ("right", "R")):
        assert page.page.inner_text(f"#viewer .letter.{side}") == letter
    page.check()


def test_a_mirrored_dicom_has_its_letters_where_its_header_says(page: Visit) -> None:
    on_left = {}
    for name, header in (("plain", {}), ("mirrored", {"PatientOrientation": ["R", "F"]})):
        drop(page, (dicom(SAMPLE, **header), f"{name}.dcm"))
        page.page.locator("#name", has_text=f"{name}.dcm").wait_for()
        found(page, f"{name}.dcm")
        left, right = (page.page.locator(f"#viewer .letter.{side}").bounding_box() for side in ("left", "right"))
        assert left
        assert right
        on_left[name] = left["x"] < right["x"]
    assert on_left == {"plain": False, "mirrored": True}
    drop(page, (dicom(SAMPLE, ViewPosition="LL"), "side.dcm"))
    page.page.locator("#name", has_text="side.dcm").wait_for()
    found(page, "side.dcm")
    assert page.page.locator("#viewer .letter").count() == 0
    assert "the sides are unknown" in page.page.inner_text("#areas")
    assert page.page.locator("#areas tbody th").all_inner_texts() == ["Both"]
    shown = " ".join(page.page.locator("#flagged, #result, .legend").all_inner_texts())
    shown += page.page.get_attribute("#viewer .pane", "aria-label") or ""
    assert not SIDED.findall(shown)


def test_the_banner_follows_the_model_that_answers(page: Visit, service: Served) -> None:
    with service.client() as client:
        now = client.get("/model").json()
    before = now | {"version": "before", "cohort": "Earlier cohort", "dice": 0.5, "drawings": False}
    told, asked = before, 0

    def model(route: Route) -> None:
        nonlocal asked
        asked += 1
        route.fulfill(json=told)

    def canary(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(json=answer.json() | {"model": answer.json()["model"] | {"version": "7", "canary": True}})

    banner = page.page.locator("#model")
    page.page.route("**/model", model)
    page.page.reload()
    banner.get_by_text("Earlier cohort").wait_for()
    assert "drawings" not in banner.inner_text()
    told = now
    drop(page, (png(chest()), "one.png"))
    found(page, "one.png")
    banner.get_by_text(f"version {now['version']}").wait_for()
    for words in (now["cohort"], f"Dice {now['dice']:.3f}", "trained on drawings"):
        assert words in banner.inner_text()
    assert asked == 2
    page.page.route("**/predict?*", canary)
    told = before
    for name in ("of-the-canary.png", "again.png"):
        drop(page, (png(chest()), name))
        page.page.locator("#name", has_text=name).wait_for()
        found(page, name)
    assert "version 7 (onnxruntime), as a canary" in page.page.inner_text("#facts")
    assert asked == 2, "the banner is not about the canary"
    assert f"version {now['version']}" in banner.inner_text()
    page.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    banner.get_by_text("Earlier cohort").wait_for()
    page.check()


def test_the_banner_stays_while_the_service_is_away(page: Visit, service: Served) -> None:
    with service.client() as client:
        version = client.get("/model").json()["version"]
    page.page.locator("#model", has_text=version).wait_for()
    page.page.route("**/model", lambda route: route.fulfill(status=503, json={"detail": "away"}))
    with page.page.expect_response("**/model"):
        page.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.page.unroute("**/model")
    with page.page.expect_response("**/model") as later:  # it is asked again
        assert version in page.page.inner_text("#model")
    assert later.value.status == 200


def test_the_uncertain_band_is_drawn(page: Visit, service: Served) -> None:
    data = png(chest())
    drop(page, (data, "one.png"))
    found(page, "one.png")
    shapes = service.predict(data, params={"include": "shapes"}).json()["shapes"]
    assert page.page.locator("#viewer .shapes .band").count() == 0
    page.page.keyboard.press("u")
    assert page.page.get_attribute("#viewer .shapes .band", "d") == shapes["band"]
    assert shapes["band"].startswith("M")
    assert "between 25 and 75 %" in page.page.inner_text("#viewer .legend")


def test_a_keyboard_alone_suffices(page: Visit, tmp_path: Path) -> None:
    # Chromium starts to report file choosers with the first listener, which takes a moment.
    page.page.on("filechooser", lambda _: None)
    page.page.wait_for_selector("#model a")
    (tmp_path / "one.png").write_bytes(png(chest()))
    reached = ""
    for _ in range(6):
        page.page.keyboard.press("Tab")
        reached = page.page.evaluate("document.activeElement.id")
        if reached == "file":
            break
    assert reached == "file"
    assert page.page.evaluate("getComputedStyle(document.getElementById('drop')).outlineStyle") == "solid"
    with page.page.expect_file_chooser() as chooser:
        page.page.keyboard.press("Enter")
    chooser.value.set_files(tmp_path / "one.png")
    found(page, "one.png")
    reached_names = []
    page.page.focus("#file")
    for _ in range(24):
        page.page.keyboard.press("Tab")
        one = page.page.evaluate(FOCUSED)
        reached_names.append(one)
        if one == "band":
            page.page.keyboard.press("Enter")
            assert page.page.locator("#viewer .shapes .band").count() == 1
        if one == "window":
            page.page.keyboard.press("ArrowRight")
            assert page.page.input_value("[data-slider=window]") == "257"
        if one == "print":
            break
    wanted = ["all", "clear", "pane", "overlay", "fill", "band", "two", "window", "level"]
    wanted += ["opacity", "mask", "json", "print"]
    assert [one for one in reached_names if one in wanted] == wanted
    page.check()


def test_a_screen_reader_is_told_what_there_is(page: Visit) -> None:
    drop(page, (png(chest()), "one.png"))
    found(page, "one.png")
    tree = page.page.locator("body").aria_snapshot()
    told = ("Window", "Level", "Opacity", 'button "Outlines" [pressed]', "with the lungs outlined", "Mask", "status")
    for words in told:
        assert words in tree
    assert "one.png" in page.page.inner_text("[role=status]")
    unnamed = page.page.evaluate(
        "[...document.querySelectorAll('input')].filter((one) => !one.labels.length).map((one) => one.id)"
    )
    assert unnamed == []


def test_a_dicom_is_shown_with_its_scale(page: Visit) -> None:
    drop(page, (dicom(chest(96, 80), PixelSpacing=[2.0, 2.0]), "one.dcm"))
    found(page, "one.dcm")
    assert "DICOM" in page.page.inner_text("#facts")
    assert "2.000" in page.page.inner_text("#facts")
    bar, picture = (page.page.locator(f"#viewer {one}").bounding_box() for one in (".scale", ".sheet"))
    length = float(page.page.inner_text("#viewer .scale").split()[0]) * 10
    assert bar["width"] / picture["width"] == pytest.approx(length / 160, rel=0.02)
    page.check()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(browser: Browser, service: Served, scheme: str) -> None:
    visit = browser(service.url, color_scheme=scheme)
    visit.page.goto(service.url)
    drop(visit, (png(chest()), "one.png"))
    found(visit, "one.png")
    texts = ("#found", "#status", "#areas td", "#facts dt", ".note", "#mask", "#json", "#model", ".state", ".tool")
    for selector in (*texts, ".tool[aria-pressed=true]", "#viewer .legend", "#model a"):
        assert contrast(visit.page, selector) >= 4.5, selector  # WCAG 2.2, 1.4.3
    visit.check()


@pytest.mark.parametrize("width", [1280, 768, 390])
def test_every_screen_shows_flags_before_the_tools_without_sideways_scrolling(
    browser: Browser, service: Served, width: int
) -> None:
    visit = browser(service.url, viewport={"width": width, "height": 800})
    visit.page.goto(service.url)
    drop(visit, (png(chest()), "one.png"), (b"", "a-rather-long-name-without-a-place-to-break-it" * 3))
    found(visit, "one.png")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    flags, tools = (visit.page.locator(one).bounding_box() for one in ("#flags", ".tools"))
    assert flags["y"] < tools["y"]


def test_what_is_printed_is_the_picture_its_findings_and_the_model(page: Visit) -> None:
    drop(page, (png(chest()), "one.png"))
    found(page, "one.png")
    page.page.evaluate("() => { globalThis.printed = 0; globalThis.print = () => printed++; }")
    page.page.click("#print")
    assert page.page.evaluate("printed") == 1
    page.page.emulate_media(media="print")
    for shown in ("#viewer .sheet", "#viewer .legend", "#name", "#flags", "#areas", "#model", ".note"):
        assert page.page.is_visible(shown), shown
    for left_out in ("#drop", "#files", ".tools", ".sliders", "#mask"):
        assert not page.page.is_visible(left_out), left_out


def test_the_page_of_the_interface(page: Visit, service: Served) -> None:
    page.page.goto(f"{service.url}/docs")
    assert "POST /predict" in page.page.inner_text("main")
    page.check()
