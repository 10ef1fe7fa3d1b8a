"""Time saved by progressive resizing: time to a given validation Dice, with stages and at one size.

    python -m benchmarks.stages artifacts/arrays artifacts/splits/mixed.json --target 0.95

Both sides train the same network from the same weights, alternately within one run, and are scored at the full size.
The staged side follows ``train.stages``. The other side trains only at the full size, by the same recipe with the first
stage's learning rate. It trains for one epoch, then from scratch for two, four and so on, each with a whole schedule.
The first training run that reaches the target counts, with only its own time.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.clock import own_seconds, synchronise
from benchmarks.cohort import of_split
from benchmarks.loops import Task
from core import cli
from core.cohort import Arrays, read_split
from core.errors import UserError
from core.params import read_params
from core.terminal import table
from model.training.batches import Subset
from model.training.distributed import DistributedContext
from model.training.loop import Silent, Trainer
from model.training.recipe import TrainParams


@dataclass(frozen=True)
class Reached:
    """The result of one training run.

    Attributes:
        seconds: seconds until the end of the epoch at the full size that reached the target, or of the last one.
        dice: the best validation Dice at the full size, 0 to 1.
        reached: whether ``dice`` reached the target.
    """

    seconds: float
    dice: float
    reached: bool


class _Watch(Silent):
    """Ends a training run as soon as an epoch at the full size reaches the target."""

    def __init__(self, target: float, size: int, device: torch.device) -> None:
        self.target, self.size, self.device = target, size, device
        self.begun, self.seconds, self.dice = own_seconds(device), math.nan, 0.0

    def epoch(self, row: dict[str, float]) -> None:
        """Record the time and the Dice of an epoch."""
        synchronise(self.device)
        self.seconds = own_seconds(self.device) - self.begun
        if row["size"] == self.size:
            self.dice = max(self.dice, row["validation_dice"])
            if self.dice >= self.target:
                raise StopIteration


def train(
    params: TrainParams, network: str, train_set: Subset, validation: Subset, seed: int, target: float
) -> Reached:
    """Train once, until the target is reached or the recipe ends."""
    world = DistributedContext.join()
    built = Task(network, params, train_set, validation, world.device, seed).build()
    with tempfile.TemporaryDirectory() as folder:
        watch = _Watch(target, train_set.images.shape[-1], world.device)
        trainer = Trainer(built, train_set, validation, params, seed, world, Path(folder), "", watch)
        watch.begun = own_seconds(world.device)  # excludes the measurement that selects the precision
        try:
            trainer.run()
        except StopIteration:
            return Reached(watch.seconds, watch.dice, True)
    return Reached(watch.seconds, watch.dice, False)


def single(params: TrainParams, epochs: int) -> TrainParams:
    """Return the recipe without stages, for ``epochs`` epochs, with the first stage's learning rate."""
    first = params.stages[0].learning_rate
    return params.model_copy(update={"stages": [], "epochs": epochs, "learning_rate": first})


def main(
    arrays: Annotated[Path, typer.Argument(help="The preprocessed cohort.")],
    split: Annotated[Path, typer.Argument(help="A scenario's frozen split.")],
    target: Annotated[float, typer.Option(min=0, max=1, help="Validation Dice to reach, pooled over pixels.")],
    network: Annotated[str, typer.Option(help="A network of model.networks.")] = "defu_net",
    rounds: Annotated[int, typer.Option(min=1, help="Seeds, from 0.")] = 3,
    most: Annotated[int, typer.Option(min=1, help="Epochs at the full size alone after which it is given up.")] = 16,
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Print the time that each side takes to the target, the ratio and its spread over seeds."""
    recipe, cohort = read_params(params).train, Arrays(arrays)
    if not recipe.stages:
        raise UserError(f"{params}: train.stages is empty, so that there is nothing to compare; say which stages")
    data = of_split(cohort, read_split(split), recipe.masks)
    size = cohort.info["size"]
    sides = " → ".join(str(stage.size) for stage in recipe.plan(size))
    title = f"{network}, {sides} against {size} alone, to a validation Dice of {target:g}"
    columns = ["seed", "staged, s", "Dice", "one size, s", "epochs", "Dice", "one size / staged"]
    shown = table(title, [], columns)
    ratios = []
    for seed in range(rounds):
        staged = train(recipe, network, *data, seed, target)
        epochs, alone = 1, train(single(recipe, 1), network, *data, seed, target)
        while not alone.reached and 2 * epochs <= most:
            epochs *= 2
            alone = train(single(recipe, epochs), network, *data, seed, target)
        both = staged.reached and alone.reached
        ratios += [alone.seconds / staged.seconds] * both
        figures = (f"{staged.seconds:.0f}", f"{staged.dice:.4f}", f"{alone.seconds:.0f}", str(epochs))
        ratio = f"{ratios[-1]:.2f}" if both else "not reached"
        shown.add_row(str(seed), *figures, f"{alone.dice:.4f}", ratio)
        print(f"seed {seed}: staged {staged}; one size, {epochs} epochs: {alone}", flush=True)
    Console(width=120).print(shown)
    if ratios:
        print(f"one size / staged: {min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} seed(s)")


if __name__ == "__main__":
    cli.run(main)
