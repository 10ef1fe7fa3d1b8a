"""Stages: one run from small pictures to large ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError

from model import networks
from model.preprocessing import resize_mask
from model.training.batches import Subset, reduce
from model.training.checkpoint import STATE
from model.training.loop import Trainer, TrainingError
from tests.model.test_training import (
    ALONE,
    SIDE,
    TRAIN,
    VALIDATION,
    CutError,
    Recorder,
    one_thread,
    recipe,
    trainer,
)

__all__ = ["one_thread"]  # a fixture of every test here

CPU = torch.device("cpu")
FIRST: dict[str, Any] = {"epochs": 2, "learning_rate": 0.004, "batch_size": 2}
HALF = FIRST | {"size": SIDE // 2}


def staged(**changes: Any) -> dict[str, Any]:
    return {"stages": [HALF], "epochs": 2} | changes


@given(
    images=arrays.arrays(np.uint8, (3, 48, 48)),
    masks=arrays.arrays(np.uint8, (3, 48, 48), elements=st.integers(0, 1)),
    factor=st.sampled_from([2, 3]),
)
def test_pictures_are_reduced_by_area(images: npt.NDArray[np.uint8], masks: npt.NDArray[np.uint8], factor: int) -> None:
    size = 48 // factor
    blocks = images.reshape(3, size, factor, size, factor).astype(float).mean((2, 4))
    found = reduce(torch.from_numpy(images), size, CPU).numpy()
    assert np.abs(found - blocks).max() <= 0.5 + 1e-4
    expected = np.stack([resize_mask(mask, size) for mask in masks])
    np.testing.assert_array_equal(reduce(torch.from_numpy(masks), size, CPU, mask=True).numpy(), expected)


def test_many_pictures_are_reduced_alike() -> None:
    many = np.random.default_rng(0).integers(0, 256, (150, 32, 32), np.uint8)
    whole = reduce(torch.from_numpy(many), 16, CPU)
    alone = torch.cat([reduce(torch.from_numpy(many[n : n + 1]), 16, CPU) for n in range(150)])
    assert torch.equal(whole, alone)


def test_a_stage_sees_its_size_and_the_next_begins_with_its_best_weights(tmp_path: Path) -> None:
    monitor = Recorder()
    whole = trainer(tmp_path / "whole", recipe(**staged()), monitor)
    begun: list[dict[str, torch.Tensor]] = []
    sizes: list[tuple[int, ...]] = []
    make = whole._stage

    def watched(number: int) -> Any:
        begun.append({name: tensor.clone() for name, tensor in whole.prepared.network.state_dict().items()})
        sizes.append(tuple(make(number).train.images.shape[1:]))
        return make(number)

    whole._stage = watched  # type: ignore[method-assign]
    result = whole.run()
    assert [row["size"] for row in result.history] == [16, 16, 32, 32]
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4]
    assert result.best_epoch >= 2  # of the last stage, as losses at two sizes cannot be compared
    assert [seen for seen in monitor.told if seen[0] == "start"] == [
        ("start", 2, 5, 0, "stage 1 of 2, 16 pixels"),
        ("start", 4, 3, 2, "stage 2 of 2, 32 pixels"),
    ]
    # A run of the first stage alone, on pictures that are small already, is the same training.
    small = []
    for data in (TRAIN, VALIDATION):
        images, masks = torch.from_numpy(data.images), torch.from_numpy(data.masks)
        reduced = (reduce(images, 16, CPU).numpy(), reduce(masks, 16, CPU, mask=True).numpy())
        small.append(Subset(*reduced, data.ids))
    torch.manual_seed(0)
    network = networks.build("res_unet", 0.0625)
    alone = Trainer(network, *small, recipe(**FIRST), 0, ALONE, tmp_path / "small", "small", Recorder()).run()
    assert sizes == [(32, 32)]
    for name, tensor in alone.weights.items():
        assert torch.equal(begun[0][name], tensor), name


def test_a_single_stage_is_a_run_without_stages(tmp_path: Path) -> None:
    result = trainer(tmp_path, recipe(epochs=2)).run()
    assert {row["size"] for row in result.history} == {SIDE}


def test_the_seconds_of_all_attempts_count(tmp_path: Path) -> None:
    with pytest.raises(CutError):
        trainer(tmp_path, recipe(**staged()), Recorder((2, None))).run()
    state = tmp_path / STATE
    kept = torch.load(state, weights_only=True)
    torch.save(kept | {"seconds": 1000.0}, state)
    assert 1000 < trainer(tmp_path, recipe(**staged())).run().seconds < 1100


def test_a_resumed_run_keeps_its_precision(tmp_path: Path) -> None:
    with pytest.raises(CutError):
        trainer(tmp_path, recipe(precision="float32"), Recorder((0, None))).run()
    resumed = trainer(tmp_path, recipe(precision="bfloat16"))  # as if it were auto, and measured anew
    assert resumed.precision.dtype == torch.float32
    assert resumed.precision.reason == "as the run began: train.precision"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": [HALF | {"size": 32}]}, "a stage of 32 pixels is not below preprocess.size 32"),
        ({"stages": [HALF, HALF]}, "sizes must rise from stage to stage, not 16, 16"),
        ({"stages": [HALF | {"batch_size": 3}], "accumulation": 2}, "batch_size 3 cannot be computed in 2 equal parts"),
    ],
)
def test_stages_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((TrainingError, ValidationError), match=message):
        trainer(tmp_path, recipe(**changes))
