"""What a prediction costs: counted right, timed, and kept line by line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from torch import nn

from benchmarks.cost import gigamacs
from model.networks import NETWORKS
from tools.publish.measured import read_cost

ROOT = Path(__file__).parents[1]


def test_multiplications_are_counted_as_by_hand() -> None:
    # 3 x 3 kernels from 1 to 4 channels at 16 x 16 pixels, then from 4 to 2 at every second one.
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1, stride=2))
    assert gigamacs(network, 16) == pytest.approx((16 * 16 * 4 * 9 + 8 * 8 * 2 * 4 * 9) / 1e9)


def run(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "benchmarks.cost", "--rounds", "1", "--width", "0.0625"]
    line += ["--out", str(tmp_path / "cost.csv"), *options]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.full
def test_every_network_has_a_line_and_other_sizes_stay(tmp_path: Path) -> None:
    done = run(tmp_path, "--size", "32", "--threads", "1")
    assert done.returncode == 0, done.stderr
    first = pd.read_csv(tmp_path / "cost.csv")
    assert set(first["network"]) == set(NETWORKS)
    assert (first["least"] > 0).all()
    assert first["hardware"].str.startswith("1 core of").all()
    for _ in range(2):  # a second measurement takes the place of the first
        done = run(tmp_path, "--size", "64", "--threads", "1", "--network", "unet")
        assert done.returncode == 0, done.stderr
    both = read_cost(tmp_path)
    assert both is not None
    assert (both["size"] == 64).sum() == 1
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "cost.csv").iloc[: len(first)], first)
    unet = both[both["network"] == "unet"].set_index("size")
    # Twice the side is four times the work, of the same weights.
    assert unet["gmac"][64] == pytest.approx(4 * unet["gmac"][32], abs=3e-4)
    assert unet["parameters"][64] == unet["parameters"][32]
    assert "unknown; known are" in run(tmp_path, "--network", "vgg").stderr
