"""Checkpoints: damaged ones are never used, and the one before takes their place."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from model.training.checkpoint import (
    PREVIOUS,
    STATE,
    CheckpointError,
    load_state,
    remove_states,
    restore_state,
    save_state,
)

FLIPS = 300


def state(epoch: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(epoch)
    weights = {f"layer.{i}": torch.randn(40, 9, generator=generator) for i in range(6)}
    return {"fingerprint": "this", "epoch": epoch, "network": weights, "history": [{"loss": 0.5 / epoch}]}


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    same = all(torch.equal(one["network"][name], value) for name, value in other["network"].items())
    return same and one["epoch"] == other["epoch"] and one["history"] == other["history"]


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    save_state(tmp_path, state(1))
    path = tmp_path / STATE
    content = path.read_bytes()
    draw = random.Random(0)
    refused = 0
    for _ in range(FLIPS):
        flip(path, draw.randrange(8 * len(content)))
        try:
            found = load_state(tmp_path, "this")
        except CheckpointError as error:
            refused += str(error).endswith("remove its folder to train from the start")
        else:
            assert found is None or equal(found, state(1))  # a bit that no value depends on
        path.write_bytes(content)
    assert refused > FLIPS / 2


def test_the_state_before_takes_the_place_of_a_damaged_one(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        save_state(tmp_path, state(epoch))
    assert restore_state(tmp_path) == ""
    flip(tmp_path / STATE, 8 * 2000)
    with pytest.raises(CheckpointError, match="checksum"):
        load_state(tmp_path, "this")
    assert "the checkpoint before it is used" in restore_state(tmp_path)
    found = load_state(tmp_path, "this")
    assert found is not None
    assert equal(found, state(2))


def test_two_damaged_states_are_refused(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save_state(tmp_path, state(epoch))
    for name in (STATE, PREVIOUS):
        flip(tmp_path / name, 8 * 2000)
    assert restore_state(tmp_path) == ""
    with pytest.raises(CheckpointError):
        load_state(tmp_path, "this")


def test_a_kill_between_the_two_renames_loses_an_epoch_at_most(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save_state(tmp_path, state(epoch))
    (tmp_path / STATE).unlink()
    assert restore_state(tmp_path) == ""
    found = load_state(tmp_path, "this")
    assert found is not None
    assert found["epoch"] == 1


def test_removed_states_are_gone(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save_state(tmp_path, state(epoch))
    remove_states(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert restore_state(tmp_path) == ""
