"""The review sheet of ``predict``, in a real browser, opened as the file that it is."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from core.images import encode
from serving.viewer.about import About
from serving.viewer.review import write_review
from tests.serving.test_predict import MONTGOMERY, SHENZHEN, Caller, call, ward

if TYPE_CHECKING:
    from tests.browser import Browser, Visit

__all__ = ["call", "ward"]
ABOUT = About("lungs", "3", "onnxruntime")


@pytest.fixture
def sheet(browser: Browser, call: Caller, ward: Path) -> Visit:
    """The sheet of two patients, with a DICOM and a file that cannot be read."""
    (ward / "b/empty.png").write_bytes(b"")
    call(ward, code=1)
    return opened(browser, call.out / "review.html")


def opened(browser: Browser, page: Path, **options: Any) -> Visit:
    visit = browser(**({"viewport": {"width": 1280, "height": 900}} | options))
    visit.page.goto(page.as_uri())
    return visit


def names(visit: Visit) -> list[str]:
    # A card has no inner text before it is first drawn (content-visibility).
    return [each.text_content() or "" for each in visit.page.query_selector_all(".card:visible .name")]


def rank(row: dict[str, Any]) -> tuple[bool, float]:
    return row["status"] == "ok", row.get("expected_dice") or 0.0


def test_every_xray_is_there_the_worst_first(sheet: Visit, call: Caller) -> None:
    rows = sorted(call.rows().values(), key=rank)
    assert names(sheet) == [row["file"] for row in rows]
    assert names(sheet)[0] == "b/empty.png"
    card = sheet.page.locator(".card", has_text="a/x.dcm")
    text = card.inner_text()
    row = call.rows()["a/x.dcm"]
    assert f"R {row['right']['cm2']:.0f} cm²" in text
    assert all(flag["name"] in text for flag in row["flags"])
    assert "%" in sheet.page.locator(".card", has_text="a/x.png").inner_text()  # no spacing: the share
    assert [card.locator(f".letter.{side}").inner_text() for side in ("left", "right")] == ["L", "R"]
    left, right = (card.locator(f".shapes .{side}").bounding_box() for side in ("left", "right"))
    assert left
    assert right
    assert left["x"] > right["x"], "the patient's left lung is on the picture's right"
    sheet.check()


def test_the_outline_is_that_of_the_mask(sheet: Visit, call: Caller) -> None:
    mask = call.mask("a/x.png") > 0
    card = sheet.page.locator(".card", has_text="a/x.png")
    inside = card.evaluate(
        """(card, points) => {
          const paths = [...card.querySelectorAll(".left, .right")].filter((one) => one.isPointInFill);
          return points.map(([x, y]) => paths.some((path) => path.isPointInFill(new DOMPoint(x, y))));
        }""",
        [[int(x), int(y)] for y, x in np.ndindex(*mask.shape) if y % 7 == 0 and x % 7 == 0],
    )
    drawn = np.array(inside).reshape(mask[::7, ::7].shape)
    assert drawn.sum() > 0
    assert (drawn != mask[::7, ::7]).mean() < 0.02  # the outline's own pixels


def test_the_filter_shows_one_flag_alone(sheet: Visit, call: Caller) -> None:
    rows = call.rows().values()
    sheet.page.select_option("#filter", "failed")
    assert names(sheet) == ["b/empty.png"]
    flags = sorted({flag["name"] for row in rows for flag in row.get("flags", [])})
    assert flags
    for flag in flags:
        sheet.page.select_option("#filter", f"flag {flag}")
        wanted = {row["file"] for row in rows if any(each["name"] == flag for each in row.get("flags", []))}
        assert set(names(sheet)) == wanted
        assert sheet.page.inner_text("#count") == f"{len(wanted)} of 5 X-rays"
    sheet.check()


def test_an_xray_is_enlarged_and_the_keys_work(sheet: Visit) -> None:
    page = sheet.page
    every = names(sheet)
    page.locator(".card", has_text=every[1]).focus()
    page.keyboard.press("Enter")
    assert page.inner_text("#name") == every[1]
    page.keyboard.press("ArrowRight")
    assert (page.inner_text("#name"), page.inner_text("#number")) == (every[2], "3 of 5")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#name") == every[1]
    assert page.locator("#viewer .shapes").count() == 1
    page.keyboard.press("h")
    assert page.locator("#viewer .shapes, #viewer .letter").count() == 0
    page.keyboard.press("h")
    page.keyboard.press("u")
    assert page.locator("#viewer .shapes .band").count() == 1
    page.keyboard.press("s")
    assert page.locator("#viewer .pane").count() == 2
    assert page.locator("#viewer .shapes").count() == 1
    before = page.locator("#viewer .sheet").first.bounding_box()
    page.keyboard.press("+")
    after = page.locator("#viewer .sheet").first.bounding_box()
    assert before
    assert after
    assert after["width"] == pytest.approx(1.25 * before["width"], rel=0.01)
    page.keyboard.press("Escape")
    assert not page.is_visible("#dialog")
    assert page.evaluate("document.activeElement.querySelector('.name').textContent") == every[1]
    sheet.check()


def test_a_failed_xray_shows_why_and_nothing_of_another(sheet: Visit, call: Caller) -> None:
    sheet.page.locator(".card", has_text="a/x.png").click()
    assert sheet.page.locator("#viewer img").count() == 1
    for _ in range(4):
        sheet.page.keyboard.press("ArrowLeft")
    assert sheet.page.inner_text("#name") == "b/empty.png"
    assert call.rows()["b/empty.png"]["error"] in sheet.page.inner_text("#flags")
    assert sheet.page.locator("#viewer img, #viewer .shapes").count() == 0
    assert not sheet.page.is_visible("#findings")


def test_window_and_level_change_the_grey_values(sheet: Visit) -> None:
    sheet.page.locator(".card", has_text="a/x.png").click()

    def brightness() -> float:
        from tests.serving.serving import pixels_of

        return float(pixels_of(sheet.page.locator("#viewer .pane").screenshot()).mean())

    sheet.page.keyboard.press("h")
    before = brightness()
    for level, darker in ((200, True), (60, False)):
        sheet.page.fill("[data-slider=level]", str(level))
        assert (brightness() < before - 20) == darker
        assert (brightness() > before + 20) != darker
    sheet.page.focus("#close")
    sheet.page.keyboard.press("r")
    assert brightness() == pytest.approx(before, abs=0.5)


def test_the_scale_bar_is_as_long_as_it_says(sheet: Visit, call: Caller) -> None:
    sheet.page.locator(".card", has_text="a/x.png").click()
    assert sheet.page.locator("#viewer .scale").count() == 0
    sheet.page.keyboard.press("Escape")
    sheet.page.locator(".card", has_text="a/x.dcm").click()
    bar, picture = (sheet.page.locator(f"#viewer {one}").bounding_box() for one in (".scale", ".sheet"))
    assert bar
    assert picture
    row = call.rows()["a/x.dcm"]
    value, unit = sheet.page.inner_text("#viewer .scale").split()
    length = float(value) * {"cm": 10, "mm": 1}[unit]
    assert bar["width"] / picture["width"] == pytest.approx(length / (row["width"] * row["spacing"][1]), rel=0.02)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (768, "light"), (390, "light")])
def test_it_fits_every_screen(sheet: Visit, call: Caller, browser: Browser, width: int, scheme: str) -> None:
    visit = opened(browser, call.out / "review.html", viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.page.locator(".card", has_text="a/x.png").click()
    assert visit.page.evaluate("document.getElementById('dialog').scrollWidth") <= width
    flags, tools = (visit.page.locator(one).bounding_box() for one in ("#flags", ".tools"))
    assert flags
    assert tools
    assert flags["y"] < tools["y"], "flags stand above the tools"
    visit.page.emulate_media(media="print")
    assert visit.page.is_visible("#findings")
    assert not visit.page.is_visible(".tools")
    visit.check()


def test_names_of_files_are_text(browser: Browser, call: Caller, tmp_path: Path) -> None:
    evil = tmp_path / "ward/<" / "script><img src=x onerror=alert(1)>.png"
    evil.parent.mkdir(parents=True)
    evil.write_bytes((SHENZHEN / "CHNCXR_0001_0.png").read_bytes())
    plain = tmp_path / "ward" / os.fsdecode(b"M\xfcller #1?.png")
    plain.write_bytes((SHENZHEN / "CHNCXR_0001_0.png").read_bytes())
    call(tmp_path / "ward")
    visit = opened(browser, call.out / "review.html")
    visit.page.on("dialog", lambda each: visit.errors.append(each.message))
    assert "</script><img src=x onerror=alert(1)>.png" in names(visit)
    for card in visit.page.locator(".card").all():
        card.click()
        address = visit.page.get_attribute("#findings a", "href")
        assert address
        with visit.page.expect_popup() as popup:
            visit.page.click("#findings a")
        popup.value.wait_for_load_state()
        assert popup.value.evaluate("document.images[0].naturalWidth") > 0
        popup.value.close()
        visit.page.keyboard.press("Escape")
    visit.check()


def test_a_later_run_keeps_every_row_in_the_sheet(browser: Browser, call: Caller, ward: Path) -> None:
    call(ward / "a", "--no-review")
    assert not [name for name in call.files() if "review" in name]
    told, _ = call(ward / "a", "--resume")
    assert "2 done" in told, "the sheet's pictures are made for finished X-rays too"
    told, _ = call(ward / "a", ward / "b", "--overwrite")
    (ward / "b/late.png").write_bytes((MONTGOMERY / "MCUCXR_0016_1.png").read_bytes())
    told, _ = call(ward / "a", ward / "b", "--resume")
    assert "5 X-rays: 1 done, 4 finished before" in told
    visit = opened(browser, call.out / "review.html")
    assert len(names(visit)) == 5
    assert visit.page.locator(".thumb img").count() == 5
    told, _ = call(ward / "a", ward / "b", "--resume", "--no-review")
    assert "5 finished before" in told
    assert not (call.out / "review.html").exists(), "it would not have the rows of this run"


def test_the_sheet_is_private_and_its_pictures_are_no_input(call: Caller, ward: Path) -> None:
    call.out = ward / "results"
    call(ward)
    for path in [call.out / "review.html", *(call.out / "review").iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    told, _ = call(ward, call.out, "--resume")
    assert "4 X-rays: 0 done, 4 finished before" in told


def test_pictures_that_make_the_page_too_large_lie_beside_it(browser: Browser, call: Caller, ward: Path) -> None:
    call(ward / "a")
    page = call.out / "review.html"
    embedded = page.stat().st_size
    rows = [json.loads((call.out / "results.json").read_text())["results"][1]]
    entries = [(row, {kind: Path(row[kind]) for kind in ("mask", "picture", "shapes")}) for row in rows]
    write_review(page, ABOUT, entries, embedded_mb=0)
    assert page.stat().st_size < embedded
    visit = opened(browser, page)
    visit.page.click(".card")
    visit.page.wait_for_function("document.querySelector('#viewer img').naturalWidth > 0")
    assert visit.page.evaluate("document.querySelector('#viewer img').naturalWidth") == rows[0]["width"]
    visit.check()
    (call.out / rows[0]["picture"]).unlink()
    visit = opened(browser, page)
    visit.page.click(".card")
    visit.page.wait_for_selector("#flags .error")
    assert "is not beside this page" in visit.page.inner_text("#flags")
    visit.page.wait_for_function("document.querySelector('#viewer img').naturalWidth > 0")


def test_the_lowest_expected_dice_comes_first_where_rows_have_it(browser: Browser, tmp_path: Path) -> None:
    area = {"pixels": 5, "share": 0.1, "cm2": None}
    common = {"status": "ok", "error": "", "kind": "png", "height": 10, "width": 10, "uncertain": 0.1}
    common |= dict.fromkeys(("lungs", "left", "right"), area)
    flag = {"name": "size", "reason": "small"}
    given = {"good": (0.97, [flag]), "bad": (0.6, []), "middle": (0.9, []), "unknown": (None, [])}
    rows = [
        common | {"file": name, "expected_dice": dice, "expected_dice_low": dice, "flags": flags}
        for name, (dice, flags) in given.items()
    ]
    rows.append({"file": "failed", "status": "failed", "error": "damaged", "sha256": ""})
    write_review(tmp_path / "review.html", ABOUT, [(row, {}) for row in rows])
    visit = opened(browser, tmp_path / "review.html")
    assert names(visit) == ["failed", "unknown", "bad", "middle", "good"]
    assert "expected Dice 0.60" in visit.page.locator(".card", has_text="bad").inner_text()
    visit.check()


def test_it_says_what_the_model_is(sheet: Visit, call: Caller) -> None:
    told = json.loads((call.out / "results.json").read_text())["model"]
    text = sheet.page.inner_text("#model")
    assert told["version"] in text
    card = json.loads((call.package / "card.json").read_text())
    assert card["data"]["name"] in text
    assert "trained on drawings" in text
    (score,) = [
        row["dice"]
        for row in card["metrics"]
        if (row["masks"], row["site"], row["label"]) == (card["train"]["masks"], "all", "all")
    ]
    assert f"Dice {score:.3f}" in text


def test_a_noisy_picture_makes_no_large_page(call: Caller, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1500, 1500)).astype(np.uint8)
    (tmp_path / "noise.png").write_bytes(encode(noise))
    call(tmp_path / "noise.png")
    assert (call.out / "review.html").stat().st_size < 3_000_000
