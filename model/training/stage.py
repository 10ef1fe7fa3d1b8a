"""One stage of a training run: epochs at one image size, with their own optimiser and schedule."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.inputs import autocast, to_input
from model.training.augmentation import Augmenter, step_generator
from model.training.batches import MappedSubset, Pictures, Sampler, Subset, batches, pictures
from model.training.distributed import DistributedContext, share_batchnorm
from model.training.losses import compound_loss
from model.training.memory import checkpoint_activations, keep_freed_memory
from model.training.optimisation import Average, Schedule, make_optimizer, recalibrate
from model.training.recipe import TrainParams


class TrainingError(Exception):
    """Training fails for a reason that the user can fix."""


class StepMonitor(Protocol):
    """The callback after every batch."""

    def step(self, epoch: int, step: int, images: int, loss: Callable[[], float]) -> None:
        """Report a batch of ``images`` images; calling ``loss`` waits for the device."""


class Prepared:
    """A network prepared for training: memory format, weight average, DistributedDataParallel, compilation.

    Args:
        network: the network; it is moved to the device and modified in place.
        params: the recipe.
        world: the device and the process group.
        precision: dtype of autocast.
    """

    def __init__(
        self, network: nn.Module, params: TrainParams, world: DistributedContext, precision: torch.dtype
    ) -> None:
        self.world, self.device, self.precision = world, world.device, precision
        if self.device.type == "cpu":
            keep_freed_memory()
        self.network = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = params.batchnorm_momentum
        if world.size > 1:
            share_batchnorm(self.network)
        if self.device.type == "cuda":
            # All steps of a stage have the same shapes, so that cuDNN searches for the fastest kernels once.
            torch.backends.cudnn.benchmark = True
        # Create the average before wrapping, so that it copies the plain network.
        self.average = Average(self.network, params.ema)
        if params.activation_checkpointing:
            checkpoint_activations(self.network)
        self.forward = world.wrap(self.network)
        if params.compile:
            self.forward = torch.compile(self.forward)  # type: ignore[assignment]


class StageTrainer:
    """Trains a network at one size. Only the network's weights are used after the stage.

    Args:
        prepared: the network.
        params: the recipe with the epochs, learning rate and batch size of this stage.
        size: side of the images in pixels, at most that of the subsets, which are downscaled by area averaging.
        train: training images.
        validation: images for the choice of the epoch, the learning rate schedule and early stopping.
        seed: seed of the order of images and the augmentation.
        first_step: number of steps in earlier stages.
        first_image: number of images drawn in earlier stages.
    """

    def __init__(
        self,
        prepared: Prepared,
        params: TrainParams,
        size: int,
        train: Subset | MappedSubset,
        validation: Subset | MappedSubset,
        seed: int,
        first_step: int = 0,
        first_image: int = 0,
    ) -> None:
        world = prepared.world
        self.params, self.size, self.seed, self.world, self.device = params, size, seed, world, world.device
        self.first_step, self.first_image = first_step, first_image
        self.precision, self.average = prepared.precision, prepared.average
        self.network, self.forward = prepared.network, prepared.forward
        self.ids = train.ids
        self.train, self.validation = (pictures(subset, self.device, size) for subset in (train, validation))
        self.steps = math.ceil((params.images_per_epoch or len(train)) / params.batch_size)
        self.order = Sampler(len(train), seed)
        height, width = train.images.shape[1:]
        shape = (height, width) if size >= min(height, width) else (size, size)
        self.augmenter = Augmenter(params.augmentation, shape, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        self.optimizer = make_optimizer(self.network, params)
        self.schedule = Schedule(self.optimizer, params, params.epochs * self.steps)
        self.average.begin()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for :meth:`load_state_dict`."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.scheduler.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])

    def epoch(self, epoch: int, number: int, monitor: StepMonitor) -> dict[str, float]:
        """Train for one epoch and score the validation images.

        Args:
            epoch: number of the epoch in the stage, from 0.
            number: number of the epoch in the whole run, from 0.
            monitor: called after every batch.

        Returns:
            The epoch's row of ``history.csv``.

        Raises:
            TrainingError: a loss is NaN or infinite.
        """
        start = time.monotonic()
        # Dropout depends only on the seed, the epoch and the rank, so that checkpoints need no generator state.
        torch.manual_seed(((self.seed * 1_000_003 + number) * self.world.size + self.world.rank) % 2**63)
        rate = self.optimizer.param_groups[0]["lr"]
        loss, dice = self._learn(epoch, number, monitor)
        seconds = time.monotonic() - start
        validation_loss, validation_dice = self._score(self.validation)
        if not math.isfinite(validation_loss):
            raise TrainingError(f"epoch {number + 1}: the validation loss is not a number; lower train.learning_rate")
        self.schedule.after_epoch(validation_loss)
        return {
            "epoch": number + 1,
            "size": self.size,
            "learning_rate": rate,
            "train_loss": loss,
            "train_dice": dice,
            "validation_loss": validation_loss,
            "validation_dice": validation_dice,
            "seconds": seconds,
            "images_per_second": self.steps * self.params.batch_size / seconds,
        }

    def scored_weights(self) -> dict[str, Tensor]:
        """Return a CPU copy of the weights that :meth:`epoch` scored last."""
        return {k: v.detach().cpu().clone() for k, v in self.average.scored().state_dict().items()}

    def recalibrated(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights with BatchNorm statistics of the training images without augmentation."""
        kept = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(weights)
        size = self.params.batch_size
        recalibrate(self.network, (to_input(self.train.batch(r)[0]) for r in batches(len(self.train), size)))
        weights = {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(kept)
        return weights

    def step(self, number: int, sums: Tensor) -> Tensor:
        """Train on one batch.

        Args:
            number: number of the step in the stage, from 0; with the seed it determines images and augmentation.
            sums: float64 (3,); this process's part of :func:`overlap` is added to it.

        Returns:
            The loss of the whole batch, on the device.
        """
        size, parts = self.params.batch_size, self.params.accumulation
        rows = self._rows(number)
        self.train.expect(self._rows(number + 1))
        draw = self.augmenter.draw(size, step_generator(self.seed, self.first_step + number))
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for part, positions in enumerate(torch.arange(size).chunk(parts)):
            mine = self.world.share(positions)
            images, masks = self.augmenter.apply(*self.train.batch(rows[mine]), {k: v[mine] for k, v in draw.items()})
            # Synchronise gradients only once, after the last part.
            quiet = self.world.size > 1 and part < parts - 1
            with self.forward.no_sync() if quiet else nullcontext():  # type: ignore[operator]
                with autocast(self.device, self.precision):
                    logits = self.forward(images)
                loss = compound_loss(logits, masks, self.params.loss) / parts
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            sums += overlap(logits.detach(), masks)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.after_step()
        self.average.update(number)
        return total

    def _rows(self, number: int) -> Tensor:
        return self.order.rows(self.first_image + number * self.params.batch_size, self.params.batch_size)

    def _learn(self, epoch: int, number: int, monitor: StepMonitor) -> tuple[float, float]:
        self.network.train()
        # Losses stay on the device, so that steps do not wait for each other.
        losses = torch.full((self.steps,), math.nan, device=self.device)
        sums = torch.zeros(3, device=self.device, dtype=torch.float64)
        for step in range(self.steps):
            losses[step] = self.step(epoch * self.steps + step, sums)
            loss = partial(self._checked, losses[: step + 1], epoch, number)
            monitor.step(number, step, self.params.batch_size, loss)
        return self._checked(losses, epoch, number), pooled_dice(self.world.add_up(sums))

    def _checked(self, losses: Tensor, epoch: int, number: int) -> float:
        """Return the mean loss so far; raises TrainingError for the first batch with a loss that is not finite."""
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            step = int(bad[0])
            names = ", ".join(self.ids[i] for i in self._rows(epoch * self.steps + step).tolist())
            raise TrainingError(
                f"epoch {number + 1}, batch {step + 1} of {self.steps}: the loss is not a number (images {names}); "
                f"lower train.learning_rate (now {self.params.learning_rate}) or set train.precision: float32"
            )
        return float(losses.mean())

    @torch.no_grad()
    def _score(self, subset: Pictures) -> tuple[float, float]:
        """Return loss and Dice over all pixels of a subset; every process scores the whole subset."""
        network = self.average.scored().eval()
        weighted = torch.zeros((), device=self.device)
        sums = torch.zeros(3, device=self.device, dtype=torch.float64)
        for rows in batches(len(subset), self.params.batch_size):
            images, masks = subset.batch(rows)
            with autocast(self.device, self.precision):
                logits = network(to_input(images))
            weighted += compound_loss(logits, masks.unsqueeze(1), self.params.loss) * len(rows)
            sums += overlap(logits, masks.unsqueeze(1))
        figures = self.world.agree(torch.cat([weighted.double().view(1), sums]))
        return float(figures[0]) / len(subset), pooled_dice(figures[1:])


def overlap(logits: Tensor, masks: Tensor) -> Tensor:
    """Return float64 (3,): pixels in both, predicted pixels, mask pixels, at probability 0.5."""
    p = logits > 0
    g = masks > 0.5
    return torch.stack([(p & g).sum(), p.sum(), g.sum()]).double()


def pooled_dice(sums: Tensor) -> float:
    """Return Dice (Eq. 3) from the sums of :func:`overlap`."""
    both, predicted, true = sums.tolist()
    return float((2 * both + 1) / (predicted + true + 1))
