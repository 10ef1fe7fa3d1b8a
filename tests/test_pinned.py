"""A pinned cohort outlives its source: pinned from a disk, pushed to a real S3 server, and run where both are gone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from core.params import read_yaml
from tests.cohorts import write_cohort
from tests.project import Project, ran
from tests.services import Bucket

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.full
def test_a_pinned_cohort_outlives_its_source(bucket: Bucket, pinned: Callable[[Path], Project], tmp_path: Path) -> None:
    made = pinned(tmp_path / "one")
    s3 = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    project = replace(made, environment=made.environment | s3)
    disk = write_cohort(tmp_path / "disk" / "chests", montgomery=2, shenzhen=3)
    cohort = files(disk)
    project.run("bash", "tools/pin-data.sh", disk)
    project.run("dvc", "remote", "add", "--default", "storage", f"s3://{bucket.name}/dvc")
    project.run("git", "commit", "--quiet", "--all", "--message", "Pin the chests")
    project.run("dvc", "push", "data.dvc")

    # The disk is taken away. Who pinned it keeps the cohort, and so does a colleague, who never had the disk.
    disk.parent.rename(tmp_path / "elsewhere")
    project.run("git", "clone", "--quiet", ".", tmp_path / "two")
    colleague = replace(project, root=tmp_path / "two")
    assert colleague.run("dvc", "repro", "ingest", check=False).returncode != 0  # nothing has been pulled yet
    colleague.run("dvc", "pull", "data.dvc")
    for one in (project, colleague):
        assert ran(one.run("dvc", "repro", "ingest").stdout) == ["ingest"]
        assert files(one.root / "data") == cohort
        assert one.run("git", "status", "--porcelain", "data.dvc").stdout == ""
    raw = "artifacts/raw"
    assert files(colleague.root / raw) == files(project.root / raw)

    # Back again with one X-ray more: `dvc update` takes it in, and nothing but that does.
    (tmp_path / "elsewhere").rename(disk.parent)
    shutil.rmtree(disk)
    write_cohort(disk, montgomery=2, shenzhen=4)
    assert project.run("dvc", "repro", "ingest").stdout.count("Running stage") == 0
    project.run("dvc", "update", "data.dvc")
    assert files(project.root / "data") == files(disk)
    assert ran(project.run("dvc", "repro", "ingest").stdout) == ["ingest"]


@pytest.mark.full
def test_dvc_repro_follows_a_source_in_the_repository(pinned: Callable[[Path], Project], tmp_path: Path) -> None:
    project = pinned(tmp_path / "one")
    assert "frozen" not in read_yaml(project.root / "data.dvc")
    project.run("git", "clone", "--quiet", ".", tmp_path / "two")
    clone = Project(tmp_path / "two", project.environment)
    clone.run("dvc", "repro", "ingest")  # with nothing pulled: samples/ came with the clone
    assert files(clone.root / "data") == files(project.root / "samples")
    # A folder that Git ignores is on no other clone.
    shutil.copytree(project.root / "samples", project.root / "build/chests")
    project.run("bash", "tools/pin-data.sh", "build/chests")
    assert read_yaml(project.root / "data.dvc")["frozen"] is True
    # Nor is one that Git does not know, or knows in part.
    shutil.copytree(project.root / "samples", project.root / "mine")
    project.run("bash", "tools/pin-data.sh", "mine")
    assert read_yaml(project.root / "data.dvc")["frozen"] is True
    project.run("git", "add", "mine/MontgomerySet")
    project.run("bash", "tools/pin-data.sh", "mine")
    assert read_yaml(project.root / "data.dvc")["frozen"] is True
    project.run("git", "add", "mine")
    project.run("bash", "tools/pin-data.sh", "mine")
    assert "frozen" not in read_yaml(project.root / "data.dvc")
