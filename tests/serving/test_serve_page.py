"""The service's own page in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from tests.serving.serving import Served, chest, png
from tests.serving.test_serve_bad_input import dicom

if TYPE_CHECKING:
    from tests.browser import Browser, Visit

DROP = """([text, name]) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name));
  for (const kind of ["dragenter", "dragover", "drop"])
    document.getElementById("drop").dispatchEvent(
      new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
}"""
COLOUR = """([x, y]) => [...document.getElementById("view").getContext("2d").getImageData(x, y, 1, 1).data]"""

# Decoding waits until release(), which itself waits until the page has taken what was decoded.
LATE = """() => {
  const decode = createImageBitmap, held = new Promise((done) => (globalThis.open = done));
  globalThis.createImageBitmap = async (...given) => {
    document.body.classList.add("held");
    await held;
    return decode(...given);
  };
  globalThis.release = () => { open(); return new Promise((done) => setTimeout(done, 500)); };
}"""


@pytest.fixture
def page(browser: Browser, service: Served) -> Visit:
    visit = browser(service.url, viewport={"width": 1280, "height": 900}, accept_downloads=True)
    visit.page.goto(service.url)
    return visit


def drop(visit: Visit, data: bytes, name: str) -> None:
    import base64

    visit.page.evaluate(DROP, [base64.b64encode(data).decode(), name])


def found(visit: Visit) -> str:
    visit.page.wait_for_selector("#result:visible")
    return str(visit.page.inner_text("#status"))


def mask_of(service: Served, data: bytes) -> np.ndarray:
    answer = service.predict(data, params={"format": "mask"})
    return np.asarray(cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED))


def lung_and_body(mask: np.ndarray) -> tuple[list[int], list[int]]:
    """Return a pixel well inside the mask and one well outside, as column and row."""
    edge = np.ones((5, 5), np.uint8)
    inside = np.argwhere(cv2.erode(mask, edge) > 0)
    outside = np.argwhere(cv2.dilate(mask, edge) == 0)
    assert len(inside)
    assert len(outside)
    return inside[len(inside) // 2][::-1].tolist(), outside[len(outside) // 2][::-1].tolist()


def test_a_dropped_picture_is_shown_with_its_findings(page: Visit, service: Served) -> None:
    data = png(chest())
    drop(page, data, "one.png")
    assert "one.png" in found(page)
    told = service.predict(data).json()
    assert f"{told['findings']['lungs']['pixels']:,}" in page.page.inner_text("#areas")
    assert told["model"]["version"] in page.page.inner_text("#facts")
    assert told["model"]["version"] in page.page.inner_text("#model")
    for flag in told["findings"]["flags"]:
        assert flag["reason"] in page.page.inner_text("#flags")
    assert page.page.get_attribute("#view", "width") == "100"
    page.check()


def test_the_overlay_changes_pixels(page: Visit, service: Served) -> None:
    data = png(chest())
    drop(page, data, "one.png")
    found(page)
    lung, body = lung_and_body(mask_of(service, data))

    def colours() -> tuple[list[int], list[int]]:
        return page.page.evaluate(COLOUR, lung), page.page.evaluate(COLOUR, body)

    at_first = colours()
    page.page.fill("#opacity", "100")
    full = colours()
    page.page.fill("#opacity", "0")
    none = colours()
    assert full[0][:3] == [0x2F, 0xB5, 0xFF]
    assert none[0][0] == none[0][1] == none[0][2]
    assert at_first[0] not in (full[0], none[0])
    assert at_first[1] == full[1] == none[1]
    page.page.fill("#opacity", "100")
    page.page.check("input[value='#ffb020']")
    assert colours()[0][:3] == [0xFF, 0xB0, 0x20]
    page.page.check("input[value=outline]")
    assert colours()[0] == none[0]
    page.check()


def test_the_mask_and_the_findings_can_be_downloaded(page: Visit, service: Served, tmp_path: Path) -> None:
    data = png(chest())
    drop(page, data, "one.png")
    found(page)
    for anchor, name in (("#mask", "one-mask.png"), ("#json", "one-findings.json")):
        with page.page.expect_download() as download:
            page.page.click(anchor)
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
    saved = cv2.imread(str(tmp_path / "one-mask.png"), cv2.IMREAD_UNCHANGED)
    assert saved is not None
    np.testing.assert_array_equal(saved, mask_of(service, data))
    kept = json.loads((tmp_path / "one-findings.json").read_text())
    assert kept["findings"] == service.predict(data).json()["findings"]
    page.check()


def test_a_keyboard_alone_suffices(page: Visit, tmp_path: Path) -> None:
    # Chromium is told to hand choosers on when the first listener comes, and takes a moment for it.
    page.page.on("filechooser", lambda _: None)
    (tmp_path / "one.png").write_bytes(png(chest()))
    reached = page.page.evaluate("document.activeElement.id")
    for _ in range(5):
        page.page.keyboard.press("Tab")
        reached = page.page.evaluate("document.activeElement.id")
        if reached == "file":
            break
    assert reached == "file"
    assert page.page.evaluate("getComputedStyle(document.getElementById('drop')).outlineStyle") == "solid"
    with page.page.expect_file_chooser() as chooser:
        page.page.keyboard.press("Enter")
    chooser.value.set_files(tmp_path / "one.png")
    found(page)
    reached_ids = []
    page.page.focus("#file")
    for _ in range(6):
        page.page.keyboard.press("Tab")
        reached_ids.append(page.page.evaluate("document.activeElement.id || document.activeElement.name"))
        if reached_ids[-1] == "opacity":
            page.page.keyboard.press("ArrowRight")
            assert page.page.input_value("#opacity") == "50"
        if reached_ids[-1] == "shape":
            page.page.keyboard.press("ArrowRight")
            assert page.page.is_checked("input[value=outline]")
    assert reached_ids[:5] == ["opacity", "shape", "colour", "mask", "json"]
    page.check()


def test_a_screen_reader_is_told_what_there_is(page: Visit) -> None:
    drop(page, png(chest()), "one.png")
    found(page)
    tree = page.page.locator("body").aria_snapshot()
    for words in ("Opacity", "Shape", "Colour", 'radio "Outline"', "Download mask", "with the lungs marked", "status"):
        assert words in tree
    assert page.page.locator("[role=status]").count() == 1
    assert page.page.locator("[role=alert]").count() == 1
    unnamed = page.page.evaluate(
        "[...document.querySelectorAll('input')].filter((one) => !one.labels.length).map((one) => one.id)"
    )
    assert unnamed == []


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (b"%PDF-1.7", "report.dcm", "PDF"),
        (b"", "empty.png", "empty"),
        (png(np.zeros((64, 64), np.uint8)), "black.png", "same grey value"),
    ],
)
def test_a_bad_file_is_told_and_the_next_one_shown(page: Visit, data: bytes, name: str, words: str) -> None:
    drop(page, png(chest()), "one.png")
    found(page)
    drop(page, data, name)
    page.page.wait_for_selector("#error:visible")
    text = page.page.inner_text("#error")
    assert name in text
    assert words in text
    assert not page.page.is_visible("#view"), "a mask of another picture still stands"
    # The browser itself notes every 4xx in its console; nothing else may stand there.
    assert all("status of 4" in error for error in page.errors), page.errors
    page.errors.clear()
    drop(page, png(chest()), "two.png")
    assert "two.png" in found(page)
    assert not page.page.is_visible("#error")
    page.check()


@pytest.mark.parametrize("several", [False, True])
def test_a_picture_that_comes_late_is_not_shown_under_the_error_of_another_file(page: Visit, several: bool) -> None:
    page.page.evaluate(LATE)
    drop(page, png(chest()), "one.png")
    page.page.wait_for_selector("body.held")
    if several:
        page.page.evaluate(
            DROP.replace("data.items.add(", "data.items.add(new File([], 'a')); data.items.add("), ["", "b"]
        )
    else:
        drop(page, b"%PDF-1.7", "report.dcm")
    page.page.wait_for_selector("#error:visible")
    page.page.evaluate("() => release()")
    assert not page.page.is_visible("#view"), "the mask of an earlier file stands under the error of a later one"
    assert page.page.inner_text("#status") == ""
    drop(page, png(chest()), "two.png")
    assert "two.png" in found(page)
    assert not page.page.is_visible("#error")


def test_a_dicom_is_shown_as_a_picture(page: Visit) -> None:
    drop(page, dicom(), "one.dcm")
    assert "one.dcm" in found(page)
    assert "DICOM" in page.page.inner_text("#facts")
    assert "2.000" in page.page.inner_text("#facts")
    assert page.page.evaluate(COLOUR, [40, 5])[3] == 255
    page.check()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(browser: Browser, service: Served, scheme: str) -> None:
    visit = browser(service.url, color_scheme=scheme)
    visit.page.goto(service.url)
    drop(visit, png(chest()), "one.png")
    found(visit)
    for selector in ("#found", "#status", "#areas td", "#facts dt", ".note", "#mask", "#json", "#model"):
        assert contrast(visit.page, selector) >= 4.5, selector  # WCAG 2.2, 1.4.3
    visit.check()


def contrast(page: Any, selector: str) -> float:
    """Return the contrast of a text with what lies behind it (WCAG 2.2, relative luminance)."""
    colours = page.eval_on_selector(
        selector,
        """(one) => {
          const ink = getComputedStyle(one).color;
          for (; one; one = one.parentElement) {
            const paper = getComputedStyle(one).backgroundColor;
            if (paper !== "rgba(0, 0, 0, 0)" && paper !== "transparent") return [ink, paper];
          }
        }""",
    )

    def luminance(colour: str) -> float:
        parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted(map(luminance, colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_a_narrow_screen_needs_no_sideways_scrolling(browser: Browser, service: Served) -> None:
    visit = browser(service.url, viewport={"width": 360, "height": 740})
    visit.page.goto(service.url)
    drop(visit, png(chest()), "one.png")
    found(visit)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
    visit.check()


def test_the_page_of_the_interface(page: Visit, service: Served) -> None:
    page.page.goto(f"{service.url}/docs")
    assert "POST /predict" in page.page.inner_text("main")
    page.check()
