"""S3 that answers 500, slowly, half or wrongly: data steps repeat and then say so, trainings go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from components.ingest import ingest
from components.train.checkpoints import places
from components.train.checkpoints_s3 import Remote
from components.train.result import FILES, RESULT
from core.errors import UserError
from core.s3 import explain
from model.training.checkpoint import STATE, load_state, save_state
from model.weights import WEIGHTS
from tests.components.test_ingest import PARAMS, refusal
from tests.components.test_ingest_zip import same_cohort
from tests.components.test_train import states
from tests.conftest import CELL, LOADING, Project, refused
from tests.daily import daily
from tests.s3_faults import Fault, Proxy, proxy
from tests.services import Bucket
from tests.tracking.records import write_record


@pytest.fixture
def front(bucket: Bucket, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy(s3_server) as one:
        monkeypatch.setenv("AWS_ENDPOINT_URL", one.url)
        yield one


def uploaded(bucket: Bucket, cohort: Path) -> str:
    bucket.upload(cohort, "cxr/")
    return f"s3://{bucket.name}/cxr"


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    daily(
        [Fault("500", times=2), Fault("503", times=2), Fault("reset", times=2), Fault("slow", times=3, seconds=0.5)],
        0,
        3,
    ),
    ids=lambda fault: fault.kind,
)
def test_ingest_outlasts_a_fault_that_passes(
    front: Proxy, bucket: Bucket, cohort: Path, tmp_path: Path, fault: Fault
) -> None:
    url = uploaded(bucket, cohort)
    front.faults.append(fault)
    fault.seen = 0
    result = ingest(url, PARAMS, tmp_path / "raw")
    assert fault.seen == fault.times
    assert same_cohort(ingest(str(cohort), PARAMS, tmp_path / "plain").folder, result.folder)


def test_500_for_ever_ends_ingest_in_one_line(front: Proxy, bucket: Bucket, cohort: Path, tmp_path: Path) -> None:
    url = uploaded(bucket, cohort)
    fault = Fault("500", path="CXR_png")
    front.faults.append(fault)
    error = refusal(url, tmp_path / "raw")
    assert "S3 answered InternalError: We lost it.; fix it and run again" in str(error)
    assert "\n" not in str(error)
    assert fault.seen >= 3  # it was asked again before
    assert not (tmp_path / "raw").exists()


@pytest.mark.slow
def test_a_body_that_is_cut_or_spoilt_for_ever_is_not_taken(
    front: Proxy, bucket: Bucket, cohort: Path, tmp_path: Path
) -> None:
    url = uploaded(bucket, cohort)
    for kind in ("cut", "short", "spoil"):
        front.faults[:] = [Fault(kind, path="MCUCXR_0001_1.png")]
        problems = refusal(url, tmp_path / "raw").problems
        assert problems, kind
        assert all("MCUCXR_0001_1.png" in problem for problem in problems), kind


def deny(bucket: Bucket, action: str) -> None:
    arn = f"arn:aws:s3:::{bucket.name}"
    statement = {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": [arn, f"{arn}/*"]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=policy)


@pytest.mark.parametrize(
    ("operation", "right", "more"),
    [
        ("get_object", "s3:GetObject", {}),
        ("put_object", "s3:PutObject", {"Body": b""}),
        ("create_multipart_upload", "s3:PutObject", {}),
        ("delete_object", "s3:DeleteObject", {}),
    ],
)
def test_who_is_denied_is_told_which_right_to_ask_for(
    bucket: Bucket, operation: str, right: str, more: dict[str, bytes]
) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key="one", Body=b"1")
    deny(bucket, right)
    with pytest.raises(ClientError) as caught:
        getattr(bucket.client, operation)(Bucket=bucket.name, Key="one", **more)
    asked = f"access denied; ask the bucket's owner for {right}, or use other credentials"
    assert str(explain(caught.value, "s3://it")) == f"s3://it: {asked}"


def test_ingest_from_a_bucket_that_may_not_be_listed(bucket: Bucket, tmp_path: Path) -> None:
    deny(bucket, "s3:ListBucket")
    assert "ask the bucket's owner for s3:ListBucket," in str(refusal(f"s3://{bucket.name}/cxr", tmp_path / "raw"))


def test_records_that_may_not_be_removed_from_s3_say_the_right(
    untrained: Project, bucket: Bucket, tmp_path: Path
) -> None:
    write_record(tmp_path, status="FINISHED")
    bucket.upload(tmp_path / "mlflow-m", "states/mlflow-m/")
    deny(bucket, "s3:DeleteObject")
    message = refused(untrained.call(untrained.line("track", f"s3://{bucket.name}/states")))
    assert message.endswith(
        ", whose records have been sent: access denied; ask the bucket's owner for s3:DeleteObject, or use other "
        "credentials"
    )


# --- states ---------------------------------------------------------------------------------------------------------


def state(folder: Path, epoch: int) -> Path:
    save_state(folder, {"fingerprint": "f", "epoch": epoch, "weights": list(range(100_000))})
    return folder


def stored(bucket: Bucket, tmp_path: Path) -> str:
    url = places(f"s3://{bucket.name}/states", CELL, tmp_path)[1]
    Remote(url, state(tmp_path / "one", 7), "f").send()
    return url


@pytest.mark.parametrize("kind", daily(["500", "reset", "cut"], 1))
def test_a_state_is_fetched_through_a_fault_that_passes(
    front: Proxy, bucket: Bucket, tmp_path: Path, kind: str
) -> None:
    url = stored(bucket, tmp_path)
    front.faults.append(Fault(kind, path=STATE, times=2))
    Remote(url, tmp_path / "other", "f").fetch()
    assert (load_state(tmp_path / "other", "f") or {})["epoch"] == 7
    assert front.faults[0].seen == 2
    assert [path.name for path in (tmp_path / "other").iterdir()] == [STATE]


@pytest.mark.parametrize("kind", daily(["500", "cut", "short", "spoil"], 3))
def test_a_state_that_cannot_be_had_whole_is_not_taken(front: Proxy, bucket: Bucket, tmp_path: Path, kind: str) -> None:
    url = stored(bucket, tmp_path)
    front.faults.append(Fault(kind, path=STATE))
    with pytest.raises(UserError, match="run again") as told:
        Remote(url, tmp_path / "other", "f").fetch()
    assert url in str(told.value)
    assert "\n" not in str(told.value)
    assert list((tmp_path / "other").iterdir()) == []


def test_a_state_that_is_damaged_in_s3_is_told(bucket: Bucket, tmp_path: Path) -> None:
    url = stored(bucket, tmp_path)
    key = f"states/{CELL.folder.as_posix()}/{STATE}"
    half = (tmp_path / "one" / STATE).read_bytes()[:-5000]
    bucket.client.put_object(Bucket=bucket.name, Key=key, Body=half, Metadata={"fingerprint": "f"})
    with pytest.raises(UserError, match=r"state\.pt: is damaged there .*; remove it to train from the start"):
        Remote(url, tmp_path / "other", "f").fetch()
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize("kind", daily(["500", "reset"], 0))
def test_a_state_that_cannot_be_sent_is_told_and_sent_next_time(
    front: Proxy, bucket: Bucket, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = stored(bucket, tmp_path)
    remote = Remote(url, state(tmp_path / "one", 8), "f")
    front.faults.append(Fault(kind, methods=("PUT", "POST")))
    remote.send()
    assert f"warning: {url}: the checkpoint could not be sent" in capsys.readouterr().err
    front.faults.clear()
    remote.send()
    assert capsys.readouterr().err == ""
    Remote(url, tmp_path / "other", "f").fetch()
    assert (load_state(tmp_path / "other", "f") or {})["epoch"] == 8


@pytest.mark.full
@pytest.mark.slow
def test_a_slow_s3_holds_up_no_epoch(front: Proxy, bucket: Bucket, untrained: Project) -> None:
    epochs = 20
    untrained.write_params(train={"epochs": epochs})
    slow = Fault("slow", methods=("PUT",), path=STATE, seconds=3)
    front.faults.append(slow)
    job = untrained.start(untrained.train_line("--checkpoints", f"s3://{bucket.name}/states"))
    assert job.until(lambda: f"epoch {epochs}/{epochs}" in job.output)
    assert slow.seen < epochs - 2  # who waits for S3 has sent all but the last
    slow.seconds = 0
    done = job.wait([])
    assert (done.returncode, done.stderr) == (0, LOADING)
    training = f"states/{CELL.folder.as_posix()}/{states(untrained).name}"
    assert bucket.names("states/") == sorted(f"{training}/{RESULT}/{name}" for name in FILES)
    sent = bucket.client.get_object(Bucket=bucket.name, Key=f"{training}/{RESULT}/{WEIGHTS}")["Body"].read()
    assert sent == (untrained.model / WEIGHTS).read_bytes()


@pytest.mark.full
@pytest.mark.slow
def test_records_kept_in_s3_are_sent_from_there(untrained: Project, bucket: Bucket) -> None:
    url = f"s3://{bucket.name}/states"
    done = untrained.call(untrained.train_line("--checkpoints", url), MLFLOW_TRACKING_URI="http://127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    place = f"{url}/{CELL.folder.as_posix()}/{states(untrained).name}"
    assert done.stderr.splitlines()[-1].endswith(f"MLFLOW_TRACKING_URI=http://127.0.0.1:1 python -m tracking {place}")
    shutil.rmtree(untrained.root / "checkpoints")  # the machine is gone
    assert "sent to sqlite:" in untrained.do(untrained.line("track", place))
    (run,) = untrained.runs()
    assert run.info.status == "FINISHED"
    assert [name for name in bucket.names() if "mlflow-" in name] == []
    assert "no records are waiting" in untrained.do(untrained.line("track", place))
    assert "no such bucket" in refused(untrained.call(untrained.line("track", "s3://nobody-has-this/x")))
