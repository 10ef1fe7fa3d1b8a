"""The optimiser, the learning rate schedule, the average of the weights, and BatchNorm recalibration."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from model.training.recipe import TrainParams


def make_optimizer(network: nn.Module, params: TrainParams) -> torch.optim.Optimizer:
    """Return fused Adam or AdamW; weight decay applies to convolution kernels, not to biases and norms."""
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": params.weight_decay}, {"params": others, "weight_decay": 0.0}]
    kind = torch.optim.AdamW if params.optimizer == "adamw" else torch.optim.Adam
    # Keras' default epsilon, as in the authors' runs.
    return kind(groups, params.learning_rate, eps=1e-7, fused=True)


class Schedule:
    """The learning rate: a cosine after a linear warm-up, per step; or the paper's plateau, per epoch.

    Args:
        optimizer: the optimiser to control.
        params: the recipe.
        steps: number of steps of the stage.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, params: TrainParams, steps: int) -> None:
        self.per_step = params.schedule == "cosine"
        self.scheduler: Any
        if self.per_step:
            warmup = math.ceil(params.warmup * steps)

            def share(step: int) -> float:
                if step < warmup:
                    return (step + 1) / warmup
                return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

            self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        else:
            # As in Keras, which the authors used, the rate drops in the patience-th epoch without an improvement of
            # 1e-4 (PyTorch waits one more epoch). So it can drop before early stopping, for which any improvement
            # counts.
            self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer,
                factor=params.plateau.factor,
                patience=max(0, params.plateau.patience - 1),
                threshold=1e-4,
                threshold_mode="abs",
            )

    def after_step(self) -> None:
        """Advance the cosine schedule by a step."""
        if self.per_step:
            self.scheduler.step()

    def after_epoch(self, validation_loss: float) -> None:
        """Advance the plateau schedule by an epoch."""
        if not self.per_step:
            self.scheduler.step(validation_loss)


class Average:
    """An exponential moving average of a network's weights, with a smaller decay in the first steps.

    The decay of step t is min(decay, (1 + t) / (10 + t)), as in TensorFlow's ExponentialMovingAverage. BatchNorm's
    running statistics are copied from the trained network.

    Args:
        network: the network; its parameters must stay the same tensors.
        decay: 0 disables the average: the network itself is scored.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.source, self.decay = network, decay
        self.network = copy.deepcopy(network).requires_grad_(False) if decay else network
        self.pairs: tuple[list[Tensor], list[Tensor]] = (
            list(self.network.parameters()),
            [p.detach() for p in network.parameters()],
        )

    @torch.no_grad()
    def begin(self) -> None:
        """Restart from the current weights."""
        if self.decay:
            torch._foreach_copy_(*self.pairs)

    def update(self, step: int) -> None:
        """Add the weights of step ``step``, counted from 0, to the average."""
        if self.decay:
            torch._foreach_lerp_(*self.pairs, weight=1 - min(self.decay, (1 + step) / (10 + step)))

    def scored(self) -> nn.Module:
        """Return the network to score, with the current running statistics of the trained one."""
        if self.decay:
            for mine, theirs in zip(self.network.buffers(), self.source.buffers(), strict=True):
                mine.copy_(theirs)
        return self.network


@torch.no_grad()
def recalibrate(network: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Recompute the running mean and variance of every BatchNorm as plain means over ``inputs``.

    The statistics from training lag behind the weights and are of augmented images (Izmailov et al. 2018, section 3.2).

    Args:
        network: the network; it is set to evaluation mode.
        inputs: batches of network input.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.eval()
    for norm in norms:
        norm.train()
    for batch in inputs:
        network(batch)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
    network.eval()
