"""The study of own images: what it draws, what it refuses, and that a row is measured once."""

from __future__ import annotations

import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.own_images import FINE_TUNED, SCRATCH, TESTED, UNCHANGED, draw
from core.errors import UserError
from tests.conftest import CELL, Trained, refused, shrunk

IDS = [f"image {number}" for number in range(138)]


@given(st.integers(4, len(IDS) - TESTED), st.integers(0, 100))
def test_own_images_never_meet_the_test_and_grow(size: int, repeat: int) -> None:
    splits = draw(IDS, size, repeat)
    assert len(splits["test"]) == TESTED
    own = {*splits["train"], *splits["validation"]}
    assert len(own) == len(splits["train"]) + len(splits["validation"]) == size
    assert not own & set(splits["test"])
    assert splits == draw(IDS, size, repeat)
    more = draw(IDS, len(IDS) - TESTED, repeat)
    assert more["test"] == splits["test"]
    assert own < {*more["train"], *more["validation"]} or size == len(IDS) - TESTED


def test_repeats_differ_and_too_many_images_are_refused() -> None:
    assert draw(IDS, 16, 0)["test"] != draw(IDS, 16, 1)["test"]
    with pytest.raises(UserError, match="124 own images and 15 test images are more than the site's 138"):
        draw(IDS, 124, 0)


@pytest.mark.slow
@pytest.mark.full
def test_a_model_of_another_site_is_fine_tuned_and_a_row_is_measured_once(
    trained: Trained, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project = trained.copy(tmp_path_factory.mktemp("own"))
    params, out = project.root / "own.json", project.root / "own.jsonl"

    def run(site: str, seen: str) -> subprocess.CompletedProcess[str]:
        values = shrunk(train={"epochs": 1, "images_per_epoch": 8})
        (other,) = {"montgomery", "shenzhen"} - {seen}
        values["scenarios"][CELL.scenario] = {"train": [seen], "test": [other]}
        params.write_text(json.dumps(values))  # JSON is YAML
        line = project.line("train", project.arrays, site, project.model, "--size", 4, "--repeats", 1, "--tested", 3)
        line[2] = "benchmarks.own_images"
        return project.call([*line, "--params", str(params), "--out", str(out)])

    assert "was trained on shenzhen" in refused(run("shenzhen", "shenzhen"))
    assert "no site 'nowhere'; there are montgomery, shenzhen" in refused(run("nowhere", "shenzhen"))
    done = run("shenzhen", "montgomery")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["start"] for row in rows] == [UNCHANGED, FINE_TUNED, SCRATCH]
    assert all(len(row["dice"]) == 3 and 0 <= min(row["dice"]) <= max(row["dice"]) <= 1 for row in rows)
    assert run("shenzhen", "montgomery").returncode == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows
