"""The viewer's mouse and keys, and what is printed, in a real browser, on the review sheet of ``predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.serving.serving import pixels_of
from tests.serving.test_predict import Caller, call, ward
from tests.serving.test_predict_review import opened, sheet

if TYPE_CHECKING:
    from playwright.sync_api import FloatRect, Page

    from tests.browser import Browser, Visit

__all__ = ["call", "sheet", "ward"]


@pytest.fixture
def enlarged(browser: Browser, call: Caller, ward: Path) -> Visit:
    """The sheet with an X-ray enlarged, whose outlines are hidden."""
    call(ward / "a")
    visit = opened(browser, call.out / "review.html")
    visit.page.locator(".card", has_text="x.png").click()
    visit.page.keyboard.press("h")
    return visit


def box(page: Page, selector: str = "#viewer .sheet") -> FloatRect:
    found = page.locator(selector).first.bounding_box()
    assert found
    return found


def place(page: Page) -> tuple[float, float]:
    return box(page)["x"], box(page)["y"]


def middle(page: Page) -> tuple[float, float]:
    pane = box(page, "#viewer .pane")
    return pane["x"] + pane["width"] / 2, pane["y"] + pane["height"] / 2


def greys(page: Page) -> np.ndarray:
    """Return the X-ray's grey values on the screen, without its edges, float (H, W)."""
    return pixels_of(page.locator("#viewer img").screenshot())[4:-4, 4:-4, 0].astype(float)


def windowed(before: np.ndarray, window: float, level: float) -> np.ndarray:
    """Return grey values as a window and a level show them; 256 and 128 leave them as they are."""
    return ((before - (level - window / 2)) * 256 / window).clip(0, 255)


def test_shift_and_the_arrow_keys_move_the_picture(enlarged: Visit) -> None:
    page = enlarged.page
    name, fitted = page.inner_text("#name"), place(page)
    page.keyboard.press("Shift+ArrowLeft")
    assert place(page) == fitted, "a picture that fits stays where it is"
    for _ in range(6):
        page.keyboard.press("+")
    x, y = place(page)
    for key, dx, dy in (("Left", 60, 0), ("Right", -60, 0), ("Up", 0, 60), ("Down", 0, -60)):
        page.keyboard.press(f"Shift+Arrow{key}")
        assert place(page) == pytest.approx((x + dx, y + dy), abs=0.5), key
        x, y = x + dx, y + dy
    for _ in range(40):
        page.keyboard.press("Shift+ArrowLeft")
    assert box(page)["x"] == pytest.approx(box(page, "#viewer .pane")["x"], abs=0.5), "its edge stays at the frame's"
    assert page.inner_text("#name") == name
    page.keyboard.press("0")
    assert place(page) == pytest.approx(fitted, abs=0.5)
    enlarged.check()


def test_a_drag_moves_the_picture(enlarged: Visit) -> None:
    page = enlarged.page
    for _ in range(6):
        page.keyboard.press("+")
    (x, y), (at_x, at_y) = place(page), middle(page)
    page.mouse.move(at_x, at_y)
    page.mouse.down()
    page.mouse.move(at_x + 40, at_y - 30, steps=4)
    page.mouse.up()
    assert place(page) == pytest.approx((x + 40, y - 30), abs=0.5)
    page.mouse.move(at_x, at_y)
    assert place(page) == pytest.approx((x + 40, y - 30), abs=0.5), "the button was released"
    assert page.input_value("[data-slider=window]") == "256"
    enlarged.check()


def test_the_wheel_zooms_about_the_pointer_once_the_viewer_has_the_focus(enlarged: Visit) -> None:
    page = enlarged.page
    before, (x, y) = box(page), middle(page)
    page.mouse.move(x + 50, y - 40)
    page.focus("#close")
    page.mouse.wheel(0, -250)
    page.wait_for_timeout(200)
    assert box(page) == before
    page.focus("#viewer .pane")
    page.mouse.wheel(0, -250)
    page.wait_for_function("document.querySelector('#viewer .zoom').textContent === '165 %'")  # e to the power of 0.5
    after = box(page)
    assert after["width"] / before["width"] == pytest.approx(np.exp(0.5), rel=0.01)
    for start, size, pointer in (("x", "width", x + 50), ("y", "height", y - 40)):
        share = [(pointer - each[start]) / each[size] for each in (before, after)]  # type: ignore[literal-required]
        assert share[0] == pytest.approx(share[1], abs=0.005), "the point below the pointer stays there"
    enlarged.check()


def test_the_window_slider_changes_the_contrast(enlarged: Visit) -> None:
    before = greys(enlarged.page)
    for window in (512, 100):
        enlarged.page.fill("[data-slider=window]", str(window))
        assert np.abs(greys(enlarged.page) - windowed(before, window, 128)).mean() < 2
    enlarged.check()


def test_a_drag_with_the_right_button_changes_window_and_level(enlarged: Visit) -> None:
    page = enlarged.page
    before, fitted, (x, y) = greys(page), place(page), middle(page)
    page.evaluate("addEventListener('contextmenu', (event) => (globalThis.menu = !event.defaultPrevented))")
    page.mouse.move(x, y)
    page.mouse.down(button="right")
    page.mouse.move(x - 100, y + 40, steps=5)
    page.mouse.up(button="right")
    assert [page.input_value(f"[data-slider={name}]") for name in ("window", "level")] == ["156", "168"]
    assert place(page) == fitted
    assert page.evaluate("globalThis.menu") is False, "no menu opens"
    assert np.abs(greys(page) - windowed(before, 156, 168)).mean() < 2
    enlarged.check()


def test_the_sheet_of_thumbnails_can_be_printed(sheet: Visit, call: Caller) -> None:
    page = sheet.page
    page.set_viewport_size({"width": 1280, "height": 300})  # some cards are out of sight
    page.evaluate("() => { globalThis.printed = 0; globalThis.print = () => printed++; }")
    page.click("#print")
    assert page.evaluate("printed") == 1
    different = len({each.get_attribute("src") for each in page.locator(".thumb img").all()})
    assert different >= 3
    assert page.pdf().count(b"/Subtype /Image") == different, "every thumbnail is on the paper"
    page.emulate_media(media="print")
    for shown in ("#title", ".note", "#model", "#count", "#order"):
        assert page.is_visible(shown), shown
    for left_out in ("#filter", "#print", "#dialog"):
        assert not page.is_visible(left_out), left_out
    assert len({each.bounding_box()["x"] for each in page.locator(".card").all()}) == 4  # type: ignore[index]
    for row in call.rows().values():
        card = page.locator(".card", has_text=row["file"])
        assert card.locator(".areas").is_visible()
        assert card.locator(".chip").count() > 0
    sheet.check()


def test_an_enlarged_xray_is_printed_alone(enlarged: Visit) -> None:
    page = enlarged.page
    page.emulate_media(media="print")
    for shown in ("#name", "#viewer .sheet", "#flags", "#findings"):
        assert page.is_visible(shown), shown
    for left_out in (".cards", "#title", ".tools", ".sliders", "#close", "#findings a"):
        assert not page.is_visible(left_out), left_out
    enlarged.check()
