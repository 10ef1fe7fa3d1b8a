"""Activation checkpointing: a network with it is the network without it, in less memory. Freed memory is kept."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from model.networks import NORMS
from model.training.memory import checkpoint_activations
from tests.conftest import ROOT
from tests.daily import daily
from tests.model.test_networks import every_network, light_networks, noise, small

# How many times fewer bytes wait for the backward pass, at least; U-Net's blocks save little but what they are given.
SAVINGS = {
    "unet": 1.4,
    "unet_bn": 1.4,
    "res_unet": 3.0,
    "incept_res_unet": 3.0,
    "bcdu_net": 3.0,
    "r2_unet": 6.0,
    "att_r2_unet": 6.0,
    "defu_net": 10.0,
    "res_enc_unet": 1.4,
}


@dataclass(frozen=True)
class Step:
    """What a training step leaves; ``waiting`` is how many bytes its forward pass saved for the backward pass."""

    logits: Tensor
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]
    random: Tensor
    waiting: int


def step(network: nn.Module, precision: torch.dtype = torch.float32) -> Step:
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    waiting: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            waiting[storage.data_ptr()] = storage.nbytes()  # a tensor may be saved by several operations
        return tensor

    torch.manual_seed(0)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16),
    ):
        logits = network(noise(2, 1, 48, 32))
    logits.float().square().mean().backward()
    gradients = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    state = {n: value.clone() for n, value in network.state_dict().items()}
    return Step(logits.detach(), gradients, state, torch.get_rng_state(), sum(waiting.values()))


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[name], value) for name, value in expected.items())


def pair(name: str, norm: str = "batch") -> tuple[nn.Module, nn.Module]:
    """A network, and the same one with checkpointing."""
    plain = small(name, norm=norm)
    network = copy.deepcopy(plain)
    checkpoint_activations(network)
    return plain, network


def assert_same(found: Step, expected: Step) -> None:
    assert torch.equal(found.logits, expected.logits)
    assert same(found.gradients, expected.gradients)
    assert same(found.state, expected.state)  # running values and the count of batches too
    assert torch.equal(found.random, expected.random)


@light_networks
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_step_is_the_same_and_keeps_less(name: str, precision: torch.dtype) -> None:
    plain, network = pair(name)
    found, expected = step(network, precision), step(plain, precision)
    assert_same(found, expected)
    assert found.waiting * SAVINGS[name] < expected.waiting


@pytest.mark.parametrize("norm", daily([norm for norm in NORMS if norm != "batch"], 0))
def test_other_norms(norm: str) -> None:
    plain, network = pair("r2_unet", norm)
    assert_same(step(network), step(plain))


@every_network
def test_evaluation_is_the_same(name: str) -> None:
    plain, network = pair(name)
    images = noise(1, 1, 20, 33)
    with torch.no_grad():
        assert torch.equal(network.eval()(images), plain.eval()(images))
    assert_same(step(network), step(plain))  # gradients in evaluation mode, as explanations of a prediction take them


def test_an_exported_network_is_the_network() -> None:
    plain, network = pair("res_unet")
    images = noise(2, 1, 20, 32)
    program = torch.export.export(network.eval(), (images,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), plain.eval()(images))


@pytest.mark.full
def test_a_compiled_network_is_the_network() -> None:
    plain, network = pair("res_unet")
    images = noise(2, 1, 32, 32)
    for one in (plain, torch.compile(network, backend="eager")):
        one(images).square().mean().backward()
    gradients = {n: p.grad for n, p in plain.named_parameters() if p.grad is not None}
    assert same({n: p.grad for n, p in network.named_parameters() if p.grad is not None}, gradients)
    assert same(network.state_dict(), plain.state_dict())


def test_a_copy_is_checkpointed_and_its_own() -> None:
    plain, network = pair("res_unet")
    checkpoint_activations(network)  # once more changes nothing
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    found, expected = step(other), step(plain)
    assert_same(found, expected)
    assert found.waiting * SAVINGS["res_unet"] < expected.waiting


def test_dropout_inside_a_block_and_a_second_backward_pass() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 1, 3))
    plain = nn.Sequential(block)
    network = copy.deepcopy(plain)
    checkpoint_activations(network)
    for one in (plain, network):
        torch.manual_seed(1)
        loss = one(noise(2, 1, 8, 8)).square().mean()
        torch.manual_seed(2)  # what is drawn in between is no matter
        loss.backward(retain_graph=True)
        loss.backward()
    expected = {n: p.grad for n, p in plain.named_parameters() if p.grad is not None}
    assert same({n: p.grad for n, p in network.named_parameters() if p.grad is not None}, expected)
    assert same(network.state_dict(), plain.state_dict())


def test_freed_memory_is_kept_in_the_process() -> None:
    """In a process of its own, whose setting harms no other test."""
    program = """
import resource, torch
from model.training.memory import keep_freed_memory

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

returned = faults()
assert keep_freed_memory()
# Where pieces lie settles after a few of them: until then the heap still grows.
print(returned, min(faults() for _ in range(8)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    returned, kept = map(int, done.stdout.split())
    assert returned > 2 * kept
