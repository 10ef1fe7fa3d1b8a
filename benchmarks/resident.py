"""Speed of training from memory and from mapped files, alternately within one run: ``python -m benchmarks.resident``.

Both sides use the same batches and the same recipe. Their losses must be equal to the bit, which is checked.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.loops import Shipped, Task, alternate
from benchmarks.training import compared
from components.train.load import load_images
from core import cli
from core.cohort import Arrays, read_split
from core.errors import UserError
from core.params import read_params
from core.terminal import table
from model.training.distributed import DistributedContext

SIDES = {"in memory": "always", "from files": "never"}


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
    first, device = recipe.plan(cohort.info["size"])[0], DistributedContext.join().device
    memory, files = (
        Shipped(Task(network, recipe.within(first), images["train"], images["validation"], device), first.size)
        for images in (load_images(cohort, ids, recipe.masks, resident) for resident in SIDES.values())
    )
    speeds = alternate(dict(zip(SIDES, (memory, files), strict=True)), rounds, steps, steps, device)
    if len(speeds) < len(SIDES):
        raise UserError(f"{network} does not fit the GPU; choose another --network, or lower train.batch_size")
    if memory.losses != files.losses or not math.isfinite(sum(memory.losses)):
        raise UserError("the losses of both sides differ; this is a bug")
    ratio = compared(speeds["from files"], speeds["in memory"])
    title = f"{network} at {first.size} pixels, {len(ids['train'])} images, on the {device}"
    shown = table(title, ["images"], ["images/s, median", "least to most"])
    for name, each in speeds.items():
        rates = sorted(speed.own_rate for speed in each)
        shown.add_row(name, f"{rates[len(rates) // 2]:.1f}", f"{rates[0]:.1f} to {rates[-1]:.1f}")
    Console(width=100).print(shown)
    own = ratio["own"]
    print(
        f"from files / in memory: {own['median']:.3f} ({own['least']:.3f} to {own['most']:.3f} over {rounds} rounds); "
        f"the {len(memory.losses)} losses of each side are equal"
    )


if __name__ == "__main__":
    cli.run(main)
