"""The page's list of files: what stands under whose name, downloads, and errors in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest

from tests.serving.dicoms import dicom
from tests.serving.page_visits import drop, found, mask_of, page
from tests.serving.serving import Served, chest, pixels_of, png

if TYPE_CHECKING:
    from tests.browser import Visit

__all__ = ["page"]
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
    page.page.locator("#name", has_text="two.png").wait_for()
    found(page, "two.png")
    assert not page.page.is_visible("#seg")
    page.check()


def test_many_files_are_a_list_that_is_worked_off(page: Visit, tmp_path: Path) -> None:
    files = [(png(chest(seed=number)), f"{number}.png") for number in range(3)]
    drop(page, *files, (b"%PDF-1.7", "report.pdf"))
    page.page.locator("#done", has_text="4 of 4 done").wait_for()
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
    page.page.locator("#done", has_text="2 of 2 done").wait_for()
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
