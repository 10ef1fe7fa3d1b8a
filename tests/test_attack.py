"""Damaged files and packages never leave more than a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.attack import command


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


def test_a_failure_is_counted_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_outcome", lambda *_: "raises KeyError")
    found = command.files(8, None, 0, tmp_path)
    assert {kind: counts.failures["raises KeyError"] for kind, counts in found.items()} == dict.fromkeys(found, 2)
    assert len(list(tmp_path.iterdir())) == 8
