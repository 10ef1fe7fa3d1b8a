"""What a run on this machine prints on the terminal, and what goes into its log."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import pytest
from kfp.local.logging_utils import indented_print

from pipelines.local.processes import interruptible
from pipelines.local.view import View


def command(step: str, **inputs: object) -> list[str]:
    return ["python", "-m", "pipelines.step", step, "--executor_input", json.dumps({"inputs": inputs})]


TRAIN = command("train", parameterValues={"cell": "unet/mixed/seed-1"})
MODEL = {"artifacts": {"model": {"artifacts": [{"metadata": {"cell": "unet/mixed/seed-1"}}]}}}
EVALUATE = command("evaluate", **MODEL)


@pytest.mark.parametrize(
    ("lines", "code", "told"),
    [
        (["epoch 1/2", "error: the disk is full", "  /data"], 1, ": failed after 0 s: error: the disk is full; log: "),
        (["Traceback", "ValueError: three"], 1, ": failed after 0 s: ValueError: three; log: "),
        ([], -9, ": failed after 0 s: exit code -9; log: "),
        (["epoch 1/2"], 0, ": done, 0 s"),
    ],
)
def test_a_task_is_two_lines_and_the_rest_lies_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[str], code: int, told: str
) -> None:
    view = View(tmp_path / "log.txt")
    with view.logged():
        task = view.task(TRAIN)
        for line in lines:
            task.line(line)
        task.end(code)
    where = str(tmp_path / "log.txt")
    assert capsys.readouterr().out.splitlines() == [
        f"log      {where}",
        "train unet mixed seed 1: started",
        f"train unet mixed seed 1{told}{where if code else ''}",
    ]
    assert (tmp_path / "log.txt").read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("step", "inputs", "name"),
    [
        ("ingest_shard", {"parameterValues": {"shard": "2/4"}}, "ingest-shard 2/4"),
        ("merge_cohort", {}, "merge-cohort"),
        ("evaluate_shard", {"parameterValues": {"shard": "2/4"}} | MODEL, "evaluate-shard 2/4 unet mixed seed 1"),
        ("merge_evaluation", MODEL, "merge-evaluation unet mixed seed 1"),
    ],
)
def test_tasks_have_the_names_of_defunet_status(
    step: str, inputs: dict[str, object], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    View().task(command(step, **inputs))
    assert capsys.readouterr().out == f"{name}: started\n"


def test_without_a_log_all_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    view = View()
    with view.logged():
        task = view.task(EVALUATE)
        task.line("scored")
        task.end(1)
    name = "evaluate unet mixed seed 1"
    assert capsys.readouterr().out.splitlines() == [f"{name}: started", "scored", f"{name}: failed after 0 s: scored"]


def test_the_indenting_print_of_kfp_does_not_outlive_the_run(tmp_path: Path) -> None:
    plain = builtins.print
    with interruptible(tmp_path / "last-words", View()):
        one, other = indented_print(), indented_print()
        for part in (one.__enter__, other.__enter__, lambda: one.__exit__(None, None, None)):
            part()
        other.__exit__(None, None, None)
        assert builtins.print is not plain, "two tasks at a time leave it behind"
    assert builtins.print is plain
