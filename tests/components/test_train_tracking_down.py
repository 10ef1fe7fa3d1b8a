"""A training never dies, nor waits for long, because its MLflow server is down, hangs or comes back."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from components.train.result import RESULT
from core.cell import HISTORY, RUN
from core.errors import UserError
from model.weights import CONFIG
from registry.fetch import fetch
from tests.components.test_train import files, states
from tests.conftest import CELL, LOADING, Job, Project, Trained, refused
from tests.s3_faults import Fault, proxy
from tests.tracking.records import write_record
from tools.services.checks import free_ports
from tracking.background import PATIENCE
from tracking.send import send

# Enough for a training that is held in its second epoch to have much to send still, however late it is held.
EPOCHS = 8
QUICK = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "2", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


@dataclass
class Server:
    """A tracking server that can be killed, stopped and started again under the same address."""

    folder: Path
    port: int = field(default_factory=lambda: free_ports(1)[0])
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def store(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    def up(self) -> None:
        if self.process is not None:
            return
        line = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        line += ["--workers", "1", "--backend-store-uri", self.store, "--artifacts-destination", str(self.folder / "a")]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "OMP_NUM_THREADS": "1"}
        with (self.folder / "log").open("ab") as log:
            # A session of its own, so that a signal reaches the server's processes together.
            self.process = subprocess.Popen(
                line, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        limit = time.monotonic() + 90
        while not self.answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < limit, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def down(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tracking")
    shutil.copy(empty_store, folder / "mlflow.db")
    one = Server(folder)
    yield one
    one.down()


@pytest.fixture
def project(untrained: Project, server: Server, request: pytest.FixtureRequest) -> Project:
    """A project with an experiment of its own."""
    untrained.write_params(register={"experiment": request.node.name}, train={"epochs": EPOCHS})
    return untrained


def tracked(server: Server, project: Project) -> list[Any]:
    """The runs of the project's experiment, read from the server's database."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=server.store, registry_uri=server.store)
    name = json.loads((project.root / "params.yaml").read_text())["register"]["experiment"]
    experiment = client.get_experiment_by_name(name)
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def content(server: Server, project: Project) -> dict[str, Any]:
    """All that the one run holds."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=server.url)
    (run,) = tracked(server, project)
    metrics = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {
        "info": (run.info.run_id, run.info.status, run.info.start_time, run.info.end_time, run.info.run_name),
        "params": run.data.params,
        "tags": run.data.tags,
        "metrics": {
            name: sorted((m.step, m.timestamp, m.value) for m in entries)
            for name, entries in metrics.items()
            if not name.startswith("system/")
        },
        "data": sorted((given.tags[0].value, given.dataset.digest) for given in run.inputs.dataset_inputs),
        "artifacts": sorted(Path(found.path).name for found in client.list_artifacts(run.info.run_id, "training")),
    }


def assert_whole(server: Server, project: Project, trained: Trained) -> dict[str, Any]:
    """Check that the one run is what it would have been with a server that is always there."""
    here = content(server, project)
    (usual,) = trained.project.runs()
    assert here["info"][1] == "FINISHED"
    assert here["info"][4] == usual.info.run_name
    assert here["params"].keys() == usual.data.params.keys()
    assert here["tags"].keys() == usual.data.tags.keys()
    assert [step for step, _, _ in here["metrics"]["train_loss"]] == list(range(1, EPOCHS + 1))
    assert [step for step, _, _ in here["metrics"]["validation_dice"]] == list(range(1, EPOCHS + 1))
    assert len(here["metrics"]["best_validation_dice"]) == 1
    assert [context for context, _ in here["data"]] == ["train", "validation"]
    assert here["artifacts"] == [CONFIG, HISTORY, RUN]
    # An epoch that a kill kept from being written down comes last.
    times = sorted(time for _, time, _ in here["metrics"]["train_loss"])
    assert here["info"][2] < times[0] <= times[-1] < here["info"][3]
    return here


def start(project: Project, server: Server, **environment: str) -> Job:
    return project.start(project.train_line(), MLFLOW_TRACKING_URI=server.url, **environment)


def call(project: Project, line: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return project.start(line, 0, **environment).wait(line)


def waits(job: Job, text: str, seconds: float = 90) -> None:
    """Let the training go on until it says a text, and hold it there."""
    assert job.until(lambda: text in job.output + job.errors, seconds), job.output + job.errors
    job.kill(signal.SIGSTOP)


def ended(job: Job) -> str:
    """Let the training go on to its end, which must be a good one; return its warnings."""
    job.kill(signal.SIGCONT)
    done = job.wait([])
    assert done.returncode == 0, done.stderr
    return done.stderr.removeprefix(LOADING)


def assert_told_of_the_gap(server: Server, warnings: str) -> None:
    assert re.fullmatch(
        rf"warning: MLflow, {server.url}: .*; training continues, its records are kept in "
        rf"checkpoints/{CELL.folder}/[0-9a-f]{{12}}/mlflow-\w+ and sent when the server is back\n"
        rf"MLflow, {server.url}: is back; the records of the meantime have been sent\n",
        warnings,
    ), warnings


def sending_command(warnings: str) -> tuple[list[str], dict[str, str]]:
    """The command that the last warning says, as the project's launcher takes it."""
    words = shlex.split(warnings.splitlines()[-1].partition(", run ")[2])
    name, _, value = words.pop(0).partition("=")
    assert words[:3] == ["python", "-m", "tracking"]
    return [sys.executable, *words[1:]], {name: value}


@pytest.mark.full
@pytest.mark.slow
def test_down_at_the_start_and_back_in_the_middle(project: Project, server: Server, trained: Trained) -> None:
    server.down()
    job = start(project, server)
    waits(job, "training continues")
    assert not project.model.exists()
    server.up()
    assert_told_of_the_gap(server, ended(job))
    assert_whole(server, project, trained)
    assert files(states(project)) == {RESULT}


@pytest.mark.full
@pytest.mark.slow
def test_killed_in_the_middle_and_back(project: Project, server: Server, trained: Trained) -> None:
    server.up()
    job = start(project, server)
    waits(job, f"epoch 2/{EPOCHS}")
    server.down()
    job.kill(signal.SIGCONT)
    waits(job, "training continues")
    server.up()
    assert_told_of_the_gap(server, ended(job))
    assert_whole(server, project, trained)


@pytest.mark.full
@pytest.mark.slow
def test_stopped_at_its_end_for_longer_than_it_waits_it_tries_once_more(
    project: Project, server: Server, trained: Trained
) -> None:
    """As a suspended job, or a laptop that was closed."""
    server.up()
    job = start(project, server)
    waits(job, f"epoch 2/{EPOCHS}")
    server.down()
    job.kill(signal.SIGCONT)
    assert job.until(lambda: "training continues" in job.errors)
    (about,) = states(project).glob("mlflow-*/record.json")
    assert job.until(lambda: "FINISHED" in about.read_text())  # nothing is left to do but to send
    time.sleep(PATIENCE / 5)
    assert not job.ended
    job.kill(signal.SIGSTOP)
    time.sleep(PATIENCE)
    server.up()
    assert_told_of_the_gap(server, ended(job))
    assert_whole(server, project, trained)


@pytest.mark.full
@pytest.mark.slow
def test_killed_at_the_end_its_records_are_sent_later(project: Project, server: Server, trained: Trained) -> None:
    server.up()
    job = start(project, server)
    waits(job, f"epoch 2/{EPOCHS}")
    server.down()
    warnings = ended(job)
    record = json.loads((project.model / RUN).read_text())
    left = project.root / record["mlflow_records"]
    assert files(states(project)) == {RESULT, left.name}
    assert f"what was not sent is kept in {record['mlflow_records']}" in warnings.splitlines()[-1]
    line, environment = sending_command(warnings)
    assert environment == {"MLFLOW_TRACKING_URI": server.url}
    # Steps that cannot do without the server say so.
    message = refused(call(project, project.evaluate_line(), environment | QUICK))
    assert message.startswith(f"error: MLflow, {server.url}: ")
    assert left.exists()

    copy = shutil.copytree(left, project.root / "copy")
    server.up()
    assert f"run {record['mlflow_run_id']}\n" in project.do(line, **environment)
    before = assert_whole(server, project, trained)
    assert before["info"][0] == record["mlflow_run_id"]
    assert not left.exists()
    assert "no records are waiting" in project.do(line, **environment)
    shutil.copytree(copy, left)  # as if the answers had been lost
    project.do(line, **environment)
    assert content(server, project) == before


@pytest.mark.full
@pytest.mark.slow
def test_never_up_until_the_next_step_needs_it(project: Project, server: Server, trained: Trained) -> None:
    server.down()
    job = start(project, server)
    assert job.until(lambda: "training continues" in job.errors)
    assert job.until(lambda: "epoch 1/" in job.output)
    job.kill()  # and the training's own death is survived as well
    job.wait([])
    again = start(project, server).wait([])
    assert again.returncode == 0, again.stderr
    assert "resuming after epoch" in again.stdout
    record = json.loads((project.model / RUN).read_text())
    assert record["mlflow_run_id"] is None
    written = (project.model / RUN).read_bytes()
    server.up()
    printed = project.do(project.evaluate_line(), MLFLOW_TRACKING_URI=server.url)
    assert "sent to" in printed
    assert "is not in this MLflow store" not in printed
    assert (project.model / RUN).read_bytes() == written  # a record of the training, which is over
    (run,) = tracked(server, project)
    assert run.data.tags["training"] == record["mlflow_training"]
    assert "test.original.dice" in run.data.metrics
    assert_whole(server, project, trained)
    assert files(states(project)) == {RESULT}
    shutil.rmtree(project.evaluation)
    assert "sent to" not in project.do(project.evaluate_line(), MLFLOW_TRACKING_URI=server.url)
    assert len(tracked(server, project)) == 1


@pytest.mark.full
@pytest.mark.slow
def test_a_server_that_hangs_holds_up_nothing(project: Project, server: Server, trained: Trained) -> None:
    server.up()
    job = start(project, server, **QUICK)
    waits(job, f"epoch 1/{EPOCHS}")
    server.signal(signal.SIGSTOP)
    try:
        hung = time.monotonic()
        warnings = ended(job)
        # The patience of the end, one request, and slack for a busy machine.
        assert time.monotonic() - hung < 60
        line, environment = sending_command(warnings)
        # Other steps end as well, in their own bounded time.
        assert "check MLFLOW_TRACKING_URI" in refused(call(project, project.evaluate_line(), environment | QUICK))
    finally:
        server.signal(signal.SIGCONT)
    project.do(line, **environment)
    assert_whole(server, project, trained)


@pytest.mark.full
@pytest.mark.slow
def test_hanging_at_the_start_it_makes_no_second_run(project: Project, server: Server, trained: Trained) -> None:
    server.up()
    server.signal(signal.SIGSTOP)
    try:
        job = start(project, server, **QUICK)
        waits(job, "training continues")
    finally:
        server.signal(signal.SIGCONT)
    assert_told_of_the_gap(server, ended(job))
    assert_whole(server, project, trained)


@pytest.mark.slow
@pytest.mark.parametrize(("status", "refuses"), [("401", True), ("403", True), ("503", False), ("404", False)])
def test_wrong_credentials_are_refused_at_the_start_and_no_other_answer(
    project: Project, server: Server, status: str, refuses: bool
) -> None:
    with proxy(server.url) as front:
        front.faults.append(Fault(status, methods=("GET", "POST", "PATCH")))
        line = project.train_line()
        job = project.start(line, MLFLOW_TRACKING_URI=front.url)
        if refuses:
            message = refused(job.wait(line))
            assert message.startswith(f"error: MLflow, {front.url}: ")
            assert status in message
            assert not project.model.exists()
            assert files(states(project)) == set()
        else:
            assert job.until(lambda: "training continues" in job.errors), job.errors
            job.kill()
            job.wait(line)


@pytest.mark.full
@pytest.mark.slow
def test_other_processes_are_gone_while_the_first_one_waits_for_the_server(project: Project, server: Server) -> None:
    """In a barrier NCCL would give up after ten minutes."""
    server.down()
    line, given = project.train_line(), {"TRAIN_PROCESSES": "2", "MLFLOW_TRACKING_URI": server.url}
    with subprocess.Popen(line, cwd=project.root, env=project.environment | given, stdout=-3, stderr=-3) as torchrun:
        limit = time.monotonic() + 90
        while not [about for about in states(project).glob("mlflow-*/record.json") if "FINISHED" in about.read_text()]:
            assert torchrun.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.05)
        workers = psutil.Process(torchrun.pid).children(recursive=True)
        _, alive = psutil.wait_procs(workers, timeout=PATIENCE / 2)
        assert len(alive) == 1
        assert torchrun.wait(60) == 0
    assert project.model.exists()


@pytest.mark.full
@pytest.mark.slow
def test_another_store_behind_the_address_gets_everything(
    project: Project, server: Server, trained: Trained, empty_store: Path, tmp_path: Path
) -> None:
    server.up()
    job = start(project, server)
    waits(job, f"epoch 2/{EPOCHS}")
    server.down()
    job.kill(signal.SIGCONT)
    waits(job, "training continues")
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    other = Server(tmp_path, server.port)
    other.up()
    try:
        assert_told_of_the_gap(other, ended(job))
        assert_whole(other, project, trained)
    finally:
        other.down()


@pytest.mark.full
@pytest.mark.parametrize("path", ["runs/create", "runs/search", "log-batch", "log-inputs", "artifacts", "runs/update"])
def test_a_lost_answer_loses_and_doubles_nothing(
    project: Project, server: Server, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """The server has done what it was asked, and its answer never comes."""
    server.up()
    name = json.loads((project.root / "params.yaml").read_text())["register"]["experiment"]
    record = write_record(project.root, status="FINISHED", experiment=name, training="m", epochs=3)
    for setting, value in QUICK.items():
        monkeypatch.setenv(setting, value)
    with proxy(server.url) as front:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", front.url)
        front.faults.append(Fault("cut", methods=("POST", "PUT"), path=path, times=1))
        with suppress(MlflowException):  # of a file's upload nobody reads the answer
            send(record)
        assert front.faults[0].seen == 1
        send(record)
    here = content(server, project)
    assert [step for step, _, _ in here["metrics"]["train_loss"]] == [1, 2, 3]
    assert (here["info"][1:4], here["params"]) == (("FINISHED", 1000, 9000), {"p": "1"})
    assert (here["data"], here["artifacts"]) == ([("train", "d")], [CONFIG])


def test_what_a_server_refuses_is_told_once_without_the_password(
    project: Project, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.up()
    name = json.loads((project.root / "params.yaml").read_text())["register"]["experiment"]
    record = write_record(project.root, status="FINISHED", experiment=name)
    with proxy(server.url) as front:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", front.url.replace("://", "://me:hunter2@"))
        front.faults.append(Fault("400", methods=("POST",), path="log-batch"))
        for _ in range(2):
            send(record)
    told = capsys.readouterr().err
    assert told.count("refuses a record, which is left out: ") == told.count("\n") == 1
    assert "hunter2" not in told
    assert content(server, project)["artifacts"] == [CONFIG]


@pytest.mark.full
@pytest.mark.slow
def test_an_upload_that_fails_ends_evaluate_and_register_in_one_line(project: Project, server: Server) -> None:
    """The server's database answers, the store of its files does not."""
    server.up()
    with proxy(server.url) as front:
        environment = QUICK | {"MLFLOW_TRACKING_URI": front.url}
        project.do(project.train_line(), **environment)
        front.faults.append(Fault("403", methods=("PUT", "POST"), path="mlflow-artifacts"))
        for line in (project.evaluate_line(), project.register_line()):
            message = refused(call(project, line, environment))
            assert message.startswith("error: MLflow, ")
            assert message.endswith("check MLFLOW_TRACKING_URI, the server and the store behind it, then run again")


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("mlflow-artifacts:/models/m", "500"),
        ("mlflow-artifacts:/models/m", "403"),
        ("s3://nobody-has-this/models/m", ""),
    ],
)
def test_a_store_of_files_that_is_down_is_told_when_a_package_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, status: str
) -> None:
    """MLflow's database answers, what lies behind it for the files does not: through the server, or asked directly."""
    server.up()
    for name, value in QUICK.items() | {"AWS_MAX_ATTEMPTS": "1", "AWS_ACCESS_KEY_ID": "a"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    with proxy(server.url) as front:
        front.faults.append(Fault(status, path="mlflow-artifacts"))
        address = front.url.replace("://", "://me:hunter2@")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        client = MlflowClient(tracking_uri=server.store, registry_uri=server.store)
        name = f"m{status}"
        client.create_registered_model(name)
        client.create_model_version(name, source)
        with pytest.raises(UserError, match=f"^MLflow, models:/{name}/1: .*check MLFLOW_TRACKING_URI") as told:
            fetch(f"models:/{name}/1", tmp_path)
    assert "\n" not in str(told.value)
    assert "hunter2" not in str(told.value)
    assert [path for path in (tmp_path / name).iterdir() if path.name[0] != "."] == []
