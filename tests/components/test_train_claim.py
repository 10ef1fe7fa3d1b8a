"""Two trainings at a time: others disturb each other in nothing, and the very same one waits and takes the result."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from components.train import claim
from components.train.claim import HOLDER, Lease, claimed
from components.train.result import FILES, RESULT
from core.cell import RUN
from core.errors import UserError
from model.weights import WEIGHTS
from tests.components.test_train import files, only_run, states
from tests.conftest import CELL, EPOCHS, LOADING, Job, Project, Trained, fresh
from tests.services import Bucket

LONG = 12
OTHER = {"epochs": EPOCHS, "learning_rate": 0.0005}
ANOTHER_HOST = {"host": "pod-1", "processes": "pid:[1]", "pid": 1, "since": "2026-01-01T00:00:00+00:00"}


def parameters(project: Project, name: str, **train: object) -> tuple[str, Path]:
    """Write a parameters' file of its own."""
    usual = project.root / "params.yaml"
    before = usual.read_bytes()
    project.write_params(train=train)
    usual.rename(project.root / name)
    usual.write_bytes(before)
    return "--params", project.root / name


def begun(project: Project, *options: object, **environment: str) -> Job:
    """A training that has come to its second epoch."""
    job = project.start(project.train_line(*options), **environment)
    assert job.until(lambda: "epoch 1/" in job.output), job.errors
    return job


def held(job: Job, other: Job) -> None:
    """Hold a training until another one waits for it, however slowly that begins."""
    job.kill(signal.SIGSTOP)
    assert other.until(lambda: "is running this same training" in other.output, 90), other.errors
    job.kill(signal.SIGCONT)


def trainings(project: Project) -> set[str]:
    return {path.name for path in (project.root / "checkpoints" / CELL.folder).iterdir() if path.is_dir()}


@pytest.mark.full
@pytest.mark.slow
def test_two_with_other_parameters_train_at_the_same_time(untrained: Project, trained: Trained) -> None:
    other = (*parameters(untrained, "other.yaml", **OTHER), "--out", "other")
    one, two = (untrained.start(untrained.train_line(*options)) for options in ((), other))
    for job in (one, two):
        done = job.wait([])
        assert done.returncode == 0, done.stderr
        assert "resuming" not in done.stdout
    assert len(trainings(untrained)) == 2
    assert (untrained.model / WEIGHTS).read_bytes() == (trained.project.model / WEIGHTS).read_bytes()
    assert (untrained.root / "other" / WEIGHTS).read_bytes() != (untrained.model / WEIGHTS).read_bytes()


@pytest.mark.full
@pytest.mark.slow
def test_a_killed_one_goes_on_although_another_one_trained_since(untrained: Project) -> None:
    killed = parameters(untrained, "long.yaml", epochs=LONG)
    job = begun(untrained, *killed)
    job.kill()
    job.wait([])
    untrained.do(untrained.train_line("--out", "other"))
    assert "resuming after epoch" in untrained.do(untrained.train_line(*killed))
    assert json.loads((untrained.model / RUN).read_text())["resumed_from"] >= 1


@pytest.mark.full
@pytest.mark.slow
def test_the_same_one_waits_and_takes_the_result(untrained: Project) -> None:
    untrained.write_params(train={"epochs": LONG})
    one = begun(untrained)
    two = untrained.start(untrained.train_line("--out", "second"))
    held(one, two)
    host = os.uname().nodename
    assert f"another process is running this same training ({host}, process {one.pid}, since " in two.output
    assert "waiting for its result, or to resume if it dies" in two.output
    ended = [job.wait([]) for job in (one, two)]
    assert [done.returncode for done in ended] == [0, 0], ended
    assert "took the result of the run that it waited for; wrote second" in ended[1].stdout
    assert "epoch 1/" not in ended[1].stdout
    for name in FILES:
        assert (untrained.root / "second" / name).read_bytes() == (untrained.model / name).read_bytes(), name
    assert only_run(untrained).info.status == "FINISHED"
    assert files(states(untrained)) == {RESULT}


@pytest.mark.full
@pytest.mark.slow
def test_the_same_one_goes_on_where_the_first_one_dies(untrained: Project, prepared: Project, tmp_path: Path) -> None:
    untrained.write_params(train={"epochs": LONG})
    alone = fresh(prepared, tmp_path / "alone")
    alone.write_params(train={"epochs": LONG})
    alone.do(alone.train_line())
    one = begun(untrained)
    two = untrained.start(untrained.train_line("--out", "second"))
    held(one, two)
    one.kill()
    done = two.wait([])
    assert done.returncode == 0, done.stderr
    assert "resuming after epoch" in done.stdout
    assert (untrained.root / "second" / WEIGHTS).read_bytes() == (alone.model / WEIGHTS).read_bytes()
    assert only_run(untrained).info.status == "FINISHED"


@pytest.mark.full
@pytest.mark.slow
def test_two_processes_wait_together(untrained: Project) -> None:
    untrained.write_params(train={"epochs": LONG})
    one = begun(untrained)
    two = untrained.start(untrained.train_line("--out", "second", "--processes", 2))
    held(one, two)
    done = two.wait([])
    assert done.returncode == 0, done.stderr
    assert one.wait([]).returncode == 0
    assert "took the result" in done.stdout
    assert (untrained.root / "second" / WEIGHTS).read_bytes() == (untrained.model / WEIGHTS).read_bytes()


# --- over S3 --------------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.slow
def test_on_two_machines_the_second_one_takes_the_result_from_s3(
    prepared: Project, bucket: Bucket, tmp_path: Path
) -> None:
    one, other = (fresh(prepared, tmp_path / name) for name in ("one", "other"))
    for project in (one, other):
        project.write_params(train={"epochs": LONG})
    where = ("--checkpoints", f"s3://{bucket.name}/states")
    first = begun(one, *where)
    second = other.start(other.train_line(*where))
    held(first, second)
    assert f"this same training ({os.uname().nodename}, process {first.pid}" in second.output
    ended = [job.wait([]) for job in (first, second)]
    assert [(done.returncode, done.stderr) for done in ended] == [(0, LOADING), (0, LOADING)]
    assert "took the result" in ended[1].stdout
    assert (other.model / WEIGHTS).read_bytes() == (one.model / WEIGHTS).read_bytes()
    assert other.runs() == []
    assert {Path(name).name for name in bucket.names("states/")} == {*FILES}


def lease(bucket: Bucket) -> Lease:
    return Lease(f"s3://{bucket.name}/states/cell/digest")


def test_a_claim_in_s3_is_taken_renewed_and_given_back(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "RENEW", 0.05)
    one, two = lease(bucket), lease(bucket)
    assert one.take()
    with one.renewed():
        before = bucket.client.head_object(Bucket=bucket.name, Key=f"states/cell/digest/{HOLDER}")["LastModified"]
        assert not two.take()
        assert two.holder["pid"] == os.getpid()
        limit = time.monotonic() + 10
        while (
            bucket.client.head_object(Bucket=bucket.name, Key=f"states/cell/digest/{HOLDER}")["LastModified"] == before
        ):
            assert time.monotonic() < limit
            time.sleep(0.05)
    assert bucket.names() == []
    assert two.take()


def test_a_claim_that_nobody_renews_is_taken_over_by_one(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.client.put_object(
        Bucket=bucket.name, Key=f"states/cell/digest/{HOLDER}", Body=json.dumps(ANOTHER_HOST).encode()
    )
    one, two = lease(bucket), lease(bucket)
    assert not one.take()
    assert claim.describe(one.holder) == "pod-1, process 1, since 2026-01-01T00:00:00+00:00"
    monkeypatch.setattr(claim, "STALE", 1.0)
    time.sleep(2.1)  # S3 counts whole seconds
    assert one.take()
    assert not two.take()


def test_a_claim_of_a_process_that_is_gone_is_taken_at_once(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = lease(bucket), lease(bucket)
    assert one.take()
    monkeypatch.setattr("psutil.pid_exists", lambda _: False)
    assert two.take()


def test_a_claim_that_may_not_be_written_is_told_and_keeps_nobody(
    bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject"}
    policy = {"Version": "2012-10-17", "Statement": [statement | {"Resource": [f"arn:aws:s3:::{bucket.name}/*"]}]}
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=json.dumps(policy))
    assert lease(bucket).take()
    assert "no claim can be written" in capsys.readouterr().err


@pytest.mark.skipif(os.getuid() != 0, reason="another user can be tried by root alone")
def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    mounted = tmp_path / "volume"
    mounted.mkdir()
    for folder in (mounted, *mounted.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o055)
        if folder == Path("/tmp"):  # noqa: S108
            break
    os.seteuid(10001)
    try:
        with pytest.raises(UserError) as told, claimed(mounted / "cell" / "digest", "", print):
            pass
    finally:
        os.seteuid(0)
        shutil.rmtree(mounted)
    message = str(told.value)
    assert message.startswith(f"{mounted}/cell/digest: cannot be written (Permission denied: {mounted}/cell")
    assert "\n" not in message
