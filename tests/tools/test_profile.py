"""``python -m tools.profile``: a profile's values go into ``params.yaml``, all else stays to the byte."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from core.params import read_params
from tools.profile import PROFILES, apply_profile

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


def test_the_shipped_parameters_are_the_small_profile(params: Path) -> None:
    assert apply_profile("small", params) == []
    assert params.read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_the_paper_and_back(params: Path, command: Callable[..., Any]) -> None:
    done = command("tools.profile", "paper", "--params", params)
    assert "train.epochs: 12 -> 175" in done.stdout
    paper = read_params(params)
    train = paper.train
    assert (paper.preprocess.size, train.width, train.batch_size, train.learning_rate) == (512, 1.0, 2, 1e-5)
    assert (train.epochs, train.schedule, train.masks) == (175, "plateau", "dilated")
    assert (train.plateau.factor, train.plateau.patience, train.early_stopping) == (0.2, 5, 5)
    assert "# share of the paper's channels" in params.read_text()
    assert command("tools.profile", "small", "--params", params).returncode == 0
    assert params.read_bytes() == (ROOT / "params.yaml").read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        path.stem if path.stem == "small" else pytest.param(path.stem, marks=pytest.mark.full)
        for path in sorted(PROFILES.glob("*.yaml"))
    ],
)
def test_every_profile_is_whole_after_every_other(name: str, params: Path) -> None:
    fresh = apply_profile(name, params), read_params(params)
    for other in PROFILES.glob("*.yaml"):
        apply_profile(other.stem, params)
        apply_profile(name, params)
        assert read_params(params) == fresh[1], f"{other.stem} leaves something of itself behind {name}"


def test_own_choices_outlive_a_profile(params: Path) -> None:
    params.write_text(params.read_text().replace("bootstrap: 1000", "bootstrap: 500   # mine"))
    apply_profile("fast", params)
    assert "bootstrap: 500   # mine" in params.read_text()


def test_unknown_profile_and_broken_parameters(params: Path, command: Callable[..., Any]) -> None:
    with pytest.raises(
        UserError,
        match="unknown profile 'papr'; known are comparison, fast, folds, long, medium, modern, paper, small, staged",
    ):
        apply_profile("papr", params)
    params.write_text(params.read_text().replace("epochs: 12", "epochs: none"))
    before = params.read_bytes()
    done = command("tools.profile", "fast", "--params", params)
    assert done.returncode == 1
    assert "train.epochs" in done.stderr
    assert params.read_bytes() == before


def test_a_key_that_the_parameters_lack_is_named(params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = params.read_bytes()
    (tmp_path / "mine.yaml").write_text("train: {epoch: 3}\n")
    monkeypatch.setattr("tools.profile.PROFILES", tmp_path)
    with pytest.raises(UserError, match=r"profile mine: sets train\.epoch, which .*params\.yaml does not have"):
        apply_profile("mine", params)
    assert params.read_bytes() == before
