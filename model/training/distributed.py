"""Several processes that train as one: each computes its share of every batch, started by ``torchrun``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class DistributedContext:
    """The processes of one training.

    Attributes:
        rank: this process, from 0; process 0 alone writes.
        size: how many there are.
        device: where this one trains.
    """

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls) -> DistributedContext:
        """Join the processes that ``torchrun`` started (its environment says so), or be alone.

        GPUs speak NCCL, one process a GPU; CPUs speak gloo.
        """
        cuda = torch.cuda.is_available()
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            return cls(0, 1, torch.device("cuda" if cuda else "cpu"))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        device = torch.device("cuda", local) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def first(self) -> bool:
        """Whether this process writes what all have computed."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Wait for the others and end the group, where there is one."""
        self.wait()
        if self.size > 1:
            dist.destroy_process_group()

    def share(self, rows: Tensor) -> Tensor:
        """Return this process's part of a batch's rows, whose number the world's size divides."""
        return rows.chunk(self.size)[self.rank]

    def add_up(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, outside the gradient."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def agree(self, values: Tensor) -> Tensor:
        """Return process 0's values, in place: GPUs round differently, and what is decided by them must be one."""
        if self.size > 1:
            dist.broadcast(values, 0)
        return values

    def agree_on(self, text: str) -> str:
        """Return process 0's text: what each has read by itself at about the same moment may differ."""
        if self.size == 1:
            return text
        box = [text]
        dist.broadcast_object_list(box, 0, device=self.device)
        return box[0]

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network so that its gradients are those of the whole batch."""
        if self.size == 1:
            return network
        devices = [self.device] if self.device.type == "cuda" else None
        # BatchNorm's values are the same everywhere (see SharedBatchNorm2d) and need not be sent around.
        return DistributedDataParallel(network, device_ids=devices, forward_sync_buffers=False)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes, of which each one's loss is a function: gradients are summed likewise."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def all_reduce(values: Tensor) -> Tensor:
    """Return the sum over all processes, through which gradients flow."""
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total


def summed(*values: Tensor) -> tuple[Tensor, ...]:
    """Return scalars added up over all processes, so that gradients flow to each; without these, or alone, unchanged.

    What a loss makes of these sums is the loss of the whole batch in every process. Its gradient arrives multiplied by
    the number of processes, which the mean that DistributedDataParallel takes of gradients divides by again.
    """
    if not (torch.is_grad_enabled() and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return values
    return all_reduce(torch.stack(values)).unbind()


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batch of all processes, on CPUs (gloo) as on GPUs; torch's own knows GPUs alone.

    Without gradients (validation, :func:`model.training.optimisation.recalibrate`) each process is given whole batches.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(input)
        # In the weights' precision, which autocast leaves alone.
        x = input.to(self.weight.dtype)
        count = x.numel() / x.shape[1] * dist.get_world_size()
        mean = all_reduce(x.sum((0, 2, 3))) / count
        centred = x - mean.view(1, -1, 1, 1)
        # In two passes, as the sum of squares less the square of the sum loses digits.
        variance = all_reduce(centred.square().sum((0, 2, 3))) / count
        scale = (self.weight * (variance + self.eps).rsqrt()).view(1, -1, 1, 1)
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
                momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum  # type: ignore[arg-type]
                self.running_mean.lerp_(mean, momentum)  # type: ignore[union-attr]
                self.running_var.lerp_(variance * count / max(1.0, count - 1), momentum)  # type: ignore[union-attr]
        return (centred * scale + self.bias.view(1, -1, 1, 1)).to(input.dtype)


def share_batchnorm(network: nn.Module) -> None:
    """Make every BatchNorm of the network see the batch of all processes; names, weights and values stay."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d
