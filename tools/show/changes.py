"""The change in test Dice since the last run or commit."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from components.report import HEADLINES
from core.files import read_json
from core.provenance import git

DICE = "test_dice"


def change_line(reports: Path, earlier: Path | None = None) -> str | None:
    """Return the change in test Dice of every network and scenario since the last run or commit, in one line.

    Returns None if neither has figures. `dvc metrics diff` compares any two commits.

    Args:
        reports: output of report, in a Git repository.
        earlier: a copy of the last run's ``metrics.json``; None, or if there is none, the last commit is compared.
    """
    now, since = read_json(reports / HEADLINES), "the last run"
    try:
        if earlier and earlier.is_file():
            before = read_json(earlier)
        else:
            since = "commit " + git(reports, "rev-parse", "--short", "HEAD").strip()
            before = json.loads(git(reports, "show", f"HEAD:./{HEADLINES}"))
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
    return f"change   test Dice since {since}: {', '.join(lines) or 'none'}"
