"""The patient's sides on the review sheet of ``predict``: known, in doubt, unknown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.images import encode, read_image
from tests.conftest import ROOT
from tests.serving.dicoms import dicom
from tests.serving.test_predict import SHENZHEN, Caller, call
from tests.serving.test_predict_review import opened

if TYPE_CHECKING:
    from tests.browser import Browser

__all__ = ["call"]
SIDED = re.compile(r"\b(?:left|right|[LR])\b", re.IGNORECASE)  # words that name a side


def test_a_mirrored_dicom_has_its_letters_on_the_patients_sides(browser: Browser, call: Caller, tmp_path: Path) -> None:
    pixels = read_image(SHENZHEN / "CHNCXR_0010_1.png")
    (tmp_path / "mirrored.dcm").write_bytes(dicom(pixels, PatientOrientation=["R", "F"]))
    (tmp_path / "side.dcm").write_bytes(dicom(pixels, ViewPosition="LL"))
    call(tmp_path / "mirrored.dcm", tmp_path / "side.dcm")
    visit = opened(browser, call.out / "review.html")
    card = visit.page.locator(".card", has_text="mirrored.dcm")
    left, right = (card.locator(f".letter.{side}").bounding_box() for side in ("left", "right"))
    assert left
    assert right
    assert left["x"] < right["x"]
    assert visit.page.locator(".card", has_text="side.dcm").locator(".letter").count() == 0
    visit.check()


def test_unknown_sides_are_named_nowhere(browser: Browser, call: Caller, tmp_path: Path) -> None:
    pixels = read_image(SHENZHEN / "CHNCXR_0010_1.png")
    pixels[:, : pixels.shape[1] // 2] = pixels.mean()  # one lung, for the flags that compare each lung's area
    (tmp_path / "side.dcm").write_bytes(dicom(pixels, ViewPosition="LL", PixelSpacing=[0.5, 0.4]))
    call(tmp_path / "side.dcm")
    (row,) = call.rows().values()
    assert "view" in [flag["name"] for flag in row["flags"]]
    assert "if a row has the flag view" in json.loads((call.out / "results.json").read_text())["sides"]
    visit = opened(browser, call.out / "review.html")
    card = visit.page.locator(".card")
    assert f"lungs {row['lungs']['cm2']:.0f} cm²" in card.inner_text()
    assert not SIDED.findall(card.inner_text())
    card.click()
    assert visit.page.locator("#findings tbody th").all_inner_texts() == ["Both"]
    assert "the sides are unknown" in visit.page.inner_text("#findings caption")
    shown = visit.page.inner_text(".side") + visit.page.inner_text(".legend")
    assert not SIDED.findall(shown + (visit.page.get_attribute("#viewer .pane", "aria-label") or ""))
    visit.check()


def test_the_sides_of_a_mirror_image_are_in_doubt(browser: Browser, call: Caller, tmp_path: Path) -> None:
    pixels = np.ascontiguousarray(read_image(SHENZHEN / "CHNCXR_0010_1.png")[:, ::-1])
    (tmp_path / "mirror.png").write_bytes(encode(pixels))
    call.package = ROOT / "pretrained/cxr-lungs"  # knows where the heart lies
    call(tmp_path / "mirror.png")
    (row,) = call.rows().values()
    assert "mirrored" in [flag["name"] for flag in row["flags"]]
    visit = opened(browser, call.out / "review.html")
    card = visit.page.locator(".card")
    assert [card.locator(f".letter.{side}").inner_text() for side in ("left", "right")] == ["L?", "R?"]
    assert "R? " in card.locator(".areas").inner_text()
    card.click()
    assert [visit.page.inner_text(f"#viewer .letter.{side}") for side in ("left", "right")] == ["L?", "R?"]
    assert visit.page.locator("#findings tbody th").all_inner_texts() == ["Both", "Right?", "Left?"]
    assert "unless the X-ray is a mirror image" in visit.page.inner_text("#findings caption")
    assert "R?: " in visit.page.inner_text(".legend")
    assert "unless it is a mirror image" in (visit.page.get_attribute("#viewer .pane", "aria-label") or "")
    visit.check()
