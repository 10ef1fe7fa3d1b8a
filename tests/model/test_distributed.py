"""Two processes train as one does, through torchrun and the command: same weights, one log, one set of files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from components.train.result import RESULT
from core.cell import HISTORY, PROVENANCE, RUN
from model.inputs import one_thread
from model.training.distributed import DistributedContext
from model.weights import CONFIG, WEIGHTS
from tests.conftest import CELL, EPOCHS, ROOT, Project, fresh
from tests.model.processes import CASES, SHAPES, compute
from tests.model.test_training import ALONE, TIMES

# Two processes that wait for each other are slow where others want the cores, too.
pytestmark = [pytest.mark.full, pytest.mark.slow, pytest.mark.timeout(600)]
PATIENCE = 500  # seconds
Found = dict[str, Any]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What one process computes."""
    with one_thread():
        return compute(ALONE, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found]:
    """What two processes compute, each."""
    folder = tmp_path_factory.mktemp("together")
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line += ["-m", "tests.model.processes", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(folder / f"process-{rank}.pt") for rank in range(2))
    return first, second


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], share: float) -> None:
    """Tensors differ by no more than a share of the largest value of their kind."""
    assert list(found) == list(expected)
    largest: dict[str, float] = {}
    for name, tensor in expected.items():
        kind = name.rpartition(".")[2]
        largest[kind] = max(largest.get(kind, 0.0), float(tensor.abs().max()))
    for name, tensor in expected.items():
        apart = float((found[name].double() - tensor.double()).abs().max())
        assert apart <= share * largest[name.rpartition(".")[2]], name


# --- what the processes share ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_batchnorm_is_that_of_the_whole_batch(alone: Found, together: tuple[Found, Found], shape: str) -> None:
    whole, parts = alone[shape], [found[shape] for found in together]
    half = SHAPES[shape][0] // 2
    for name in ("output", "gradient"):
        by_step = [part[name].split(half) for part in parts]  # two steps in each process
        joined = torch.cat([values for step in zip(*by_step, strict=True) for values in step])
        torch.testing.assert_close(joined, whole[name], rtol=1e-10, atol=1e-10, msg=name)
    torch.testing.assert_close(torch.cat([part["evaluated"] for part in parts]), whole["evaluated"])
    for name in ("weight gradient", "bias gradient"):
        torch.testing.assert_close(sum(part[name] for part in parts), whole[name], rtol=1e-10, atol=1e-9)
    for name in ("running_mean", "running_var", "num_batches_tracked", "weight", "bias"):
        for part in parts:
            torch.testing.assert_close(part[name], whole[name], rtol=1e-10, atol=1e-10, msg=name)


def test_the_loss_is_that_of_the_whole_batch(alone: Found, together: tuple[Found, Found]) -> None:
    whole, parts = alone["loss"], [found["loss"] for found in together]
    for part in parts:
        torch.testing.assert_close(part["loss"], whole["loss"])
        # Without gradients, as for validation, each process scores what it is given.
        assert abs(part["unshared"] - whole["loss"]) > 0.01
    # Twice the gradient in two processes, of which DistributedDataParallel takes the mean.
    joined = torch.cat([part["gradient"] for part in parts])
    torch.testing.assert_close(joined, 2 * whole["gradient"])


def test_rows_are_shared_out_whole() -> None:
    positions = torch.arange(12)
    shares = [DistributedContext(rank, 3, ALONE.device).share(positions).tolist() for rank in range(3)]
    assert shares == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_started_by_hand_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    world = DistributedContext.join()
    assert (world.rank, world.size, world.first) == (0, 1, True)
    world.leave()
    assert not torch.distributed.is_initialized()


# --- a training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_step_has_the_gradients_of_one_process(alone: Found, together: tuple[Found, Found], case: str) -> None:
    for part in together:
        assert part[case]["loss"].item() == pytest.approx(alone[case]["loss"].item(), abs=1e-6)
        assert_close(part[case]["gradients"], alone[case]["gradients"], 1e-6)
        assert_close(part[case]["running"], alone[case]["running"], 1e-12)


@pytest.mark.parametrize("case", CASES)
def test_both_processes_hold_the_same_to_the_bit(together: tuple[Found, Found], case: str) -> None:
    """So that they decide alike: which epoch is best, when to stop, what to go on from."""
    one, other = (found[case] for found in together)
    for name in ("gradients", "running", "weights"):
        assert list(one[name]) == list(other[name])
        assert all(torch.equal(value, other[name][key]) for key, value in one[name].items()), name
    assert without_times(one["history"]) == without_times(other["history"])


def test_processes_that_round_differently_decide_alike(together: tuple[Found, Found]) -> None:
    one, other = (found["rounding apart"] for found in together)
    assert without_times(one["history"]) == without_times(other["history"])
    assert one["best_epoch"] == other["best_epoch"]
    assert all(torch.equal(value, other["weights"][key]) for key, value in one["weights"].items())


@pytest.mark.parametrize("case", CASES)
def test_a_training_ends_as_in_one_process(alone: Found, together: tuple[Found, Found], case: str) -> None:
    found, expected = together[0][case], alone[case]
    for row, other in zip(found["history"], expected["history"], strict=True):
        assert row["learning_rate"] == other["learning_rate"]
        for name in ("train_loss", "validation_loss"):
            assert row[name] == pytest.approx(other[name], abs=1e-4), name
        for name in ("train_dice", "validation_dice"):
            assert row[name] == pytest.approx(other[name], abs=5e-3), name
    # Adam makes whole steps of the smallest gradients, in which what rounding leaves is no longer small.
    assert_close(found["weights"], expected["weights"], 1e-2)


def without_times(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


# --- the command ----------------------------------------------------------------------------------------------------

TRAIN = {"width": 0.0625, "precision": "float32"}


def in_two(project: Project) -> subprocess.CompletedProcess[str]:
    return project.spawn(project.train_line("--processes", 2), timeout=PATIENCE)


def table(project: Project) -> pd.DataFrame:
    return pd.read_csv(project.model / HISTORY)


@pytest.fixture(scope="module")
def commanded(prepared: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Project, str]:
    """The cell trained by one process, and by two with what those printed."""
    one, two = (fresh(prepared, tmp_path_factory.mktemp(name)) for name in ("one", "two"))
    for project in (one, two):
        project.write_params(train=TRAIN)
    one.do(one.train_line())
    done = in_two(two)
    assert done.returncode == 0, done.stderr
    return one, two, done.stdout


def test_two_processes_leave_one_model_one_run_and_one_log(commanded: tuple[Project, Project, str]) -> None:
    one, two, printed = commanded
    precision, threads, *lines = printed.splitlines()
    assert precision == "train defu_net mixed seed 0: float32 (train.precision)"
    assert threads.startswith("train defu_net mixed seed 0: 1 thread (OMP_NUM_THREADS); OpenMP wait policy: passive")
    assert lines[0] == f"train defu_net mixed seed 0: {EPOCHS} epochs of 3 batches"
    assert [line.split("  ")[0] for line in lines[1:-1]] == [f"epoch {n}/{EPOCHS}" for n in range(1, EPOCHS + 1)]
    assert lines[-1].startswith("train defu_net mixed seed 0: best validation Dice")
    assert {path.name for path in two.model.iterdir()} == {WEIGHTS, CONFIG, HISTORY, PROVENANCE, RUN}
    assert {path.parent.name for path in (two.root / "checkpoints" / CELL.folder).glob("*/*/*")} == {RESULT}
    (run,) = two.runs()
    assert run.info.status == "FINISHED"
    assert len(run.inputs.dataset_inputs) == 2
    logged = two.client().get_metric_history(run.info.run_id, "train_loss")
    assert [metric.step for metric in logged] == list(range(1, EPOCHS + 1))
    record = json.loads((two.model / RUN).read_text())
    assert (record["processes"], record["mlflow_run_id"]) == (2, run.info.run_id)
    assert json.loads((one.model / RUN).read_text())["processes"] == 1


def test_two_processes_end_about_where_one_does(commanded: tuple[Project, Project, str]) -> None:
    one, two, _ = commanded
    assert (two.model / CONFIG).read_bytes() == (one.model / CONFIG).read_bytes()
    # The same pictures in the same order: the rest is float32's rounding, amplified by Adam.
    pd.testing.assert_frame_equal(table(two), table(one), rtol=0, atol=0.03)
    found, expected = (load_file(project.model / WEIGHTS) for project in (two, one))
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        if name.endswith("weight"):
            apart = float((found[name] - tensor).abs().mean() / tensor.abs().mean())
            assert apart < 0.1, name


def test_killed_in_the_middle_two_processes_end_as_uninterrupted(
    commanded: tuple[Project, Project, str], untrained: Project
) -> None:
    _, two, _ = commanded
    untrained.write_params(train=TRAIN)
    line, environment = untrained.train_line(), untrained.environment | {"TRAIN_PROCESSES": "2"}
    with subprocess.Popen(line, cwd=untrained.root, env=environment, stdout=-1, stderr=-3, text=True) as torchrun:
        assert torchrun.stdout is not None
        assert any(line.startswith("epoch 1/") for line in torchrun.stdout)
        time.sleep(0.05)
        kill_all(torchrun.pid)
    assert not untrained.model.exists()
    printed = in_two(untrained).stdout
    assert re.search(r", resuming after epoch [12]$", printed, re.MULTILINE), printed
    assert (untrained.model / WEIGHTS).read_bytes() == (two.model / WEIGHTS).read_bytes()
    pd.testing.assert_frame_equal(table(untrained), table(two), check_exact=True)
    (run,) = untrained.runs()
    assert run.info.status == "FINISHED"
    assert json.loads((untrained.model / RUN).read_text())["mlflow_run_id"] == run.info.run_id


def kill_all(pid: int) -> None:
    """Kill torchrun and the processes that it has started, each in a session of its own."""
    torchrun = psutil.Process(pid)
    workers = torchrun.children(recursive=True)
    assert len(workers) >= 2
    for process in (torchrun, *workers):
        process.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs([torchrun, *workers], timeout=30)
    assert not alive


def test_a_batch_that_two_processes_cannot_share_is_told_once(untrained: Project) -> None:
    untrained.write_params(train=TRAIN | {"batch_size": 6, "accumulation": 2})
    done = in_two(untrained)
    assert done.returncode == 1
    # Before torchrun starts, whose traceback would come after the line that helps.
    assert done.stderr.splitlines() == [
        "error: --processes 2: train.batch_size 6 is not a multiple of 2 processes times train.accumulation 2; "
        "change one of them"
    ]
    assert done.stdout == ""
    assert not untrained.model.exists()
    assert untrained.runs() == []
