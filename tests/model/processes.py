"""What test_distributed.py computes in one process and, started by torchrun with this module, in several."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model import networks
from model.training import stage
from model.training.distributed import DistributedContext, SharedBatchNorm2d, share_batchnorm
from model.training.loop import Trainer
from model.training.losses import compound_loss
from model.training.recipe import LossParams, TrainParams
from tests.model.test_training import TRAIN, VALIDATION, Recorder, recipe

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "defu_net": ("defu_net", {}),
    "res_unet": ("res_unet", {"ema": 0.0, "schedule": "plateau"}),
    "parts": ("defu_net", {"accumulation": 2, "recalibrate": True, "activation_checkpointing": True, "ema": 0.9}),
    "group": ("att_r2_unet", {"norm": "group", "accumulation": 2}),
}
# Where a validation loss decides on the learning rate, the best epoch and the end.
PLATEAU = {"schedule": "plateau", "plateau": {"factor": 0.1, "patience": 1}, "early_stopping": 2, "epochs": 6}
DECIDES: dict[str, tuple[str, dict[str, Any]]] = {"decides": ("unet", PLATEAU)}
SHAPES = {"wide": (6, 3, 5, 4), "one value each": (2, 3, 1, 1)}


def params_of(case: str) -> TrainParams:
    return recipe(**{"epochs": 2, "precision": "float32", "images_per_epoch": 8, **(CASES | DECIDES)[case][1]})


def in_double(_network: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].double(),)


def trainer_of(case: str, world: DistributedContext, folder: Path) -> Trainer:
    """A training in float64: in float32 rounding decides at the kinks of pooling and ReLU, and gradients magnify it."""
    params = params_of(case)
    torch.manual_seed(0)
    network = networks.build((CASES | DECIDES)[case][0], params.width, norm=params.norm).double()
    network.register_forward_pre_hook(in_double)
    return Trainer(network, TRAIN, VALIDATION, params, 0, world, folder, case, Recorder())


def train(case: str, world: DistributedContext, folder: Path) -> dict[str, Any]:
    """The gradients of a first step, and what a whole training leaves."""
    first = trainer_of(case, world, folder)
    first.stage.network.train()
    loss = first.stage.step(0, torch.zeros(3, dtype=torch.float64))
    gradients = {name: p.grad.clone() for name, p in first.stage.network.named_parameters() if p.grad is not None}
    running = {name: buffer.clone() for name, buffer in first.stage.network.named_buffers()}
    result = trainer_of(case, world, folder).run()
    return {
        "loss": loss,
        "gradients": gradients,
        "running": running,
        "history": result.history,
        "weights": result.weights,
    }


def batchnorm(shape: tuple[int, ...], world: DistributedContext) -> dict[str, Tensor]:
    """Two steps of BatchNorm on this process's part of a float64 batch, and a call in evaluation mode."""
    norm = nn.BatchNorm2d(shape[1], momentum=0.3).double()
    if world.size > 1:
        share_batchnorm(norm)
        assert type(norm) is SharedBatchNorm2d
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -2.0, 3.0]))
        norm.bias.copy_(torch.tensor([1.0, 0.0, -4.0]))
    outputs, gradients = [], []
    for step in range(2):
        generator = torch.Generator().manual_seed(step)
        batch, target = (torch.randn(shape, dtype=torch.float64, generator=generator) * 4 + 9 for _ in range(2))
        x = world.share(torch.arange(shape[0]))
        mine = batch[x].requires_grad_()
        output = norm(mine)
        # A loss that couples all values of this process with each other; that of all is the sum over processes.
        (output * target[x]).sum().backward()
        outputs.append(output.detach())
        gradients.append(mine.grad)
    with torch.no_grad():
        evaluated = norm.eval()(batch[x])
    state = {name: value.detach() for name, value in norm.state_dict().items()}
    grads = {"weight gradient": norm.weight.grad, "bias gradient": norm.bias.grad}
    return {"output": torch.cat(outputs), "gradient": torch.cat(gradients), "evaluated": evaluated, **state, **grads}


def loss(world: DistributedContext) -> dict[str, Tensor]:
    """The compound loss of a batch and the gradient that reaches this process's logits."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 1, 6, 5, generator=generator)
    # Lungs of very different sizes, so that the mean of two Dices is not the Dice of both.
    masks = (torch.rand(4, 1, 6, 5, generator=generator) > torch.linspace(0.1, 0.9, 4).view(-1, 1, 1, 1)).float()
    mine = world.share(torch.arange(4))
    given = logits[mine].requires_grad_()
    whole = compound_loss(given, masks[mine], LossParams(dice=1.0, cross_entropy=0.3))
    whole.backward()
    with torch.no_grad():
        unshared = compound_loss(given, masks[mine], LossParams(dice=1.0, cross_entropy=0.3))
    assert given.grad is not None
    return {"loss": whole.detach(), "gradient": given.grad, "unshared": unshared}


def rounding_apart(world: DistributedContext, folder: Path) -> dict[str, Any]:
    """A training whose processes find other validation losses, as GPUs do that round differently."""
    whole, shift = stage.compound_loss, iter(range(10**6))

    def rounded(logits: Tensor, masks: Tensor, weights: LossParams) -> Tensor:
        found = whole(logits, masks, weights)
        return found if torch.is_grad_enabled() else found + world.rank * (-1.0) ** next(shift)

    stage.compound_loss = rounded
    try:
        result = trainer_of("decides", world, folder).run()
    finally:
        stage.compound_loss = whole
    return {"history": result.history, "weights": result.weights, "best_epoch": result.best_epoch}


def compute(world: DistributedContext, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {name: batchnorm(shape, world) for name, shape in SHAPES.items()}
    found["loss"] = loss(world)
    found["rounding apart"] = rounding_apart(world, folder / "apart")
    return found | {case: train(case, world, folder / case) for case in CASES}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    world = DistributedContext.join()
    torch.save(compute(world, folder / "states"), folder / f"process-{world.rank}.pt")
    world.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
