"""The last line of a run on what changed since the last commit."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tools.show.changes import change_line


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.invalid")
    subprocess.run(["git", *who, "-C", folder, *arguments], check=True, capture_output=True)


def write(reports: Path, **dice: float) -> None:
    reports.mkdir(exist_ok=True)
    values = {"unet": {scenario: {"test_dice": value} for scenario, value in dice.items()}}
    (reports / "metrics.json").write_text(json.dumps(values))


def test_changes_are_those_since_the_last_commit(tmp_path: Path) -> None:
    reports = tmp_path / "project/reports"
    reports.parent.mkdir()
    write(reports, mixed=0.9)
    assert change_line(reports) is None, "no repository"
    git(reports.parent, "init", "-q")
    assert change_line(reports) is None, "no commit"
    (reports.parent / "other").write_text("")
    git(reports.parent, "add", "other")
    git(reports.parent, "commit", "-qm", "other")
    assert change_line(reports) is None, "a commit without figures"
    git(reports.parent, "add", ".")
    git(reports.parent, "commit", "-qm", "figures")
    commit = subprocess.run(
        ["git", "-C", reports, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert change_line(reports) == f"change   test Dice since commit {commit}: none"
    write(reports, mixed=0.8999999)
    assert change_line(reports) == f"change   test Dice since commit {commit}: none"
    write(reports, mixed=0.9123, other=0.5)
    assert change_line(reports) == f"change   test Dice since commit {commit}: unet mixed +0.0123, unet other new"

    # A copy of the last run's figures is preferred, and `make run` makes one.
    earlier = tmp_path / "before.json"
    assert change_line(reports, earlier) == change_line(reports)
    (reports / "metrics.json").replace(earlier)
    write(reports, mixed=0.9, other=0.5)
    assert change_line(reports, earlier) == "change   test Dice since the last run: unet mixed -0.0123"
