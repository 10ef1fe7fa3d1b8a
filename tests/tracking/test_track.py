"""The record of a training, its sending, and the words for addresses: no password is ever shown."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from core.errors import UserError
from core.masking import mask
from tests.components.test_train import files, states
from tests.conftest import Project, refused
from tests.services import Bucket
from tests.tracking.records import write_record
from tracking.record import ABOUT, HISTORY, SYSTEM, append, lines, read
from tracking.send import send
from tracking.store import explained, store_name
from tracking.unsent import send_records


@pytest.fixture
def here(untrained: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", untrained.store)
    return untrained


def content(project: Project) -> dict[str, Any]:
    """All that the one run holds."""
    (run,), client = project.runs(), project.client()
    names = run.data.metrics
    return {
        "info": (run.info.run_id, run.info.run_name, run.info.status, run.info.start_time, run.info.end_time),
        "params": run.data.params,
        "tags": run.data.tags,
        "metrics": {
            name: [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, name)]
            for name in names
        },
        "data": [(given.dataset.name, given.tags[0].value) for given in run.inputs.dataset_inputs],
        "artifacts": [found.path for found in client.list_artifacts(run.info.run_id, "training")],
    }


# --- sending --------------------------------------------------------------------------------------------------------


def test_what_is_sent_is_the_record_and_sent_again_nothing_is_added(
    here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = write_record(here.root, status="FINISHED")
    append(record / SYSTEM, 0, {"system/cpu": 50.0})
    assert send(record) == (before := content(here))["info"][0]
    assert before["info"][1:] == ("n", "FINISHED", 1000, 9000)
    assert before["params"] == {"p": "1"}
    assert {"training": "m", "a": "b"}.items() <= before["tags"].items()
    assert [step for step, _, _ in before["metrics"]["train_loss"]] == [1, 2]
    assert [value for _, value, _ in before["metrics"]["validation_dice"]] == [0.1, 0.2]
    assert len(before["metrics"]["system/cpu"]) == 1
    assert before["data"] == [("c train", "train")]
    assert before["artifacts"] == ["training/config.json"]
    asked = []
    send(record, lambda: asked.append(1))
    assert (content(here), asked) == (before, [])  # not even asked for
    # Another store behind the address gets all of it.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other := f"sqlite:///{here.root}/other.db")
    run_id = send(record)
    client = MlflowClient(other, other)
    assert run_id != before["info"][0]
    assert [m.step for m in client.get_metric_history(run_id, "train_loss")] == [1, 2]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_run_gets_what_it_lacks_and_no_more(here: Project) -> None:
    record = write_record(here.root)
    send(record)
    append(record / HISTORY, 3, {"train_loss": 0.1})
    append(record / HISTORY, 0, {"best_epoch": 3.0})
    send(record)
    now = content(here)
    assert [step for step, _, _ in now["metrics"]["train_loss"]] == [1, 2, 3]
    assert [step for step, _, _ in now["metrics"]["best_epoch"]] == [0]
    assert (now["info"][2], now["artifacts"]) == ("RUNNING", [])
    for status, end in (("FAILED", 9000), ("RUNNING", None), ("FAILED", 9500)):  # it failed, went on, failed again
        (record / ABOUT).write_text(json.dumps(read(record) | {"status": status, "end_time": end}))
        send(record)
        assert content(here)["info"][2] == status
    assert content(here)["info"][4] == 9500


def test_a_record_that_mlflow_refuses_is_told_once_and_left_out(
    here: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    record = write_record(here.root, status="FINISHED", params={"p": "1", "no/../good:name;": "2"})
    append(record / SYSTEM, 0, {"system/cpu": 50.0})
    for _ in range(2):
        send(record)
    assert capsys.readouterr().err.count("refuses a record, which is left out") == 1
    assert content(here)["info"][2] == "FINISHED"
    assert content(here)["metrics"].keys() == {"train_loss", "validation_dice", "system/cpu"}


def test_of_several_runs_with_its_mark_one_is_kept(here: Project) -> None:
    """An answer that was lost has made a run all the same."""
    client = here.client()
    experiment = client.create_experiment("lung-segmentation")
    runs = [client.create_run(experiment, tags={"training": "m"}).info.run_id for _ in range(3)]
    record = write_record(here.root)
    client.log_metric(runs[1], "train_loss", 0.5, step=1)
    assert send(record) == runs[1]
    assert [run.info.run_id for run in here.runs()] == [runs[1]]
    assert sorted(step for step, _, _ in content(here)["metrics"]["train_loss"]) == [1, 2]


def test_of_a_file_that_was_cut_off_all_whole_lines_count(tmp_path: Path) -> None:
    file = tmp_path / HISTORY
    append(file, 1, {"a": 1.0})
    append(file, 2, {"a": float("nan")})
    whole = file.read_bytes()
    second = whole.splitlines(keepends=True)[1]
    for kept in range(len(second)):  # killed, or out of space, at any byte of the second line
        file.write_bytes(whole[: len(whole) - len(second) + kept])
        first = [line["step"] for line in lines(file)]
        assert first == ([1, 2] if kept == len(second) - 1 else [1])
        append(file, 3, {"a": 3.0})
        assert [line["step"] for line in lines(file)] == [*first, 3]


# --- what is printed ------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.slow
def test_passwords_are_not_printed(untrained: Project) -> None:
    address = "http://me:hunter2@127.0.0.1:1"
    job = untrained.start(untrained.train_line(), MLFLOW_TRACKING_URI=address)
    assert job.until(lambda: "training continues" in job.errors), job.errors
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
        assert "ter2" not in mask(text.format(address))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert store_name() == hidden
    assert mask(text.format(address)) == text.format(hidden)


@pytest.mark.parametrize(
    ("address", "hidden"),
    [
        ("http://s3cr3t@db.example:5000", "http://***@db.example:5000"),
        ("https://db.example/?token=s3cr3t&a=1", "https://db.example/?token=***&a=1"),
        ("https://db.example/?X-Amz-Signature=s3cr3t", "https://db.example/?X-Amz-Signature=***"),
        ("http://me:s3cr3t@s3.example:9000", "http://me:***@s3.example:9000"),
    ],
)
def test_tokens_are_hidden_as_passwords_are(monkeypatch: pytest.MonkeyPatch, address: str, hidden: str) -> None:
    assert mask(f"cannot reach {address} now") == f"cannot reach {hidden} now"
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    assert mask(f"Could not connect to the endpoint URL: {address} now") == (
        f"Could not connect to the endpoint URL: {hidden} now"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert store_name() == hidden


@pytest.mark.parametrize("address", ["http://db.example:5000", "http://[::1]:5000/a", "sqlite:////srv/a b/mlflow.db"])
def test_an_address_without_a_password_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert store_name() == address
    assert mask(f"no answer from {address}, port 5000") == f"no answer from {address}, port 5000"


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("nonsense", "nonsense: not an address; set MLFLOW_TRACKING_URI=http://host:5000 or sqlite:///mlflow.db"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1: cannot be reached (Connection refused); check MLFLOW_TRACKING_URI"),
    ],
)
def test_an_address_where_no_store_is_is_told_in_plain_words(untrained: Project, address: str, told: str) -> None:
    line = [sys.executable, "-m", "defunet.__main__", "models"]
    done = untrained.call(line, MLFLOW_TRACKING_URI=address, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert refused(done).startswith(f"error: MLflow, {told}")


def test_an_error_that_says_nothing_is_told_all_the_same() -> None:
    with pytest.raises(UserError, match="MLflow, x: MlflowException; check"), explained("x"):
        raise MlflowException("")


# --- the command ----------------------------------------------------------------------------------------------------


def test_records_in_s3_that_may_not_be_removed_are_told(untrained: Project, bucket: Bucket, tmp_path: Path) -> None:
    bucket.upload(write_record(tmp_path, status="FINISHED"), "states/mlflow-m/")
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject"}
    policy = {"Version": "2012-10-17", "Statement": [statement | {"Resource": [f"arn:aws:s3:::{bucket.name}/*"]}]}
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=json.dumps(policy))
    message = refused(untrained.call(untrained.line("track", f"s3://{bucket.name}/states")))
    assert message.startswith(f"error: removing s3://{bucket.name}/states/mlflow-m, whose records have been sent")
    assert "access denied" in message
    assert content(untrained)["metrics"]["train_loss"][0][:2] == (1, 1.0)
    assert content(untrained)["artifacts"] == ["training/config.json"]


def test_only_the_record_of_a_training_that_has_come_to_its_end_is_removed(here: Project) -> None:
    record = write_record(here.root / "checkpoints", status="KILLED")
    (run_id,) = send_records(str(here.root / "checkpoints"))
    assert (content(here)["info"][2], record.exists()) == ("KILLED", True)
    (record / ABOUT).write_text(json.dumps(read(record) | {"status": "FINISHED"}))
    assert send_records(str(record)) == [run_id]
    assert not record.exists()


@pytest.mark.full
@pytest.mark.slow
def test_a_damaged_record_does_not_end_a_training(untrained: Project) -> None:
    job = untrained.start(untrained.train_line())
    assert job.until(lambda: "epoch 1/" in job.output)
    job.kill()
    job.wait([])
    folder = states(untrained)
    write_record(folder.with_name("another"), status="FINISHED", kept=True)
    shutil.copytree(folder.with_name("another") / "mlflow-m", folder / "mlflow-m")
    for name in ("x", "y", "z"):  # of the last one no more was left when its removal was killed
        (folder / f"mlflow-{name}").mkdir()
    (folder / "mlflow-x" / ABOUT).write_text("nothing\n")
    shutil.copy(folder / "mlflow-m" / ABOUT, folder / "mlflow-y")
    done = untrained.call(untrained.train_line())
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("not the record of a training") == 2
    assert "the records of an earlier training run in" in done.stderr
    assert files(folder) == {"result", "mlflow-x", "mlflow-y"}
    assert len(untrained.runs()) == 2


@pytest.mark.slow
def test_the_command_tells_what_it_cannot_send(untrained: Project) -> None:
    assert "not found" in refused(untrained.call(untrained.line("track", "nowhere")))
    (untrained.root / "mlflow-x").mkdir()
    (untrained.root / "mlflow-x" / ABOUT).write_text("no\n")
    assert "not the record of a training" in refused(untrained.call(untrained.line("track", "mlflow-x")))
    (untrained.root / "empty").mkdir()
    assert send_records(str(untrained.root / "empty")) == []
