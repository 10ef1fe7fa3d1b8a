"""The same trials for every network of the registry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from core.params import read_params
from model.inference.predictor import Predictor
from model.inputs import to_input
from model.networks import NETWORKS, NORMS, build
from model.networks.bcdu_net import BCDUNet, ConvLSTMPair
from model.networks.blocks import SegmentationNetwork, SharedUnit
from model.networks.norms import group_norm
from model.networks.recurrent import AttentionGate, RecurrentLayer
from model.training.augmentation import Augmenter, step_generator
from model.training.losses import dice_loss
from model.weights import CONFIG, WEIGHTS, save_weights
from tests.conftest import ROOT
from tests.daily import daily

# At width 1 and one input channel: trainable parameters, BatchNorm's running values, and 1e9 multiplications of a
# forward pass at 512 x 512.
SIZES = {
    "unet": (31_030_593, 0, 192),
    "unet_bn": (31_036_481, 11_776, 192),
    "res_unet": (8_222_529, 9_216, 181),
    "incept_res_unet": (16_516_385, 13_696, 151),
    # 326 in Keras, which also convolves the zeros that each ConvLSTM starts from: 4 f x 9 f a pixel, 29 in all.
    "bcdu_net": (20_658_821, 896, 326 - 29),
    "r2_unet": (39_091_265, 37_248, 610),
    "att_r2_unet": (39_442_797, 39_176, 614),
    "defu_net": (45_620_897, 23_808, 420),
    "res_enc_unet": (21_050_401, 0, 57),
}
# Sums of the state dicts' names in their order: stored weights and training states of earlier versions go by them.
STORED = {
    "unet": 1_398_653_518,
    "unet_bn": 3_322_584_626,
    "res_unet": 744_222_277,
    "incept_res_unet": 2_388_284_947,
    "bcdu_net": 2_717_764_438,
    "r2_unet": 4_039_396_132,
    "att_r2_unet": 2_432_912_912,
    "defu_net": 2_215_245_804,
    "res_enc_unet": 670_040_046,
}
NAMES = sorted(NETWORKS)
every_network = pytest.mark.parametrize("name", NAMES)
LIGHT = ("unet", "defu_net", "res_unet")
light_networks = pytest.mark.parametrize("name", daily(NAMES, *map(NAMES.index, LIGHT)))


def small(name: str, channels: int = 1, seed: int = 0, norm: str = "batch", **options: object) -> nn.Module:
    torch.manual_seed(seed)
    return build(name, 1 / 8, channels, norm, **options)


def settled(name: str) -> nn.Module:
    """A small network in evaluation mode, whose BatchNorms have seen images."""
    network = small(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    with torch.no_grad():
        for seed in range(3):
            network(noise(4, 1, 32, 32, seed=seed))
    return network.eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether two tensors differ by no more than a share of the second's largest value."""
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def test_every_network_has_its_sizes_here() -> None:
    assert sorted(SIZES) == NAMES


@every_network
def test_names_of_stored_weights_stay(name: str) -> None:
    assert crc32(" ".join(small(name).state_dict()).encode()) == STORED[name]


@every_network
def test_size_at_full_width(name: str) -> None:
    with torch.device("meta"):  # shapes only: nothing is computed or stored
        network = build(name).eval()
        with FlopCounterMode(display=False) as counter:
            assert network(torch.empty(1, 1, 512, 512)).shape == (1, 1, 512, 512)
    buffers = [b for n, b in network.named_buffers() if not n.endswith("num_batches_tracked")]
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    multiplications = counter.get_total_flops() / 2
    assert (parameters, sum(b.numel() for b in buffers), round(multiplications / 1e9)) == SIZES[name]


def biases_before_norm(network: nn.Module) -> set[str]:
    """Names of biases that a norm of single channels takes out again: their gradient is zero up to rounding."""
    kinds = (nn.BatchNorm2d, nn.InstanceNorm2d)
    found = set()
    for place, module in network.named_modules():
        if isinstance(module, nn.Sequential):
            pairs = zip(list(module.named_children())[:-1], list(module.children())[1:], strict=True)
            found |= {f"{place}.{name}.bias" for (name, _), after in pairs if isinstance(after, kinds)}
        if isinstance(module, RecurrentLayer | SharedUnit) and isinstance(module.norms[0], kinds):
            found.add(f"{place}.conv.bias")
    return found


def assert_every_parameter_learns(network: nn.Module) -> None:
    excepted = biases_before_norm(network)
    for place, parameter in network.named_parameters():
        assert parameter.grad is not None, place
        assert bool(parameter.grad.isfinite().all()), place
        assert place in excepted or bool(parameter.grad.any()), place


@every_network
@pytest.mark.parametrize("norm", daily(NORMS, list(NORMS).index("batch")))
@pytest.mark.parametrize(("channels", "size"), [(1, (32, 48)), (3, (27, 45))])
def test_forward_and_backward_reach_every_parameter(name: str, norm: str, channels: int, size: tuple[int, int]) -> None:
    network = small(name, channels, norm=norm)
    logits = network(noise(2, channels, *size))
    assert logits.shape == (2, 1, *size)
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    assert_every_parameter_learns(network)


@every_network
def test_any_height_and_width(name: str) -> None:
    network = small(name, 3).eval()
    with torch.no_grad():
        for size in [(1, 1), (1, 40), (16, 16), (33, 50), (23, 7)]:
            logits = network(noise(2, 3, *size))
            assert logits.shape == (2, 1, *size)
            assert bool(logits.isfinite().all()), size


@every_network
def test_other_sizes_are_the_padded_image_cropped(name: str) -> None:
    network = settled(name)
    assert isinstance(network, SegmentationNetwork)
    image = noise(1, 1, 27, 45)
    padded = nn.functional.pad(image, (0, -45 % network.stride, 0, -27 % network.stride), mode="replicate")
    with torch.no_grad():
        assert torch.equal(network(image), network.logits(padded)[..., :27, :45])


@every_network
def test_images_of_a_batch_do_not_mix_in_evaluation(name: str) -> None:
    network = settled(name)
    images = noise(3, 1, 32, 32)
    with torch.no_grad():
        assert close(network(images[1:2]), network(images)[1:2], 1e-4)


@light_networks
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.bfloat16, 0.25), (torch.float16, 0.1)])
def test_half_precision(name: str, precision: torch.dtype, tolerance: float) -> None:
    network = settled(name)
    images = noise(2, 1, 32, 32)
    with torch.no_grad():
        expected = network(images)
        with torch.autocast("cpu", precision):
            found = network(images)
    assert bool(found.isfinite().all())
    error = (found.float() - expected).square().mean().sqrt()
    assert error < tolerance * expected.square().mean().sqrt()
    network.train()
    with torch.autocast("cpu", precision):
        loss = dice_loss(network(images), (images > 0.5).float())
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)


@light_networks
@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "batch"])
def test_another_norm_changes_nothing_else(name: str, norm: str, tmp_path: Path) -> None:
    """The parameters are the same ones, the size of a batch does not matter, and neither does the mode."""
    plain, network = small(name, norm="batch"), small(name, norm=norm)
    # The residual-encoder U-Net has InstanceNorm whatever the others have.
    kind: type[nn.Module] = nn.InstanceNorm2d if name == "res_enc_unet" else nn.BatchNorm2d
    norms = [module for module in plain.modules() if isinstance(module, kind)]
    made = [module for module in network.modules() if isinstance(module, nn.InstanceNorm2d | nn.GroupNorm)]
    assert [(m.weight.numel(), m.eps) for m in norms] == [(m.weight.numel(), m.eps) for m in made]
    assert not [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not list(network.buffers())
    drawn = dict(plain.named_parameters())
    assert [n for n, _ in network.named_parameters()] == list(drawn)
    assert all(torch.equal(p, drawn[n]) for n, p in network.named_parameters())
    save_weights(tmp_path / WEIGHTS, network.state_dict())
    other = small(name, seed=1, norm=norm).eval()
    other.load_state_dict(load_file(tmp_path / WEIGHTS))
    with torch.no_grad():
        for size in [(1, 1), (16, 9), (20, 40)]:  # of the first two one pixel is left at the bottom
            images = noise(2, 1, *size)
            alone = torch.cat([network.eval()(image[None]) for image in images])
            assert bool(alone.isfinite().all())
            assert close(other(images), alone, 1e-4)
            if name != "bcdu_net":  # its dropout
                assert close(network.train()(images), alone, 1e-4)
        with torch.autocast("cpu", torch.float16):
            assert bool(network(images).isfinite().all())


@light_networks
def test_nothing_comes_near_the_largest_float16(name: str) -> None:
    network = small(name)
    largest = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda _, __, y: largest.append(float(y.detach().abs().max())))
    network(noise(2, 1, 32, 32))
    assert max(largest) < 65504 / 100


@light_networks
def test_channels_last_is_the_same(name: str) -> None:
    def step(layout: torch.memory_format) -> tuple[Tensor, dict[str, Tensor]]:
        network.to(memory_format=layout).zero_grad()  # type: ignore[call-overload]
        logits = network(images.to(next(network.parameters()).dtype, memory_format=layout))
        logits.square().mean().backward()
        return logits.detach(), {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}

    network = settled(name)
    assert isinstance(network, SegmentationNetwork)
    images = noise(2, 1, 3 * network.stride, 2 * network.stride)
    assert close(step(torch.channels_last)[0], step(torch.contiguous_format)[0], 1e-4)
    # In float32, rounding takes a value over the edge of a ReLU or of a maximum now and then, and a gradient with it.
    network.double()
    expected, gradients = step(torch.contiguous_format)
    found, others = step(torch.channels_last)
    assert close(found, expected, 1e-9)
    # A norm takes out what a bias or the scale of a single channel before it does: such a gradient is rounding alone.
    least = 1e-3 * max(gradient.abs().max() for gradient in gradients.values())
    for name_, gradient in gradients.items():
        assert (others[name_] - gradient).abs().max() <= 1e-9 * max(least, gradient.abs().max()), name_


@every_network
def test_channels_last_reaches_every_feature_map(name: str) -> None:
    """From the pictures' own strides on, in training and in prediction: a map in the other format is converted."""
    network = small(name).to(memory_format=torch.channels_last)
    maps: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            module.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    pictures = torch.randint(0, 256, (2, 32, 32), dtype=torch.uint8)
    augmenter = Augmenter(read_params(ROOT / "params.yaml").train.augmentation, (32, 32), torch.device("cpu"))
    draw = augmenter.draw(2, step_generator(0, 0))
    for batch in (to_input(pictures), augmenter.apply(pictures, pictures // 255, draw)[0]):
        assert batch.stride() == (32 * 32, 1, 32, 1)
        network(batch)
    wide = [found for found in maps if found.shape[1] > 1 and found.shape[2] > 1]
    assert len(wide) > 10
    assert all(found.is_contiguous(memory_format=torch.channels_last) for found in wide)


@every_network
def test_equal_seeds_equal_networks(name: str) -> None:
    first, second, other = (small(name, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert any(not torch.equal(value, other[key]) for key, value in first.items())


@every_network
def test_saved_and_loaded_it_predicts_the_same(name: str, tmp_path: Path) -> None:
    network = settled(name)
    images = (noise(2, 32, 32) * 255).to(torch.uint8).numpy()
    with torch.no_grad():
        expected = network(torch.from_numpy(images).unsqueeze(1).float() / 255).sigmoid()[:, 0].numpy()
    save_weights(tmp_path / WEIGHTS, network.state_dict())
    given = {"size": 32, "interpolation": "area", "intensity_percentiles": [0.5, 99.5]}
    config = {"network": name, "width": 1 / 8, "in_channels": 1, "norm": "batch", "options": {}, "input": given}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    loaded = Predictor.load(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    assert all(torch.equal(value, weights[key]) for key, value in loaded.network.state_dict().items())
    np.testing.assert_allclose(loaded.probabilities(images), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", daily(NAMES, NAMES.index("res_unet")))
def test_exported_it_predicts_the_same(name: str) -> None:
    network = settled(name)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, (noise(2, 1, 20, 32),), dynamic_shapes=({0: batch},))
    images = noise(3, 1, 20, 32, seed=1)
    with torch.no_grad():
        assert close(program.module()(images), network(images), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", daily(NAMES))
def test_four_images_are_learnt(name: str) -> None:
    network = small(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    masks = ellipses()
    images = (0.8 - 0.4 * masks + 0.1 * (noise(*masks.shape) - 0.5)).contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, eps=1e-7)
    for _ in range(60):
        optimizer.zero_grad()
        dice_loss(network(images), masks).backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        found = (network(images) > 0).float()
    dice = 2 * (found * masks).sum() / (found.sum() + masks.sum())
    assert float(dice) > 0.9


def ellipses() -> Tensor:
    """Masks (4, 1, 32, 32) of two lungs each, no two alike."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    masks = [((x - 9 - n) / 4) ** 2 + ((y - 15 + n) / 9) ** 2 < 1 for n in range(4)]
    others = [((x - 23 + n) / 4) ** 2 + ((y - 14) / (7 + n)) ** 2 < 1 for n in range(4)]
    return (torch.stack(masks) | torch.stack(others)).float().unsqueeze(1)


def test_a_mask_of_nothing_can_still_be_unlearnt() -> None:
    """The two channels before BCDU-Net's head are alive at the start, whatever the seed."""
    for seed in range(20):
        network = small("bcdu_net", seed=seed)
        assert isinstance(network, BCDUNet)
        alive: list[float] = []
        network.last.register_forward_hook(lambda _, __, y, alive=alive: alive.append(float((y > 0).float().mean())))
        with torch.no_grad():
            network(noise(1, 1, 32, 32, seed=seed))
        assert alive[0] > 0.4, seed


def keras_conv_lstm(sequence: list[Tensor], cell_of: ConvLSTMPair) -> Tensor:
    """The definition step by step, from a state of zeros."""
    convolve: Callable[..., Tensor] = nn.functional.conv2d
    filters = cell_of.recurrent.in_channels
    hidden = torch.zeros(sequence[0].shape[0], filters, *sequence[0].shape[2:])
    cell = hidden.clone()
    for x in sequence:
        z = convolve(x, cell_of.input.weight, cell_of.input.bias, padding=1)
        z = z + convolve(hidden, cell_of.recurrent.weight, padding=1)
        gate, forget, output = (
            torch.minimum(
                torch.ones(()), torch.maximum(torch.zeros(()), 0.2 * z[:, k * filters : (k + 1) * filters] + 0.5)
            )
            for k in (0, 1, 3)
        )
        cell = forget * cell + gate * torch.tanh(z[:, 2 * filters : 3 * filters])
        hidden = output * torch.tanh(cell)
    return hidden


def test_conv_lstm_is_keras_over_two_steps() -> None:
    torch.manual_seed(0)
    pair = ConvLSTMPair(6, 4)
    assert sum(p.numel() for p in pair.parameters()) == 4 * 4 * (9 * (6 + 4)) + 4 * 4
    pair.start()
    assert pair.input.bias is not None
    assert pair.input.bias.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8
    first, second = 4 * noise(2, 6, 5, 7) - 2, 4 * noise(2, 6, 5, 7, seed=1) - 2
    with torch.no_grad():
        torch.testing.assert_close(pair(first, second), keras_conv_lstm([first, second], pair))
        assert not torch.allclose(pair(first, second), pair(second, first))


def test_recurrent_layer_applies_one_convolution_three_times() -> None:
    torch.manual_seed(0)
    layer = RecurrentLayer(4)
    for norm in layer.norms:
        norm.momentum = 1.0  # type: ignore[assignment]
    x = noise(8, 4, 16, 16)

    def f(x: Tensor) -> Tensor:
        return nn.functional.batch_norm(layer.conv(x), None, None, *affine, training=True).relu()

    affine = (torch.rand(4) + 0.5, torch.rand(4))
    with torch.no_grad():
        for parameter, value in zip(layer.norms[0].parameters(), affine, strict=True):
            parameter.copy_(value)
        expected = f(x + f(x + f(x)))
        torch.testing.assert_close(layer(x), expected)
        # Each application is normalised by running values of its own, so that evaluation repeats what was trained.
        torch.testing.assert_close(layer.eval()(x), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("norm", NORMS)
def test_what_recurrence_shares_is_stored_once(norm: str, tmp_path: Path) -> None:
    network = small("r2_unet", norm=norm)
    layers = [module for module in network.modules() if isinstance(module, RecurrentLayer)]
    assert len(layers) == 18
    assert len([key for key in network.state_dict() if key.endswith("norms.0.weight")]) == 18
    assert not [key for key in network.state_dict() if key.endswith(("norms.1.weight", "norms.2.bias"))]
    save_weights(tmp_path / WEIGHTS, network.state_dict())
    other = small("r2_unet", seed=1, norm=norm)
    other.load_state_dict(load_file(tmp_path / WEIGHTS))
    images = noise(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(other.eval()(images), network.eval()(images))
    for layer in (module for module in other.modules() if isinstance(module, RecurrentLayer)):
        assert layer.norms[2].weight is layer.norms[0].weight
    with pytest.raises(RuntimeError, match=r"Missing key.*norms\.0\.weight"):
        other.load_state_dict({k: v for k, v in network.state_dict().items() if not k.endswith("norms.0.weight")})


def test_groups_divide_the_channels() -> None:
    assert [group_norm(channels, 1e-3).num_groups for channels in (1, 4, 8, 12, 20, 64)] == [1, 4, 8, 6, 5, 8]


def test_attention_gate_weighs_pixels_of_the_skip() -> None:
    torch.manual_seed(0)
    gate = AttentionGate(8).eval()
    below, skip = noise(1, 8, 6, 6), noise(1, 8, 6, 6, seed=1) + 0.1
    with torch.no_grad():
        weights = gate(below, skip) / skip
    assert 0 < float(weights.min()) < float(weights.max()) < 1
    torch.testing.assert_close(weights, weights[:, :1].expand_as(weights))  # one weight a pixel
