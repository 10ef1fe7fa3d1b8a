"""A training whose machine is lost resumes on another one from what S3 holds; S3's troubles do not end it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from components.train.checkpoints import places
from components.train.claim import HOLDER
from components.train.result import FILES, RESULT
from core.cell import RUN
from model.training.checkpoint import STATE
from model.weights import WEIGHTS
from tests.components.test_train import states
from tests.conftest import CELL, Project, Trained, fresh, refused
from tests.services import Bucket

LONG = 10  # epochs, so that a training is under way still when its first state has come to S3


def keys(bucket: Bucket) -> list[str]:
    return sorted(item["Key"] for item in bucket.client.list_objects_v2(Bucket=bucket.name).get("Contents", []))


@pytest.mark.full
@pytest.mark.slow
def test_another_machine_goes_on_from_s3(prepared: Project, bucket: Bucket, tmp_path: Path) -> None:
    one, other, alone = (fresh(prepared, tmp_path / name) for name in ("one", "other", "alone"))
    for project in (one, other, alone):
        project.write_params(train={"epochs": LONG})
    alone.do(alone.train_line())

    url = f"s3://{bucket.name}/states"
    job = one.start(one.train_line("--checkpoints", url))
    assert job.until(lambda: any(key.endswith(f"/{STATE}") for key in keys(bucket)))
    job.kill()
    job.wait([])
    folder = f"states/{CELL.folder.as_posix()}/{states(one).name}"
    record = f"{folder}/mlflow-{one.runs()[0].data.tags['training']}"
    assert {f"{record}/record.json", f"{record}/history.jsonl", f"{folder}/{STATE}"} <= {*keys(bucket)}
    claim = f"{folder}/{HOLDER}"  # left by the killed process, whose end this machine can see
    assert all(key.startswith((record, f"{folder}/{STATE}", claim)) for key in keys(bucket))
    assert not one.model.exists()

    shutil.copy(one.root / "mlflow.db", other.root / "mlflow.db")  # one tracking server, two machines
    printed = other.do(other.train_line("--checkpoints", url))
    assert f"checkpoints: continue from those in {url}/{CELL.folder.as_posix()}/{states(one).name}" in printed
    assert "resuming after epoch" in printed
    assert (other.model / WEIGHTS).read_bytes() == (alone.model / WEIGHTS).read_bytes()
    (run,) = other.runs()
    logged = other.client().get_metric_history(run.info.run_id, "train_loss")
    assert [metric.step for metric in logged] == list(range(1, LONG + 1))
    assert keys(bucket) == sorted(f"{folder}/{RESULT}/{name}" for name in FILES)

    # A finished training is not resumed, and one with other parameters takes nothing from it.
    other.write_params(train={"epochs": LONG, "learning_rate": 0.001})
    job = other.start(other.train_line("--checkpoints", url))
    assert job.until(lambda: "epoch 1/" in job.output)
    job.kill()
    printed = job.wait([]).stdout
    assert "resuming" not in printed
    assert "took up" not in printed


@pytest.mark.full
@pytest.mark.slow
def test_training_goes_on_while_nothing_can_be_sent(untrained: Project, trained: Trained, bucket: Bucket) -> None:
    everything = f"arn:aws:s3:::{bucket.name}/*"
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": [everything]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=policy)
    url = f"s3://{bucket.name}/states"
    done = untrained.call(untrained.train_line("--checkpoints", url))
    assert done.returncode == 0, done.stderr
    warning = f"warning: {url}/{CELL.folder.as_posix()}/{states(untrained).name}: the checkpoint could not be sent"
    assert warning in done.stderr
    assert "AccessDenied" in done.stderr
    assert keys(bucket) == []
    assert (untrained.model / WEIGHTS).read_bytes() == (trained.project.model / WEIGHTS).read_bytes()
    assert (untrained.model / RUN).exists()


@pytest.mark.full
@pytest.mark.slow
def test_a_start_that_cannot_ask_s3_is_refused(untrained: Project, bucket: Bucket) -> None:
    gone = untrained.call(
        untrained.train_line("--checkpoints", f"s3://{bucket.name}/x"),
        AWS_ENDPOINT_URL="http://127.0.0.1:1",
        AWS_MAX_ATTEMPTS="1",
    )
    assert "S3 cannot be reached" in refused(gone)
    assert not untrained.model.exists()
    mistaken = untrained.call(untrained.train_line("--checkpoints", "s3://nobody-has-this/x"))
    assert "s3://nobody-has-this/x" in refused(mistaken)
    assert "there is no such bucket" in refused(mistaken)
    nameless = untrained.call(untrained.train_line("--checkpoints", "s3:///x"))
    assert refused(nameless) == "error: s3:///x: no bucket named; use s3://bucket/prefix"


def test_a_folder_stays_a_folder(tmp_path: Path) -> None:
    assert places(f"{tmp_path}/states", CELL, tmp_path) == (tmp_path / "states" / CELL.folder, "")
