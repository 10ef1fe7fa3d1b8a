"""What trainings have left is listed and cleaned up, in a folder and in S3; what is in use or unsent stays."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from components.train.claim import HOLDER, claimed
from core.cell import RUN
from tests.conftest import Project, refused
from tests.services import Bucket
from tests.tracking.records import write_record

DAY = 86400


def line(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "defunet", "checkpoints", *map(str, arguments)]


def training(cells: Path, digest: str, days: float, *, finished: bool, **record: object) -> Path:
    """Write what a training leaves, so many days old."""
    folder = cells / "unet/mixed/seed-0" / digest
    folder.mkdir(parents=True)
    if finished:
        (folder / "result").mkdir()
        (folder / "result" / RUN).write_text(json.dumps({"epochs": 24}))
        (folder / "result/weights.safetensors").write_bytes(bytes(2 << 20))
    else:
        (folder / "state.pt").write_bytes(bytes(6 << 20))
        write_record(folder, epochs=7)
    if record:
        write_record(folder, **record)
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - days * DAY - 60,) * 2)
    return folder


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    states = tmp_path / "states"
    training(states, "aaaaaaaaaaaa", 40, finished=True)
    training(states, "bbbbbbbbbbbb", 35, finished=False)
    training(states, "cccccccccccc", 1, finished=True)
    return states


def rows(printed: str) -> list[list[str]]:
    return [row.split() for row in printed.splitlines()]


def test_every_training_is_listed(untrained: Project, cells: Path) -> None:
    printed = untrained.do(line(cells))
    assert rows(printed) == [
        ["cell", "training", "state", "age", "MiB"],
        ["unet/mixed/seed-0", "aaaaaaaaaaaa", "finished,", "24", "epochs", "40", "d", "2.0"],
        ["unet/mixed/seed-0", "bbbbbbbbbbbb", "unfinished,", "7", "epochs", "35", "d", "6.0"],
        ["unet/mixed/seed-0", "cccccccccccc", "finished,", "24", "epochs", "1", "d", "2.0"],
    ]
    assert [row[1] for row in rows(untrained.do(line(cells, "--older-than", 38)))] == ["training", "aaaaaaaaaaaa"]


def test_old_ones_are_removed_and_no_others(untrained: Project, cells: Path) -> None:
    unsent = training(cells, "dddddddddddd", 50, finished=True, status="FINISHED", kept=True)
    held = training(cells, "eeeeeeeeeeee", 50, finished=False)
    old = cells / "unet/mixed/seed-1/state.pt"  # of an earlier version
    old.parent.mkdir()
    old.write_bytes(b"state")
    os.utime(old, (0, 0))
    with claimed(held, "", print):
        os.utime(held / HOLDER, (0, 0))
        printed = untrained.do(line(cells, "--older-than", 30, "--remove"))
    left = {path.name for path in (cells / "unet/mixed/seed-0").iterdir() if path.is_dir()}
    assert left == {"cccccccccccc", unsent.name, held.name}
    assert not old.exists()
    assert f"kept: {unsent}: its record for MLflow is not sent yet: python -m tracking {unsent}" in printed
    assert f"kept: {held}: {held}: another run is writing here" in printed
    assert printed.splitlines()[-1] == "8.0 MiB freed"


def test_the_same_in_s3(untrained: Project, bucket: Bucket, cells: Path) -> None:
    bucket.upload(cells, "states/")
    url, folder = f"s3://{bucket.name}/states", "states/unet/mixed/seed-0"
    printed = untrained.do(line(url))
    assert sorted(row[1:4] for row in rows(printed)[1:]) == [
        ["aaaaaaaaaaaa", "finished,", "24"],
        ["bbbbbbbbbbbb", "unfinished,", "7"],
        ["cccccccccccc", "finished,", "24"],
    ]
    bucket.client.put_object(Bucket=bucket.name, Key=f"{folder}/bbbbbbbbbbbb/{HOLDER}", Body=b"{}")
    printed = untrained.do(line(url, "--older-than", 0, "--remove"))
    assert f"kept: {url}/unet/mixed/seed-0/bbbbbbbbbbbb: a training is writing there" in printed
    assert {name.split("/")[4] for name in bucket.names("states/")} == {"bbbbbbbbbbbb"}


def test_what_cannot_be_is_refused_in_one_line(untrained: Project, bucket: Bucket) -> None:
    assert "no such folder" in refused(untrained.call(line("nowhere")))
    assert "--older-than 30" in refused(untrained.call(line("nowhere", "--remove")))
    assert "no such bucket" in refused(untrained.call(line("s3://nobody-has-this/x")))
    (untrained.root / "empty").mkdir()
    assert rows(untrained.do(line("empty"))) == [["cell", "training", "state", "age", "MiB"]]
