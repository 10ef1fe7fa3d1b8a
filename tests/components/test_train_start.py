"""A training starts from the weights of another model: a folder of train, a package, or a registered version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from components.train.start import start_from
from core.errors import UserError
from core.files import read_json, sha256
from model.networks import build
from model.weights import CONFIG, WEIGHTS
from registry import pretrained
from registry.seal import AUTO, seal
from tests.conftest import Project, Trained, refused
from tests.registry.registered import BETTER, NAME


@pytest.fixture
def project(trained: Trained, tmp_path: Path) -> Project:
    return trained.copy(tmp_path)


def config_of(folder: Path) -> dict[str, object]:
    return dict(read_json(folder / CONFIG))


def network_of(config: dict[str, object]) -> object:
    return build(config["network"], config["width"], norm=config["norm"], **config["options"])  # type: ignore[arg-type]


def test_a_training_with_a_learning_rate_of_almost_nothing_ends_where_it_started(
    project: Project, tmp_path: Path
) -> None:
    shutil.copytree(project.model, tmp_path / "before")
    train = {
        "start_from": str(tmp_path / "before"),
        "epochs": 1,
        "learning_rate": 1e-12,
        "ema": 0.0,
        "weight_decay": 0.0,
    }
    project.write_params(train=train | {"batchnorm_momentum": 1e-9})
    project.do(project.train_line())
    before, after = load_file(tmp_path / "before" / WEIGHTS), load_file(project.model / WEIGHTS)
    for name, values in before.items():
        if values.dtype == np.float32:
            np.testing.assert_allclose(after[name], values, atol=1e-5, err_msg=name)
    config = config_of(project.model)
    assert config["started_from"] == sha256(tmp_path / "before" / WEIGHTS)
    assert json.loads((project.model / CONFIG).read_text())["train"]["start_from"] == str(tmp_path / "before")


@pytest.mark.full
def test_other_weights_to_start_from_are_another_training(project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.model, tmp_path / "before")
    project.write_params(train={"start_from": str(tmp_path / "before"), "epochs": 1})
    states = tmp_path / "states"
    project.do(project.train_line("--checkpoints", states))
    (first,) = states.rglob("result")
    shutil.copy(project.model / WEIGHTS, tmp_path / "before" / WEIGHTS)
    project.do(project.train_line("--checkpoints", states))
    assert len(list(states.rglob("result"))) == 2
    assert first.exists()


def test_packages_and_versions_are_started_from(
    three: Project, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(three.root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", three.store)
    config = config_of(three.model)
    network = network_of(config)
    digest = start_from(f"models:/{NAME}/{BETTER}", network, config, AUTO)  # type: ignore[arg-type]
    assert digest == three.client().get_model_version(NAME, str(BETTER)).tags["weights.sha256"]
    folder = tmp_path / "shelf/one"
    shutil.copytree(package, folder / "artifacts/package")
    monkeypatch.setattr(pretrained, "FOLDER", folder.parent)
    start_from("pretrained/one", network, config, AUTO)  # type: ignore[arg-type]
    seal(folder / "artifacts/package")
    (folder / "artifacts/package" / CONFIG).write_text("{}")
    with pytest.raises(UserError, match=r"config\.json is not the file that was registered"):
        start_from("pretrained/one", network, config, AUTO)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nothing", "nothing: no model package"),
        ("pretrained/nothing", "pretrained/nothing: no such package"),
        ("models:/nothing@champion", "nothing"),
    ],
)
def test_what_cannot_be_started_from_is_one_line(project: Project, name: str, told: str) -> None:
    project.write_params(train={"start_from": name})
    assert told in refused(project.call(project.train_line()))


def test_a_package_without_a_required_signature_is_refused(project: Project, package: Path) -> None:
    project.write_params(train={"start_from": str(package)}, registry={"signatures": "require"})
    assert "signature" in refused(project.call(project.train_line()))


def test_another_architecture_is_named(project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.model, tmp_path / "before")
    project.write_params(train={"start_from": str(tmp_path / "before"), "norm": "group"})
    line = refused(project.call(project.train_line()))
    assert "it has norm batch, not group; set the parameters to what it has" in line


def test_damaged_weights_are_one_line(project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.model, tmp_path / "before")
    (tmp_path / "before" / WEIGHTS).write_bytes(b"x")
    project.write_params(train={"start_from": str(tmp_path / "before")})
    assert f"{WEIGHTS} cannot be used" in refused(project.call(project.train_line()))
