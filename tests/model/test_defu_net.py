"""DEFU-Net against the authors' network: parameter counts, and golden values of the Keras original."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.networks import build
from model.networks.blocks import DCRCBlock, InceptionBlock, SharedUnit, UnrolledUnit
from model.networks.defu_net import DEFUNet
from tests.daily import daily
from tests.model.test_networks import assert_every_parameter_learns, noise, small

# Trainable parameters at width 1 and one input channel, as the docstring has them.
ABLATIONS: list[tuple[dict[str, Any], int]] = [
    ({}, 45_620_897),
    ({"inception": False}, 43_292_929),
    ({"recurrent": False}, 24_441_249),
    ({"shared": True}, 20_397_985),
    ({"bottom": 1024}, 94_260_385),
    ({"shared": True, "inception": False}, 18_070_017),
    ({"shared": True, "recurrent": False}, 11_608_225),
]
every_ablation = pytest.mark.parametrize(("options", "parameters"), ABLATIONS)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def pseudo_random(numbers: np.ndarray, stream: int) -> np.ndarray:
    """A linear congruential generator that any language can repeat: values in [-0.5, 0.5)."""
    prime = 2**31 - 1
    z = (numbers.astype(np.int64) * 1103515245 + stream * 12345 + 67890) % prime
    for _ in range(2):
        z = 48271 * z % prime
    return z / prime - 0.5


def in_published_order(network: DEFUNet) -> Iterator[nn.Module]:
    e, i, d = network.encoders, network.inceptions, network.decoders
    yield from (e[0], e[1], i[0], e[2], i[1], e[3], i[2], i[3], network.bottom, *d, network.head)


def convolutions(block: nn.Module) -> list[nn.Conv2d]:
    if isinstance(block, nn.Conv2d):
        return [block]
    parts: list[nn.Module] = [block]
    if isinstance(block, DCRCBlock):
        parts = [block.skip, block.units[0], block.joins[0], block.units[1], block.joins[1], block.out]
    return [module for part in parts for module in part.modules() if isinstance(module, nn.Conv2d)]


@torch.no_grad()
def fill(network: DEFUNet) -> None:
    norms = [m for block in in_published_order(network) for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
    for i, conv in enumerate(c for block in in_published_order(network) for c in convolutions(block)):
        out, inputs, height, width = conv.weight.shape
        fan_in = height * width * inputs
        kernel = pseudo_random(np.arange(conv.weight.numel()), i) * np.sqrt(12 / fan_in)
        conv.weight.copy_(torch.from_numpy(kernel.reshape(height, width, inputs, out).transpose(3, 2, 0, 1)))
        assert conv.bias is not None
        conv.bias.copy_(torch.from_numpy(0.2 * pseudo_random(np.arange(out), 1000 + i)))
    for i, norm in enumerate(norms):
        n = np.arange(norm.num_features)
        norm.weight.copy_(torch.from_numpy(1 + 0.5 * pseudo_random(n, 2000 + i)))
        norm.bias.copy_(torch.from_numpy(0.2 * pseudo_random(n, 3000 + i)))
        norm.running_mean.copy_(torch.from_numpy(0.2 * pseudo_random(n, 4000 + i)))
        norm.running_var.copy_(torch.from_numpy(1 + 0.5 * pseudo_random(n, 5000 + i)))


def test_golden_values_of_the_authors_network() -> None:
    network = build("defu_net")
    assert isinstance(network, DEFUNet)
    fill(network)
    image = torch.from_numpy(pseudo_random(np.arange(64 * 96), 9999) + 0.5).float().reshape(1, 1, 64, 96)
    with torch.no_grad():
        y = network.eval()(image).sigmoid()[0, 0].double()
    found = [y.mean(), y.std(correction=0), y.min(), y.max(), y[0, 0], y[31, 47], y[63, 95]]
    golden = [0.477578, 0.005166, 0.465477, 0.487180, 0.468212, 0.481088, 0.465477]
    np.testing.assert_allclose([float(v) for v in found], golden, rtol=0, atol=1e-5)


def test_parameters_of_every_block() -> None:
    network = build("defu_net")
    assert isinstance(network, DEFUNet)
    assert [count(b) for b in network.encoders] == [251_328, 1_010_432, 4_036_096, 16_133_120]
    assert [count(b) for b in network.inceptions] == [52_448, 209_344, 836_480, 1_229_696]
    assert [count(b) for b in network.decoders] == [4_265_472, 1_067_776, 267_648, 259_456]
    assert (count(network.bottom), count(network.head)) == (16_001_536, 65)


def test_padding_changes_nothing_where_none_is_needed() -> None:
    network = build("defu_net", width=1 / 8).eval()
    assert isinstance(network, DEFUNet)
    image = torch.rand(1, 1, 32, 48)
    assert torch.equal(network(image), network.logits(image))


def test_inception_averages_real_pixels_only() -> None:
    pool = InceptionBlock(4, 8).c[0]
    assert torch.equal(pool(torch.ones(1, 4, 8, 8)), torch.ones(1, 4, 4, 4))


@every_ablation
def test_ablations_parameters(options: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        assert count(build("defu_net", **options)) == parameters
    assert f"{parameters:,}" in (DEFUNet.__doc__ or "") or len(options) > 1


@pytest.mark.parametrize(("options", "parameters"), daily(ABLATIONS, 0))
def test_ablations_hold_nothing_that_does_not_learn(options: dict[str, Any], parameters: int) -> None:
    network = small("defu_net", **options)
    network(noise(2, 1, 27, 45)).square().mean().backward()
    assert_every_parameter_learns(network)
    other = small("defu_net", seed=1, **options).eval()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(other(noise(1, 1, 16, 16)), network.eval()(noise(1, 1, 16, 16)))


@pytest.mark.parametrize("options", [{}, {"inception": False}, {"recurrent": False}, {"bottom": 1024}])
def test_ablations_are_what_their_definitions_say(options: dict[str, Any]) -> None:
    network = small("defu_net", **options).eval()
    assert isinstance(network, DEFUNet)
    d, e = network.encoders, network.inceptions
    with torch.no_grad():
        x1 = d[0](noise(1, 1, 32, 48))
        if options.get("recurrent", True):
            x2 = d[1](F.max_pool2d(x1, 2))
            x3 = d[2](F.max_pool2d(x2, 2))
            x4 = d[3](F.max_pool2d(x3, 2))
            x5 = F.max_pool2d(x4, 2)
        else:
            x2 = x3 = x4 = x5 = torch.zeros(())
        if options.get("inception", True):
            f2 = x2 + e[0](x1)
            f3 = x3 + e[1](f2)
            f4 = x4 + e[2](f3)
            f5 = x5 + e[3](f4)
        else:
            f2, f3, f4, f5 = x2, x3, x4, x5
        y = network.bottom(f5)
        assert y.shape[1] == (128 if "bottom" in options else 64)
        for decoder, skip in zip(network.decoders, [f4, f3, f2, x1], strict=True):
            y = decoder(torch.cat([F.interpolate(y, scale_factor=2.0), skip], dim=1))
        torch.testing.assert_close(network(noise(1, 1, 32, 48)), network.head(y))


def test_a_shared_unit_is_an_unrolled_one_with_equal_convolutions() -> None:
    torch.manual_seed(0)
    shared, unrolled = SharedUnit(4), UnrolledUnit(4)

    @torch.no_grad()
    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return shared(x), unrolled(x)

    for norm, step in zip(shared.norms, unrolled, strict=True):
        nn.init.uniform_(norm.weight, 0.5, 1.5)  # type: ignore[arg-type]
        step[0].load_state_dict(shared.conv.state_dict())  # type: ignore[index]
        step[1].load_state_dict(norm.state_dict())  # type: ignore[index]
    torch.testing.assert_close(*both(noise(2, 4, 8, 8)))
    shared.eval()
    unrolled.eval()
    torch.testing.assert_close(*both(noise(2, 4, 8, 8)))


def test_what_the_registry_refuses() -> None:
    with pytest.raises(ValueError, match=r"unknown network 'defu'; known are .*defu_net"):
        build("defu")
    with pytest.raises(ValueError, match="width must be above 0"):
        build("defu_net", width=0)
    with pytest.raises(ValueError, match="unknown norm 'layer'; known are batch, instance, group"):
        build("defu_net", norm="layer")
    with pytest.raises(ValueError, match=r"^defu_net has no option depth; .*are inception, recurrent, shared, bottom$"):
        build("defu_net", depth=4)
    with pytest.raises(ValueError, match=r"^unet has no option bottom, shared; its options are none$"):
        build("unet", shared=True, bottom=512)
    with pytest.raises(ValueError, match="inception and recurrent cannot both be False"):
        build("defu_net", inception=False, recurrent=False)
    with pytest.raises(ValueError, match="bottom must be at least 1 channel, got 0"):
        build("defu_net", bottom=0)
