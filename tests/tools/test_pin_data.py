"""``tools/pin-data.sh``: a folder, a zip or S3 becomes what ``data.dvc`` pins, or what was pinned before stays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from core.files import read_json
from core.params import read_yaml
from tests.cohorts import write_cohort
from tests.project import Project
from tests.services import Bucket

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(pinned: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> Project:
    return pinned(tmp_path_factory.mktemp("pinned"))


@pytest.fixture
def project(made: Project, bucket: Bucket) -> Project:
    s3 = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return replace(made, environment=made.environment | s3)


def pin_and_ingest(project: Project, source: object) -> tuple[str, int]:
    """Return the cohort's name and how many images ingest read of it."""
    project.run("bash", "tools/pin-data.sh", source)
    project.run("dvc", "repro", "ingest")
    raw = project.root / "artifacts/raw"
    return read_json(raw / "cohort.json")["name"], len(pd.read_csv(raw / "manifest.csv"))


@pytest.mark.full
def test_folder_zip_and_s3(project: Project, bucket: Bucket, tmp_path: Path) -> None:
    folder = write_cohort(tmp_path / "chests", montgomery=2, shenzhen=3)
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", write_cohort(tmp_path / "more", 1, 2))
    bucket.upload(write_cohort(tmp_path / "third", 3, 1), "deep/clinic/")
    assert pin_and_ingest(project, folder) == ("chests", 5)
    assert pin_and_ingest(project, archive) == ("packed", 3)
    assert pin_and_ingest(project, f"s3://{bucket.name}/deep/clinic") == ("clinic", 4)
    pinned = read_yaml(project.root / "data.dvc")
    assert pinned["deps"][0]["path"] == f"s3://{bucket.name}/deep/clinic"
    assert pinned["frozen"] is True  # tests/test_pinned.py: it outlives its source


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/no/such/folder", "not found; DATA is"),
        ("s3://no-such-bucket/x", "data.dvc pins what it did before"),
        ("", "DATA="),
    ],
)
def test_what_was_pinned_stays(project: Project, source: str, message: str) -> None:
    before = (project.root / "data.dvc").read_text(), sorted(project.root.glob("data/**/*"))
    done = project.run("bash", "tools/pin-data.sh", source, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert ((project.root / "data.dvc").read_text(), sorted(project.root.glob("data/**/*"))) == before
    assert list(project.root.glob(".pin-*")) == []
