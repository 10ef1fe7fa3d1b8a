"""Two processes train as one does, through torchrun and the command: same weights, one log, one set of files."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from components.results import CONFIG, HISTORY, RUN
from model.checkpoint import STATE
from model.distributed import World
from model.predictor import WEIGHTS
from tests.conftest import CELL, ROOT, Job, Launcher, Project, fresh
from tests.model.processes import CASES, SHAPES, compute, params_of, trainer_of
from tests.model.test_training import ALONE, CutError, Recorder, history

Found = dict[str, Any]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What one process computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = compute(ALONE, tmp_path_factory.mktemp("alone"))
    torch.set_num_threads(threads)
    return found


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, launcher: Launcher) -> tuple[Found, Found]:
    """What two processes compute, each."""
    folder = tmp_path_factory.mktemp("together")
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line += ["-m", "tests.model.processes", str(folder)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = launcher.start(line, ROOT, environment).wait(line)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(folder / f"process-{rank}.pt") for rank in range(2))
    return first, second


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], share: float) -> None:
    """Tensors differ by no more than a share of the largest value of their kind."""
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        largest = max(float(t.abs().max()) for n, t in expected.items() if n.split(".")[-1] == name.split(".")[-1])
        assert (found[name].double() - tensor.double()).abs().max() <= share * largest, name


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
    shares = [World(rank, 3, ALONE.device).share(positions).tolist() for rank in range(3)]
    assert shares == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_started_by_hand_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    world = World.join()
    assert (world.rank, world.size, world.first) == (0, 1, True)
    world.leave()
    assert not torch.distributed.is_initialized()


# --- a training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_step_has_the_gradients_of_one_process(alone: Found, together: tuple[Found, Found], case: str) -> None:
    for part in together:
        assert part[case]["loss"].item() == pytest.approx(alone[case]["loss"].item(), abs=1e-5)
        assert_close(part[case]["gradients"], alone[case]["gradients"], 1e-4)
        assert_close(part[case]["running"], alone[case]["running"], 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_both_processes_hold_the_same_to_the_bit(together: tuple[Found, Found], case: str) -> None:
    """So that they decide alike: which epoch is best, when to stop, what to go on from."""
    one, other = (found[case] for found in together)
    for name in ("gradients", "running", "weights"):
        assert list(one[name]) == list(other[name])
        assert all(torch.equal(value, other[name][key]) for key, value in one[name].items()), name
    columns = ("train_loss", "train_dice", "validation_loss", "validation_dice", "learning_rate")
    assert [[row[c] for c in columns] for row in one["history"]] == [
        [row[c] for c in columns] for row in other["history"]
    ]


@pytest.mark.parametrize("case", CASES)
def test_a_training_ends_as_in_one_process(alone: Found, together: tuple[Found, Found], case: str) -> None:
    found, expected = together[0][case], alone[case]
    for row, other in zip(found["history"], expected["history"], strict=True):
        assert row["learning_rate"] == other["learning_rate"]
        for name in ("train_loss", "validation_loss", "train_dice", "validation_dice"):
            assert row[name] == pytest.approx(other[name], abs=2e-3), name
    assert_weights_close(found["weights"], expected["weights"])


def assert_weights_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, tensor in expected.items():
        print(name, float((found[name] - tensor).abs().max()), float(tensor.abs().max()))
    raise AssertionError
