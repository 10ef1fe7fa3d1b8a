"""A kept study of one cell that was really trained, to publish and to change."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from core.errors import UserError
from tests.conftest import Project, Trained
from tests.workers import Once
from tools.publish import publish as write
from tools.publish.studies import Study, read_studies

STUDY = """title: A tiny study
text: Two sentences. Of the sample.
headline: true
"""
CELL = Path("defu_net/mixed/seed-0")


def keep(project: Project, *options: str) -> list[str]:
    where = ["--evaluations", "evaluations", "--models", "models", "--results", "results"]
    return project.line("publish.archive", "tiny", *where, *options)


@pytest.fixture(scope="session")
def kept_once(trained: Trained, once: Once) -> Trained:
    """A project with one study of one cell, pictures too, and remarks on its worst images; not to be changed."""

    def make(folder: Path) -> None:
        project = trained.copy(folder)
        done = project.call(keep(project, "--arrays", str(project.arrays)))
        assert done.returncode == 0, done.stderr
        study = project.root / "results/tiny"
        (study / "study.yaml").write_text(STUDY)
        ids = worst_ids(study)
        remarks = pd.DataFrame({"scenario": "mixed", "id": ids, "cause": "label", "remark": "seen, and | written down"})
        remarks.to_csv(study / "worst.csv", index=False)

    project = Project(once("kept", make), trained.project.launcher)
    return replace(trained, project=project)


@pytest.fixture
def kept(kept_once: Trained, tmp_path: Path) -> Project:
    """The same, of the test's own, as an earlier version kept it: without scores at the stored size."""
    project = kept_once.copy(tmp_path)
    path = project.root / "results/tiny" / CELL / "cases.csv"
    cases = pd.read_csv(path)
    cases.drop(columns=[name for name in cases if name.startswith("stored_")]).to_csv(path, index=False)
    return project


def worst_ids(study: Path) -> list[str]:
    cases = pd.read_csv(study / "defu_net/mixed/seed-0/cases.csv")
    test = cases[(cases["split"] == "test") & (cases["masks"] == "original")]
    return list(test.sort_values(["dice", "id"])["id"].head(10))


def publish_line(project: Project, results: Path | str = "results") -> list[str]:
    return project.line("publish", results, "--out", "docs/results.md")


def publish(project: Project) -> str:
    done = project.call(publish_line(project))
    assert done.returncode == 0, done.stderr
    return (project.root / "docs/results.md").read_text()


def written(project: Project) -> str:
    """Publish within this process, which is faster, and return the page."""
    write(project.root / "results", project.root / "docs/results.md")
    return (project.root / "docs/results.md").read_text()


def assert_refused(project: Project, text: str) -> None:
    with pytest.raises(UserError, match=re.escape(text)):
        written(project)


def change(cell: Path, by: float, masks: str = "original", column: str = "dice") -> None:
    """Raise Dice of a kept cell."""
    cases = pd.read_csv(cell / "cases.csv")
    cases.loc[cases["masks"] == masks, column] += by
    cases.to_csv(cell / "cases.csv", index=False)


def learn_dilated(cell: Path) -> None:
    config = json.loads((cell / "config.json").read_text())
    config["train"]["masks"] = "dilated"
    (cell / "config.json").write_text(json.dumps(config))


def rename(scenario: Path, name: str) -> None:
    """Call the cells of a scenario's folder those of another scenario."""
    for path in [*scenario.glob("*/rows.json"), *scenario.glob("*/config.json")]:
        path.write_text(path.read_text().replace('"mixed"', f'"{name}"'))


def more_runs(scenario: Path, count: int = 3) -> None:
    """Copy the run of seed 0 so that there are ``count``, .001 apart."""
    for seed in range(1, count):
        again = scenario / f"seed-{seed}"
        shutil.copytree(scenario / "seed-0", again)
        for name in ("rows.json", "config.json"):
            (again / name).write_text((again / name).read_text().replace('"seed": 0', f'"seed": {seed}'))
        change(again, 0.001 * seed)


def read(kept: Project, about: str, prepare: Callable[[Path], None]) -> Study:
    """Return the tiny study, with a copy of its cells as the ablation that ``about`` names, if it names one."""
    folder = kept.root / "results/tiny"
    prepare(folder)
    if name := re.search(r"ablations: {([\w-]+):", about):
        shutil.copytree(folder / "defu_net", folder / "ablations" / name[1] / "defu_net")
    (folder / "study.yaml").write_text(STUDY + about)
    return read_studies(kept.root / "results")[0]


def corrupt(study: Path) -> pd.DataFrame:
    """Write made-up robustness of a study's cell."""
    lines = [
        {"corruption": name, "severity": severity, "site": site, "dice": 0.95 - 0.01 * severity}
        for name in ("noise", "blur", "gamma", "contrast", "jpeg")
        for severity in range(6)
        for site in ("montgomery", "shenzhen")
    ]
    frame = pd.DataFrame(lines).assign(low=lambda x: x["dice"] - 0.01, high=lambda x: x["dice"] + 0.01)
    frame.to_csv(study / CELL / "robustness.csv", index=False)
    return frame


def price(results: Path) -> None:
    """Write made-up cost of two networks, of the study's size and of another."""
    config = json.loads((results / "tiny" / CELL / "config.json").read_text())
    line = {"width": config["width"], "size": config["input"]["size"], "parameters": 1000, "gmac": 0.5}
    line |= {"milliseconds": 3.0, "least": 2.5, "most": 4.0, "hardware": "1 core of an abacus"}
    other = line | {"size": 9, "hardware": "another"}
    lines = [{"network": "defu_net", **line}, {"network": "unet", **line}, {"network": "defu_net", **other}]
    pd.DataFrame(lines).to_csv(results / "cost.csv", index=False)
