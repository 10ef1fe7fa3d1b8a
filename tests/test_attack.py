"""Damaged files and packages never leave more than a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.attack import command, odd, others
from benchmarks.attack.corpus import SECRET, dataset, saved
from core.errors import UserError
from model.inference.golden import draw

LEAST_ODD = 340


@pytest.mark.parametrize(("count", "seed"), [(1200, 1)])
def test_damaged_files_are_read_or_refused(tmp_path: Path, count: int, seed: int) -> None:
    found = command.files(count, None, seed, tmp_path)
    assert {kind: counts.failures for kind, counts in found.items() if counts.failures} == {}
    assert {kind: counts.tried for kind, counts in found.items()} == dict.fromkeys(found, count // 4)
    assert all(counts.read and counts.refused for counts in found.values())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(200)
def test_damaged_files_for_two_minutes(tmp_path: Path) -> None:
    found = command.files(10**6, 110, 2, tmp_path)
    assert {kind: counts.failures for kind, counts in found.items() if counts.failures} == {}


def test_packages_with_a_flipped_bit_are_refused(package: Path) -> None:
    counts = command.packages(package, 0)
    assert counts.tried > 30
    assert (counts.refused, counts.failures) == (counts.tried, {})


def test_damaged_checkpoints_are_refused_or_load_as_they_were() -> None:
    counts = others.checkpoints(320, 0)
    assert (counts.tried, counts.failures) == (320, {})
    assert counts.refused > 200


def test_the_files_of_pydicoms_own_tests_are_read_or_refused() -> None:
    counts = others.dicoms(command._outcome)
    assert counts.failures == {}
    assert counts.tried > 50


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=[pytest.mark.full, pytest.mark.timeout(400)])])
def test_a_service_survives_damaged_requests(package: Path, count: int) -> None:
    counts = others.requests(count, 0, package)
    assert (counts.tried, counts.failures) == (count, {})
    assert counts.read
    assert counts.refused


def test_a_failure_is_counted_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_outcome", lambda *_: "raises KeyError")
    found = command.files(8, None, 0, tmp_path)
    assert {kind: counts.failures["raises KeyError"] for kind, counts in found.items()} == dict.fromkeys(found, 2)
    assert len(list(tmp_path.iterdir())) == 8


@pytest.mark.full
def test_every_odd_file_is_a_row_of_one_run(package: Path) -> None:
    counts = odd.odd(package)
    assert counts.failures == {}
    assert counts.tried >= LEAST_ODD
    assert counts.read > 100
    assert counts.refused > 100


@pytest.mark.parametrize(
    ("row", "outcome"),
    [
        (None, "no row"),
        ({"status": "ok"}, "read"),
        ({"status": "failed", "error": "x.png: damaged; replace it"}, "refused"),
        ({"status": "failed", "error": "two\nlines"}, "an unclear reason"),
        ({"status": "failed", "error": f"x.dcm: {SECRET}"}, "an unclear reason"),
    ],
)
def test_how_a_row_is_judged(row: dict[str, str] | None, outcome: str) -> None:
    assert odd._judged(row) == outcome


@pytest.mark.full
def test_a_folder_of_dicoms_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(saved(dataset(draw(64))))
    alone, both = others.dicoms(command._outcome), others.dicoms(command._outcome, tmp_path)
    assert (both.tried, both.read) == (alone.tried + 1, alone.read + 1)
    with pytest.raises(UserError, match="holds no file"):
        others.dicoms(command._outcome, tmp_path / "none")
