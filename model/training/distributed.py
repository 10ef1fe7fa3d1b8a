"""Data-parallel training: processes started by ``torchrun``, each with its share of every batch."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

PART = 64 << 20  # bytes of a file per broadcast


@dataclass(frozen=True)
class DistributedContext:
    """The processes of one training run.

    Attributes:
        rank: number of this process, from 0; only rank 0 writes files.
        size: number of processes.
        device: device of this process.
    """

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls) -> DistributedContext:
        """Join the process group of ``torchrun``, from its environment variables, or run as a single process.

        Uses NCCL on GPUs, with one process per GPU, and gloo on CPUs.
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
        """Whether this is rank 0, which writes files."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait for all processes (barrier)."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Wait for the other processes and destroy the process group, if there is one."""
        self.wait()
        if dist.is_available() and dist.is_initialized():  # torchrun also creates a group for a single process
            dist.destroy_process_group()

    def share(self, rows: Tensor) -> Tensor:
        """Return this process's part of a batch's rows; their number must be divisible by the world size."""
        return rows.chunk(self.size)[self.rank]

    def add_up(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, without gradients."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def agree(self, values: Tensor) -> Tensor:
        """Broadcast rank 0's values in place: GPUs round differently, and all ranks must decide alike."""
        if self.size > 1:
            dist.broadcast(values, 0)
        return values

    def agree_on(self, text: str) -> str:
        """Return rank 0's text, because files and settings may differ between ranks."""
        if self.size == 1:
            return text
        box = [text]
        dist.broadcast_object_list(box, 0, device=self.device)
        return box[0]

    def copy_file(self, path: Path) -> None:
        """Copy rank 0's file to all ranks, or delete it there if rank 0 has none: nodes may not share a disk."""
        if self.size == 1:
            return
        mine = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
        there = self.agree_on(mine)
        if not there:
            path.unlink(missing_ok=True)
        lacking = self.add_up(torch.tensor(float(mine != there), device=self.device))
        if not there or not lacking.item():
            return
        content = path.read_bytes() if self.first else b""
        size = int(self.agree(torch.tensor(len(content), device=self.device)).item())
        partial = path.with_name(f".{path.name}.{self.rank}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            for start in range(0, size, PART):
                part = torch.zeros(min(PART, size - start), dtype=torch.uint8)
                if self.first:
                    part.copy_(torch.frombuffer(bytearray(content[start : start + PART]), dtype=torch.uint8))
                file.write(self.agree(part.to(self.device)).cpu().numpy().tobytes())
        if mine == there:
            partial.unlink()
        else:
            partial.replace(path)

    def wrap(self, network: nn.Module) -> nn.Module:
        """Wrap the network so that its gradients are those of the whole batch."""
        if self.size == 1:
            return network
        devices = [self.device] if self.device.type == "cuda" else None
        # BatchNorm's statistics are equal on all ranks (see SharedBatchNorm2d) and need no broadcast.
        return DistributedDataParallel(network, device_ids=devices, forward_sync_buffers=False)


class _Sum(torch.autograd.Function):
    """Sum of a tensor over all processes. Each rank's loss depends on it, so gradients are summed over ranks too."""

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
    """Return the sum over all processes, with gradients."""
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total


def summed(*values: Tensor) -> tuple[Tensor, ...]:
    """Return scalars summed over all processes, with gradients; unchanged without gradients or in a single process.

    A loss of these sums is the loss of the whole batch on every rank. Its gradient is multiplied by the number of
    processes, and DistributedDataParallel's mean of gradients divides by it again.
    """
    if not (torch.is_grad_enabled() and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return values
    return all_reduce(torch.stack(values)).unbind()


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Synchronised BatchNorm for CPUs (gloo) and GPUs; torch's SyncBatchNorm supports only GPUs.

    Without gradients (validation, :func:`model.training.optimisation.recalibrate`) each process has whole batches.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(input)
        # In the weights' dtype, which autocast does not change.
        x = input.to(self.weight.dtype)
        count = x.numel() / x.shape[1] * dist.get_world_size()
        mean = all_reduce(x.sum((0, 2, 3))) / count
        centred = x - mean.view(1, -1, 1, 1)
        # Two passes, because E[x^2] - E[x]^2 loses precision.
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
    """Replace every BatchNorm by :class:`SharedBatchNorm2d`; names, weights and statistics do not change."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d
