"""Images go by and leave a line each: what is kept of them, how much that is, and scoring at the stored size."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from components.evaluate.overlays import Shown
from components.evaluate.stored import STORED, StoredMasks
from components.evaluate.stream import score_split
from core.files import sha256
from core.params import EvaluateParams, read_yaml
from tests.conftest import ROOT

SHIPPED = read_yaml(ROOT / "params.yaml")["evaluate"]
SIDE = 128


def test_a_stored_mask_is_scored_where_it_was_drawn(tmp_path: Path) -> None:
    """A prediction that is the mask itself, at a quarter of the size: all that is lost is what the size takes."""
    truth = np.zeros((400, 640), np.uint8)
    truth[40:360, 80:240] = truth[40:360, 400:560] = 1
    (tmp_path / "raw").mkdir()
    cv2.imwrite(str(tmp_path / "raw/mask.png"), truth * 255)
    (tmp_path / "raw/manifest.csv").write_text("one line")
    cohort = SimpleNamespace(
        info={"manifest_sha256": sha256(tmp_path / "raw/manifest.csv"), "dilation": 15},
        manifest=pd.DataFrame({"mask": ["mask.png"]}),
    )
    params = EvaluateParams(**SHIPPED)
    stored = StoredMasks(tmp_path / "raw", cohort, tmp_path, params)  # type: ignore[arg-type]
    square = cv2.resize(truth.astype(np.float32), (128, 128), interpolation=cv2.INTER_AREA)
    got = stored.score(0, square)
    assert set(got) == {"original", "dilated"}
    assert set(got["original"]) == {"stored_dice", "stored_hd95", "stored_assd", "nsd2", "nsd4"}
    assert got["original"]["stored_dice"] > 0.98
    assert got["original"]["stored_hd95"] < 3
    assert got["original"]["nsd2"] > 0.99
    # The kernel is 15 pixels at 512: 15 / 512 of the side of the square of this area, 506 pixels. Seven lie outside.
    assert got["dilated"]["stored_hd95"] == pytest.approx(7, abs=3)
    assert got["dilated"]["nsd2"] < 0.5
    nothing = stored.score(0, np.zeros((128, 128), np.float32))["original"]
    assert nothing["stored_hd95"] == nothing["stored_assd"] == pytest.approx(np.hypot(400, 640))
    assert nothing["nsd2"] == nothing["nsd4"] == 0


@given(hnp.arrays(np.float64, st.integers(1, 25), elements=st.sampled_from([0.1, 0.5, 0.5000001, 0.9])), st.data())
def test_the_masks_that_are_drawn_are_kept_and_no_more(dice: np.ndarray, data: st.DataObject) -> None:
    worst, batch = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 9))
    manifest = pd.DataFrame({"id": [f"{n:02d}" for n in range(len(dice))], "site": "one"})
    shown = Shown.of(manifest, worst, 2)
    masks = np.arange(len(dice), dtype=np.uint8)[:, None, None]
    for start in range(0, len(dice), batch):
        shown.offer(start, dice[start : start + batch], masks[start : start + batch])
        assert len(shown.masks) <= 3 * worst + 2
    frame = pd.Series(dice)
    low = frame.nsmallest(worst).index
    drawn = {*low, *frame.drop(low).nlargest(worst).index, *range(min(2, len(dice)))}
    assert drawn <= set(shown.masks)
    assert all(mask.item() == position for position, (_, mask) in shown.masks.items())


class Drawn:
    """A network that draws something else for every image, and a cohort of as many as one likes."""

    def __init__(self, images: int) -> None:
        self.images = np.broadcast_to(np.uint8(0), (images, SIDE, SIDE))
        self.masks = {kind: np.broadcast_to(np.eye(SIDE, dtype=np.uint8), self.images.shape) for kind in ("original",)}
        people = {"site": "one", "label": "normal", "sex": ["F", "M"] * (images // 2), "age": 40.0}
        self.manifest = pd.DataFrame({"id": [f"{n:04d}" for n in range(images)], **people})
        self.params, self.cohort = EvaluateParams(**SHIPPED), self
        self.ids = {"test": list(self.manifest["id"])}
        self.random = np.random.default_rng(0)

    def rows(self, ids: list[str]) -> np.ndarray:
        return np.array([int(id) for id in ids])

    def both_ways(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.random.random(images.shape, np.float32), self.random.random(images.shape, np.float32)

    def score(self, row: int, probabilities: np.ndarray) -> dict[str, dict[str, float]]:
        assert probabilities.shape == (SIDE, SIDE)
        return {"original": dict.fromkeys(STORED, row / 1000)}


def peak(images: int) -> int:
    """Return the most memory, bytes, that scoring some images takes."""
    all_of_it: Any = Drawn(images)
    tracemalloc.start()
    found = score_split(all_of_it, all_of_it, all_of_it, "test")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    cases = found.scores["original"].cases
    assert cases["id"].tolist() == all_of_it.manifest["id"].tolist()
    assert cases["stored_dice"].tolist() == [n / 1000 for n in range(images)], "each has its own stored figures"
    assert found.reliability[0].sum() == found.scores["original"].histogram(cases).sum() == images * SIDE * SIDE
    return most


@pytest.mark.full
def test_memory_does_not_grow_with_the_cohort() -> None:
    peak(64)
    few, many = peak(64), peak(512)
    held = (512 - 64) * SIDE * SIDE * 4  # the probabilities alone
    assert many - few < held / 16, "a line of figures an image and no pixels"
