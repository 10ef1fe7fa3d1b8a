"""The training loop: the paper's loss, optimiser and schedule; seeded, resumable, in mixed precision where it pays."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from model.augmentation import augmenter
from model.checkpoint import CheckpointError, load_state, random_states, save_state, set_random_states
from model.inputs import autocast, choose_precision, to_input
from model.losses import dice_loss
from model.recipe import TrainParams


class TrainingError(Exception):
    """The run cannot go on, for a reason that whoever started it can act on."""


@dataclass(frozen=True)
class Subset:
    """Some images of a cohort, in an order that is part of what makes a run repeatable.

    Attributes:
        images: uint8 (N, H, W), 0 to 255.
        masks: uint8 (N, H, W), 0 or 1.
        ids: N names, for messages.
    """

    images: np.ndarray
    masks: np.ndarray
    ids: list[str]

    def __len__(self) -> int:
        return len(self.ids)


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
        network: with freshly drawn weights; it is moved to ``device`` and changed in place.
        train: images to learn from.
        validation: images that choose the epoch, lower the learning rate and stop early.
        params: the recipe.
        seed: of the order of images and the augmentation.
        device: where to train.
        checkpoints: the folder of the full state.
        fingerprint: what must be equal for a state to be gone on from: parameters, data, seed.
        monitor: who is told.
    """

    def __init__(
        self,
        network: nn.Module,
        train: Subset,
        validation: Subset,
        params: TrainParams,
        seed: int,
        device: torch.device,
        checkpoints: Path,
        fingerprint: str,
        monitor: Monitor,
    ) -> None:
        self.params, self.seed, self.device = params, seed, device
        self.checkpoints, self.fingerprint, self.monitor = checkpoints, fingerprint, monitor
        self.train, self.validation = train, validation
        self.steps = math.ceil(len(train) / params.batch_size)
        self.network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = params.batchnorm_momentum
        self.augment = augmenter(params.augmentation)
        self.precision = choose_precision(params.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)
        # Keras' epsilon, which the authors' runs had.
        self.optimizer = torch.optim.Adam(network.parameters(), params.learning_rate, eps=1e-7, fused=True)
        self.one_cycle: torch.optim.lr_scheduler.OneCycleLR | None = None
        self.plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        if params.schedule == "one-cycle":
            self.one_cycle = torch.optim.lr_scheduler.OneCycleLR(
                self.optimizer, params.learning_rate, total_steps=params.epochs * self.steps
            )
        else:
            # As Keras, with which the authors trained, counts: the rate drops in the patience-th epoch without an
            # improvement of 1e-4 (PyTorch lets one more pass), so that it can drop before early stopping, for which any
            # improvement counts, ends the run.
            self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                self.optimizer,
                factor=params.plateau.factor,
                patience=max(0, params.plateau.patience - 1),
                threshold=1e-4,
                threshold_mode="abs",
            )

    def run(self) -> Result:
        """Train to the end, from the last checkpoint where there is one.

        Raises:
            TrainingError: the loss is not a number (the message names the epoch, the batch and its images), or the
                stored state cannot be read.
        """
        torch.manual_seed(self.seed)
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
                row = self._epoch(epoch)
                result.history.append(row)
                if row["validation_loss"] < best_loss:
                    best_loss, result.best_epoch = row["validation_loss"], epoch
                    result.weights = {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}
                patience = self.params.early_stopping
                complete = epoch + 1 == last or bool(patience and epoch - result.best_epoch >= patience)
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
        rate = self.optimizer.param_groups[0]["lr"]
        loss, dice = self._learn(epoch)
        seconds = time.monotonic() - start
        validation_loss, validation_dice = self._score(self.validation)
        if not math.isfinite(validation_loss):
            raise TrainingError(f"epoch {epoch + 1}: the validation loss is not a number; lower train.learning_rate")
        if self.plateau is not None:
            self.plateau.step(validation_loss)
        return {
            "epoch": epoch + 1,
            "learning_rate": rate,
            "train_loss": loss,
            "train_dice": dice,
            "validation_loss": validation_loss,
            "validation_dice": validation_dice,
            "seconds": seconds,
            "images_per_second": len(self.train) / seconds,
        }

    def _learn(self, epoch: int) -> tuple[float, float]:
        self.network.train()
        order = torch.randperm(len(self.train)).numpy()
        # Losses stay on the device, so that no step waits for the one before it to end.
        losses = torch.full((self.steps,), math.nan, device=self.device)
        sums = torch.zeros(3, device=self.device, dtype=torch.float64)
        for step, positions in enumerate(batches(len(order), self.params.batch_size)):
            rows = order[positions]
            images, masks = self._batch(self.train, rows)
            images, masks = self.augment(images, masks)
            with autocast(self.device, self.precision):
                logits = self.network(images.contiguous(memory_format=torch.channels_last))
            loss = dice_loss(logits, masks)
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.one_cycle is not None:
                self.one_cycle.step()
            losses[step] = loss.detach()
            sums += overlap(logits.detach(), masks)
            self.monitor.step(epoch, step, len(rows), partial(self._checked, losses[: step + 1], order, epoch))
        return self._checked(losses, order, epoch), pooled_dice(sums)

    def _checked(self, losses: Tensor, order: np.ndarray, epoch: int) -> float:
        """Return the mean loss so far; raise a :class:`TrainingError` for the first batch whose loss is no number."""
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            step, size = int(bad[0]), self.params.batch_size
            names = ", ".join(self.train.ids[i] for i in order[step * size : (step + 1) * size])
            raise TrainingError(
                f"epoch {epoch + 1}, batch {step + 1} of {self.steps}: the loss is not a number (images {names}); "
                f"lower train.learning_rate (now {self.params.learning_rate}) or set train.precision: float32"
            )
        return float(losses.mean())

    @torch.no_grad()
    def _score(self, subset: Subset) -> tuple[float, float]:
        """Return the loss and the Dice over all pixels of a subset."""
        self.network.eval()
        weighted, sums = torch.zeros((), device=self.device), torch.zeros(3, device=self.device, dtype=torch.float64)
        for rows in batches(len(subset), self.params.batch_size):
            images, masks = self._batch(subset, rows)
            with autocast(self.device, self.precision):
                logits = self.network(images)
            weighted += dice_loss(logits, masks) * len(rows)
            sums += overlap(logits, masks)
        return float(weighted) / len(subset), pooled_dice(sums)

    def _batch(self, subset: Subset, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        images = torch.from_numpy(np.ascontiguousarray(subset.images[rows]))
        masks = torch.from_numpy(np.ascontiguousarray(subset.masks[rows]))
        if self.device.type == "cuda":
            images, masks = images.pin_memory(), masks.pin_memory()
        images, masks = images.to(self.device, non_blocking=True), masks.to(self.device, non_blocking=True)
        return to_input(images), masks.unsqueeze(1).float()

    def _schedule(self) -> Any:
        return self.one_cycle if self.one_cycle is not None else self.plateau

    def _save(self, epoch: int, result: Result, best_loss: float, *, complete: bool, finished: bool = False) -> None:
        state = {
            "fingerprint": self.fingerprint,
            "finished": finished,
            "complete": complete,
            "epoch": epoch,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self._schedule().state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random_states(),
            "history": result.history,
            "best_loss": best_loss,
            "best_epoch": result.best_epoch,
            "best_weights": result.weights,
        }
        save_state(self.checkpoints, state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._schedule().load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        set_random_states(state["random"])


def batches(count: int, size: int) -> Iterator[np.ndarray]:
    """Yield 0 .. count - 1 in order, ``size`` at a time."""
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def overlap(logits: Tensor, masks: Tensor) -> Tensor:
    """Return float64 (3,): pixels in both, pixels predicted, pixels of the masks, at probability 0.5."""
    p = logits > 0
    g = masks > 0.5
    return torch.stack([(p & g).sum(), p.sum(), g.sum()]).double()


def pooled_dice(sums: Tensor) -> float:
    """Return Dice (Eq. 3) of the three sums of :func:`overlap`."""
    both, predicted, true = sums.tolist()
    return float((2 * both + 1) / (predicted + true + 1))
