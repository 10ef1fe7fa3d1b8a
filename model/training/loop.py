"""The training loop: seeded, resumable, with progressive resizing, in one or more processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.threads import asked_for, settle
from model.training.batches import MappedSubset, Subset
from model.training.checkpoint import CheckpointError, load_state, save_state
from model.training.distributed import DistributedContext
from model.training.precision import Precision, choose_precision
from model.training.recipe import Stage, TrainParams
from model.training.stage import Prepared, StageTrainer, TrainingError, overlap, pooled_dice

__all__ = ["Monitor", "Result", "Silent", "Trainer", "TrainingError", "overlap", "pooled_dice"]

BEGAN = "as the run began: "


class Monitor(Protocol):
    """Callbacks of a training run."""

    def start(self, epochs: int, steps: int, first_epoch: int, stage: str) -> None:
        """Report the start of epochs ``first_epoch`` to ``epochs`` - 1 of ``steps`` batches each.

        ``stage`` is the name of their stage, empty if there is only one.
        """

    def step(self, epoch: int, step: int, images: int, loss: Callable[[], float]) -> None:
        """Report a batch of ``images`` images; calling ``loss`` waits for the device."""

    def epoch(self, row: dict[str, float]) -> None:
        """Report an epoch: the row of ``history.csv``."""

    def stop(self) -> None:
        """Report the end of training."""


class Silent:
    """A monitor that reports nothing, for all ranks except 0."""

    def start(self, epochs: int, steps: int, first_epoch: int, stage: str) -> None:
        """Do nothing."""

    def step(self, epoch: int, step: int, images: int, loss: Callable[[], float]) -> None:
        """Do nothing; the loss is checked at the epoch's end."""

    def epoch(self, row: dict[str, float]) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


@dataclass
class Result:
    """The result of training.

    Attributes:
        weights: the state dict of the last stage's epoch with the lowest validation loss, on the CPU.
        history: one row per epoch; ``dice`` is pooled over the pixels of all images (Eq. 3).
        best_epoch: epoch of the weights, counted from 0 over all stages.
        resumed_from: number of epochs before a resume; 0 for an uninterrupted run.
        seconds: time of all attempts, for killed ones up to their last checkpoint.
    """

    weights: dict[str, Tensor]
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    resumed_from: int = 0
    seconds: float = 0.0


class Trainer:
    """One training run. :meth:`run` may be called in a new process after a kill and gives the same weights.

    Stages have increasing sizes (progressive resizing). Each stage starts from the previous one's best weights, with
    a new optimiser, schedule and average of the weights.

    Args:
        network: network with initial weights; it is moved to the device and modified in place.
        train: training images, at the size of the last stage.
        validation: images for the choice of the epoch, the learning rate schedule and early stopping.
        params: the recipe.
        seed: seed of the order of images and the augmentation.
        world: the device and the process group.
        checkpoints: folder of checkpoints; rank 0 writes, all ranks read.
        fingerprint: identifies the run; a checkpoint resumes only if it matches.
        monitor: called after every batch and epoch.

    Raises:
        TrainingError: a batch cannot be divided among the processes, a stage is not smaller than the images, or the
            checkpoint cannot be read.
    """

    def __init__(
        self,
        network: nn.Module,
        train: Subset | MappedSubset,
        validation: Subset | MappedSubset,
        params: TrainParams,
        seed: int,
        world: DistributedContext,
        checkpoints: Path,
        fingerprint: str,
        monitor: Monitor,
    ) -> None:
        self.params, self.seed, self.world, self.device = params, seed, world, world.device
        self.checkpoints, self.fingerprint, self.monitor = checkpoints, fingerprint, monitor
        self.train, self.validation = train, validation
        self.started = time.monotonic()
        try:
            self.stages = params.plan(train.images.shape[-1])
            self.state = load_state(checkpoints, fingerprint)
        except (ValueError, CheckpointError) as error:
            raise TrainingError(str(error)) from error
        for stage in self.stages:
            if stage.batch_size % (world.size * params.accumulation):
                raise TrainingError(
                    f"train.batch_size {stage.batch_size} is not a multiple of {world.size} processes times "
                    f"train.accumulation {params.accumulation}; change one of them"
                )
        self.threads, self.threads_reason = self._threads()
        torch.set_num_threads(self.threads)
        self.precision = self._precision()
        self.prepared = Prepared(network, params, world, self.precision.dtype)
        self.number = self.state["stage"] if self.state else 0
        self.stage = self._stage(self.number)

    def run(self) -> Result:
        """Train to the end, from the last checkpoint if there is one.

        Raises:
            TrainingError: the loss is NaN or infinite (the message names the epoch, the batch and its images), or the
                GPU is out of memory.
        """
        result, best_loss, done, complete = Result({}), math.inf, 0, False
        if state := self.state:
            result = Result(state["best_weights"], state["history"], state["best_epoch"], state["epoch"])
            best_loss, done, complete = state["best_loss"], state["stage_epoch"], state["complete"]
            result.seconds = state["seconds"]
            self.stage.load_state_dict(state)
            self.state = None  # its tensors are copied, so free the memory of two copies of all weights
        self.before = result.seconds
        try:
            while True:
                # If a run was killed after a stage's last epoch, no epoch of the stage is left.
                self._train_stage(result, best_loss, done, last=done if complete else self.stages[self.number].epochs)
                if self.number + 1 == len(self.stages):
                    break
                self.number += 1
                self.stage.network.load_state_dict(result.weights)
                self.stage = self._stage(self.number)
                best_loss, done, complete = math.inf, 0, False
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"epoch {len(result.history) + 1}: the GPU's memory is full; lower train.batch_size, raise "
                "train.accumulation or set train.activation_checkpointing: true"
            ) from error
        finally:
            self.monitor.stop()
        result.seconds = self._seconds()
        return result

    def _precision(self) -> Precision:
        if self.state:
            # A resumed run uses its first precision, because another one would give other weights.
            began = self.state["precision_reason"].removeprefix(BEGAN)
            return Precision(getattr(torch, self.state["precision"]), BEGAN + began)
        return choose_precision(self.params.precision, self.world)

    def _threads(self) -> tuple[int, str]:
        settled, now = settle(), torch.get_num_threads()
        if asked_for() and settled.count is not None:
            now = settled.count  # PyTorch uses at most as many threads as cores
        reason = settled.reason
        if self.state is None or self.state["threads"] == now:
            return now, reason
        began = self.state["threads"]
        if asked_for():
            return now, f"{reason}; the run began with {began}, so that its weights differ in the last digits"
        # Another number of threads changes the order of summation and so the weights.
        return began, f"{BEGAN}{self.state['threads_reason'].removeprefix(BEGAN)}"

    def _stage(self, number: int) -> StageTrainer:
        first_step = first_image = 0
        for earlier in self.stages[:number]:
            steps = earlier.epochs * math.ceil((self.params.images_per_epoch or len(self.train)) / earlier.batch_size)
            first_step, first_image = first_step + steps, first_image + steps * earlier.batch_size
        here = self.stages[number]
        data = (self.train, self.validation)
        return StageTrainer(
            self.prepared, self.params.within(here), here.size, *data, self.seed, first_step, first_image
        )

    def _train_stage(self, result: Result, best_loss: float, done: int, last: int) -> None:
        """Train epochs ``done`` to ``last`` - 1 of the current stage and append them to ``result``."""
        stage, here = self.stage, self.stages[self.number]
        begun = len(result.history) - done  # epochs of earlier stages
        self.monitor.start(begun + here.epochs, stage.steps, begun + done, self._name(here))
        for epoch in range(done, last):
            number = begun + epoch
            row = stage.epoch(epoch, number, self.monitor)
            result.history.append(row)
            if row["validation_loss"] < best_loss:
                best_loss, result.best_epoch = row["validation_loss"], number
                result.weights = stage.scored_weights()
            patience = self.params.early_stopping
            complete = epoch + 1 == here.epochs or bool(patience and number - result.best_epoch >= patience)
            if complete and self.params.recalibrate:
                result.weights = stage.recalibrated(result.weights)
            if complete or (epoch + 1) % self.params.checkpoint_every == 0:
                self._save(result, best_loss, epoch + 1, complete=complete)
            # After the checkpoint is written, so that a reported epoch is never lost.
            self.monitor.epoch(row)
            if complete:
                return

    def _name(self, stage: Stage) -> str:
        if len(self.stages) == 1:
            return ""
        return f"stage {self.number + 1} of {len(self.stages)}, {stage.size} pixels"

    def _seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def _save(self, result: Result, best_loss: float, stage_epoch: int, *, complete: bool) -> None:
        if not self.world.first:
            return
        state: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "threads": self.threads,
            "threads_reason": self.threads_reason,
            "precision": str(self.precision.dtype).removeprefix("torch."),
            "precision_reason": self.precision.reason,
            "stage": self.number,
            "stage_epoch": stage_epoch,
            "complete": complete,  # of the stage
            "epoch": len(result.history),
            "history": result.history,
            "best_loss": best_loss,
            "best_epoch": result.best_epoch,
            "best_weights": result.weights,
            "seconds": self._seconds(),
            **self.stage.state_dict(),
        }
        save_state(self.checkpoints, state)
