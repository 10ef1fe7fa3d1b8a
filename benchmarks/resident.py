"""Speed of training from memory and from mapped files, alternately within one run: ``python -m benchmarks.resident``.

Both sides use the same batches and the same recipe. Their losses must be equal to the bit, which is checked.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.clock import Speed, Stopwatch
from benchmarks.training import compared
from components.train.load import load_images
from core import cli
from core.cohort import Arrays, read_split
from core.errors import UserError
from core.params import read_params
from model import networks
from model.training.distributed import DistributedContext
from model.training.precision import choose_precision
from model.training.recipe import TrainParams
from model.training.stage import Prepared, StageTrainer

SIDES = {"in memory": "always", "from files": "never"}


def trainer(
    recipe: TrainParams, network: str, cohort: Arrays, ids: dict[str, list[str]], resident: str
) -> StageTrainer:
    """Return the trainer of the first stage, with the images in memory or in mapped files."""
    torch.manual_seed(0)
    options = recipe.defu_net.model_dump() if network == "defu_net" else {}
    built = networks.build(network, recipe.width, norm=recipe.norm, **options)
    world = DistributedContext.join()
    prepared = Prepared(built, recipe, world, choose_precision(recipe.precision, world).dtype)
    images = load_images(cohort, ids, recipe.masks, resident)
    first = recipe.plan(cohort.info["size"])[0]
    return StageTrainer(prepared, recipe.within(first), first.size, images["train"], images["validation"], 0)


def main(
    arrays: Annotated[Path, typer.Argument(help="The preprocessed cohort.")],
    split: Annotated[Path, typer.Argument(help="A scenario's frozen split.")],
    network: Annotated[str, typer.Option(help="A network of model.networks.")] = "defu_net",
    rounds: Annotated[int, typer.Option(min=2, help="Turns of each side.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Batches in a turn.")] = 10,
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Print how fast each side trains, in the first stage of the recipe, and the ratio with its spread."""
    recipe, cohort, ids = read_params(params).train, Arrays(arrays), read_split(split)
    sides = {name: trainer(recipe, network, cohort, ids, resident) for name, resident in SIDES.items()}
    losses: dict[str, list[float]] = {name: [] for name in SIDES}
    speeds: dict[str, list[Speed]] = {name: [] for name in SIDES}
    for turn in range(-1, rounds):  # the first turn warms up
        for name, side in sides.items():
            watch, sums = Stopwatch(side.device), torch.zeros(3, device=side.device, dtype=torch.float64)
            found = [side.step((turn + 1) * steps + number, sums) for number in range(steps)]
            speed = watch.stop(steps * side.params.batch_size)
            losses[name] += [float(loss) for loss in found]
            if turn >= 0:
                speeds[name].append(speed)
    memory, files = SIDES
    if losses[memory] != losses[files] or not math.isfinite(sum(losses[memory])):
        raise UserError("the losses of both sides differ; this is a bug")
    ratio = compared(speeds[files], speeds[memory])
    first = sides[memory]
    table = Table(title=f"{network} at {first.size} pixels, {len(ids['train'])} images, on the {first.device}")
    for column in ("images", "images/s, median", "least to most"):
        table.add_column(column, justify="left" if column == "images" else "right")
    for name, each in speeds.items():
        rates = sorted(speed.own_rate for speed in each)
        table.add_row(name, f"{rates[len(rates) // 2]:.1f}", f"{rates[0]:.1f} to {rates[-1]:.1f}")
    Console(width=100).print(table)
    own = ratio["own"]
    print(
        f"from files / in memory: {own['median']:.3f} ({own['least']:.3f} to {own['most']:.3f} over {rounds} rounds); "
        f"the {len(losses[memory])} losses of each side are equal"
    )


if __name__ == "__main__":
    cli.run(main)
