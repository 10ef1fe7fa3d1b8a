"""The whole Kubeflow graph in processes: the figures of ``dvc repro``, and a failing step that fails the run."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.project import Project, sample

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

COMMAND = ("python", "-m", "pipelines.local")


@pytest.fixture
def checkout(pinned: Callable[[Path], Project], tmp_path: Path) -> Project:
    """A checkout of the test's own with a pinned cohort, in which nothing has been run."""
    return pinned(tmp_path / "checkout")


def tags(project: Project, store: str, alias: str = "challenger") -> dict[str, str]:
    """Return the tags of the registered version, read in a process of its own."""
    script = (
        "import json, mlflow; client = mlflow.MlflowClient();"
        f"print(json.dumps(client.get_model_version_by_alias('lung-segmentation', '{alias}').tags))"
    )
    done = project.run("python", "-c", script, MLFLOW_TRACKING_URI=store)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.full
def test_the_graph_gives_the_figures_of_dvc_repro(project: Project, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"  # not there yet: two trainings at once must not fight over it

    done = project.run(*COMMAND, "--promote", "--out", tmp_path / "run", MLFLOW_TRACKING_URI=store)

    log, *course, report, dice, took, model = done.stdout.splitlines()
    assert log == f"log      {tmp_path / 'run/log.txt'}"
    assert report == f"report   {tmp_path / 'run/reports/index.html'}"
    assert re.fullmatch(r"time +\d+ min \d\d s|time +\d+ s", took)
    assert model.endswith("lung-segmentation version 1: is champion (before: none)")
    cells = [f"defu_net {scenario} seed 0" for scenario in ("mixed", "shenzhen-to-montgomery")]
    tasks_of_run = ["plan", "ingest", "validate", "preprocess", "gather", "report", "register", "promote", "outcome"]
    tasks_of_run += [f"{step} {cell}" for step in ("train", "evaluate") for cell in cells]
    assert sorted(line for line in course if line.endswith(": started")) == sorted(
        f"{t}: started" for t in tasks_of_run
    )
    ended = [re.fullmatch(r"(.*): done, [\d a-z]+", line) for line in course if not line.endswith(": started")]
    assert sorted(each[1] for each in ended if each) == sorted(tasks_of_run)
    assert len(course) == 2 * len(tasks_of_run), "whatever else is printed belongs into the log"
    assert (tmp_path / "run/log.txt").read_text().count("epoch 2/2") == 2
    name = "reports/results.json"
    rows = json.loads((tmp_path / "run" / name).read_text())
    assert {(row["scenario"], row["masks"]) for row in rows} == {
        (scenario, masks) for scenario in ("mixed", "shenzhen-to-montgomery") for masks in ("original", "dilated")
    }
    assert rows == json.loads((project.root / name).read_text())
    assert (tmp_path / "run" / name).read_bytes() == (project.root / name).read_bytes()

    registered = json.loads((tmp_path / "run/registered.json").read_text())
    by_dvc = json.loads((project.root / "artifacts/registered.json").read_text())
    assert {**registered, "run_id": None} == {**by_dvc, "run_id": None}
    assert dice.startswith(f"Dice     {registered['test_dice']:.4f} on test images, ")
    lineage = ("data.md5", "params.hash", "weights.sha256", "evaluation.rows_sha256")
    ours, theirs = tags(project, store), tags(project, project.environment["MLFLOW_TRACKING_URI"])
    assert {name: ours[name] for name in lineage} == {name: theirs[name] for name in lineage}
    # In processes of this machine: neither in the image nor by Kubeflow.
    assert (ours["image"], ours["kubeflow.run"]) == ("none", "none")

    promoted = tags(project, store, "champion")
    assert promoted["weights.sha256"] == ours["weights.sha256"]
    assert promoted["promotion.verdict"] == "passed"
    assert promoted["promotion.floor"].startswith("met: ")

    (tasks,) = (tmp_path / "run/tasks").iterdir()
    assert (tasks / "report/page").read_bytes() == (tmp_path / "run/reports/index.html").read_bytes()
    assert (tasks / "report/tables").read_bytes() == (tmp_path / "run/reports/results.md").read_bytes()
    assert "28 X-rays" in (tasks / "validate/summary").read_text()
    evaluated = json.loads((tasks / "for-loop-2-iteration-0/evaluate/executor_output.json").read_text())
    (roc,) = evaluated["artifacts"]["roc"]["artifacts"]
    points = roc["metadata"]["confidenceMetrics"]
    assert (points[-1]["recall"], points[-1]["falsePositiveRate"]) == (1, 1)
    assert points[0]["confidenceThreshold"] > points[-1]["confidenceThreshold"]
    (test,) = evaluated["artifacts"]["test"]["artifacts"]
    figures = {row["masks"]: row["dice"] for row in rows if _is_headline(row)}
    assert {masks: test["metadata"][f"dice, {masks} masks"] for masks in figures} == figures


def _is_headline(row: dict[str, object]) -> bool:
    keys = ("scenario", "split", "site", "label", "reduction")
    return [row[key] for key in keys] == ["mixed", "test", "all", "all", "per_image"]


NETWORKS = ["defu_net", "unet", "unet_bn", "res_unet", "r2_unet", "att_r2_unet", "bcdu_net"]


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_every_network_in_every_scenario_is_one_run(checkout: Project, tmp_path: Path) -> None:
    # One seed: the five of the 105 cells that tests/pipelines/test_size.py computes would take twenty minutes here.
    scenarios = ["mixed", "montgomery-to-shenzhen", "shenzhen-to-montgomery"]
    checkout.set_params({"matrix": {"networks": NETWORKS, "scenarios": scenarios}, "train": {"epochs": 1}})

    checkout.run(*COMMAND, "--out", tmp_path / "run")

    rows = json.loads((tmp_path / "run/reports/results.json").read_text())
    cells = {(row["network"], row["scenario"], row["seed"]) for row in rows}
    assert cells == {(network, scenario, 0) for network in NETWORKS for scenario in scenarios}
    (tasks,) = (tmp_path / "run/tasks").iterdir()
    assert {path.name for path in (tasks / "ingest").iterdir()} == {"raw", "executor_output.json"}
    with tarfile.open(tasks / "gather/gathered") as gathered:
        weights = [name for name in gathered.getnames() if name.endswith("weights.safetensors")]
    assert len(weights) == 21


@pytest.mark.full
def test_a_failing_step_fails_the_run_and_says_why(checkout: Project, tmp_path: Path) -> None:
    cohort = sample(tmp_path / "cohort")
    broken = cohort / "ChinaSet_AllFiles/CXR_png/CHNCXR_0003_0.png"
    broken.write_bytes(broken.read_bytes()[:400])

    done = checkout.run(*COMMAND, "--source", cohort, "--out", tmp_path / "run", check=False)

    assert done.returncode == 1
    first, *problems = done.stderr[done.stderr.index("error: ") :].splitlines()
    assert first == f"error: {cohort}: 1 file(s) cannot be used; nothing was written"
    assert len(problems) == 1
    assert problems[0].startswith(f"  {broken}: ")
    (told,) = [line for line in done.stdout.splitlines() if ": failed after " in line]
    assert told.startswith("ingest: failed after ")
    assert told.endswith(f": {first}; log: {tmp_path / 'run/log.txt'}")
    assert problems[0] in (tmp_path / "run/log.txt").read_text()
    assert not (tmp_path / "run/reports").exists()


def started(project: Project, said: Path, *options: object) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """Start a long training in the graph; return the run and all its processes once it has done three epochs."""
    project.set_params({"train": {"epochs": 400, "checkpoint_every": 1}, "matrix": {"scenarios": ["mixed"]}})
    line = [*COMMAND, "--verbose", *map(str, options)]
    with said.open("w") as log:
        process = subprocess.Popen(line, cwd=project.root, env=project.environment, stdout=log, stderr=log)
    limit = time.monotonic() + 300
    try:
        while len(re.findall(r"epoch \d+/", said.read_text())) < 3:
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < limit
            time.sleep(0.1)
    except AssertionError:
        process.terminate()
        process.wait(100)
        raise
    return process, psutil.Process(process.pid).children(recursive=True)


@pytest.mark.full
def test_an_interrupt_leaves_no_process_behind(checkout: Project, tmp_path: Path) -> None:
    # Of this process alone: as a supervisor does it, and unlike a Ctrl+C, which a terminal sends to all of them.
    process, tasks = started(checkout, tmp_path / "said", "--out", tmp_path / "run")
    process.send_signal(signal.SIGINT)
    assert process.wait(100) == 130, (tmp_path / "said").read_text()
    assert (tmp_path / "said").read_text().splitlines()[-1].startswith("interrupted: ")
    assert [task for task in tasks if task.is_running()] == []
    assert list((tmp_path / "run").glob("tasks/*/*/train/model")) == []


@pytest.mark.full
def test_a_killed_training_is_told_and_resumes_from_its_checkpoints(checkout: Project, tmp_path: Path) -> None:
    options = ("--checkpoints", tmp_path / "states", "--out", tmp_path / "run")
    process, tasks = started(checkout, tmp_path / "said", *options)
    for task in tasks:
        task.kill()
    assert process.wait(100) == 1
    last = (tmp_path / "said").read_text().splitlines()[-1]
    assert last == "error: a task's process was ended by signal 9: out of memory, or by hand"

    again, _ = started(checkout, tmp_path / "said again", *options)
    again.terminate()
    assert again.wait(100) == 130
    (first,) = re.findall(r"resuming after epoch (\d+)", (tmp_path / "said again").read_text())
    assert int(first) >= 2


def test_wrong_parameters_stop_the_run_before_it_starts(checkout: Project, tmp_path: Path) -> None:
    checkout.set_params({"train": {"epochs": 0}})

    done = checkout.run(*COMMAND, "--out", tmp_path / "run", check=False)

    assert done.returncode == 1
    assert "train.epochs" in done.stderr
    assert not (tmp_path / "run").exists()
