"""The change in test Dice since the last commit."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from components.report import HEADLINES
from core.files import read_json
from core.provenance import git

DICE = "test_dice"


def change_line(reports: Path) -> str | None:
    """Return the change in test Dice of every network and scenario since the last commit, in one line.

    Returns None if the last commit has no figures. `dvc metrics diff` compares any two commits.

    Args:
        reports: output of report, in a Git repository.
    """
    now, name = read_json(reports / HEADLINES), HEADLINES
    try:
        commit = git(reports, "rev-parse", "--short", "HEAD").strip()
        before = json.loads(git(reports, "show", f"HEAD:./{name}"))
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None  # no repository, no commit, or no figures in it
    lines = []
    for network, scenarios in now.items():
        for scenario, figures in scenarios.items():
            old = before.get(network, {}).get(scenario, {}).get(DICE)
            new = figures.get(DICE)
            if old is None or new is None:
                lines.append(f"{network} {scenario} new")
            elif f"{new - old:+.4f}" not in ("+0.0000", "-0.0000"):
                lines.append(f"{network} {scenario} {new - old:+.4f}")
    return f"change   test Dice since commit {commit}: {', '.join(lines) or 'none'}"
