"""``defunet`` against an HTTP server that speaks Kubeflow's API: every command, its output, exit code and faults."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from core import __version__
from core.errors import UserError
from core.params import Params
from defunet.__main__ import app
from pipelines import compile as compiler
from pipelines.client import http as client_http
from pipelines.client import watch as client_watch
from pipelines.client.cron import Cron
from pipelines.client.runs import Run
from tests.pipelines.kfp_server import Fault, Server, serving
from tests.pipelines.kfp_workflow import pod_of

ROOT = Path(__file__).resolve().parents[2]
MODULE = (sys.executable, "-m", "defunet")
SOURCE = ("--source", "s3://bucket/x-rays", "--data-md5", "0123.dir")
Client = Callable[..., Result]
pytestmark = pytest.mark.xdist_group("client")  # they share what has been compiled
COMPILE, COMPILED = compiler.compiled, dict[tuple[str, ...], str]()


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take away what a person or a pod would have set."""
    for name in ("KF_PIPELINES_ENDPOINT", "DEFUNET_TOKEN", "DEFUNET_TOKEN_FILE", "DEFUNET_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(client_http, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(compiler, "compiled", _compiled_once)
    monkeypatch.chdir(ROOT)


def _compiled_once(params: Params, *how: Any) -> str:
    """Compile, but the same thing no second time: equal arguments give equal text."""
    key = (params.model_dump_json(), *map(str, how))
    if key not in COMPILED:
        COMPILED[key] = COMPILE(params, *how)
    return COMPILED[key]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def defunet(server: Server) -> Client:
    def run(*line: object, **environment: str) -> Result:
        env = {"KF_PIPELINES_ENDPOINT": server.url, **environment}
        return CliRunner().invoke(app, [str(word) for word in line], env=env, prog_name="defunet")

    return run


def started(server: Server) -> str:
    """Put a run there without compiling a pipeline, and return its id."""
    body = {"display_name": "a run", "pipeline_spec": {"root": {"dag": {"tasks": {}}}}}
    return server.state.add_run(body, server.state.experiments[0])["run_id"]


def looked(server: Server, run_id: str, times: int) -> None:
    for _ in range(times):
        server.state.advance(next(run for run in server.state.runs if run["run_id"] == run_id))


def one_line(result: Result, *parts: str) -> None:
    """Hold a failure to one line on standard error, after remarks about further tries."""
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    *remarks, last = result.stderr.splitlines()
    assert all("next try in" in remark or remark.startswith("with ") for remark in remarks), result.stderr
    assert last.startswith("error: ")
    assert all(part in last for part in parts), last


# submit


def test_submit_sends_the_pipeline_and_prints_the_id(defunet: Client, server: Server) -> None:
    changes = ("--set", "train.epochs=3", "--set", "matrix.networks=[unet]")
    done = defunet("submit", *SOURCE, *changes, "--name", "a trial", "--pipeline-root", "s3://bucket/runs", "--promote")

    assert done.exit_code == 0, done.output
    (run,) = server.state.runs
    assert done.stdout == run["run_id"] + "\n"
    assert f"{server.url}/#/runs/details/{run['run_id']}" in done.stderr
    assert "with matrix, train, source s3://bucket/x-rays, data_md5 0123.dir, promote True" in done.stderr
    assert (run["display_name"], run["experiment_id"]) == ("a trial", server.state.experiments[0]["experiment_id"])
    assert run["runtime_config"]["pipeline_root"] == "s3://bucket/runs"
    given = run["runtime_config"]["parameters"]
    assert set(given) == {"source", "data_md5", "promote", "train", "matrix"}
    assert (given["source"], given["promote"]) == ("s3://bucket/x-rays", True)
    assert json.loads(given["train"])["epochs"] == 3
    assert json.loads(given["matrix"])["networks"] == ["unet"]


def test_submit_takes_the_md5_from_data_dvc(defunet: Client, server: Server, tmp_path: Path) -> None:
    for name in ("params.yaml", "pipelines/cluster.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    os.chdir(tmp_path)
    one_line(defunet("submit"), "which cohort?", "--source")
    one_line(defunet("submit", "--source", "/data"), "/data: nothing pins it here", "--data-md5")
    (tmp_path / "data.dvc").write_text("deps:\n- path: s3://ours/cohort\nouts:\n- md5: 4567.dir\n  path: data\n")

    assert defunet("submit").exit_code == 0
    given = server.state.runs[0]["runtime_config"]["parameters"]
    assert (given["source"], given["data_md5"]) == ("s3://ours/cohort", "4567.dir")
    other = ("--source", "s3://theirs/cohort")
    one_line(defunet("submit", *other), "--source s3://theirs/cohort: data.dvc pins s3://ours/cohort", "--data-md5")
    assert len(server.state.runs) == 1
    assert defunet("submit", *other, "--data-md5", "89ab.dir").exit_code == 0
    given = server.state.runs[0]["runtime_config"]["parameters"]  # the newest
    assert (given["source"], given["data_md5"]) == ("s3://theirs/cohort", "89ab.dir")


@pytest.mark.parametrize(
    "image", ["lungs@sha256:0123", f"lungs@sha512:{'0' * 64}", "lungs:1 --privileged", f"lungs:1@sha256:{'G' * 64}", ""]
)
def test_a_malformed_image_is_refused(defunet: Client, server: Server, image: str) -> None:
    one_line(defunet("submit", *SOURCE, "--image", image), f"--image {image}: not an image", "64 hex digits")
    assert not server.state.runs


def test_an_image_may_have_a_tag_a_port_and_a_digest(defunet: Client, server: Server) -> None:
    digest = f"sha256:{'0a' * 32}"
    assert defunet("submit", *SOURCE, "--image", f"registry:5000/lungs:1@{digest}").exit_code == 0
    assert digest in json.dumps(server.state.runs[0]["pipeline_spec"])


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("train.epochs=0", ["train.epochs: Input should be greater than or equal to 1 (got 0)"]),
        ("train.network=unet", ["train.network: Extra inputs are not permitted"]),
        ("matrix.scenarios=[third]", ["matrix.scenarios: not defined under scenarios: third"]),
        ("train.epochs", ["--set 'train.epochs': takes section.key=value"]),
        ("train.epochs.x=1", ["params.yaml has nothing below train.epochs"]),
        ("train.epochs=[", ["the value is not valid YAML"]),
    ],
)
def test_wrong_values_are_told_before_anything_is_sent(
    defunet: Client, server: Server, change: str, parts: list[str]
) -> None:
    done = defunet("submit", *SOURCE, "--set", "preprocess.seed=1", "--set", change)
    assert (done.exit_code, done.stdout, server.state.requests) == (1, "", [])
    assert done.stderr.startswith("error: ")
    assert all(part in done.stderr for part in parts), done.stderr


def test_a_new_scenario_can_be_set(defunet: Client, server: Server) -> None:
    third = ("--set", "scenarios.third.train=[shenzhen]", "--set", "scenarios.third.test=[shenzhen]")
    assert defunet("submit", *SOURCE, *third, "--set", "matrix.scenarios=[third]").exit_code == 0
    sent = json.loads(server.state.runs[0]["runtime_config"]["parameters"]["scenarios"])
    assert sent["third"] == {"train": ["shenzhen"], "test": ["shenzhen"], "fold": None}


@pytest.mark.parametrize(("kind", "status"), [("lost", 0), ("reset", 0), ("503", 503), ("429", 429)])
def test_a_lost_answer_starts_no_second_run(defunet: Client, server: Server, kind: str, status: int) -> None:
    server.state.faults = [Fault("POST", "/runs", kind)]
    done = defunet("submit", *SOURCE)
    assert done.exit_code == 0, done.output
    assert [run["run_id"] for run in server.state.runs] == [done.stdout.strip()]
    assert "next try in" in done.stderr


def test_a_missing_experiment_is_told_or_made(defunet: Client, server: Server) -> None:
    done = defunet("submit", *SOURCE, "--experiment", "lungs")
    one_line(done, "no experiment 'lungs' (there: Default)", "--create-experiment")
    assert server.state.runs == []

    server.state.faults = [Fault("POST", "/experiments", "lost")]
    assert defunet("submit", *SOURCE, "--experiment", "lungs", "--create-experiment").exit_code == 0
    assert [each["display_name"] for each in server.state.experiments] == ["Default", "lungs"]
    assert server.state.runs[0]["experiment_id"] == server.state.experiments[1]["experiment_id"]


# --wait


def test_wait_shows_every_task_and_ends_as_the_run_does(defunet: Client, server: Server) -> None:
    done = defunet("submit", *SOURCE, "--wait", "--every", 0.01)
    assert done.exit_code == 0, done.output
    states = [line.split(None, 2)[1:] for line in done.stderr.splitlines()[3:]]
    assert states[0] == ["PENDING", "run"]
    (cells,) = [words for words in states if words[-1].endswith(" left")]
    assert re.fullmatch(r"of 3 cells done, about \d+ s left", cells[1])
    trained, scored = "train defu_net mixed seed 0", "evaluate defu_net mixed seed 0"
    assert (
        states.index(["RUNNING", trained])
        < states.index(["SUCCEEDED", trained])
        < states.index(["RUNNING", scored])
        < states.index(cells)
        < states.index(["SUCCEEDED", "run"])
    )
    assert not any("driver" in name or name in ("executor", "root") for _, name in states)
    assert done.stderr.splitlines()[-1] == "succeeded: 1 of 3 cells"


@pytest.mark.parametrize(("end", "code"), [("SUCCEEDED", 0), ("FAILED", 3), ("CANCELED", 4)])
def test_each_end_has_its_exit_code(defunet: Client, server: Server, end: str, code: int) -> None:
    run = started(server)
    if end == "CANCELED":
        looked(server, run, 3)
        assert defunet("cancel", run).exit_code == 0
    else:
        server.state.end = end
    done = defunet("status", run, "--wait", "--every", 0.01)
    assert done.exit_code == code, done.output
    assert done.stderr.splitlines()[-2].endswith(f"{end:<11} run")
    assert done.stderr.splitlines()[-1].startswith({0: "succeeded: ", 3: "failed: train", 4: "cancelled after "}[code])


def test_wait_ends_in_time(defunet: Client, server: Server) -> None:
    run = started(server)
    done = defunet("status", run, "--wait", "--every", 0.02, "--timeout", 0.05)
    assert done.exit_code == 5
    assert done.stderr.splitlines()[-1].startswith("not ended after 0.05 s: the run continues; `defunet status")


def test_a_wait_that_is_shorter_than_a_look_takes_a_last_look_at_its_end(server: Server, defunet: Client) -> None:
    run = started(server)
    begun = time.monotonic()
    done = defunet("status", run, "--wait", "--every", 60, "--timeout", 0.3)
    assert time.monotonic() - begun >= 0.3
    assert done.exit_code == 5
    states = iter(["RUNNING", "SUCCEEDED"])
    looks = client_watch.Lines(Console(quiet=True))
    seen = client_watch.wait(lambda: Run("id", "name", next(states), None, None), looks, 60, 0.1)
    assert seen.state == "SUCCEEDED"


def test_wait_outlives_an_outage(defunet: Client, server: Server) -> None:
    run = started(server)
    path = f"/runs/{run}"
    server.state.faults = [Fault("GET", path, kind) for kind in ("reset", "500", "503", "502")]
    done = defunet("status", run, "--wait", "--every", 0.01)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("next try in") == 4


def test_wait_says_that_the_run_goes_on_when_the_token_expires(defunet: Client, server: Server) -> None:
    run = started(server)
    server.state.token = "old"
    looked(server, run, 2)
    server.state.faults = [Fault("GET", f"/runs/{run}", "401")]
    one_line(
        defunet("status", run, "--wait", DEFUNET_TOKEN="old"), "token is missing, wrong or expired", "the run continues"
    )


def test_an_interrupt_leaves_the_run_alone(server: Server) -> None:
    run = started(server)
    line = [*MODULE, "status", run, "--wait", "--every", "30", "--host", server.url]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().endswith("run\n")
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
    assert process.returncode == 130
    assert told == f"interrupted: the run continues; `defunet status {run} --wait` waits for its end\n"
    assert server.state.runs[0]["state"] == "PENDING"


def test_a_terminal_gets_a_table(server: Server) -> None:
    run = started(server)
    ours, theirs = pty.openpty()
    line = [*MODULE, "status", run, "--wait", "--every", "0.01", "--host", server.url]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    done = subprocess.run(line, stderr=theirs, stdout=subprocess.PIPE, env=environment, check=False)
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    assert done.returncode == 0
    last = shown.decode().replace("\r", "").rsplit("a run: ", 1)[1]
    assert last.startswith("SUCCEEDED")
    assert last.count("SUCCEEDED") == 1 + 9 + 1
    assert "train cell 1" in last
    assert "1 of 1 cells done" in last


def _read(end: int) -> bytes:
    try:
        return os.read(end, 65536)
    except OSError:  # what a closed terminal answers
        return b""


# runs, status, logs, cancel, retry


def test_runs_lists_the_newest(defunet: Client, server: Server) -> None:
    ids = [started(server) for _ in range(5)]
    looked(server, ids[0], 20)
    rows = defunet("runs", "--limit", 3).stdout.splitlines()
    assert rows[0].split() == ["run", "name", "state", "created", "(UTC)", "time"]
    assert [row.split()[0] for row in rows[1:]] == ids[:1:-1]
    assert len(defunet("runs").stdout.splitlines()) == 6
    assert "SUCCEEDED" in defunet("runs", "--experiment", "Default").stdout
    one_line(defunet("runs", "--experiment", "lungs"), "no experiment 'lungs'")


def test_runs_turns_pages(defunet: Client, server: Server) -> None:
    ids = [started(server) for _ in range(130)]
    rows = defunet("runs", "--limit", 120).stdout.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ids[:9:-1]
    assert server.state.requests.count("GET /apis/v2beta1/runs") == 2


def test_status_shows_the_steps(defunet: Client, server: Server) -> None:
    server.state.end = "FAILED"
    run = started(server)
    looked(server, run, 20)
    done = defunet("status", run)
    assert done.exit_code == 0
    head, table, why = done.stdout.strip().split("\n\n")
    assert [line.split(None, 1)[0] for line in head.splitlines()] == ["run", "name", "state", "created", "time"]
    rows = [re.split(r"  +", line)[:2] for line in table.splitlines()]
    assert rows == [
        ["step", "state"],
        *([name, "SUCCEEDED"] for name in ("plan", "ingest", "validate", "preprocess")),
        ["train cell 1", "FAILED"],
        *([name, "NOT RUN"] for name in ("evaluate cell 1", "gather", "report", "register", "promote")),
        ["outcome", "SUCCEEDED"],
    ]
    assert "the GPU ran out of memory" in table
    assert why.startswith("failed: train cell 1: the GPU ran out of memory; ")
    one_line(defunet("status", "nope"), "run nope: not found", "defunet runs")


def test_a_pod_that_waits_too_long_is_given_up(defunet: Client, server: Server) -> None:
    run = server.state.add_recorded("stock-waits-for-gpu")
    done = defunet("status", run, "--wait", "--every", 0.01, "--pending-timeout", 60)
    assert done.exit_code == 6
    assert "waits: 1 Insufficient nvidia.com/gpu: longer than --pending-timeout 60" in done.stderr.splitlines()[-1]


def test_the_log_of_a_failed_step_is_printed(defunet: Client, server: Server) -> None:
    server.state.end = "FAILED"
    run = started(server)
    looked(server, run, 20)
    one_line(defunet("logs", run), "train cell 1, attempt 1: no log is available (the GPU ran out of memory)")
    server.state.logs[pod_of("train")] = "epoch 1\nout of memory\n"
    done = defunet("logs", run)
    title = f"==> train cell 1: FAILED, attempt 1 of 1, pod {pod_of('train')} <=="
    assert (done.exit_code, done.stdout) == (0, f"{title}\nepoch 1\nout of memory\n")
    assert done.stderr == ""

    done = defunet("logs", run, "--task", "ingest")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "ingest, attempt 1: no log is available" in done.stderr
    assert f"kubectl logs -n kubeflow -l pipeline/runid={run} -c main --prefix --tail=-1" in done.stderr
    assert "next try" not in done.stderr
    one_line(defunet("logs", run, "--task", "ensemble"), "no step named 'ensemble' (there: plan, ingest")


def test_logs_of_a_run_in_which_nothing_failed(defunet: Client, server: Server) -> None:
    run = started(server)
    looked(server, run, 20)
    one_line(defunet("logs", run), "no step failed; --task NAME chooses one of plan, ingest")


def test_logs_are_followed_to_the_end(server: Server) -> None:
    run = started(server)
    looked(server, run, 5)
    server.state.logs[pod_of("train")] = "epoch 1\nepoch 2 of"
    line = [*MODULE, "logs", run, "--task", "train", "--follow", "--every", "2", "--host", server.url]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "pod " in process.stdout.readline()
        assert process.stdout.readline() == "epoch 1\n"
        server.state.logs[pod_of("train")] = "epoch 1\nepoch 2 of 2\n"
        assert process.stdout.read() == "epoch 2 of 2\n"
    assert process.returncode == 0


def test_cancel_and_retry(defunet: Client, server: Server) -> None:
    run = started(server)
    looked(server, run, 3)
    one_line(defunet("retry", run), "is RUNNING; only a failed or cancelled run can be retried")
    server.state.faults = [Fault("POST", ":terminate", "lost")]
    assert "is being cancelled" in defunet("cancel", run).stderr
    looked(server, run, 2)
    one_line(defunet("cancel", run), "has ended (CANCELED)")

    server.state.faults = [Fault("POST", ":retry", "lost")]
    done = defunet("retry", run, "--wait", "--every", 0.01)
    assert done.exit_code == 0, done.output
    assert server.state.runs[0]["state"] == "SUCCEEDED"
    one_line(defunet("retry", run), "is SUCCEEDED")
    again = server.state.add_recorded("plain-step-exits-1")
    server.state.faults = [Fault("POST", ":retry", "409", body={"code": 10, "message": "Workflow must be Failed"})]
    one_line(defunet("retry", again), "has not ended on the cluster yet; retry it in a minute")
    one_line(defunet("cancel", "nope"), "run nope: not found")


# schedule


@pytest.mark.full
def test_schedule_is_made_listed_and_deleted(defunet: Client, server: Server) -> None:
    server.state.faults = [Fault("POST", "/recurringruns", "lost")]
    how = ("--cron", "0 30 3 * * mon", "--catch-up", "--max-concurrency", 2, "--name", "weekly")
    done = defunet("schedule", *SOURCE, *how, "--set", "train.epochs=3")
    assert done.exit_code == 0, done.output
    (made,) = server.state.recurring
    assert done.stdout == made["recurring_run_id"] + "\n"
    assert made["trigger"] == {"cron_schedule": {"cron": "0 30 3 * * mon"}}
    assert (made["mode"], made["no_catchup"], made["max_concurrency"]) == ("ENABLE", False, "2")
    assert json.loads(made["runtime_config"]["parameters"]["train"])["epochs"] == 3
    assert done.stderr.splitlines()[-1].startswith("next at ")
    assert done.stderr.count(" 03:30:00") == 3

    (row,) = defunet("schedules").stdout.splitlines()[1:]
    assert row.split() == [made["recurring_run_id"], "weekly", "0", "30", "3", "*", "*", "mon", "ENABLED", "2", "yes"]
    server.state.recurring += [{**made, "recurring_run_id": f"copy-{number}"} for number in range(230)]
    assert len(defunet("schedules").stdout.splitlines()) == 1 + 231, "page by page"
    del server.state.recurring[1:]
    number = made["recurring_run_id"]
    assert defunet("schedules", "pause", number).stderr == f"schedule {number}: paused\n"
    assert "DISABLED" in defunet("schedules").stdout
    assert defunet("schedules", "resume", number).stderr == f"schedule {number}: resumed\n"
    assert "ENABLED" in defunet("schedules").stdout
    assert defunet("schedules", "delete", number).exit_code == 0
    assert server.state.recurring == []
    for command in ("pause", "resume", "delete"):
        one_line(defunet("schedules", command, "nope"), "schedule nope: not found", "defunet schedules")


@pytest.mark.parametrize(
    ("cron", "part"),
    [
        ("30 3 * * 1", "five fields; Kubeflow's first one is the second: '0 30 3 * * 1'?"),
        ("@daily", "1 fields, not six"),
        ("0 60 3 * * 1", "minute '60': takes 0 to 59"),
        ("0 0 3 5-1 * *", "day of the month '5-1'"),
        ("0 0 3 * * 7", "day of the week '7': takes 0 to 6"),
        ("0 */0 * * * *", "minute '*/0'"),
        ("0 x * * * *", "minute 'x': 'x' is no number"),
        ("0 0 0 30 2 *", "no such day ever comes"),
    ],
)
def test_a_wrong_cron_is_told_before_anything_is_sent(defunet: Client, server: Server, cron: str, part: str) -> None:
    one_line(defunet("schedule", *SOURCE, "--cron", cron), part)
    assert server.state.requests == []


@pytest.mark.parametrize(
    ("cron", "times"),
    [
        ("0 30 3 * * 1", ["2026-03-02 03:30:00", "2026-03-09 03:30:00"]),
        ("0 0 0 29 feb ?", ["2028-02-29 00:00:00", "2032-02-29 00:00:00"]),
        ("0 0 0 13 * fri", ["2026-03-06 00:00:00", "2026-03-13 00:00:00", "2026-03-20 00:00:00"]),
        ("0 0 0 1,*/10 * mon", ["2026-05-11 00:00:00"]),  # a star in a list is a star: both must hold
        ("15/20 0 12 1-3 * *", ["2026-03-01 12:00:15", "2026-03-01 12:00:35", "2026-03-01 12:00:55"]),
    ],
)
def test_cron_times(cron: str, times: list[str]) -> None:
    found = Cron(cron).next(len(times), datetime(2026, 3, 1, tzinfo=UTC))
    assert [each.strftime("%Y-%m-%d %H:%M:%S") for each in found] == times


def test_max_concurrency_is_bounded(defunet: Client) -> None:
    assert defunet("schedule", *SOURCE, "--cron", "0 0 3 * * *", "--max-concurrency", 11).exit_code == 2


# compile


def test_compile_writes_what_submit_sends(defunet: Client, server: Server, tmp_path: Path) -> None:
    out = tmp_path / "build/pipeline.yaml"
    done = defunet("compile", "--out", out, "--set", "train.epochs=3", "--image", "registry.example/python-lungs:1")
    assert (done.exit_code, done.stdout) == (0, f"{out}\n")
    assert '\\"epochs\\": 3' in out.read_text() or '"epochs": 3' in out.read_text()
    assert "registry.example/python-lungs:1" in out.read_text()
    one_line(defunet("compile", "--out", out, "--cluster", "nowhere.yaml"), "nowhere.yaml: not found")


# connections


def test_a_wrong_host_is_told_in_one_line(defunet: Client, server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    one_line(defunet("runs", "--host", closed, "--patience", 0), f"{closed}: nothing listens there", "--host")
    one_line(defunet("runs", "--host", "http://no-such-host.invalid"), "no-such-host.invalid: no such host")
    one_line(defunet("runs", "--host", "ftp://example.org"), "is no http:// or https:// address")
    one_line(defunet("runs", "--host", f"{server.url}/elsewhere"), "has no Kubeflow Pipelines API (404)")
    one_line(defunet("runs", KF_PIPELINES_ENDPOINT=""), "which Kubeflow? pass --host")
    one_line(defunet("runs", "--token", "a", KF_PIPELINES_ENDPOINT=""), "a token belongs to one host: pass --host")


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        (Fault("GET", "healthz", "401"), "token is missing, wrong or expired"),
        # What Kubeflow says to a request that its gateway did not put a user on.
        (
            Fault(
                "GET", "healthz", "500", body={"message": "Internal error: Unauthenticated: no user identity header"}
            ),
            "token is missing, wrong or expired",
        ),
        (Fault("GET", "healthz", "redirect"), "sends to https://login.example.org/dex"),
        (Fault("GET", "healthz", "page"), "answers with a web page"),
        (Fault("GET", "healthz", "403"), "not allowed"),
        (Fault("GET", "healthz", "404"), "has no Kubeflow Pipelines API (404)"),
    ],
)
def test_what_no_further_try_can_mend_is_told_at_once(defunet: Client, server: Server, fault: Fault, part: str) -> None:
    server.state.faults = [fault]
    done = defunet("runs")
    one_line(done, server.url, part)
    assert "next try" not in done.stderr
    assert len(server.state.requests) == 1


def test_patience_ends(defunet: Client, server: Server) -> None:
    server.state.faults = [Fault("GET", "/runs", "503", times=100)]
    done = defunet("runs", "--patience", 1)
    one_line(done, "server error 503")
    assert done.stderr.count("next try in") == 5


def test_a_broken_server_is_not_asked_for_ever(defunet: Client, server: Server) -> None:
    server.state.faults = [Fault("GET", "/runs", "500", times=100, body={"message": "the database is gone\nstack"})]
    one_line(defunet("runs"), "server error 500 (the database is gone)")
    assert server.state.requests.count("GET /apis/v2beta1/runs") == client_http.TRIES_AT_500


def test_a_slow_answer_is_given_up_and_asked_for_again(
    defunet: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_http, "READ", 0.3)
    server.state.faults = [Fault("GET", "/runs", "slow", seconds=1)]
    done = defunet("runs")
    assert done.exit_code == 0, done.output
    assert "no answer within 0.3 s; next try in" in done.stderr


def test_tokens_are_found(defunet: Client, server: Server, tmp_path: Path) -> None:
    server.state.token = "secret"
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "empty").write_text("")
    assert defunet("runs", "--token", "secret").exit_code == 0
    assert defunet("runs", DEFUNET_TOKEN="secret").exit_code == 0
    assert defunet("runs", "--token-file", tmp_path / "token").exit_code == 0
    assert defunet("runs", KF_PIPELINES_SA_TOKEN_PATH=str(tmp_path / "token")).exit_code == 0
    one_line(defunet("runs"), "token is missing, wrong or expired")
    one_line(defunet("runs", "--token-file", tmp_path / "empty"), "is empty; put the token into it")
    one_line(defunet("runs", "--token-file", tmp_path / "none"), "the token cannot be read")
    one_line(defunet("runs", "--token", "a", "--token-file", tmp_path / "token"), "say one of them")
    assert "secret" not in defunet("runs", "--token", "wrong-secret").output


@pytest.mark.full
def test_a_token_that_is_renewed_while_waiting_is_taken_up(server: Server, tmp_path: Path) -> None:
    run, path = started(server), tmp_path / "token"
    server.state.token = "first"
    path.write_text("first")
    line = [*MODULE, "status", run, "--wait", "--every", "0.3", "--host", server.url, "--token-file", str(path)]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()
        with server.state.lock:
            server.state.token = "second"
            path.write_text("second")
        told = process.stderr.read()
    assert process.returncode == 0, told


def test_several_users(defunet: Client) -> None:
    with serving(multi_user=True) as server:
        where = {"KF_PIPELINES_ENDPOINT": server.url}
        one_line(defunet("runs", **where), "serves several users; pass --namespace")
        one_line(defunet("runs", "--namespace", "team-b", **where), "not allowed", "in namespace 'team-b'")
        assert defunet("runs", "--namespace", "team-a", **where).exit_code == 0
        one_line(
            defunet("submit", *SOURCE, "--experiment", "x", "--namespace", "team-a", **where), "in namespace team-a"
        )
        assert defunet("submit", *SOURCE, "--namespace", "team-a", **where).exit_code == 0


@pytest.fixture
def kubeconfig(server: Server, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a user who has a kubeconfig and names no host."""
    config = {
        "clusters": [{"name": "c", "cluster": {"server": server.url}}],
        "users": [{"name": "u", "user": {"token": "of-kubernetes"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (tmp_path / "config").write_text(json.dumps(config))
    server.state.token = "of-kubernetes"
    return {"KUBECONFIG": str(tmp_path / "config"), "KF_PIPELINES_ENDPOINT": ""}


def test_a_kubeconfig_leads_through_kubernetes(defunet: Client, server: Server, kubeconfig: dict[str, str]) -> None:
    done = defunet("runs", **kubeconfig)
    assert done.exit_code == 0, done.output
    proxy = "GET /api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy/apis/v2beta1"
    assert server.state.requests == [f"{proxy}/healthz", f"{proxy}/runs"]
    one_line(defunet("runs", "--kube-context", "none", **kubeconfig), "which Kubeflow? pass --host")


def test_kubernetes_says_why_a_pod_waits_and_that_a_workflow_is_gone(
    defunet: Client, server: Server, kubeconfig: dict[str, str]
) -> None:
    queued = server.state.add_recorded("stock-waits-in-kueue")
    pod = "lung-segmentation-wc5f5-metadata-0-3-retry-system-container-impl-3665181764"
    condition = {"type": "QuotaReserved", "status": "False", "message": "insufficient unused quota for memory"}
    workload = {"metadata": {"ownerReferences": [{"name": pod}]}, "status": {"conditions": [condition]}}
    server.state.kubernetes = {"/workloads": {"items": [workload]}}
    why = "waits in queue lungs: insufficient unused quota for memory"
    assert f"train defu_net montgomery-to-shenzhen seed 0 {why}" in defunet("status", queued, **kubeconfig).stdout

    assert "RUNNING" in defunet("runs", **kubeconfig).stdout
    server.state.gone = True
    assert "GONE" in defunet("runs", **kubeconfig).stdout
    done = defunet("status", queued, "--wait", **kubeconfig)
    assert done.exit_code == 3
    assert done.stderr.splitlines()[-1].startswith("its workflow lung-segmentation-wc5f5 was deleted before it ended")


def test_the_link_opens_a_page_or_says_how(defunet: Client, server: Server, kubeconfig: dict[str, str]) -> None:
    forward = "after kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80"
    done = defunet("submit", *SOURCE, **kubeconfig)
    assert f"http://localhost:8080/#/runs/details/{done.stdout.strip()} {forward}" in done.stderr
    server.state.pages = False  # the host is the API, which serves no page
    assert forward in defunet("submit", *SOURCE, DEFUNET_TOKEN="of-kubernetes").stderr


def test_a_pod_asks_its_own_cluster(defunet: Client) -> None:
    done = defunet("runs", KUBERNETES_SERVICE_HOST="10.0.0.1", KF_PIPELINES_ENDPOINT="")
    one_line(done, "ml-pipeline.kubeflow.svc.cluster.local: no such host")


def test_an_authority_must_be_known(defunet: Client, tmp_path: Path) -> None:
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    line = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*line.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    with serving() as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        where = {"KF_PIPELINES_ENDPOINT": server.url.replace("http:", "https:")}
        one_line(defunet("runs", **where), "no safe connection", "--ca-file")
        assert defunet("runs", "--ca-file", cert, **where).exit_code == 0
        one_line(defunet("runs", "--ca-file", tmp_path / "none", **where), "not found; --ca-file")


def test_help_is_fast_and_complete(defunet: Client) -> None:
    start = time.monotonic()
    done = subprocess.run([*MODULE, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "torch" not in _imported_by_help()
    for name in ("compile", "submit", "schedule", "schedules", "runs", "status", "logs", "cancel", "retry"):
        assert name in done.stdout
        assert "--help" in defunet(name, "-h").stdout
    assert "--install-completion" in done.stdout
    assert defunet("--version").stdout == f"defunet {__version__}\n"
    assert "matrix.networks=[unet]" in " ".join(defunet("submit", "--help").stdout.replace("│", " ").split())
    assert time.monotonic() - start < 60


def _imported_by_help() -> str:
    script = "import sys, defunet.__main__; print([name for name in sys.modules if name in ('torch', 'kfp')])"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_a_cron_is_a_users_error() -> None:
    with pytest.raises(UserError, match="2 fields, not six"):
        Cron("0 0")
