"""A package is all that it takes: it is built from a run, says what it is, and segments by its own contract."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from components.register.build import LIBRARIES, build
from core.cell import CASES, ROWS, SPLIT
from core.cohort import Arrays, read_split
from core.errors import UserError
from core.params import read_params
from model.inference.engines import EXACT, FASTEST, ONNX
from model.inference.package import BINS, CARD, CONTRACT, PERCENTILES
from model.inference.postprocessing import at_size, to_masks
from model.inference.predictor import Predictor
from model.lungs import halves
from model.preprocessing import standardise
from model.weights import CONFIG, WEIGHTS
from registry.fetch import fetch
from registry.packages import ENGINES, Contract, Package, load
from tests.conftest import CELL, ROOT, Project, Trained, elsewhere, refused

SHAPES = [(32, 32), (40, 57), (121, 90), (1, 9)]


@pytest.fixture(scope="session")
def built(trained: Trained, package: Path) -> tuple[Project, Path]:
    return trained.project, package


@pytest.fixture(scope="session")
def loaded(package: Path) -> Package:
    return load(package, "torch")


def x_rays() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [
        random.integers(0, 4096, SHAPES[0]).astype(np.uint16),
        random.integers(0, 256, SHAPES[1]).astype(np.uint8),
        random.uniform(-1, 1, SHAPES[2]),
        random.uniform(0, 1e6, SHAPES[3]).astype(np.float32),
    ]


def test_it_holds_all_it_needs_and_no_pickle(built: tuple[Project, Path]) -> None:
    project, folder = built
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert {
        WEIGHTS,
        CONFIG,
        CONTRACT,
        CARD,
        ONNX,
        "README.md",
        "requirements.txt",
        "code/model/inference/package.py",
    } <= set(files)
    assert {Path(name).suffix for name in files} == {".safetensors", ".json", ".onnx", ".md", ".txt", ".py", ".png"}
    for name, path in files.items():
        if not name.endswith((".safetensors", ONNX, ".png")):
            path.read_text()  # a pickle is no text
    assert (folder / WEIGHTS).read_bytes() == (project.model / WEIGHTS).read_bytes()
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in lines] == list(LIBRARIES)
    assert all(line.partition("==")[2][0].isdigit() and "+" not in line for line in lines)


def test_the_contract_says_what_training_saw(built: tuple[Project, Path]) -> None:
    project, folder = built
    contract = Contract.read(folder)
    params, cohort = read_params(project.root / "params.yaml"), Arrays(project.arrays)
    assert (contract.size, contract.interpolation, contract.intensity_percentiles) == (32, "area", (0.5, 99.5))
    assert (contract.threshold, contract.flip) == (params.evaluate.threshold, params.evaluate.flip)
    assert contract.largest_components == params.evaluate.largest_components
    assert (contract.least_component, contract.fill_holes) == (0.2, True)
    text = (folder / "README.md").read_text()
    assert "| components kept | 2, none below 0.2 of the largest one |" in text
    assert "| holes | filled |" in text
    assert (contract.polarity, contract.minimum_size) == ("lungs dark", 32)
    assert contract.engines in ((FASTEST, *EXACT), EXACT)
    ids = read_split(project.split)["train"]
    images, masks = cohort.images[cohort.rows(ids)], cohort.masks["original"][cohort.rows(ids)]
    training = contract.training
    assert training.images == len(ids)

    def same(stated: list[float], values: list[float]) -> None:
        assert stated == pytest.approx(np.percentile(values, PERCENTILES), abs=1e-5)

    same(training.mean, [image.mean() for image in images])
    same(training.lung_area, [mask.mean() for mask in masks])
    same(training.left_area, [halves(mask)[0].mean() for mask in masks])
    same(training.right_area, [halves(mask)[1].mean() for mask in masks])
    same(training.height, list(cohort.manifest["height"].iloc[cohort.rows(ids)].astype(float)))
    assert len(training.histogram) == BINS
    same(training.histogram[3], [np.mean((image >= 48) & (image < 64)) for image in images])
    validation = cohort.images[cohort.rows(read_split(project.split)["validation"])]
    p = Predictor.load(project.model).probabilities(validation, flip=params.evaluate.flip)
    same(training.uncertain, [float(np.mean((one >= 0.25) & (one <= 0.75))) for one in p])


def test_the_card_is_written_from_the_run(built: tuple[Project, Path]) -> None:
    project, folder = built
    text, card = (folder / "README.md").read_text(), json.loads((folder / CARD).read_text())
    rows = json.loads((project.evaluation / ROWS).read_text())
    shown = [row for row in rows if row["split"] == "test" and row["reduction"] == "per_image"]
    shown = [row for row in shown if row["sex"] == row["age"] == "all"]
    assert len(card["metrics"]) == len(shown), "a line a site and label"
    assert {row["masks"] for row in shown} == {"original", "dilated"}
    assert any(row["dice_ci95"] for row in shown)
    for row in shown:
        interval = "not defined"
        if row["dice_ci95"]:
            interval = "{:.4f} to {:.4f}".format(*row["dice_ci95"])
        figures = f"{row['n_images']} | {row['dice']:.4f} | {interval} |"
        assert f"| {row['masks']} | {row['site']} | {row['label']} | {figures}" in text
    cases = pd.read_csv(project.evaluation / CASES).query("masks == 'original'")
    for (split, site, label), group in cases.groupby(["split", "site", "label"]):
        assert f"| {split} | {site} | {label} | {len(group)} |" in text
    for phrase in ("synthetic-sample", "computed pictures", "Intended use", "Limits", "| git.commit | c0ffee |"):
        assert phrase in text
    assert "None" not in text
    assert card["name"] == "lung-segmentation"
    assert (card["network"], card["scenario"], card["seed"]) == (CELL.network, CELL.scenario, CELL.seed)


@pytest.mark.full
def test_built_again_with_more_threads_it_is_the_same(
    built: tuple[Project, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, folder = built
    params, threads = read_params(project.root / "params.yaml"), torch.get_num_threads()
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("GIT_COMMIT", "c0ffee")
    torch.set_num_threads(threads + 1)
    try:
        again = build(project.model, project.evaluation, project.arrays, params, tmp_path / "again")
    finally:
        torch.set_num_threads(threads)
    for path in folder.rglob("*"):
        if path.is_file():
            assert (again / path.relative_to(folder)).read_bytes() == path.read_bytes(), path


def test_it_segments_as_evaluation_does_at_the_x_rays_own_size(built: tuple[Project, Path], loaded: Package) -> None:
    predictor = Predictor.load(built[0].model)
    images = x_rays()
    found = loaded.segment(images)
    contract = loaded.contract
    for image, one in zip(images, found, strict=True):
        grey = standardise(image, contract.size, contract.interpolation, contract.intensity_percentiles)
        expected = at_size(predictor.probabilities(grey[None], flip=contract.flip)[0], image.shape)
        assert (one.mask.dtype, one.mask.shape) == (np.uint8, image.shape)
        assert (one.probabilities.dtype, one.probabilities.shape) == (np.float32, image.shape)
        np.testing.assert_allclose(one.probabilities, expected, atol=1e-5)
        rule = (contract.largest_components, contract.least_component, contract.fill_holes)
        np.testing.assert_array_equal(one.mask, to_masks(one.probabilities[None], contract.threshold, *rule)[0])
    assert loaded.segment([]) == []
    strict, loose = (loaded.segment(images[:1], threshold)[0].mask.sum() for threshold in (0.9, 0.1))
    assert loose >= strict
    with pytest.raises(ValueError, match="image"):
        loaded.segment([images[0], np.zeros((3, 4, 4), np.uint8)])


def test_the_engine_that_auto_takes_draws_the_same_lungs(built: tuple[Project, Path], loaded: Package) -> None:
    project, folder = built
    cohort = Arrays(project.arrays)
    images = list(cohort.images[cohort.rows(read_split(project.split)["test"])])
    fast = load(folder, threads=1)
    assert fast.engine.name in fast.contract.engines
    assert "ms of processor time" in fast.engine.reason
    for one, other in zip(fast.segment(images), loaded.segment(images), strict=True):
        both = 2 * (one.mask & other.mask).sum() / max(1, one.mask.sum() + other.mask.sum())
        assert both > 0.98
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=0.05)


def test_several_threads_at_once(built: tuple[Project, Path]) -> None:
    package = load(built[1], "openvino", 1)
    images = x_rays()[:3]
    alone = [package.segment([image])[0].mask for image in images]
    with ThreadPoolExecutor(4) as pool:
        for number, (found,) in enumerate(pool.map(lambda i: package.segment([images[i % 3]]), range(12))):
            np.testing.assert_array_equal(found.mask, alone[number % 3])


@pytest.mark.parametrize("name", [CONTRACT, CONFIG, WEIGHTS])
def test_a_damaged_package_is_told_in_one_line(built: tuple[Project, Path], tmp_path: Path, name: str) -> None:
    folder = tmp_path / "package"
    for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:20])):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(built[1], folder)
        damage(folder / name)
        with pytest.raises(UserError, match="not a model package that can be used") as told:
            load(folder, "torch")
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_damaged_graph_is_told_in_one_line(built: tuple[Project, Path], tmp_path: Path, engine: str) -> None:
    folder = tmp_path / "package"
    shutil.copytree(built[1], folder)
    (folder / ONNX).write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a model package that can be used") as told:
        load(folder, engine)
    assert "\n" not in str(told.value)


def test_openvino_tells_nobody_that_it_is_used(built: tuple[Project, Path], tmp_path: Path) -> None:
    code = "import sys, pathlib; from registry.packages import load; load(pathlib.Path(sys.argv[1]), 'openvino')"
    home = os.environ | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, str(built[1])], cwd=ROOT, env=home, check=True, timeout=100)
    assert not (tmp_path / "intel").exists()  # where its telemetry keeps who it is, and how often it was used


def test_an_unknown_engine_is_told(built: tuple[Project, Path]) -> None:
    with pytest.raises(UserError, match=f"unknown engine 'fpga'; known are auto, {', '.join(ENGINES)}"):
        load(built[1], "fpga")


def test_what_cannot_be_built_is_told(built: tuple[Project, Path], tmp_path: Path) -> None:
    project, params = built[0], read_params(built[0].root / "params.yaml")
    evaluation = tmp_path / "evaluation"
    shutil.copytree(project.evaluation, evaluation)
    (evaluation / SPLIT).write_text("{}")
    with pytest.raises(UserError, match=r"split\.json: not a split with images"):
        build(project.model, evaluation, project.arrays, params, tmp_path / "out")
    (evaluation / SPLIT).unlink()
    with pytest.raises(UserError, match=r"split\.json: not found"):
        build(project.model, evaluation, project.arrays, params, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_is_fetched_as_it_is_and_what_is_none_is_told(built: tuple[Project, Path], tmp_path: Path) -> None:
    assert fetch(str(built[1]), tmp_path) == built[1]
    with pytest.raises(UserError, match="no model package"):
        fetch(str(tmp_path), tmp_path)
    with pytest.raises(UserError, match="not a model URI; use models:/NAME@ALIAS"):
        fetch("models:/lung-segmentation/latest", tmp_path)


# As in the card, without the rest of the project.
PLAIN = """
import importlib.util; sys.path.insert(0, "code")
import cv2; image = cv2.imread(sys.argv[1], cv2.IMREAD_UNCHANGED)
from model.inference.package import load
mask = load(".", engine="torch").segment([image])[0].mask
cv2.imwrite(sys.argv[2], mask)
assert importlib.util.find_spec("components") is None
assert not {"mlflow", "pandas", "onnxruntime", "openvino"} & set(sys.modules)
"""


@pytest.mark.full
def test_three_lines_of_plain_pytorch(built: tuple[Project, Path], loaded: Package, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(built[1], folder)
    readme = (folder / "README.md").read_text()
    for line in ('sys.path.insert(0, "code")', "from model.inference.package import load"):
        assert line in readme
    image = x_rays()[0]
    cv2.imwrite(str(tmp_path / "in.png"), image)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    line = elsewhere(PLAIN, tmp_path / "in.png", tmp_path / "out.png")
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED)
    one = loaded.segment([image])[0]
    clear = np.abs(one.probabilities - loaded.contract.threshold) > 1e-4
    np.testing.assert_array_equal(found[clear], one.mask[clear])


def test_an_alias_that_no_version_has_is_told_with_those_there_are(three: Project, tmp_path: Path) -> None:
    for name in ("mlflow.db", "params.yaml"):
        shutil.copy(three.root / name, tmp_path / name)
    project = Project(tmp_path, three.launcher)
    image = ROOT / "samples/MontgomerySet/CXR_png/MCUCXR_0001_0.png"
    champion = ("--model", "models:/lung-segmentation@champion")
    told = refused(project.call(project.line("predict", image, *champion, "-o", project.root / "out")))
    assert (
        "@champion: no version is champion yet; promote one (`make promote`), or use models:/lung-segmentation@ch"
        in told
    )
    assert "no version is champion" in refused(project.call(project.line("serve", *champion, "--port", "0")))
