"""A pretrained package is half as large, computes the same, and works without this project, as its README shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.register.half import halve
from core.errors import UserError
from core.params import read_params
from model.inference.engines import ENGINES
from model.inference.package import CARD
from model.weights import WEIGHTS
from registry import pretrained
from registry.fetch import NESTED, fetch
from registry.packages import load
from registry.seal import verify
from tests.conftest import ROOT, Project, Trained, elsewhere, refused
from tests.serving.serving import chest
from tools.pretrained import make

pytestmark = pytest.mark.full
NAME = "tiny-lungs"
TERMS = "Under terms of its own."


def made(project: Project, out: Path) -> Path:
    params = read_params(project.root / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)
        patch.setenv("MLFLOW_TRACKING_URI", project.store)
        make(project.model, project.raw, project.arrays, project.split.parent, params, out, "Free", TERMS)
    return out


@pytest.fixture(scope="module")
def folder(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(trained.project, tmp_path_factory.mktemp("pretrained") / NAME)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an X-ray of 12 bits that is no square."""
    ward = tmp_path_factory.mktemp("ward")
    cv2.imwrite(str(ward / "xray.png"), chest()[:, 5:].astype(np.uint16) * 16)
    return ward


def code_of(readme: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)


def mask_by(code: str, folder: Path, ward: Path, tmp_path: Path) -> np.ndarray:
    """Return the mask that code out of the README draws in a copy of the package, without this project on the path."""
    here = tmp_path / "copy"
    shutil.copytree(folder, here)
    shutil.copy(ward / "xray.png", here)
    done = subprocess.run(elsewhere(code), cwd=here, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    mask = cv2.imread(str(here / "mask.png"), cv2.IMREAD_GRAYSCALE)
    assert mask is not None
    return mask


def mask_of_predict(project: Project, folder: Path, ward: Path, out: Path) -> np.ndarray:
    line = project.line("predict", ward / "xray.png", "--model", folder, "--out", out, "--engine", "onnxruntime")
    project.do(line)
    mask = cv2.imread(str(out / "masks/xray.png"), cv2.IMREAD_GRAYSCALE)
    assert mask is not None
    return mask


@pytest.mark.parametrize("which", [0, 1], ids=["MLflow", "ONNX Runtime"])
def test_the_readmes_code_draws_the_mask_of_predict(
    trained: Trained, folder: Path, ward: Path, tmp_path: Path, which: int
) -> None:
    blocks = code_of(folder / "README.md")
    assert ["mlflow" in block for block in blocks] == [True, False]
    # The engine that auto takes depends on the machine's load, and bfloat16 moves single pixels.
    code = blocks[which].replace('load_model(".")', 'load_model(".", model_config={"engine": "onnxruntime"})')
    assert "onnxruntime" in code
    assert (code != blocks[which]) == (which == 0)
    theirs = mask_by(code, folder, ward, tmp_path)
    assert theirs.max() == 255
    np.testing.assert_array_equal(theirs, mask_of_predict(trained.project, folder, ward, tmp_path / "out"))


def test_it_says_what_it_is(folder: Path) -> None:
    readme = (folder / "README.md").read_text()
    assert readme.startswith(f"# {NAME}\n")
    assert TERMS in readme
    card = json.loads((folder / NESTED / CARD).read_text())
    assert (card["name"], card["licence"]) == (NAME, "Free")
    assert "Licence of the data: Free." in (folder / NESTED / "README.md").read_text()
    dice = next(row["dice"] for row in card["metrics"] if (row["masks"], row["site"]) == ("original", "all"))
    assert f"| {dice:.4f} |" in readme


def test_it_names_no_place_of_the_machine_and_repeats(trained: Trained, folder: Path, tmp_path: Path) -> None:
    again = made(trained.project, tmp_path / NAME)
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    assert {path.relative_to(again) for path in again.rglob("*") if path.is_file()} == set(files)
    for name, path in files.items():
        content = path.read_bytes()
        assert content == (again / name).read_bytes(), name
        for place in (ROOT, trained.project.root, tmp_path.parent):
            assert str(place).encode() not in content, (name, place)


def test_weights_are_stored_once_in_half_and_all_engines_agree(trained: Trained, folder: Path) -> None:
    whole, package = trained.project.model / WEIGHTS, fetch(str(folder), Path())
    assert package == folder / NESTED
    verify(package)
    assert (package / WEIGHTS).stat().st_size < 0.55 * whole.stat().st_size
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32)).astype(np.uint8)
    found = {name: load(package, name).engine.probabilities(images) for name in ENGINES if name != "compile"}
    for name, probabilities in found.items():
        assert np.abs(probabilities - found["torch"]).max() < (0.02 if "bf16" in name else 1e-5), name
    exact = load(package, "torch").engine.probabilities(images)
    assert np.abs(exact - found["onnxruntime"]).max() < 1e-5


def test_weights_beyond_float16_are_refused(trained: Trained, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(trained.project.model / WEIGHTS)
    name = next(name for name, each in weights.items() if each.dtype == np.float32)
    weights[name] = weights[name] + np.float32(1e6)
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(OverflowError, match=f"{re.escape(name)} is too large for float16"):
        halve(tmp_path / WEIGHTS, tmp_path / "half")


def test_the_command_refuses_terms_that_are_not_there(trained: Trained) -> None:
    project = trained.project
    line = ["-m", "tools.pretrained", project.model, "--licence", "Free", "--terms", "no.md", "--out", "x"]
    done = project.call([project.line("predict")[0], *map(str, line)])
    assert "no.md: cannot be read" in refused(done)


# Which model is used


@pytest.fixture
def shelf(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pretrained, "FOLDER", folder.parent)
    monkeypatch.setattr(pretrained, "DEFAULT", NAME)
    return folder


def test_names_lead_to_folders_from_anywhere(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pretrained.named("pretrained") == pretrained.named(f"pretrained/{NAME}/") == str(shelf)
    assert pretrained.named("models:/x@champion") == "models:/x@champion"
    with pytest.raises(UserError, match=f"pretrained/none: no such package; there are: pretrained/{NAME}"):
        pretrained.named("pretrained/none")


def test_without_a_champion_the_pretrained_package_is_used(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert pretrained.model_or_default(None) == str(shelf)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "note: no version is champion yet (`make run`, then `defunet promote` makes one); pretrained/"
    )
    assert line.endswith(f"{shelf / 'README.md'}")
    assert pretrained.model_or_default("models:/x/3") == "models:/x/3"


def test_a_champion_is_used_and_a_registry_that_does_not_answer_is_an_error(
    shelf: Path, three: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(three.root, tmp_path, dirs_exist_ok=True)
    project = Project(tmp_path, three.launcher)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.store)
    assert pretrained.model_or_default(None) == str(shelf)
    project.client().set_registered_model_alias("lung-segmentation", "champion", "2")
    assert pretrained.model_or_default(None) == "models:/lung-segmentation@champion"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="cannot be reached"):
        pretrained.model_or_default(None)
