"""An exported network gives the network's own logits, for any batch and any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from model import networks
from model.inference.export import INPUT, OUTPUT, export
from tests.daily import daily
from tests.model.test_predictor import trained

SHAPES = [(1, 32, 32), (3, 48, 80), (2, 33, 47), (1, 9, 200), (1, 1, 1)]
KINDS = [*((name, "batch") for name in networks.NETWORKS), ("defu_net", "instance"), ("res_unet", "group")]


@pytest.mark.parametrize(
    ("name", "norm"),
    daily(KINDS, KINDS.index(("defu_net", "batch")), KINDS.index(("unet", "batch"))),
    ids=["-".join(kind) for kind in KINDS],
)
def test_logits_are_the_networks_own_at_any_size(tmp_path: Path, name: str, norm: str) -> None:
    network = trained(name, norm).eval()
    export(network, tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    for batch, height, width in SHAPES:
        images = torch.rand(batch, 1, height, width)
        with torch.no_grad():
            expected = network(images).numpy()
        (found,) = session.run([OUTPUT], {INPUT: images.numpy()})
        assert found.shape == expected.shape == (batch, 1, height, width)
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
        assert batch * height * width == 1 or expected.std() > 1e-3  # there is something to be equal to


@pytest.mark.full
def test_equal_weights_give_equal_bytes_and_other_weights_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(seed)
        export(networks.build("defu_net", 0.0625), tmp_path / name)
    files = [(tmp_path / name).read_bytes() for name in "abc"]
    assert files[0] == files[1] != files[2]


def test_another_number_of_channels(tmp_path: Path) -> None:
    network = networks.build("unet", 0.0625, 3).eval()
    export(network, tmp_path / "a.onnx", 3)
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    images = torch.rand(2, 3, 20, 16)
    with torch.no_grad():
        expected = network(images).numpy()
    np.testing.assert_allclose(session.run(None, {INPUT: images.numpy()})[0], expected, atol=1e-4)


def test_what_is_no_network_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not a Conv2d"):
        export(nn.Conv2d(1, 1, 1), tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()
