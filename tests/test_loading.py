"""Commands that load for seconds say so before they do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

TORCH = "import os, sys; print('torch is imported', file=sys.stderr, flush=True); os._exit(7)"
TRAIN = "components.train arrays --network defu_net --scenario mixed --split split.json --out model"
PREDICT = f"defunet predict {ROOT}/samples --model pretrained/cxr-lungs --engine torch -o found"


@pytest.mark.parametrize(
    ("line", "told"),
    [(TRAIN, "loading PyTorch, to train defu_net mixed seed 0 ..."), (PREDICT, "loading pretrained/cxr-lungs ...")],
)
def test_a_command_says_that_it_loads_before_it_imports_torch(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "torch.py").write_text(TORCH)  # in the place of PyTorch
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    given = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT)))}
    words = [sys.executable, "-m", *line.split()]
    done = subprocess.run(words, cwd=tmp_path, env=given, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-2:] == [told, "torch is imported"]
    assert done.returncode == 7


@pytest.mark.parametrize(
    ("source", "out", "reason"),
    [
        ("nothere.png", "new", "nothere.png: not found; "),
        (f"{ROOT}/samples/MontgomerySet", "old", "has results already"),
    ],
)
def test_predict_refuses_bad_inputs_and_results_before_it_loads(
    tmp_path: Path, source: str, out: str, reason: str
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/results.json").write_text("{}")
    words = [sys.executable, "-m", "defunet", "predict", source, "--model", "nothere", "-o", out]
    given = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=given, capture_output=True, text=True, check=False)
    assert reason in done.stderr.splitlines()[-1]
    assert "loading" not in done.stderr
    assert done.returncode == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]
