"""The packages in pretrained/: small, whole, with their terms, and used where there is no champion."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from model.inference.package import CARD
from registry.fetch import NESTED, fetch
from registry.packages import load
from registry.pretrained import FOLDER, names
from registry.seal import DIGESTS, verify
from tests.conftest import ROOT

LICENCES = {"cxr-lungs": "CC BY-NC-SA 4.0", "cxr-lungs-montgomery": "National Library of Medicine, with attribution"}
ONE_A_DAY = ["cxr-lungs", pytest.param("cxr-lungs-montgomery", marks=pytest.mark.full)]
XRAY = ROOT / "samples/MontgomerySet/CXR_png/MCUCXR_0001_0.png"
MEBIBYTE = 2**20


def test_both_are_there() -> None:
    assert names() == sorted(LICENCES)


@pytest.mark.parametrize("name", LICENCES)
def test_it_is_small_whole_and_says_its_terms(name: str) -> None:
    folder = FOLDER / name
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= 8 * MEBIBYTE
    assert (folder / NESTED / DIGESTS).exists()
    verify(fetch(str(folder), Path()))
    card = json.loads((folder / NESTED / CARD).read_text())
    assert (card["name"], card["licence"]) == (name, LICENCES[name])
    assert card["data"]["synthetic"] is False
    lineage = card["lineage"]
    assert re.fullmatch("[0-9a-f]{40}", lineage["git.commit"])
    assert re.fullmatch(r"[0-9a-f]{32}\.dir", lineage["data.md5"])
    readme = (folder / "README.md").read_text()
    for text in (lineage["git.commit"], lineage["data.md5"], "## Terms", "10.1109/TMI.2013.2284099"):
        assert text in readme
    for path in files:
        for home in (b"/root/", b"/home/", b"/tmp/"):
            assert home not in path.read_bytes(), (path, home)


@pytest.mark.parametrize("name", ONE_A_DAY)
def test_a_fresh_clone_predicts_before_any_training(name: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    line = [sys.executable, "-m", "defunet", "predict", str(XRAY), "-o", "lungs"]
    line += [] if name == "cxr-lungs" else ["--model", f"pretrained/{name}"]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    notes = [each for each in done.stderr.splitlines() if each.startswith("note: ")]
    assert len(notes) == (name == "cxr-lungs")
    assert not (tmp_path / "mlflow.db").exists()
    (row,) = json.loads((tmp_path / "lungs/results.json").read_text())["results"]
    assert row["status"] == "ok"
    assert 0.1 < row["lungs"]["share"] < 0.5
    assert json.loads((tmp_path / "lungs/results.json").read_text())["model"]["name"] == name


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python in an environment that has a package's requirements.txt and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    line = [Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--python", folder / "bin/python"]
    if links := os.environ.get("PIP_FIND_LINKS"):
        line += ["--find-links", links]
    line += ["--requirements", FOLDER / "cxr-lungs/requirements.txt"]
    environment = os.environ | {"VIRTUAL_ENV": str(folder)}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=400)
    if done.returncode and re.search(r"[Ff]ailed to (fetch|download)|dns error|[Cc]onnect", done.stderr):
        pytest.skip(f"no package index answers: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return folder / "bin/python"


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", LICENCES)
def test_its_readme_runs_with_its_requirements_alone(name: str, bare: Path, tmp_path: Path) -> None:
    """MLflow's and ONNX Runtime's masks are those of ``defunet predict``, pixel for pixel."""
    there = shutil.copytree(FOLDER / name, tmp_path / "package", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(XRAY, there / "xray.png")
    line = [sys.executable, "-m", "defunet", "predict", XRAY, "-o", tmp_path / "ours", "--engine", "onnxruntime"]
    line += ["--model", FOLDER / name]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True, timeout=200)
    (expected,) = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (tmp_path / "ours/masks").iterdir())
    blocks = re.findall(r"```python\n(.*?)```", (there / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        # Whatever engine is fastest here; only float32 gives the same pixels.
        code = block.replace('load_model(".")', 'load_model(".", model_config={"engine": "onnxruntime"})')
        clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MLFLOW_DISABLE_TELEMETRY": "true"}
        call = [bare, "-c", code]
        done = subprocess.run(call, cwd=there, env=clean, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        np.testing.assert_array_equal(cv2.imread(str(there / "mask.png"), cv2.IMREAD_UNCHANGED), expected)
        (there / "mask.png").unlink()


@pytest.mark.skipif("CXR_DATA" not in os.environ, reason="CXR_DATA is not set: the real X-rays are not here")
@pytest.mark.parametrize("name", ONE_A_DAY)
def test_it_finds_the_lungs_of_real_x_rays(name: str) -> None:
    """Every eighth Shenzhen X-ray of the test split of ``mixed``, on which neither package was trained."""
    package = load(fetch(str(FOLDER / name), Path()))
    site = Path(os.environ["CXR_DATA"]) / "ChinaSet_AllFiles"
    with (ROOT / "results/512px/defu_net/mixed/seed-0/cases.csv").open() as file:
        tested = sorted({row["id"] for row in csv.DictReader(file) if row["split"] == "test"})
    tested = [each for each in tested if each.startswith("CHNCXR")][::8]
    found = []
    for image in tested:
        xray = cv2.imread(str(site / "CXR_png" / f"{image}.png"), cv2.IMREAD_GRAYSCALE)
        mask = cv2.imread(str(site / "mask" / f"{image}_mask.png"), cv2.IMREAD_GRAYSCALE) > 127
        ours = package.segment([xray])[0].mask > 0
        found.append(2 * np.count_nonzero(ours & mask) / (np.count_nonzero(ours) + np.count_nonzero(mask)))
    assert len(found) == 10
    assert np.mean(found) > 0.94
