"""The service's own page in a real browser."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pydicom
import pytest

from tests.serving.dicoms import dicom
from tests.serving.serving import Served, chest, pixels_of, png

if TYPE_CHECKING:
    from tests.browser import Browser, Visit

DROP = """(files) => {
  const data = new DataTransfer();
  for (const [text, name] of files)
    data.items.add(new File([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], name));
  for (const kind of ["dragenter", "dragover", "drop"])
    document.getElementById("drop").dispatchEvent(
      new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
}"""
# Requests of predictions wait until release().
HOLD = """() => {
  const send = fetch;
  let open;
  const held = new Promise((done) => (open = done));
  globalThis.fetch = async (...given) => {
    if (String(given[0]).startsWith("/predict")) await held;
    return send(...given);
  };
  globalThis.release = open;
}"""
# Decoding of pictures waits until release().
LATE = """() => {
  const decode = HTMLImageElement.prototype.decode;
  let open;
  const held = new Promise((done) => (open = done));
  HTMLImageElement.prototype.decode = async function () {
    document.body.classList.add("held");
    await held;
    return decode.call(this);
  };
  globalThis.release = open;
}"""

FOCUSED = """() => {
  const { id, className, dataset } = document.activeElement;
  return id || dataset.tool || dataset.slider || className;
}"""


@pytest.fixture
def page(browser: Browser, service: Served) -> Visit:
    visit = browser(service.url, viewport={"width": 1280, "height": 900}, accept_downloads=True)
    visit.page.goto(service.url)
    return visit


def drop(visit: Visit, *files: tuple[bytes, str]) -> None:
    visit.page.evaluate(DROP, [(base64.b64encode(data).decode(), name) for data, name in files])


def found(visit: Visit, name: str) -> str:
    visit.page.wait_for_selector("#result:visible")
    assert visit.page.inner_text("#name") == name
    return str(visit.page.inner_text("#status"))


def colour(visit: Visit, x: float, y: float, shape: tuple[int, int]) -> list[int]:
    """Return what the screen shows, RGB, where the pixel of a picture of this shape lies."""
    box = visit.page.locator("#viewer .sheet").bounding_box()
    assert box
    clip = {
        "x": box["x"] + (x + 0.5) * box["width"] / shape[1] - 1,
        "y": box["y"] + (y + 0.5) * box["height"] / shape[0] - 1,
        "width": 2,
        "height": 2,
    }
    return [int(value) for value in pixels_of(visit.page.screenshot(clip=clip))[0, 0, ::-1][-3:]]


def mask_of(service: Served, data: bytes) -> np.ndarray:
    return pixels_of(service.predict(data, params={"format": "mask"}).content)


def inner(mask: np.ndarray) -> tuple[int, int]:
    """Return column and row of the pixel farthest from the edge of a mask."""
    y, x = np.unravel_index(cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 5).argmax(), np.add(mask.shape, 2))
    return int(x) - 1, int(y) - 1


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
    picture = chest()
    data = png(picture)
    drop(page, (data, "one.png"))
    found(page, "one.png")
    mask = mask_of(service, data)
    half = mask.shape[1] // 2
    on_left, on_right = inner(mask[:, :half]), inner(mask[:, half:])
    places = [on_left, (on_right[0] + half, on_right[1])]
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
    pixels = chest(96, 80)
    places = {}
    for name, header in (("plain", {}), ("mirrored", {"PatientOrientation": ["R", "F"]})):
        drop(page, (dicom(pixels, **header), f"{name}.dcm"))
        page.page.wait_for_function(
            f"document.getElementById('name').textContent === '{name}.dcm' && !document.getElementById('result').hidden"
        )
        boxes = [page.page.locator(f"#viewer .letter.{side}").bounding_box() for side in ("left", "right")]
        places[name] = boxes[0]["x"] < boxes[1]["x"]
    assert places == {"plain": False, "mirrored": True}
    drop(page, (dicom(pixels, ViewPosition="LL"), "side.dcm"))
    page.page.wait_for_function("document.getElementById('name').textContent === 'side.dcm'")
    found(page, "side.dcm")
    assert page.page.locator("#viewer .letter").count() == 0
    assert "sides are uncertain" in page.page.inner_text("#areas")


def test_the_uncertain_band_is_drawn(page: Visit, service: Served) -> None:
    data = png(chest())
    drop(page, (data, "one.png"))
    found(page, "one.png")
    shapes = service.predict(data, params={"include": "shapes"}).json()["shapes"]
    assert page.page.locator("#viewer .band").count() == 0
    page.page.keyboard.press("u")
    assert page.page.get_attribute("#viewer .band", "d") == shapes["band"]
    assert shapes["band"].startswith("M")
    assert "between 25 and 75 %" in page.page.inner_text("#viewer .legend")


def test_mask_segmentation_and_findings_can_be_downloaded(page: Visit, service: Served, tmp_path: Path) -> None:
    data = dicom(chest(96, 80), PatientID="P-17")
    drop(page, (data, "one.dcm"))
    found(page, "one.dcm")
    for anchor, name in (("#mask", "one-mask.png"), ("#seg", "one-seg.dcm"), ("#json", "one-findings.json")):
        with page.page.expect_download() as download:
            page.page.click(anchor)
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
    saved = pixels_of((tmp_path / "one-mask.png").read_bytes())
    np.testing.assert_array_equal(saved, mask_of(service, data))
    kept = json.loads((tmp_path / "one-findings.json").read_text())
    assert kept["findings"] == service.predict(data).json()["findings"]
    assert kept["file"] == "one.dcm"
    assert kept["time"].endswith("Z")
    assert "shapes" not in kept
    seg = pydicom.dcmread(tmp_path / "one-seg.dcm")
    assert (seg.Modality, seg.PatientID) == ("SEG", "P-17")
    assert int(seg.pixel_array.sum()) == kept["findings"]["lungs"]["pixels"]
    drop(page, (png(chest()), "two.png"))
    page.page.wait_for_function("document.getElementById('name').textContent === 'two.png'")
    found(page, "two.png")
    assert not page.page.is_visible("#seg")
    page.check()


def test_many_files_are_a_list_that_is_worked_off(page: Visit, tmp_path: Path) -> None:
    files = [(png(chest(seed=number)), f"{number}.png") for number in range(3)]
    drop(page, *files, (b"%PDF-1.7", "report.pdf"))
    page.page.wait_for_function("document.getElementById('done').textContent === '4 of 4 done'")
    assert page.page.evaluate("document.getElementById('progress').value") == 4
    states = page.page.locator(".file .state").all_inner_texts()
    assert states[3] == "failed"
    assert all("flag" in state for state in states[:3])
    found(page, "0.png")
    page.page.click(".file >> nth=2")
    found(page, "2.png")
    page.page.keyboard.press("ArrowLeft")
    found(page, "1.png")
    page.page.click(".file >> nth=3")
    assert "PDF" in page.page.inner_text("#error")
    assert not page.page.is_visible("#result")
    with page.page.expect_download() as download:
        page.page.click("#all")
    download.value.save_as(tmp_path / "all.json")
    assert [each["file"] for each in json.loads((tmp_path / "all.json").read_text())] == ["0.png", "1.png", "2.png"]
    page.page.click("#clear")
    assert not page.page.is_visible("#files, #viewer, #result, #flagged")
    page.errors.clear()  # the browser notes the 422
    page.check()


def test_a_drawn_example_can_be_tried(page: Visit) -> None:
    page.page.click("#example")
    found(page, "drawn-example.png")
    page.check()


def test_nothing_of_the_first_patient_stands_under_the_second_ones_name(page: Visit) -> None:
    drop(page, (dicom(chest(96, 80)), "one.dcm"))
    found(page, "one.dcm")
    page.page.evaluate(HOLD)
    drop(page, (png(chest()), "two.png"))
    assert page.page.inner_text("#name") == "two.png"
    assert "finding the lungs" in page.page.inner_text("#status")
    assert not page.page.is_visible("#result")
    assert page.page.locator("#viewer img, #viewer .shapes, #flags *").count() == 0
    assert page.page.locator("#viewer .busy").count() == 1
    links = page.page.evaluate("[...document.querySelectorAll('#mask, #seg, #json')].map((one) => one.href)")
    assert links == ["", "", ""]
    page.page.click(".file >> nth=0")
    found(page, "one.dcm")
    page.page.evaluate("() => release()")
    page.page.wait_for_function("document.getElementById('done').textContent === '2 of 2 done'")
    found(page, "one.dcm")
    page.page.click(".file >> nth=1")
    found(page, "two.png")
    page.check()


def test_the_first_upload_has_a_busy_sign(page: Visit) -> None:
    page.page.evaluate(HOLD)
    drop(page, (png(chest()), "one.png"))
    assert page.page.is_visible("#viewer .busy")
    assert "one.png: finding the lungs" in page.page.inner_text("#viewer")
    assert "one.png" in page.page.inner_text("#live")
    page.page.evaluate("() => release()")
    found(page, "one.png")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (502, "cannot be reached by the proxy"),
        (504, "did not answer the proxy before it in time"),
        (413, "larger than a proxy before the service takes"),
        (200, "no answer of the service"),
    ],
)
def test_a_proxys_page_is_told_in_words(page: Visit, status: int, words: str) -> None:
    html = "<html><body><h1>Gateway</h1></body></html>"
    page.page.route(
        "**/predict?*", lambda route: route.fulfill(status=status, body=html, headers={"content-type": "text/html"})
    )
    drop(page, (png(chest()), "one.png"))
    page.page.wait_for_selector("#error")
    text = page.page.inner_text("#error")
    assert words in text
    assert f"HTTP {status}" in text
    assert "JSON" not in text
    assert "<" not in text
    assert not page.page.is_visible("#result")


def test_a_busy_service_is_asked_again(page: Visit) -> None:
    answers = iter([503, 503])

    def answer(route: Any) -> None:
        status = next(answers, None)
        if status is None:
            route.continue_()
        else:
            body = json.dumps({"detail": "the service is busy"})
            route.fulfill(status=status, body=body, headers={"Retry-After": "1", "content-type": "application/json"})

    page.page.route("**/predict?*", answer)
    drop(page, (png(chest()), "one.png"))
    found(page, "one.png")


def test_a_service_that_is_gone_is_told(page: Visit) -> None:
    page.page.route("**/predict?*", lambda route: route.abort())
    drop(page, (png(chest()), "one.png"))
    page.page.wait_for_selector("#error")
    assert "the service gave no answer" in page.page.inner_text("#error")


def test_a_keyboard_alone_suffices(page: Visit, tmp_path: Path) -> None:
    # Chromium is told to hand choosers on when the first listener comes, and takes a moment for it.
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
            assert page.page.locator("#viewer .band").count() == 1
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


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (b"%PDF-1.7", "report.dcm", "PDF"),
        (b"", "empty.png", "empty"),
        (png(np.zeros((64, 64), np.uint8)), "black.png", "same grey value"),
    ],
)
def test_a_bad_file_is_told_and_the_next_one_shown(page: Visit, data: bytes, name: str, words: str) -> None:
    drop(page, (png(chest()), "one.png"))
    found(page, "one.png")
    drop(page, (data, name))
    page.page.wait_for_selector("#error:visible")
    text = page.page.inner_text("#error")
    assert name in text
    assert words in text
    assert page.page.inner_text("[role=alert]") == text
    assert page.page.locator("#viewer img").count() == 0, "another picture still stands"
    # The browser itself notes every 4xx in its console; nothing else may stand there.
    assert all("status of 4" in error for error in page.errors), page.errors
    page.errors.clear()
    drop(page, (png(chest()), "two.png"))
    assert found(page, "two.png")
    assert not page.page.is_visible("#error")
    page.check()


def test_a_picture_that_comes_late_is_not_shown_under_another_files_name(page: Visit) -> None:
    page.page.evaluate(LATE)
    drop(page, (png(chest()), "one.png"))
    page.page.wait_for_selector("body.held")
    drop(page, (b"%PDF-1.7", "report.dcm"))
    assert page.page.inner_text("#name") == "report.dcm"
    page.page.evaluate("() => release()")
    page.page.wait_for_selector("#error:visible")
    assert page.page.inner_text("#name") == "report.dcm"
    assert page.page.locator("#viewer img").count() == 0
    page.page.click(".file >> nth=0")
    found(page, "one.png")


def test_files_that_are_removed_do_not_come_back(page: Visit) -> None:
    page.page.evaluate(LATE)
    drop(page, (png(chest()), "one.png"))
    page.page.wait_for_selector("body.held")
    page.page.click("#clear")
    page.page.evaluate("() => release()")
    drop(page, (png(chest(seed=1)), "two.png"))
    found(page, "two.png")
    assert page.page.locator(".file").count() == 1
    page.check()


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
    page.page.emulate_media(media="print")
    for shown in ("#viewer .sheet", "#viewer .legend", "#name", "#flags", "#areas", "#model", ".note"):
        assert page.page.is_visible(shown), shown
    for left_out in ("#drop", "#files", ".tools", ".sliders", "#mask"):
        assert not page.page.is_visible(left_out), left_out


def test_the_page_of_the_interface(page: Visit, service: Served) -> None:
    page.page.goto(f"{service.url}/docs")
    assert "POST /predict" in page.page.inner_text("main")
    page.check()
