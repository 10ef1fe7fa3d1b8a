"""The benchmarks of training: that they compare what they say, and show it whole. No time is asserted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from benchmarks import cohort, memory, training
from benchmarks.device import Machine, Work, bound, measure_work
from benchmarks.loops import Loop, Partly, Shipped, Task, alternate, ladder, loader_share
from benchmarks.plain import augment
from core.errors import UserError
from core.params import Params, read_params
from model.training.batches import Subset
from model.training.recipe import Augmentation
from tests.conftest import Project, shrunk

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
LEVERS = 6  # of the ladder on a CPU, the plain loop counted in


@pytest.fixture(scope="module")
def params() -> Params:
    return read_params(ROOT / "params.yaml")


@pytest.fixture(scope="module")
def subsets(params: Params) -> tuple[Subset, Subset]:
    return cohort.drawn(params, 32, 8, 2)


@pytest.fixture
def task(params: Params, subsets: tuple[Subset, Subset]) -> Task:
    changes = {"width": 0.0625, "batch_size": 4, "precision": "float32", "compile": False}
    return Task("unet", params.train, *subsets, CPU).changed(**changes)


def command(name: str, *arguments: object) -> str:
    """Run a benchmark as its user does; return what it printed."""
    line = [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]
    done = subprocess.run(
        line, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.full
def test_keeping_freed_memory_is_compared_with_returning_it() -> None:
    given = ("--network", "unet", "--size", 32, "--width", 0.0625, "--batch", 2, "--steps", 1, "--rounds", 2)
    printed = command("allocation", *given)
    assert "unet, 32 x 32, width 0.0625, batch 2, float32, one thread: a step" in printed
    assert re.search(r"returned / kept: \d+\.\d\d \(\d+\.\d\d to \d+\.\d\d over 2 rounds\)", printed)


@pytest.mark.slow
@pytest.mark.full
def test_stages_are_timed_to_a_dice_that_both_sides_reach(untrained: Project, tmp_path: Path) -> None:
    stage = {"size": 16, "epochs": 1, "learning_rate": 0.002, "batch_size": 4}
    path = tmp_path / "staged.json"  # JSON is YAML
    path.write_text(json.dumps(shrunk(train={"stages": [stage], "width": 0.0625, "epochs": 1, "batch_size": 4})))
    split = untrained.split.parent / "mixed.json"
    given = (untrained.arrays, split, "--network", "unet", "--rounds", 1, "--params", path)
    printed = command("stages", *given, "--target", 0.0)
    assert "unet, 16 → 32 against 32 alone, to a validation Dice of 0" in printed
    assert re.search(r"one size / staged: \d+\.\d\d to \d+\.\d\d over 1 seed", printed)
    assert "not reached" in command("stages", *given, "--target", 1.0, "--most", 2)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(600)
def test_both_loops_learn_and_every_figure_is_printed_and_written(tmp_path: Path) -> None:
    out = tmp_path / "training.json"

    printed = command("training", "--quick", "--device", "cpu", "--size", 32, "--out", out)

    found = json.loads(out.read_text())
    assert set(found) == {"settings", "hardware", "versions", "speed", "ladder", "rooflines", "scores"}
    speed = found["speed"]
    assert list(speed["images_per_second"]) == ["plain, 0 workers", "shipped"]
    ratio = speed["ratio"]
    assert ratio["target"] == 1.5
    by_round = [
        shipped / plain
        for shipped, plain in zip(
            speed["images_per_second"]["shipped"]["rounds"],
            speed["images_per_second"]["plain, 0 workers"]["rounds"],
            strict=True,
        )
    ]
    assert ratio["rounds"] == pytest.approx(by_round)
    assert ratio["least"] <= ratio["median"] <= ratio["most"]
    assert all(0 < share < 1 for share in speed["loader_share"].values())
    assert found["ladder"][0]["name"] == "plain"
    assert len(found["ladder"]) == LEVERS
    assert set(found["rooflines"]["matrix_flops"]) == {"float32", "bfloat16"}
    assert all(step["flops"] > 1e9 for step in found["rooflines"]["steps"].values())
    for loop in ("plain", "shipped"):
        for first, last in found["scores"]["losses"][loop]:
            assert last < first - 0.3, f"the {loop} loop has learnt nothing"
    assert min(found["scores"]["dice"][loop]["mean"] for loop in ("plain", "shipped")) > 0.7
    for text in (
        "images a second",
        "target 1.5",
        "by processor time",
        "+ channels-last",
        "Measured here",
        "Validation Dice",
        str(out.name),
    ):
        assert text in printed


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(600)
def test_memory_of_every_case_is_printed_and_written(tmp_path: Path) -> None:
    out = tmp_path / "memory.json"
    where = ("--device", "cpu", "--size", 64, "--width", 0.0625, "--precision", "bfloat16")

    printed = command("memory", *where, "--out", out)

    cases = {
        (case["activation_checkpointing"], case["accumulation"]): case for case in json.loads(out.read_text())["cases"]
    }
    assert set(cases) == {(False, 1), (False, 2), (True, 1), (True, 2)}
    assert all(case["peak"] > case["weights"] > 0 for case in cases.values())
    kept = {name: case["kept"] for name, case in cases.items()}
    assert kept[True, 1] < kept[False, 1] / 4
    assert kept[False, 2] < kept[False, 1] * 0.75
    assert printed.count("yes") == 4


CASE = {
    **{"network": "unet", "device": "cpu", "size": 64, "width": 0.0625, "batch_size": 2},
    **{"accumulation": 1, "activation_checkpointing": False, "precision": "float32"},
}


def test_what_a_step_keeps_is_counted(params: Params) -> None:
    whole = memory.measure(CASE, params)
    # A gradient, two moments and an average, of 4 bytes a weight each.
    assert whole["copies"] == 4 * whole["weights"]
    # Where maps are large against the weights, whose copies in bfloat16 are kept too.
    assert memory.measure(CASE | {"precision": "bfloat16"}, params)["kept"] < whole["kept"]


def test_a_case_that_found_no_memory_is_shown_as_such() -> None:
    nothing = dict.fromkeys(("weights", "copies", "kept", "peak", "seconds"))
    console = Console(width=130)
    with console.capture() as captured:
        console.print(memory.table([CASE | nothing], 11))
    assert "out of memory" in captured.get()


def nothing(params: Params) -> Augmentation:
    return Augmentation.model_validate(dict.fromkeys(params.train.augmentation.model_dump(), 0.0))


def test_the_plain_loops_augmentation_changes_images_and_keeps_masks_binary(
    params: Params, subsets: tuple[Subset, Subset]
) -> None:
    image, mask = subsets[0].images[0], subsets[0].masks[0]
    random = np.random.default_rng(0)
    changed = []
    for _ in range(40):  # enough for frames and labels to be drawn
        grey, lung = augment(image, mask, params.train.augmentation, random)
        assert (grey.shape, grey.dtype, lung.dtype) == (image.shape, np.float32, np.float32)
        assert grey.min() >= 0
        assert grey.max() <= 1
        assert set(np.unique(lung)) <= {0, 1}
        assert 0.3 < lung.sum() / mask.sum() < 1.7
        changed.append(grey)
    assert np.std(changed, axis=0).mean() > 0.05


def test_the_plain_loops_augmentation_of_strength_nought_changes_nothing(
    params: Params, subsets: tuple[Subset, Subset]
) -> None:
    image, mask = subsets[0].images[0], subsets[0].masks[0]
    grey, lung = augment(image, mask, nothing(params), np.random.default_rng(0))
    np.testing.assert_allclose(grey, image / 255, atol=1e-6)
    np.testing.assert_array_equal(lung, mask)


def test_every_rung_of_the_ladder_begins_alike(task: Task) -> None:
    # Without augmentation all loops see the same images, the plain one in another order: one batch is the whole set.
    values: dict[str, Any] = {"augmentation": dict.fromkeys(task.params.augmentation.model_dump(), 0.0)}
    whole = task.changed(**values, batch_size=len(task.train))
    first = {name: make().run(1)[0] for name, make in ladder(whole, compile_too=False).items()}
    assert len(first) == LEVERS
    assert list(first.values()) == pytest.approx([first["plain"]] * LEVERS, abs=1e-4)


def test_a_rung_trains_as_the_shipped_loop_does(task: Task) -> None:
    rung = Partly(task, channels_last=True, low_precision=True, fused=True)
    # The rung's schedule of the learning rate is no shorter than the shipped one's: only the first step is the same.
    assert rung.run(1) == pytest.approx(Shipped(task).run(1), abs=1e-6)


def test_a_loop_that_finds_no_room_is_left_out_and_the_others_measured(task: Task) -> None:
    class Large:
        batch_size, untimed = 1, 0

        def run(self, _steps: int) -> list[float]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    loops: dict[str, Loop] = {"large": Large(), "shipped": Shipped(task)}
    found = alternate(loops, 2, 1, 1, CPU)
    assert list(loops) == list(found) == ["shipped"]
    assert len(found["shipped"]) == 2


def test_measuring_the_loaders_share_leaves_the_loop_as_it_was(task: Task) -> None:
    shipped = Shipped(task)
    parts = (shipped.trainer.order, shipped.trainer.augmenter, shipped.trainer.train)
    assert 0 < loader_share(shipped, 2) < 1
    assert (shipped.trainer.order, shipped.trainer.augmenter, shipped.trainer.train) == parts
    assert 0 < loader_share(task.plain(), 2) < 1


def test_a_steps_work_is_counted() -> None:
    work = measure_work(nn.Conv2d(1, 4, 3, padding=1, bias=False), 2, 8, torch.float32, average=False)
    forward = 2 * (2 * 4 * 8 * 8) * 9
    assert work.flops == 2 * forward  # the images need no gradient, the kernel does
    activations = 4 * 2 * 8 * 8 * (1 + 4)
    assert work.bytes > 2 * activations + 7 * 4 * 36


@pytest.mark.parametrize(
    ("work", "seconds", "by"),
    [
        (Work(flops=10**12, bytes=10**9), 1.1, "compute"),
        (Work(flops=10**9, bytes=10**11), 1.1, "memory"),
        (Work(flops=10**9, bytes=10**9), 1.1, "overhead"),
    ],
)
def test_what_bounds_a_step_is_told(work: Work, seconds: float, by: str) -> None:
    found = bound(Machine({"float32": 1e12, "bfloat16": 2e12}, 1e11), work, "float32", seconds)
    assert found["by"] == by
    assert found["least_seconds"] == pytest.approx(max(work.flops / 1e12, work.bytes / 1e11))
    assert found["share"] == pytest.approx(work.flops / 1.1 / 1e12)


def test_a_preprocessed_cohort_takes_the_place_of_computed_images(prepared: Any) -> None:
    train, validation = cohort.preprocessed(prepared.arrays, "original", 8, 4)
    assert (len(train), len(validation)) == (8, 4)
    assert not set(train.ids) & set(validation.ids)
    with pytest.raises(UserError, match="lower --images"):
        cohort.preprocessed(prepared.arrays, "original", 1000, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "no_net"}, "unknown network 'no_net'"),
        ({"images": 2}, "less than one batch"),
        ({"precision": "float8"}, "the recipe with the options given: 1 value"),
        *([] if torch.cuda.is_available() else [({"device": "cuda"}, "PyTorch sees no GPU")]),
    ],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        training.main(**options, params=ROOT / "params.yaml")
