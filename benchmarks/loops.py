"""The training loops that ``benchmarks.training`` compares, from the plain to the shipped one, and their timing."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.clock import Speed, Stopwatch, own_seconds, synchronise
from benchmarks.plain import Plain, hand_made_optimizer
from model import networks
from model.inputs import autocast
from model.training.augmentation import Augmenter, step_generator
from model.training.batches import MappedSubset, Sampler, Subset, pictures
from model.training.distributed import DistributedContext
from model.training.losses import compound_loss
from model.training.optimisation import Schedule, make_optimizer
from model.training.precision import choose_precision
from model.training.recipe import TrainParams
from model.training.stage import Prepared, StageTrainer


class Loop(Protocol):
    """A training run of a given number of steps."""

    batch_size: int
    untimed: int

    def run(self, steps: int) -> list[float]:
        """Train for some steps; return the loss of each."""


@dataclass(frozen=True)
class Task:
    """The common inputs of all loops.

    ``params.images_per_epoch`` and ``params.epochs`` determine the number of steps of the learning rate's schedule.
    """

    network: str
    params: TrainParams
    train: Subset | MappedSubset
    validation: Subset | MappedSubset
    device: torch.device
    seed: int = 0

    @property
    def precision(self) -> torch.dtype:
        """The dtype of the shipped loop's computation."""
        return choose_precision(self.params.precision, DistributedContext(0, 1, self.device)).dtype

    def build(self) -> nn.Module:
        """Return the network with weights drawn from the seed, which are equal for every loop."""
        torch.manual_seed(self.seed)
        options = self.params.defu_net.model_dump() if self.network == "defu_net" else {}
        network = networks.build(self.network, self.params.width, norm=self.params.norm, **options)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = self.params.batchnorm_momentum
        return network

    def changed(self, **changes: Any) -> Task:
        """Return the task with some values of the recipe replaced."""
        return replace(self, params=TrainParams.model_validate(self.params.model_dump() | changes))

    def plain(self, workers: int = 0) -> Plain:
        """Return the plain loop, whose images must be in memory."""
        assert isinstance(self.train, Subset)
        return Plain(self.build(), self.train, self.params, self.device, self.seed, workers)


class Shipped:
    """The shipped loop, as ``model.training.stage.StageTrainer`` runs it within an epoch.

    Args:
        task: the inputs.
        size: side of the images in pixels; None: that of the subsets.

    Attributes:
        losses: the loss of each step so far.
    """

    untimed = 0

    def __init__(self, task: Task, size: int | None = None) -> None:
        self.batch_size = task.params.batch_size
        world = DistributedContext(0, 1, task.device)
        prepared = Prepared(task.build(), task.params, world, task.precision)
        size = size or task.train.images.shape[-1]
        self.trainer = StageTrainer(prepared, task.params, size, task.train, task.validation, task.seed)
        self.done, self.losses = 0, list[float]()

    def run(self, steps: int) -> list[float]:
        """Train for some steps; return the loss of each, fetched from the device once at the end."""
        torch.backends.cudnn.benchmark = self.trainer.device.type == "cuda"
        self.trainer.network.train()
        losses = torch.zeros(steps, device=self.trainer.device)
        sums = torch.zeros(3, device=self.trainer.device, dtype=torch.float64)
        for step in range(steps):
            losses[step] = self.trainer.step(self.done + step, sums)
        self.done += steps
        found: list[float] = losses.tolist()
        self.losses += found
        return found


class Partly:
    """The plain loop with the shipped loop's batches, and the optimisations that the arguments select."""

    untimed = 0

    def __init__(self, task: Task, *, channels_last: bool, low_precision: bool, fused: bool) -> None:
        self.task, self.batch_size, self.done = task, task.params.batch_size, 0
        self.network = task.build().to(task.device)
        self.channels_last = channels_last
        if channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.precision = task.precision if low_precision else torch.float32
        self.resident, self.order = pictures(task.train, task.device), Sampler(len(task.train), task.seed)
        height, width = task.train.images.shape[1:]
        self.augmenter = Augmenter(task.params.augmentation, (height, width), task.device)
        make = make_optimizer if fused else hand_made_optimizer
        self.optimizer = make(self.network, task.params)
        self.schedule = Schedule(self.optimizer, task.params, task.params.epochs * max(1, len(task.train)))

    def run(self, steps: int) -> list[float]:
        """Train for some steps; return the loss of each."""
        # cuDNN caches the kernels of a shape for the whole process, so a loop with the shipped loop's shapes uses its
        # kernels whatever is set here.
        torch.backends.cudnn.benchmark = self.channels_last and self.task.device.type == "cuda"
        self.network.train()
        losses = []
        for _ in range(steps):
            images, masks = self._batch()
            self.optimizer.zero_grad()
            with autocast(self.task.device, self.precision):
                logits = self.network(images)
            loss = compound_loss(logits, masks, self.task.params.loss)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.schedule.after_step()
            losses.append(loss.item())
        return losses

    def _batch(self) -> tuple[Tensor, Tensor]:
        rows = self.order.rows(self.done * self.batch_size, self.batch_size)
        draw = self.augmenter.draw(self.batch_size, step_generator(self.task.seed, self.done))
        images, masks = self.augmenter.apply(*self.resident.batch(rows), draw)
        self.done += 1
        if not self.channels_last:
            # With one channel a tensor is contiguous in both formats, and its strides select the convolutions' format:
            # these are the default format's.
            images = images[:, 0].unsqueeze(1)
        return images, masks


def ladder(task: Task, compile_too: bool) -> dict[str, Callable[[], Loop]]:
    """Return makers of loops from plain to shipped, each with one optimisation more than the one before."""
    precision = str(task.precision).removeprefix("torch.")
    eager = task.changed(compile=False)
    searched = " and cuDNN's search for kernels" if task.device.type == "cuda" else ""
    rungs: dict[str, Callable[[], Loop]] = {
        "plain": task.plain,
        "+ resident data, augmented in batches": lambda: Partly(
            task, channels_last=False, low_precision=False, fused=False
        ),
        f"+ channels-last{searched}": lambda: Partly(task, channels_last=True, low_precision=False, fused=False),
        f"+ autocast to {precision}": lambda: Partly(task, channels_last=True, low_precision=True, fused=False),
        "+ fused optimiser": lambda: Partly(task, channels_last=True, low_precision=True, fused=True),
        "the shipped loop: no wait for the loss, average of weights": lambda: Shipped(eager),
    }
    if compile_too:
        compiled = task.changed(compile=True)
        larger = compiled.changed(batch_size=4 * task.params.batch_size)
        rungs["+ torch.compile"] = lambda: Shipped(compiled)
        rungs["+ four times the batch"] = lambda: Shipped(larger)
    return rungs


def alternate(
    loops: dict[str, Loop], rounds: int, steps: int, warmup: int, device: torch.device
) -> dict[str, list[Speed]]:
    """Return the speed of every loop in each round; removes loops that run out of GPU memory from ``loops``, too.

    Each round has one turn per loop. Every other round is in reverse order, so that drift favours no loop.
    """
    for name in list(loops):
        try:
            loops[name].run(warmup)
        except torch.OutOfMemoryError:
            del loops[name]
            torch.cuda.empty_cache()
    found: dict[str, list[Speed]] = {name: [] for name in loops}
    for number in range(rounds):
        for name in list(loops) if number % 2 == 0 else list(loops)[::-1]:
            loop = loops[name]
            if loop.untimed:
                loop.run(loop.untimed)
            watch = Stopwatch(device)
            loop.run(steps)
            found[name].append(watch.stop(steps * loop.batch_size))
    return found


class _Clocked:
    """Wraps an object and counts the seconds of its methods, including the device's work."""

    def __init__(self, target: Any, device: torch.device, seconds: list[float]) -> None:
        self.target, self.device, self.seconds = target, device, seconds

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.target, name)

        def clocked(*arguments: Any) -> Any:
            synchronise(self.device)
            start = own_seconds(self.device)
            result = method(*arguments)
            synchronise(self.device)
            self.seconds.append(own_seconds(self.device) - start)
            return result

        return clocked


def loader_share(loop: Shipped | Plain, steps: int) -> float:
    """Return the share of a step's time, 0 to 1, that selects, loads and augments its batch.

    On a GPU the share of the shipped loop is an upper bound: the measurement synchronises around each of these, while
    normally the CPU draws augmentations in parallel with the GPU.
    """
    if isinstance(loop, Plain):
        loop.run(max(1, loop.untimed))
        before, start = loop.waited, own_seconds(loop.device)
        loop.run(steps)
        return (loop.waited - before) / (own_seconds(loop.device) - start)
    trainer: Any = loop.trainer
    seconds: list[float] = []
    parts = ("order", "augmenter", "train")
    kept = {part: getattr(trainer, part) for part in parts}
    for part in parts:
        setattr(trainer, part, _Clocked(kept[part], trainer.device, seconds))
    try:
        start = own_seconds(trainer.device)
        loop.run(steps)
        synchronise(trainer.device)
        return sum(seconds) / (own_seconds(trainer.device) - start)
    finally:
        for part in parts:
            setattr(trainer, part, kept[part])


@torch.no_grad()
def validation_dice(network: nn.Module, subset: Subset | MappedSubset, device: torch.device, batch_size: int) -> float:
    """Return Dice in float32 at probability 0.5, mean over images."""
    network.eval()
    found: list[float] = []
    for at in range(0, len(subset), batch_size):
        images = torch.from_numpy(np.ascontiguousarray(subset.images[at : at + batch_size]))
        masks = torch.from_numpy(np.ascontiguousarray(subset.masks[at : at + batch_size])).to(device) > 0
        predicted = network(images.to(device).unsqueeze(1).float() / 255)[:, 0] > 0
        both = (predicted & masks).sum((1, 2))
        found += ((2 * both + 1) / (predicted.sum((1, 2)) + masks.sum((1, 2)) + 1)).tolist()
    return statistics.mean(found)
