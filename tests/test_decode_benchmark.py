"""The benchmark of decoding: unequal pixels are noticed, and the verdict follows. No time is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import decode
from benchmarks.decode import WAYS, Group, draw_groups, measure, read_groups
from core.errors import UserError
from tests.cohorts import put, xray
from tests.conftest import ROOT

GREY = xray(90, 70, 0, np.uint16)


def test_pngs_are_grouped_by_folder_size_and_depth(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        put(tmp_path / name, GREY)
    put(tmp_path / "b/2.png", GREY.astype(np.uint8))
    groups = {group.name: len(group.files) for group in read_groups([tmp_path / "a", tmp_path / "b"])}
    assert groups == {"a, 70 x 90, 16 bits": 2, "b, 70 x 90, 16 bits": 1, "b, 70 x 90, 8 bits": 1}
    assert [len(group.files) for group in read_groups([tmp_path / "a/2.png"])] == [1]


def test_what_is_no_grey_png_is_refused_by_name(tmp_path: Path) -> None:
    put(tmp_path / "colour.png", np.dstack([xray(20, 20, 0)] * 3))
    with pytest.raises(UserError, match=r"colour\.png: not a grey PNG of 8 or 16 bits; leave it out"):
        read_groups([tmp_path])
    with pytest.raises(UserError, match=r"gone\.png: cannot be read"):
        read_groups([tmp_path / "gone.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no PNG there"):
        read_groups([tmp_path / "empty"])


def test_ratios_are_those_of_each_round_and_unequal_pixels_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group("one", [bytes(cv2.imencode(".png", GREY)[1])])
    row = measure(group, 3)
    assert row["equal"] is True
    for way in ("Pillow", "OpenCV"):
        for clock in ("processor", "wall"):
            pairs = zip(row["ms"][way][clock]["rounds"], row["ms"]["now"][clock]["rounds"], strict=True)
            assert row["ratio"][way][clock]["rounds"] == pytest.approx([old / new for old, new in pairs])
    monkeypatch.setitem(WAYS, "now", lambda data: decode.by_pillow(data) ^ 1)
    assert measure(group, 1)["equal"] is False


@pytest.mark.slow
def test_drawn_pictures_have_the_filters_that_their_names_say() -> None:
    from core.images import _check
    from tests.core.test_png import row_filters

    groups = {group.name.partition("bits, ")[2]: group.files[0] for group in draw_groups(1.0)[:6]}
    assert list(groups) == ["adaptive", *(f"{name} alone" for name in ("None", "Sub", "Up", "Average", "Paeth"))]
    for number, data in enumerate(list(groups.values())[1:]):
        assert set(row_filters(data)[1:]) == {number}
    assert len(set(row_filters(groups["adaptive"]))) > 1
    assert all(_check(data, "x.png", None)[0].bit_depth == 16 for data in groups.values())


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "benchmarks.decode", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.full
def test_every_figure_is_printed_and_written(tmp_path: Path) -> None:
    out = tmp_path / "decode.json"
    done = command("--scale", 3.3, "--rounds", 2, "--out", out)  # large enough for the fast decoder
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert len(found["groups"]) == 7
    for name, row in found["groups"].items():
        assert row["equal"], name
        assert name in done.stdout
        for way in WAYS:
            assert 0 < row["ms"][way]["processor"]["least"] <= row["ms"][way]["processor"]["median"]
    verdict = found["verdict"]
    assert verdict["of"].endswith("16 bits, adaptive")
    assert verdict["ratio"] == found["groups"][verdict["of"]]["ratio"]["Pillow"]["processor"]["median"]
    assert verdict["met"] == (verdict["ratio"] >= verdict["target"] == 2)
    assert ("NOT met" in done.stdout) == (not verdict["met"])
    assert str(out.name) in done.stdout


@pytest.mark.full
def test_files_are_taken_too(tmp_path: Path) -> None:
    put(tmp_path / "files/1.png", GREY)
    done = command(tmp_path / "files", "--rounds", 1, "--out", tmp_path / "x.json")
    assert done.returncode == 0, done.stderr
    assert "files, 70 x 90, 16 bits" in done.stdout
