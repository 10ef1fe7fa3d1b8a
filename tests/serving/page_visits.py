"""Visits to the service's page in a real browser."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from tests.serving.serving import Served, pixels_of

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
