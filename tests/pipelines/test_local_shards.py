"""The graph in shards under the local runner: the arrays, splits and figures of ``dvc repro``, to the byte."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from pipelines.archives import unpack
from tests.conftest import files
from tests.project import Project

pytestmark = [pytest.mark.full, pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_graph_in_shards_gives_what_dvc_repro_gives(project: Project, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"

    project.run("python", "-m", "pipelines.local", "--shards", "2", "--out", tmp_path, MLFLOW_TRACKING_URI=store)

    (tasks,) = (tmp_path / "tasks").iterdir()
    (tmp_path / "made").mkdir()
    for step, output, stage in (
        ("merge-cohort", "raw", "raw"),
        ("merge-arrays", "arrays", ""),
        ("merge-arrays", "splits", "splits"),
    ):
        unpack(tasks / step / output, tmp_path / "made" / stage)
    for name in ("raw", "arrays", "splits"):
        assert files(tmp_path / "made" / name) == files(project.root / "artifacts" / name)
    results = "reports/results.json"
    assert (tmp_path / results).read_bytes() == (project.root / results).read_bytes()
    # Each shard in a task of its own, and evaluate is given no image.
    loops = sorted(path.parent.name for path in tasks.glob("*/ingest-shard"))
    assert len(loops) == 2
    assert sorted(path.parent.name for path in tasks.glob("*/preprocess-shard")) == loops
    with tarfile.open(tasks / "merge-cohort/masks") as masks:
        assert {Path(name).parts[0] for name in masks.getnames()} == {"masks", "manifest.csv", "cohort.json"}
    with tarfile.open(tasks / "merge-cohort/cohort") as cohort:
        assert sorted(cohort.getnames()) == ["cohort.json", "manifest.csv"]
