"""A predictor is rebuilt from its folder as it was trained, and its mirrored mean is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from model import networks
from model.inference.input_config import InputConfig
from model.inference.predictor import Predictor
from model.weights import CONFIG, WEIGHTS, save_weights

INPUT = InputConfig(32, "area", (0.5, 99.5))
CONFIGURED: dict[str, Any] = {
    "network": "defu_net",
    "width": 0.0625,
    "in_channels": 1,
    "norm": "batch",
    "options": {},
    "input": {"size": 32, "interpolation": "area", "intensity_percentiles": [0.5, 99.5]},
}
WITHOUT_INCEPTION = {"inception": False, "recurrent": True, "shared": True, "bottom": 1024}


def pictures(count: int = 5) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32), np.uint8)


def trained(name: str, norm: str = "batch", **options: object) -> nn.Module:
    """A network with weights and running values of its own."""
    torch.manual_seed(3)
    network = networks.build(name, 0.0625, 1, norm, **options)
    with torch.no_grad():
        network.train()(torch.rand(4, 1, 32, 32))
    return network


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(trained("defu_net"), INPUT)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("defu_net", {"norm": "group", "options": WITHOUT_INCEPTION}),
        ("defu_net", {"norm": "batch", "options": WITHOUT_INCEPTION | {"inception": True, "recurrent": False}}),
        ("res_unet", {"norm": "instance", "options": {}}),
        ("unet", {}),
    ],
    ids=["group-and-options", "options", "instance", "unet"],
)
def test_a_network_is_rebuilt_from_its_folder(tmp_path: Path, network: str, said: dict[str, Any]) -> None:
    built = trained(network, said.get("norm", "batch"), **said.get("options", {}))
    save_weights(tmp_path / WEIGHTS, built.state_dict())
    (tmp_path / CONFIG).write_text(json.dumps(CONFIGURED | {"network": network} | said))
    loaded = Predictor.load(tmp_path)
    assert loaded.input_config == INPUT
    assert not loaded.network.training
    assert [type(module) for module in loaded.network.modules()] == [type(module) for module in built.modules()]
    assert np.array_equal(loaded.probabilities(pictures()), Predictor(built, INPUT).probabilities(pictures()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "group"}, "weights.safetensors does not fit config.json: "),
        ({"options": WITHOUT_INCEPTION}, "weights.safetensors does not fit config.json: "),
        ({"width": 0.125}, "weights.safetensors does not fit config.json: "),
        ({"norm": "layer"}, "unknown norm 'layer'"),
        ({"options": {"depth": 3}}, "defu_net has no option depth"),
    ],
)
def test_weights_of_another_network_are_told(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    save_weights(tmp_path / WEIGHTS, trained("defu_net").state_dict())
    (tmp_path / CONFIG).write_text(json.dumps(CONFIGURED | changes))
    with pytest.raises(ValueError, match=message) as told:
        Predictor.load(tmp_path)
    assert "\n" not in str(told.value)


def test_flipped_is_the_mean_of_both_ways_and_mirrors(predictor: Predictor) -> None:
    images = pictures()
    mirrored = images[..., ::-1]
    plain, back = predictor.probabilities(images), predictor.probabilities(mirrored)[..., ::-1]
    # The network alone is not symmetric, so that there is something to average.
    assert np.abs(plain - back).max() > 1e-3
    both = predictor.probabilities(images, flip=True)
    np.testing.assert_allclose(both, (plain + back) / 2, atol=1e-6)
    np.testing.assert_allclose(predictor.probabilities(mirrored, flip=True), both[..., ::-1], atol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
def test_how_many_go_at_once_is_no_matter(predictor: Predictor, flip: bool) -> None:
    images = pictures()
    whole = predictor.probabilities(images, flip=flip)
    assert whole.dtype == np.float32
    assert whole.min() >= 0
    assert whole.max() <= 1
    for size in (1, 2, 5):
        np.testing.assert_allclose(predictor.probabilities(images, size, flip=flip), whole, atol=1e-6)
    assert predictor.probabilities(images[:0], flip=flip).shape == (0, 32, 32)
