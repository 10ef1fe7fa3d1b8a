"""All engines give the probabilities that PyTorch gives, to several callers at once, and have different names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from model.inference.engines import BATCH, ENGINES, EXACT, FASTEST, ONNX, Engine, start
from model.inference.export import export
from model.inference.package import probabilities
from model.inference.predictor import Predictor
from model.weights import CONFIG, WEIGHTS, save_weights
from tests.daily import daily
from tests.model.test_predictor import CONFIGURED, pictures, trained

ROOT = Path(__file__).parents[2]
OTHERS = [name for name in ENGINES if name not in ("torch", "compile")]
APART = {"openvino-bf16": 0.03}  # 8 bits of mantissa; a millionth without


def written(folder: Path, name: str) -> Path:
    """Write what the engines read of a package."""
    network = trained(name)
    save_weights(folder / WEIGHTS, network.state_dict())
    (folder / CONFIG).write_text(json.dumps(CONFIGURED | {"network": name}))
    export(network, folder / ONNX)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("engines"), "defu_net")


@pytest.fixture(scope="module")
def engines(folder: Path) -> dict[str, Engine]:
    return {name: start(folder, name, 1) for name in OTHERS}


@pytest.mark.parametrize("count", daily([0, 1, BATCH - 1, BATCH, BATCH + 3], 0, 4))
@pytest.mark.parametrize("name", OTHERS)
def test_probabilities_are_pytorchs_for_any_number_of_images(
    folder: Path, engines: dict[str, Engine], name: str, count: int
) -> None:
    images = pictures(max(count, 1))[:count]
    expected = Predictor.load(folder).probabilities(images)
    found = engines[name].probabilities(images)
    assert (found.dtype, found.shape) == (np.float32, (count, 32, 32))
    np.testing.assert_allclose(found, expected, atol=APART.get(name, 1e-5), rtol=0)
    assert start(folder, "torch").probabilities(images) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["torch", *OTHERS])
def test_the_mirrored_mean(folder: Path, engines: dict[str, Engine], name: str) -> None:
    engine = engines.get(name) or start(folder, name)
    images = pictures(3)
    there, back = engine.probabilities(images), engine.probabilities(images[..., ::-1].copy())[..., ::-1]
    assert np.abs(there - back).max() > 1e-3
    apart = APART.get(name, 1e-6)
    np.testing.assert_allclose(probabilities(engine, images, flip=True), (there + back) / 2, atol=apart)
    np.testing.assert_array_equal(probabilities(engine, images, flip=False), there)


@pytest.mark.parametrize("name", OTHERS)
def test_several_callers_at_once_get_their_own(engines: dict[str, Engine], name: str) -> None:
    images = pictures(24)
    alone = [engines[name].probabilities(images[i : i + 1 + i % 3]) for i in range(20)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda i: engines[name].probabilities(images[i : i + 1 + i % 3]), range(20)))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_compiled_pytorch(tmp_path: Path) -> None:
    folder = written(tmp_path, "unet")  # the fewest operations: every one is compiled by the C++ compiler
    images = pictures(BATCH + 1)
    expected = Predictor.load(folder).probabilities(images)
    np.testing.assert_allclose(start(folder, "compile", 1).probabilities(images), expected, atol=1e-5)


def test_unknown_and_missing_ones_are_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown engine 'tensorrt'; known are auto, torch, compile"):
        start(folder, "tensorrt")
    (tmp_path / CONFIG).write_text(json.dumps(CONFIGURED))
    (tmp_path / ONNX).write_bytes(b"nonsense")
    for name in OTHERS:
        with pytest.raises(RuntimeError):
            start(tmp_path, name)


# Libraries are hidden from a process of its own, as if they were not installed.
WITHOUT = """
import importlib.util, sys
from pathlib import Path
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in sys.argv[2:] else found(name, *rest)
from model.inference.engines import EXACT, FASTEST, start
engine = start(Path(sys.argv[1]), threads=1, order=(FASTEST, *EXACT))
print(engine.name, engine.reason, sep="; ")
"""


@pytest.mark.parametrize(("hidden", "name"), [(("openvino",), "onnxruntime"), (("openvino", "onnxruntime"), "torch")])
def test_auto_takes_what_is_installed_and_says_what_is_not(folder: Path, hidden: tuple[str, ...], name: str) -> None:
    line = [sys.executable, "-c", WITHOUT, str(folder), *hidden]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{name}; nothing else to choose from\n"
    missing = " and ".join(hidden)
    assert done.stderr == f"{missing} not installed: computing with {name}, which may be slower\n"


def test_auto_is_exact_unless_the_package_says_otherwise(folder: Path) -> None:
    engine = start(folder)
    assert engine.name in EXACT
    assert FASTEST not in engine.reason
    assert FASTEST not in EXACT
