"""The benchmark of inference: every engine is timed and scored on the same images, and the verdict follows from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from benchmarks.inference import INT8, TARGET, TOLERANCE, makers, prepare, verdict
from core.errors import UserError
from model.inference.engines import ENGINES, EXACT, FASTEST, ONNX
from model.inference.predictor import Predictor
from tests.conftest import Project, Trained

ROOT = Path(__file__).parents[1]


def row(name: str, ratio: float, own: float, lost: float) -> dict[str, object]:
    of = {"median": ratio, "own": {"median": own}}
    return {"name": name, "to_eager": {"batches": of}, "lost": {"validation": -1.0, "test": lost}}


def test_the_fastest_is_chosen_among_those_that_lose_little() -> None:
    rows = [row("torch", 1, 1, 0), row("a", 5, 4, 0.01), row("b", 4, 3.5, TOLERANCE), row(FASTEST, 3, 2, -0.1)]
    assert verdict(rows, own=False) == {
        "target": TARGET,
        "tolerance": TOLERANCE,
        "fastest": "b",
        "shipped": FASTEST,
        "ratio": 3,
        "met": True,
        "within": True,
    }
    assert verdict(rows, own=True)["met"] is False
    spoilt = verdict([*rows[:3], row(FASTEST, 9, 9, 0.002)], own=True)
    assert (spoilt["fastest"], spoilt["within"]) == ("b", False)


@pytest.mark.slow
@pytest.mark.full
def test_eight_bits_are_eight_bits_and_close(trained: Trained, tmp_path: Path) -> None:
    import onnx

    project: Project = trained.project
    images = np.load(project.arrays / "images.npy")[:6]
    prepare(project.model, tmp_path, images)
    kinds = {node.op_type for node in onnx.load(tmp_path / INT8).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds
    assert (tmp_path / INT8).stat().st_size < (tmp_path / ONNX).stat().st_size
    exact = Predictor.load(project.model).probabilities(images)
    found = makers(compiled=False)["onnxruntime-int8"](tmp_path, 1, "x").probabilities(images)
    assert 1e-6 < np.abs(found - exact).mean() < 0.05
    onnxruntime.InferenceSession(str(tmp_path / INT8), providers=["CPUExecutionProvider"])
    with pytest.raises(UserError, match="not a trained model"):
        prepare(tmp_path / "nowhere", tmp_path, images)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_command_prints_and_writes_every_figure(trained: Trained, tmp_path: Path) -> None:
    project: Project = trained.project
    out = tmp_path / "inference.json"
    line = [sys.executable, "-m", "benchmarks.inference", "--model", project.model, "--arrays", project.arrays]
    line += ["--split", project.split, "--rounds", 2, "--images", 4, "--no-compile", "--out", out]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(each) for each in line], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    names = [each["name"] for each in found["engines"]]
    assert set(names) == (set(ENGINES) - {"compile"}) | {
        "torch-nchw",
        "torch-bf16",
        "onnxruntime-int8",
        "openvino-int8",
    }
    rows = {each["name"]: each for each in found["engines"]}
    eager = rows["torch"]
    for name, each in rows.items():
        assert name in done.stdout
        assert set(each["dice"]) == {"validation", "test"}
        for split, value in each["dice"].items():
            assert each["lost"][split] == pytest.approx(eager["dice"][split] - value)
        for how in ("batches", "single"):
            rates, ratio = each["images_per_second"][how]["rounds"], each["to_eager"][how]
            base = eager["images_per_second"][how]["rounds"]
            assert ratio["rounds"] == pytest.approx([a / b for a, b in zip(rates, base, strict=True)])
            assert len(rates) == 2
    assert rows["openvino"]["lost"]["test"] == pytest.approx(0, abs=1e-3)
    assert found["verdict"]["fastest"] in names
    choice = found["choice"]
    assert set(choice["milliseconds"]) == {FASTEST, *EXACT}
    assert choice["all"]["engine"] in (FASTEST, *EXACT)
    assert choice["float32"]["engine"] in EXACT
    for what, key in (("a package allows all", "all"), ("it allows float32 alone", "float32")):
        taken = f"auto takes {choice[key]['engine']} where {what}: {choice[key]['reason']}"
        assert " ".join(taken.split()) in " ".join(done.stdout.split())
    assert "target 3" in done.stdout
