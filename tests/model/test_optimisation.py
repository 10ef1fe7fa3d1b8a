"""The rate rises and falls as it should, kernels alone decay, and averages are those that one computes by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model import networks
from model.inputs import to_input
from model.training.batches import batches
from model.training.loop import Trainer
from model.training.optimisation import Average, Schedule, make_optimizer, recalibrate
from model.training.recipe import TrainParams
from tests.model.test_training import SIDE, TRAIN, one_thread, recipe, trainer

__all__ = ["one_thread"]  # a fixture of every test here


def small(name: str = "res_unet") -> nn.Module:
    torch.manual_seed(0)
    return networks.build(name, 0.0625)


def rates(params: TrainParams, steps: int) -> list[float]:
    """The rate of every step of a run."""
    optimizer = make_optimizer(nn.Conv2d(1, 1, 1), params)
    schedule, used = Schedule(optimizer, params, steps), []
    for _ in range(steps):
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        used.append(rate)
        optimizer.step()
        schedule.after_step()
        schedule.after_epoch(1.0)
    return used


# --- the rate -------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(steps=st.integers(1, 120), warmup=st.floats(0, 0.99), highest=st.floats(1e-6, 1))
def test_a_cosine_rises_to_the_rate_and_falls_to_almost_nothing(steps: int, warmup: float, highest: float) -> None:
    used = rates(recipe(schedule="cosine", warmup=warmup, learning_rate=highest), steps)
    assert max(used) == pytest.approx(highest, rel=1e-9)
    assert min(used) > 0
    rising = math.ceil(warmup * steps)
    peak = max(rising - 1, 0)
    assert used[peak] == max(used)
    # Straight up, from one step's share.
    assert used[:rising] == pytest.approx([highest * (step + 1) / rising for step in range(rising)])
    falling = used[peak + 1 :] if rising else used
    assert falling == sorted(falling, reverse=True)
    # A cosine has half of its rate half-way, and its last step before the end is small by the square.
    left = steps - rising
    if left > 1:
        assert used[rising + left // 2] == pytest.approx(highest / 2, rel=2 / left)
        assert used[-1] <= highest * 2.5 / left**2


def test_the_rate_follows_the_cosine_over_the_whole_run(tmp_path: Path) -> None:
    params = recipe(epochs=6, learning_rate=1e-3, schedule="cosine", warmup=0.25)
    run = trainer(tmp_path, params)
    result = run.run()
    expected = rates(params, 18)
    assert [row["learning_rate"] for row in result.history] == pytest.approx(expected[::3])
    assert run.stage.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


class Dull(nn.Module):
    """A network on which a rate of 1e-6 has no effect to speak of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.conv(x) * 1e-3
        return logits


def standing_still(folder: Path, **changes: Any) -> Trainer:
    """A training whose validation loss never gets better by 1e-4."""
    return trainer(folder, recipe(learning_rate=1e-6, schedule="plateau", **changes), network=Dull())


@pytest.mark.parametrize("patience", [1, 3])
def test_early_stopping_counts_epochs_without_a_better_loss(tmp_path: Path, patience: int) -> None:
    params = recipe(epochs=9, learning_rate=1e-30, weight_decay=0.0, early_stopping=patience)
    result = trainer(tmp_path, params, network=Dull()).run()
    assert len({row["validation_loss"] for row in result.history}) == 1
    assert result.best_epoch == 0
    assert len(result.history) == 1 + patience


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_the_rate_drops_in_the_patience_th_epoch_without_a_better_loss(tmp_path: Path, patience: int) -> None:
    result = standing_still(tmp_path, epochs=6, plateau={"factor": 0.5, "patience": patience}).run()
    losses = [row["validation_loss"] for row in result.history]
    assert max(losses) - min(losses) < 1e-4
    # The first epoch is the best there is; the rate of an epoch is the one that it starts with.
    expected = [1e-6, *(1e-6 * 0.5 ** (epoch // patience) for epoch in range(5))]
    assert [row["learning_rate"] for row in result.history] == pytest.approx(expected)


def test_the_rate_has_dropped_when_equal_patience_ends_the_run(tmp_path: Path) -> None:
    plateau = {"factor": 0.5, "patience": 3}
    # The other way round the loss gets better by almost nothing: the rate drops, the run goes on.
    run = standing_still(tmp_path, epochs=5, plateau=plateau, early_stopping=3)
    run.run()
    assert run.stage.optimizer.param_groups[0]["lr"] < 1e-6


# --- decay ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_weight_decay_is_of_kernels_alone(kind: str) -> None:
    network = small("defu_net")
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.5)
        parameter.grad = torch.zeros_like(parameter)
    make_optimizer(network, recipe(optimizer=kind, weight_decay=0.1, learning_rate=0.01)).step()
    kernels = {f"{n}.weight" for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)}
    moved = {n for n, p in network.named_parameters() if not torch.equal(p, torch.full_like(p, 0.5))}
    assert moved == kernels
    # Decoupled it is a share of the weight; otherwise a gradient, of which Adam makes a whole step.
    expected = 0.5 * (1 - 0.01 * 0.1) if kind == "adamw" else 0.5 - 0.01
    assert all(p == pytest.approx(expected, abs=1e-6) for n, p in first_values(network) if n in kernels)


def first_values(network: nn.Module) -> list[tuple[str, float]]:
    return [(name, float(parameter.detach().flatten()[0])) for name, parameter in network.named_parameters()]


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_a_step_is_adams(kind: str) -> None:
    one, other = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 3, 3)
    other.load_state_dict(one.state_dict())
    plain = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    mine = make_optimizer(one, recipe(optimizer=kind, weight_decay=0.0, learning_rate=0.01))
    theirs = plain(other.parameters(), 0.01, eps=1e-7, weight_decay=0.0)
    for step in range(3):
        for network, optimizer in ((one, mine), (other, theirs)):
            optimizer.zero_grad()
            network(torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(step))).square().sum().backward()
            optimizer.step()
    for found, expected in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


# --- the average of the weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.05, 0.5, 0.999])
def test_the_average_is_the_closed_form(decay: float) -> None:
    network = small()
    average = Average(network, decay)
    path = [parameters(network)]
    for step in range(12):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))
        average.update(step)
        path.append(parameters(network))
    decays = [min(decay, (1 + step) / (10 + step)) for step in range(12)]
    # What is left of the weights after step t: its own share, and of that what later steps keep.
    shares = [math.prod(decays), *((1 - decays[t]) * math.prod(decays[t + 1 :]) for t in range(12))]
    assert sum(shares) == pytest.approx(1)
    expected = sum(share * weights for share, weights in zip(shares, path, strict=True))
    torch.testing.assert_close(parameters(average.network), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parameters(network), path[-1], rtol=0, atol=0)


def parameters(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()]).clone()


def test_the_average_has_the_networks_own_running_values() -> None:
    network = small()
    average = Average(network, 0.9)
    with torch.no_grad():
        network.train()(torch.rand(4, 1, SIDE, SIDE))
    scored = average.scored()
    assert scored is not network
    assert not any(p.requires_grad for p in scored.parameters())
    for (name, mine), theirs in zip(scored.named_buffers(), network.buffers(), strict=True):
        assert torch.equal(mine, theirs), name
        assert mine is not theirs


def test_without_decay_the_network_itself_is_scored() -> None:
    network = small()
    average = Average(network, 0.0)
    before = parameters(network)
    average.update(0)
    assert average.scored() is network
    assert torch.equal(parameters(network), before)


def test_what_is_kept_is_the_average(tmp_path: Path) -> None:
    """One step of Adam moves each weight by the rate; the average of step 0 takes 9 tenths of it."""
    params = recipe(epochs=1, batch_size=4, images_per_epoch=4, ema=0.9, warmup=0.0, weight_decay=0.0)
    run = trainer(tmp_path, params)
    before = parameters(run.stage.network)
    result = run.run()
    names = [name for name, _ in run.stage.network.named_parameters()]
    kept = torch.cat([result.weights[name].flatten() for name in names])
    torch.testing.assert_close(kept, before + 0.9 * (parameters(run.stage.network) - before), rtol=0, atol=1e-6)
    for name, buffer in run.stage.network.named_buffers():
        assert torch.equal(result.weights[name], buffer)


# --- BatchNorm's last count -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, None])
def test_recalibrated_values_are_those_of_the_data(momentum: float | None) -> None:
    data = torch.randn(6, 3, 5, 4, generator=torch.Generator().manual_seed(0)) * 3 + 7
    norm = nn.BatchNorm2d(3, momentum=momentum)
    norm.running_mean.fill_(99)  # type: ignore[union-attr]
    norm.running_var.fill_(99)  # type: ignore[union-attr]
    recalibrate(norm, [data])
    assert not norm.training
    assert norm.momentum == momentum
    torch.testing.assert_close(norm.running_mean, data.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, data.var((0, 2, 3)))
    # Of several batches the plain mean, whichever comes first.
    recalibrate(norm, data.split(2))
    parts = torch.stack([part.var((0, 2, 3)) for part in data.split(2)])
    torch.testing.assert_close(norm.running_mean, data.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, parts.mean(0))


def test_recalibration_touches_running_values_alone() -> None:
    network = small("bcdu_net").train()
    before, modes = parameters(network), []
    network.register_forward_hook(lambda module, _inputs, _output: modes.append(module.training))
    inputs = [torch.rand(2, 1, SIDE, SIDE) for _ in range(2)]
    recalibrate(network, inputs)
    once = {name: buffer.clone() for name, buffer in network.named_buffers()}
    recalibrate(network, inputs)  # with dropout on it would differ
    assert all(torch.equal(buffer, once[name]) for name, buffer in network.named_buffers())
    assert modes == [False] * 4
    assert torch.equal(parameters(network), before)
    assert not any(module.training for module in network.modules())


def test_kept_weights_are_recalibrated_on_the_pictures_as_they_are(tmp_path: Path) -> None:
    params = recipe(epochs=2, ema=0.5, recalibrate=True)
    run = trainer(tmp_path, params)
    result = run.run()
    plain = trainer(tmp_path / "plain", recipe(epochs=2, ema=0.5)).run()
    network = networks.build("res_unet", params.width)
    network.load_state_dict(plain.weights)
    recalibrate(network, [to_input(torch.from_numpy(TRAIN.images[rows])) for rows in batches(len(TRAIN), 4)])
    for name, value in network.state_dict().items():
        torch.testing.assert_close(result.weights[name], value, rtol=1e-4, atol=1e-5, msg=name)
    changed = [name for name, value in plain.weights.items() if not torch.equal(value, result.weights[name])]
    assert changed
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed)
