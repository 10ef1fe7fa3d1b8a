"""The journal of a training, its sending, and the words for addresses: no password is ever shown."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from core.errors import UserError
from tests.components.test_train import files, states
from tests.conftest import Project, refused
from tests.services import Bucket
from tracking.journal import LEFT, LIVE, Journal
from tracking.leftovers import send_records
from tracking.sender import Sender
from tracking.store import explained, store_name, without_password


def test_of_several_runs_with_its_mark_one_is_kept(untrained: Project) -> None:
    """An answer that was lost has made a run all the same."""
    client = untrained.client()
    experiment = client.create_experiment("e")
    runs = [client.create_run(experiment, tags={"training": "m"}).info.run_id for _ in range(3)]
    client.log_metric(runs[1], "train_loss", 0.5, step=1)
    journal = Journal.begin(untrained.root / LIVE, training="m", fingerprint="f", experiment="e", name="n", tags={})
    for step in (1, 2):
        journal.add("epoch", values={"train_loss": 0.5 / step}, step=step)
    sender = Sender(journal)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", untrained.store)
        sender.send()
    assert sender.run_id == runs[1]
    assert [run.info.run_id for run in client.search_runs([experiment])] == [runs[1]]
    assert sorted(m.step for m in client.get_metric_history(runs[1], "train_loss")) == [1, 2]


@pytest.mark.slow
def test_passwords_are_not_printed(untrained: Project) -> None:
    address = "http://me:hunter2@127.0.0.1:1"
    job = untrained.start(untrained.train_line(), MLFLOW_TRACKING_URI=address)
    assert job.until(lambda: "training goes on" in job.errors), job.errors
    job.kill()
    job.wait([])
    assert "hunter2" not in job.errors
    assert "http://me:***@127.0.0.1:1" in job.errors
    done = untrained.call(untrained.evaluate_line(), MLFLOW_TRACKING_URI=address)
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("user", ["me", "me@clinic"])
@pytest.mark.parametrize(
    "password", ["hunter2", "hun/ter2", "hun@ter2", "hun:te@r/2", "hun ter2", "@hunter2", "hunter2/"]
)
@pytest.mark.parametrize("scheme", ["http", "postgresql+pg8000"])
def test_no_password_is_shown_whatever_it_holds(
    monkeypatch: pytest.MonkeyPatch, scheme: str, password: str, user: str
) -> None:
    address = f"{scheme}://{user}:{password}@db.example:5000/mlflow"
    hidden = f"{scheme}://{user}:***@db.example:5000/mlflow"
    text = "API request to {} failed; see a@b.example"
    if " " not in password:  # an address that is not MLFLOW_TRACKING_URI
        assert "ter2" not in without_password(text.format(address))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert store_name() == hidden
    assert without_password(text.format(address)) == text.format(hidden)


@pytest.mark.parametrize("address", ["http://db.example:5000", "http://[::1]:5000/a", "sqlite:////srv/a b/mlflow.db"])
def test_an_address_without_a_password_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert store_name() == address
    assert without_password(f"no answer from {address}, port 5000") == f"no answer from {address}, port 5000"


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("nonsense", "nonsense: no address; say MLFLOW_TRACKING_URI=http://host:5000 or sqlite:///mlflow.db"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1: cannot be reached (Connection refused); check MLFLOW_TRACKING_URI"),
    ],
)
def test_an_address_where_no_store_is_is_told_in_plain_words(untrained: Project, address: str, told: str) -> None:
    line = [sys.executable, "-m", "defunet.__main__", "models"]
    done = untrained.call(line, MLFLOW_TRACKING_URI=address, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert refused(done).startswith(f"error: MLflow, {told}")


def test_an_error_that_says_nothing_or_a_password_is_told_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="MLflow, x: MlflowException; check"), explained("x"):
        raise MlflowException("")
    journal = Journal.begin(tmp_path / LIVE, training="m", fingerprint="f", experiment="e", name="n", tags={})
    Sender(journal)._tell_refusal({"kind": "epoch"}, ValueError("http://me:hun/ter2@host/api:\nno"))
    assert "left out: http://me:***@host/api: no" in capsys.readouterr().err


def test_records_in_s3_that_may_not_be_removed_are_told(untrained: Project, bucket: Bucket, tmp_path: Path) -> None:
    journal = Journal.begin(
        tmp_path / "mlflow-m.jsonl", training="m", fingerprint="f", experiment="lung-segmentation", name="n", tags={}
    )
    journal.add("epoch", values={"train_loss": 0.5}, step=1)
    bucket.client.upload_file(str(journal.path), bucket.name, "states/mlflow-m.jsonl")
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject"}
    policy = {"Version": "2012-10-17", "Statement": [statement | {"Resource": [f"arn:aws:s3:::{bucket.name}/*"]}]}
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=json.dumps(policy))
    message = refused(untrained.call(untrained.line("track", f"s3://{bucket.name}/states")))
    assert message.startswith(f"error: removing s3://{bucket.name}/states/mlflow-m.jsonl, whose records have been sent")
    assert "access denied" in message
    (run,) = untrained.runs()
    assert run.data.metrics["train_loss"] == 0.5


def test_what_a_kill_cuts_off_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / LIVE
    journal = Journal.begin(path, training="m", fingerprint="f", experiment="e", name="n", tags={})
    journal.add("epoch", values={"a": 1.0}, step=1)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind": "epoch", "val')
    again = Journal(path)
    assert [record["step"] for record in again.records] == [1]
    again.add("epoch", values={"a": 2.0}, step=2)
    assert [record["step"] for record in Journal(path).records] == [1, 2]


def test_an_interrupt_leaves_a_record_whole_or_not_at_all(tmp_path: Path) -> None:
    journal = Journal.begin(tmp_path / LIVE, training="m", fingerprint="f", experiment="e", name="n", tags={})
    with pytest.MonkeyPatch.context() as patch:

        def interrupt(_: int) -> None:
            raise KeyboardInterrupt

        patch.setattr("tracking.journal.os.fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            journal.add("epoch", values={"a": 1.0}, step=1)
    journal.add("status", status="KILLED")
    journal.acknowledge("run", 1)
    again = Journal(journal.path)
    assert [record["kind"] for record in again.records] == ["status"]
    assert again.pending == []


@pytest.mark.slow
def test_a_damaged_journal_does_not_end_a_training(untrained: Project) -> None:
    states(untrained).mkdir(parents=True)
    (states(untrained) / LIVE).write_text("{}\n")
    (states(untrained) / LEFT.replace("*", "x")).write_text("nothing\n")
    done = untrained.call(untrained.train_line())
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("not the journal of a training") == 2
    assert any(name.startswith(f"{LIVE}.damaged") for name in files(states(untrained)))


@pytest.mark.slow
def test_the_command_tells_what_it_cannot_send(untrained: Project) -> None:
    assert "not found" in refused(untrained.call(untrained.line("track", "nowhere")))
    (untrained.root / "mlflow-x.jsonl").write_text("no\n")
    assert "not the journal of a training" in refused(untrained.call(untrained.line("track", "mlflow-x.jsonl")))
    (untrained.root / "empty").mkdir()
    assert send_records(str(untrained.root / "empty")) == []
