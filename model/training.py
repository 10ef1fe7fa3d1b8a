"""The training loop: seeded, resumable, over one or more processes, in mixed precision where it pays."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.augmentation import Augmenter, step_generator
from model.batches import Order, Resident, Subset, batches
from model.checkpoint import CheckpointError, load_state, save_state
from model.distributed import World, share_batchnorm
from model.inputs import autocast, choose_precision, to_input
from model.losses import compound_loss
from model.memory import checkpoint_activations
from model.optimisation import Average, Schedule, make_optimizer, recalibrate
from model.recipe import TrainParams


class TrainingError(Exception):
    """The run cannot go on, for a reason that whoever started it can act on."""


class Monitor(Protocol):
    """Who is told how a run goes on."""

    def start(self, epochs: int, steps: int, first_epoch: int) -> None:
        """Say that epochs ``first_epoch`` to ``epochs`` - 1, of ``steps`` batches each, are about to run."""

    def step(self, epoch: int, step: int, images: int, loss: Callable[[], float]) -> None:
        """Say that a batch of ``images`` images is done; calling ``loss`` waits for the device."""

    def epoch(self, row: dict[str, float]) -> None:
        """Say that an epoch is done: the row of ``history.csv``."""

    def stop(self) -> None:
        """Say that no more is to come."""


@dataclass
class Result:
    """What training leaves.

    Attributes:
        weights: the state dict of the epoch with the lowest validation loss, on the CPU.
        history: one row an epoch; ``dice`` is pooled over the pixels of all images (Eq. 3).
        best_epoch: counted from 0.
        resumed_from: the epoch that a killed run went on from; 0 for an uninterrupted one.
    """

    weights: dict[str, Tensor]
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    resumed_from: int = 0


class Trainer:
    """One run. :meth:`run` may be called in a new process after a kill and ends with the same weights.

    Args:
        network: with freshly drawn weights; it is moved to the device and changed in place.
        train: images to learn from.
        validation: images that choose the epoch, lower the learning rate and stop early.
        params: the recipe.
        seed: of the order of images and the augmentation.
        world: where to train, and with whom.
        checkpoints: the folder of the full state; process 0 writes it, all read it.
        fingerprint: what must be equal for a state to be gone on from: parameters, data, seed.
        monitor: who is told.

    Raises:
        TrainingError: a batch cannot be divided among the processes.
    """

    def __init__(
        self,
        network: nn.Module,
        train: Subset,
        validation: Subset,
        params: TrainParams,
        seed: int,
        world: World,
        checkpoints: Path,
        fingerprint: str,
        monitor: Monitor,
    ) -> None:
        if params.batch_size % (world.size * params.accumulation):
            raise TrainingError(
                f"train.batch_size {params.batch_size} is no multiple of {world.size} processes times "
                f"train.accumulation {params.accumulation}; change one of them"
            )
        self.params, self.seed, self.world, self.device = params, seed, world, world.device
        self.checkpoints, self.fingerprint, self.monitor = checkpoints, fingerprint, monitor
        self.ids, self.count = train.ids, params.images_per_epoch or len(train)
        self.train, self.validation = Resident(train, self.device), Resident(validation, self.device)
        self.steps = math.ceil(self.count / params.batch_size)
        self.order = Order(len(train), seed)
        self.augmenter = Augmenter(params.augmentation, train.images.shape[1:], self.device)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = params.batchnorm_momentum
        if world.size > 1:
            share_batchnorm(self.network)
        if self.device.type == "cuda":
            # Every step has the same shapes, so that the fastest kernels are sought once.
            torch.backends.cudnn.benchmark = True
        self.precision = choose_precision(params.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        self.optimizer = make_optimizer(self.network, params)
        self.schedule = Schedule(self.optimizer, params, params.epochs * self.steps)
        # The average is taken before anything is wrapped, so that it stays the plain network.
        self.average = Average(self.network, params.ema)
        if params.activation_checkpointing:
            checkpoint_activations(self.network)
        self.forward = world.wrap(self.network)
        if params.compile:
            self.forward = torch.compile(self.forward)  # type: ignore[assignment]

    def run(self) -> Result:
        """Train to the end, from the last checkpoint where there is one.

        Raises:
            TrainingError: the loss is not a number (the message names the epoch, the batch and its images), the GPU's
                memory is full, or the stored state cannot be read.
        """
        result, best_loss, first, last = Result({}), math.inf, 0, self.params.epochs
        try:
            state = load_state(self.checkpoints, self.fingerprint)
        except CheckpointError as error:
            raise TrainingError(str(error)) from error
        if state is not None:
            first, best_loss = state["epoch"], state["best_loss"]
            result = Result(state["best_weights"], state["history"], state["best_epoch"], resumed_from=first)
            self._restore(state)
            # A run killed after its last epoch, early or not, has only its result left to write.
            last = first if state["complete"] else last
        self.monitor.start(self.params.epochs, self.steps, first)
        try:
            for epoch in range(first, last):
                try:
                    row = self._epoch(epoch)
                except torch.OutOfMemoryError as error:
                    raise TrainingError(
                        f"epoch {epoch + 1}: the GPU's memory is full; lower train.batch_size, raise "
                        "train.accumulation or set train.activation_checkpointing: true"
                    ) from error
                result.history.append(row)
                if row["validation_loss"] < best_loss:
                    best_loss, result.best_epoch = row["validation_loss"], epoch
                    scored = self.average.scored().state_dict()
                    result.weights = {k: v.detach().cpu().clone() for k, v in scored.items()}
                patience = self.params.early_stopping
                complete = epoch + 1 == last or bool(patience and epoch - result.best_epoch >= patience)
                if complete and self.params.recalibrate:
                    result.weights = self._recalibrated(result.weights)
                if complete or (epoch + 1) % self.params.checkpoint_every == 0:
                    self._save(epoch + 1, result, best_loss, complete=complete)
                # Told after the state is safe: what a monitor reports is never lost.
                self.monitor.epoch(row)
                if complete:
                    break
        finally:
            self.monitor.stop()
        return result

    def finish(self, result: Result) -> None:
        """Mark the state as finished, once its result has been written: the same run started again begins afresh."""
        self._save(len(result.history), result, math.inf, complete=True, finished=True)

    def _epoch(self, epoch: int) -> dict[str, float]:
        start = time.monotonic()
        # What dropout draws follows from the seed, the epoch and the process: no generator's state need be kept.
        torch.manual_seed(((self.seed * 1_000_003 + epoch) * self.world.size + self.world.rank) % 2**63)
        rate = self.optimizer.param_groups[0]["lr"]
        loss, dice = self._learn(epoch)
        seconds = time.monotonic() - start
        validation_loss, validation_dice = self._score(self.validation)
        if not math.isfinite(validation_loss):
            raise TrainingError(f"epoch {epoch + 1}: the validation loss is not a number; lower train.learning_rate")
        self.schedule.after_epoch(validation_loss)
        return {
            "epoch": epoch + 1,
            "learning_rate": rate,
            "train_loss": loss,
            "train_dice": dice,
            "validation_loss": validation_loss,
            "validation_dice": validation_dice,
            "seconds": seconds,
            "images_per_second": self.steps * self.params.batch_size / seconds,
        }

    def _learn(self, epoch: int) -> tuple[float, float]:
        self.network.train()
        # Losses stay on the device, so that no step waits for the one before it to end.
        losses = torch.full((self.steps,), math.nan, device=self.device)
        sums = torch.zeros(3, device=self.device, dtype=torch.float64)
        for step in range(self.steps):
            losses[step] = self.step(epoch * self.steps + step, sums)
            self.monitor.step(epoch, step, self.params.batch_size, partial(self._checked, losses[: step + 1], epoch))
        return self._checked(losses, epoch), pooled_dice(self.world.add_up(sums))

    def step(self, number: int, sums: Tensor) -> Tensor:
        """Learn from one batch.

        Args:
            number: of the step, from 0 over the whole run: with the seed it says which images come, and how changed.
            sums: float64 (3,) to which this process's part of :func:`overlap` is added.

        Returns:
            The loss of the whole batch, on the device.
        """
        size, parts = self.params.batch_size, self.params.accumulation
        rows = self.order.rows(number, size)
        draw = self.augmenter.draw(size, step_generator(self.seed, number))
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for part, positions in enumerate(torch.arange(size).chunk(parts)):
            mine = self.world.share(positions)
            images, masks = self.augmenter.apply(*self.train.batch(rows[mine]), {k: v[mine] for k, v in draw.items()})
            # Gradients are sent around once, after the last part.
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

    def _checked(self, losses: Tensor, epoch: int) -> float:
        """Return the mean loss so far; raise a :class:`TrainingError` for the first batch whose loss is no number."""
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            step = int(bad[0])
            rows = self.order.rows(epoch * self.steps + step, self.params.batch_size)
            names = ", ".join(self.ids[i] for i in rows.tolist())
            raise TrainingError(
                f"epoch {epoch + 1}, batch {step + 1} of {self.steps}: the loss is not a number (images {names}); "
                f"lower train.learning_rate (now {self.params.learning_rate}) or set train.precision: float32"
            )
        return float(losses.mean())

    @torch.no_grad()
    def _score(self, subset: Resident) -> tuple[float, float]:
        """Return the loss and the Dice over all pixels of a subset; every process scores all of it."""
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

    def _recalibrated(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights with BatchNorm's statistics of the training images as they are, without augmentation."""
        kept = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(weights)
        size = self.params.batch_size
        recalibrate(self.network, (to_input(self.train.batch(r)[0]) for r in batches(len(self.train), size)))
        weights = {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(kept)
        return weights

    def _save(self, epoch: int, result: Result, best_loss: float, *, complete: bool, finished: bool = False) -> None:
        if not self.world.first:
            return
        state = {
            "fingerprint": self.fingerprint,
            "finished": finished,
            "complete": complete,
            "epoch": epoch,
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": result.history,
            "best_loss": best_loss,
            "best_epoch": result.best_epoch,
            "best_weights": result.weights,
        }
        save_state(self.checkpoints, state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])


def overlap(logits: Tensor, masks: Tensor) -> Tensor:
    """Return float64 (3,): pixels in both, pixels predicted, pixels of the masks, at probability 0.5."""
    p = logits > 0
    g = masks > 0.5
    return torch.stack([(p & g).sum(), p.sum(), g.sum()]).double()


def pooled_dice(sums: Tensor) -> float:
    """Return Dice (Eq. 3) of the three sums of :func:`overlap`."""
    both, predicted, true = sums.tolist()
    return float((2 * both + 1) / (predicted + true + 1))
