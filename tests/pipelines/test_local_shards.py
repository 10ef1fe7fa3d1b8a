"""The graph in shards under the local runner: the arrays, splits and figures of ``dvc repro``, to the byte."""

from __future__ import annotations

import subprocess
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from pipelines.archives import unpack
from tests.conftest import files
from tests.project import Project

pytestmark = [pytest.mark.full, pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_graph_in_shards_gives_what_dvc_repro_gives(project: Project, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"

    parts = ("--shards", "2", "--evaluate-shards", "2")
    done = project.run("python", "-m", "pipelines.local", *parts, "--out", tmp_path, MLFLOW_TRACKING_URI=store)

    (tasks,) = (tmp_path / "tasks").iterdir()
    (tmp_path / "made").mkdir()
    for step, output, stage in (
        ("merge-cohort", "raw", "raw"),
        ("merge-arrays", "arrays", ""),
        ("merge-arrays", "splits", "splits"),
    ):
        unpack(tasks / step / output, tmp_path / "made" / stage)
    for name in ("raw", "arrays", "splits"):
        assert files(tmp_path / "made" / name) == files(project.root / "artifacts" / name)
    results = "reports/results.json"
    assert (tmp_path / results).read_bytes() == (project.root / results).read_bytes()
    # Each shard in a task of its own, and evaluate is given no image.
    loops = sorted(path.parent.name for path in tasks.glob("*/ingest-shard"))
    assert len(loops) == 2
    assert sorted(path.parent.name for path in tasks.glob("*/preprocess-shard")) == loops
    with tarfile.open(tasks / "merge-cohort/masks") as masks:
        assert {Path(name).parts[0] for name in masks.getnames()} == {"masks", "manifest.csv", "cohort.json"}
    with tarfile.open(tasks / "merge-cohort/cohort") as cohort:
        assert sorted(cohort.getnames()) == ["cohort.json", "manifest.csv"]

    # Inside the loop over cells, each shard of evaluate in a task of its own, and a merge for each cell.
    assert len(list(tasks.glob("*/*/evaluate-shard/part"))) == 4
    merges = sorted(tasks.glob("*/merge-evaluation/evaluation"))
    assert len(merges) == 2
    for merge in merges:
        unpack(merge, tmp_path / "made/all")
    scenarios = ("mixed", "shenzhen-to-montgomery")
    for scenario in scenarios:
        folder = f"evaluations/defu_net/{scenario}/seed-0"
        evaluation = files(tmp_path / "made/all" / folder)
        assert {"rows.json", "cases.csv", "roc.csv", "metrics.json"} <= set(evaluation)
        assert evaluation == files(project.root / folder)
    cells = [f"defu_net {scenario} seed 0" for scenario in scenarios]
    named = [line.removesuffix(": started") for line in done.stdout.splitlines() if line.endswith(": started")]
    assert sorted(name for name in named if "shard" in name or name.startswith("merge")) == sorted(
        ["merge-cohort", "merge-arrays"]
        + [f"{step}-shard {shard}/2" for step in ("ingest", "preprocess") for shard in (1, 2)]
        + [f"evaluate-shard {shard}/2 {cell}" for shard in (1, 2) for cell in cells]
        + [f"merge-evaluation {cell}" for cell in cells]
    )
    # Only the merge logs to MLflow, once.
    client = MlflowClient(store)
    (experiment,) = client.search_experiments(filter_string="name != 'Default'")
    runs = client.search_runs([experiment.experiment_id], "metrics.`test.original.dice` > 0")
    assert len(runs) == 2
    for run in runs:
        assert len(client.get_metric_history(run.info.run_id, "test.original.dice")) == 1
        assert "evaluation/rows.json" in {each.path for each in client.list_artifacts(run.info.run_id, "evaluation")}


def test_a_killed_shard_of_evaluate_fails_the_run_without_a_merge(
    pinned: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = pinned(tmp_path / "checkout")
    project.set_params({"matrix": {"scenarios": ["mixed"]}, "train": {"epochs": 1}})
    environment = project.environment | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    line = ["python", "-m", "pipelines.local", "--evaluate-shards", "2", "--out", str(tmp_path / "run")]
    with (tmp_path / "said").open("w") as said:
        run = subprocess.Popen(line, cwd=project.root, env=environment, stdout=said, stderr=said)
    try:
        limit = time.monotonic() + 400
        while not (shards := _tasks(run, '"shard": "2/2"')):
            assert run.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < limit
            time.sleep(0.05)
        shards[0].kill()
        assert run.wait(200) == 1
    finally:
        run.terminate()
        run.wait(100)
    said_lines = (tmp_path / "said").read_text().splitlines()
    assert said_lines[-1] == "error: a task's process was ended by signal 9: out of memory, or by hand"
    (failed,) = [text for text in said_lines if ": failed after " in text]
    assert failed.startswith("evaluate-shard 2/2 defu_net mixed seed 0: failed after ")
    assert any(text.startswith("evaluate-shard 1/2 defu_net mixed seed 0: done, ") for text in said_lines)
    assert not [text for text in said_lines if text.startswith(("merge-evaluation", "gather"))]
    assert len(list((tmp_path / "run/tasks").glob("*/*/*/evaluate-shard/part"))) == 1
    assert not (tmp_path / "run/reports").exists()


def _tasks(run: subprocess.Popen[bytes], text: str) -> list[psutil.Process]:
    """Return a run's processes with ``text`` in their command lines."""
    found = []
    for process in psutil.Process(run.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended in the meantime
            if text in " ".join(process.cmdline()):
                found.append(process)
    return found
