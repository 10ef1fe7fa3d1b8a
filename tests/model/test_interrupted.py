"""A training interrupted at any moment and started again ends as if it had not been, to the bit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from model.training.checkpoint import STATE
from model.training.loop import Result, Trainer, TrainingError
from tests.daily import daily
from tests.model.test_training import CutError, Recorder, assert_same, one_thread, recipe, trainer

__all__ = ["one_thread"]  # a fixture of every test here


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """An uninterrupted run of the recipe."""
    return trainer(tmp_path_factory.mktemp("whole"), recipe()).run()


# So slow that the validation loss stands still (PyTorch lets a rate drop by no less than 1e-8), and a plateau that has
# something to say of the first epoch without an improvement: in bfloat16 rounding brings some.
SLOW = {"learning_rate": 1.5e-8, "norm": "group", "epochs": 6, "precision": "float32"}
PLATEAU = SLOW | {"schedule": "plateau", "plateau": {"factor": 0.2, "patience": 1}}
STAGED = {"stages": [{"size": 16, "epochs": 2, "learning_rate": 0.004, "batch_size": 2}], "epochs": 2}
# BCDU-Net draws dropout; its blocks draw it a second time where they are computed again.
ALL = {"ema": 0.9, "recalibrate": True, "accumulation": 2, "activation_checkpointing": True}
ALL |= {"epochs": 3, "images_per_epoch": 8}


@pytest.mark.parametrize(
    ("network", "changes", "cuts"),
    daily(
        [
            ("defu_net", {"epochs": 3}, {(1, 1): 1, (1, None): 2}),  # in an epoch; as soon as an epoch is safe
            ("res_unet", {"checkpoint_every": 2}, {(2, 2): 2}),  # an epoch without a state of its own is learnt again
            ("res_unet", {"checkpoint_every": 3}, {(0, 2): 0}),  # before there is a state
            ("res_unet", PLATEAU, {(2, 1): 2, (4, 0): 4}),
            ("res_unet", PLATEAU | {"precision": "bfloat16", "ema": 0.0}, {(1, 2): 1}),
            ("res_unet", {"precision": "float16", "epochs": 3}, {(2, 0): 2}),
            ("res_unet", {"optimizer": "adam", "norm": "group", "epochs": 3, "images_per_epoch": 7}, {(1, 0): 1}),
            # Within the first stage, at its end, in the first epoch of the second, at its end.
            (
                "res_unet",
                STAGED,
                {(0, 1): 0, (0, None): 1, (1, None): 2, (2, 0): 2, (2, 2): 2, (2, None): 3, (3, None): 4},
            ),
            ("res_unet", STAGED | PLATEAU | {"early_stopping": 1, "ema": 0.0}, {(1, None): 2, (2, 1): 2}),
            pytest.param(
                "bcdu_net",
                ALL,
                {(0, 0): 0, (0, None): 1, (1, 0): 1, (1, 1): 1, (1, None): 2, (2, 1): 2, (2, None): 3},
                marks=pytest.mark.slow,
            ),
        ],
        1,
        4,
        8,
    ),
    ids=[
        "plain",
        "between-states",
        "no-state",
        "plateau",
        "bfloat16",
        "float16",
        "group",
        "stages",
        "stages-stopped",
        "everything",
    ],
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    tmp_path: Path, network: str, changes: dict[str, Any], cuts: dict[tuple[int, int | None], int]
) -> None:
    params = recipe(**changes)
    # How often states are written changes nothing.
    whole = trainer(tmp_path / "whole", recipe(**changes | {"checkpoint_every": 1}), network=network).run()
    for number, (at, resumed) in enumerate(cuts.items()):
        folder = tmp_path / str(number)
        with pytest.raises(CutError):
            trainer(folder, params, Recorder(at), network=network).run()
        # What a new process would have drawn in the meantime changes nothing.
        torch.manual_seed(12345)
        result = trainer(folder, params, network=network).run()
        assert result.resumed_from == resumed
        assert_same(result, whole)
        assert_same_state(folder, tmp_path / "whole")
    if params.precision == "float16":
        assert torch.load(tmp_path / "whole" / STATE, weights_only=True)["scaler"] != {}
    if params.schedule == "plateau":
        assert len({row["learning_rate"] for row in whole.history}) > 1, "the rate never dropped: nothing was tried"


def assert_same_state(one: Path, other: Path) -> None:
    """Not only what is kept is the same, but all that a training would go on with."""
    mine, theirs = (torch.load(folder / STATE, weights_only=True) for folder in (one, other))
    assert list(mine) == list(theirs)
    assert mine["schedule"] == theirs["schedule"]
    for name in ("network", "average", "optimizer", "scaler", "best_loss", "best_weights"):
        torch.testing.assert_close(mine[name], theirs[name], rtol=0, atol=0, msg=name)


def test_interrupted_again_and_again(tmp_path: Path, whole: Result) -> None:
    params = recipe()
    for at in ((0, 1), (0, None), (1, 0), (1, 2), (2, None), (3, 1)):
        with pytest.raises(CutError):
            trainer(tmp_path / "cut", params, Recorder(at)).run()
    assert_same(trainer(tmp_path / "cut", params).run(), whole)


def test_a_run_cut_after_its_last_epoch_only_hands_over_its_result(tmp_path: Path) -> None:
    params = recipe(epochs=2)
    whole = trainer(tmp_path, params).run()
    monitor = Recorder()
    again = trainer(tmp_path, params, monitor).run()
    assert monitor.told == [("start", 2, 3, 2), ("stop",)]
    assert_same(again, whole)


def test_a_run_that_stopped_early_is_not_trained_on_after_a_cut(tmp_path: Path) -> None:
    params = recipe(epochs=20, learning_rate=1e-30, batchnorm_momentum=1e-30, weight_decay=0.0, early_stopping=2)
    whole = trainer(tmp_path, params).run()
    assert len(whole.history) == 3
    again = trainer(tmp_path, params).run()
    assert_same(again, whole)


def test_the_state_of_another_run_is_not_resumed(tmp_path: Path) -> None:
    params = recipe(epochs=2)
    with pytest.raises(CutError):
        trainer(tmp_path, params, Recorder((0, None)), fingerprint="another").run()
    result = trainer(tmp_path, params).run()
    assert result.resumed_from == 0
    assert_same(result, trainer(tmp_path / "fresh", params).run())


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_state_is_told(tmp_path: Path, damage: str) -> None:
    with pytest.raises(CutError):
        trainer(tmp_path, recipe(), Recorder((0, None))).run()
    state = tmp_path / STATE
    content = {"truncated": state.read_bytes()[:5000], "empty": b"", "text": b"not a state\n"}
    state.write_bytes(content[damage])
    with pytest.raises(TrainingError, match=re.escape(f"{state}: cannot be read")) as told:
        trainer(tmp_path, recipe()).run()
    assert "\n" not in str(told.value)


def test_not_a_number_leaves_the_state_before_it(tmp_path: Path, whole: Result) -> None:
    params = recipe()
    poisoned: Trainer

    def poison() -> None:
        with torch.no_grad():
            next(poisoned.stage.network.parameters()).fill_(torch.inf)

    poisoned = trainer(tmp_path / "cut", params, Recorder((1, None), poison))
    with pytest.raises(TrainingError, match=r"^epoch 3, batch 1 of 3: "):
        poisoned.run()
    monitor = poisoned.monitor
    assert isinstance(monitor, Recorder)
    assert monitor.told[-1] == ("stop",)
    result = trainer(tmp_path / "cut", params).run()
    assert result.resumed_from == 2
    assert_same(result, whole)
