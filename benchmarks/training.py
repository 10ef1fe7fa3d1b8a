"""Speed of the shipped training loop against a plain one: ``python -m benchmarks.training``.

Both train the same network on the same images at the same batch size, alternately within one run: on a shared machine
only ratios are meaningful. A ladder shows the gain of each optimisation, rooflines show the remaining potential, and
short training runs compare the scores. No data set is needed: the images are synthetic.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from benchmarks import cohort, show
from benchmarks.clock import Speed, counts_processor_time
from benchmarks.device import bound, measure_machine, measure_work
from benchmarks.loops import Loop, Shipped, Task, alternate, ladder, loader_share, validation_dice
from core import cli, terminal
from core.errors import UserError
from core.files import write_json
from core.params import Params, check_section, read_params
from core.provenance import hardware, versions
from model import networks
from model.training.recipe import TrainParams

TARGETS = {"cpu": 1.5, "cuda": 6.0}
WORKERS = {"cpu": (0,), "cuda": (0, 4)}
Device = Literal["cpu", "cuda"]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the median, minimum and maximum of the values, and all values."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "rounds": list(values)}


def rates(speeds: Sequence[Speed]) -> list[float]:
    """Return the images per second of each round."""
    return [speed.rate for speed in speeds]


def compared(ones: Sequence[Speed], others: Sequence[Speed]) -> dict[str, Any]:
    """Return ``ones`` / ``others`` by both clocks, paired by round because disturbances affect both."""
    pairs = list(zip(ones, others, strict=True))
    return {
        **spread([one.rate / other.rate for one, other in pairs]),
        "own": spread([one.own_rate / other.own_rate for one, other in pairs]),
    }


def measure_speed(task: Task, rounds: int, steps: int, warmup: int) -> dict[str, Any]:
    """Measure the shipped loop against the plain one with its fastest number of workers."""
    plain = {f"plain, {n} workers": task.plain(n) for n in WORKERS[task.device.type]}
    shipped = Shipped(task)
    loops: dict[str, Loop] = {**plain, "shipped": shipped}
    found = alternate(loops, rounds, steps, warmup, task.device)
    plain = {name: loop for name, loop in plain.items() if name in found}
    if not plain or "shipped" not in found:
        which = "plain" if "shipped" in found else "shipped"
        raise UserError(f"the {which} loop finds no room in the GPU's memory; say a smaller --batch-size")
    best = max(plain, key=lambda name: statistics.median(rates(found[name])))
    ratio, target = compared(found["shipped"], found[best]), TARGETS[task.device.type]
    return {
        "images_per_second": {name: spread(rates(speeds)) for name, speeds in found.items()},
        "own_images_per_second": {name: spread([s.own_rate for s in speeds]) for name, speeds in found.items()},
        "plain": best,
        "ratio": {**ratio, "target": target, "met": ratio["median"] >= target},
        "loader_share": {
            best: loader_share(plain[best], steps),
            "shipped": loader_share(shipped, steps),
        },
    }


def measure_ladder(task: Task, rounds: int, steps: int, warmup: int) -> list[dict[str, Any]]:
    """Measure all loops from the plain to the shipped one, each with one optimisation more than the one before."""
    # Else a second batch size makes the compiler generate code for dynamic shapes, which is slower.
    torch._dynamo.config.automatic_dynamic_shapes = False
    rungs = ladder(task, task.device.type == "cuda")
    loops = {name: make() for name, make in rungs.items()}
    found = alternate(loops, rounds, steps, warmup, task.device)
    names = list(loops)
    if without := [name for name in rungs if name not in loops]:
        print(f"no room in the GPU's memory, left out: {', '.join(without)}", file=sys.stderr)
    return [
        {
            "name": name,
            "images_per_second": spread(rates(found[name])),
            "to_plain": compared(found[name], found[names[0]]),
            "to_before": compared(found[name], found[before]),
        }
        for before, name in zip([names[0], *names], names, strict=False)
    ]


def measure_rooflines(task: Task, speed: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Measure the machine, count a step's work, and compare both loops with these bounds."""
    machine, size = measure_machine(task.device, quick), task.train.images.shape[1]
    precisions = {speed["plain"]: torch.float32, "shipped": task.precision}
    steps = {}
    for name, precision in precisions.items():
        work = measure_work(task.build(), task.params.batch_size, size, precision, bool(task.params.ema))
        seconds = task.params.batch_size / speed["own_images_per_second"][name]["median"]
        steps[name] = bound(machine, work, str(precision).removeprefix("torch."), seconds)
    return {"matrix_flops": machine.matrix, "bandwidth_bytes": machine.bandwidth, "steps": steps}


def measure_scores(task: Task, steps: int, seeds: int) -> dict[str, Any]:
    """Train both loops for the same number of steps, for several seeds; return losses and validation Dice."""
    dice: dict[str, list[float]] = {"plain": [], "shipped": [], "shipped, averaged weights": []}
    losses: dict[str, list[list[float]]] = {"plain": [], "shipped": []}
    # In both loops the learning rate's schedule covers exactly these steps.
    short = task.changed(images_per_epoch=steps * task.params.batch_size, epochs=1, compile=False)
    few = max(1, steps // 6)
    for seed in range(seeds):
        own = Task(short.network, short.params, short.train, short.validation, short.device, seed)
        plain, shipped = own.plain(), Shipped(own)
        trained = {
            "plain": plain.network,
            "shipped": shipped.trainer.network,
            "shipped, averaged weights": shipped.trainer.average.network,
        }
        for name, loop in (("plain", plain), ("shipped", shipped)):
            every = loop.run(steps)
            losses[name].append([statistics.mean(every[:few]), statistics.mean(every[-few:])])
        shipped.trainer.average.scored()
        for name, network in trained.items():
            dice[name].append(validation_dice(network, own.validation, own.device, own.params.batch_size))
    differences = [b - a for a, b in zip(dice["plain"], dice["shipped"], strict=True)]
    spreads = [max(values) - min(values) for values in (dice["plain"], dice["shipped"])]
    return {
        "steps": steps,
        "dice": {name: spread(values) | {"mean": statistics.mean(values)} for name, values in dice.items()},
        "losses": losses,
        "difference": spread(differences) | {"mean": statistics.mean(differences)},
        # A few seeds allow only this comparison, a single seed none.
        "within_noise": abs(statistics.mean(differences)) <= max(spreads) if seeds > 1 else None,
    }


def _settings(recipe: TrainParams, **values: Any) -> dict[str, Any]:
    return {**values, "threads": torch.get_num_threads(), "recipe": recipe.model_dump(mode="json")}


def _changed(
    params: Params, width: float | None, batch_size: int | None, precision: str | None, compiled: bool
) -> TrainParams:
    values = params.train.model_dump()
    given = {"width": width, "batch_size": batch_size, "precision": precision}
    values |= {name: value for name, value in given.items() if value is not None}
    # No accumulation or checkpointing: they trade time for memory, which is not measured here.
    values |= {"compile": compiled, "accumulation": 1, "activation_checkpointing": False}
    return check_section(TrainParams, values, "the recipe with the options given")


def main(
    device: Annotated[Device | None, typer.Option(help="Without it, the GPU if there is one.")] = None,
    network: Annotated[str, typer.Option(help="A network of model.networks.")] = "defu_net",
    size: Annotated[int | None, typer.Option(help="Side of the images, pixels; else that of params.yaml.")] = None,
    width: Annotated[float | None, typer.Option(help="Share of the paper's channels; else params.yaml's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Else params.yaml's.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of the shipped loop; else params.yaml's.")] = None,
    compiled: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Of the shipped loop; else yes on a GPU, no on a CPU.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each loop.")] = 5,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps per measurement; default 5 on a CPU, 50 on a GPU.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="To train on.")] = 64,
    validation: Annotated[int, typer.Option(min=1, help="Images to score.")] = 24,
    score_steps: Annotated[int, typer.Option(min=0, help="Of the short training runs that are scored; 0: none.")] = 60,
    seeds: Annotated[int, typer.Option(min=1, help="Of the short training runs.")] = 3,
    threads: Annotated[
        int, typer.Option(min=0, help="PyTorch threads on a CPU; 0: its default. Use 1 on a busy machine.")
    ] = 0,
    arrays: Annotated[Path | None, typer.Option(help="A preprocessed cohort in place of computed images.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A trial: few rounds, steps, images and seeds.")] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of all figures.")] = Path(
        "build/benchmarks/training.json"
    ),
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Measure the shipped training loop against a plain one, lever by lever, and that both learn alike."""
    choices = read_params(params)
    if network not in networks.NETWORKS:
        raise UserError(f"unknown network {network!r}; known are {', '.join(sorted(networks.NETWORKS))}")
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no GPU here; pass --device cpu")
    if threads:
        torch.set_num_threads(threads)
    cuda = kind == "cuda"
    recipe = _changed(choices, width, batch_size, precision, cuda if compiled is None else compiled)
    steps, warmup = steps or (50 if cuda else 5), 10 if cuda else 2
    if quick:
        rounds, steps, warmup, seeds = min(rounds, 2), min(steps, 2), 1, 1
        images, validation, score_steps = min(images, 16), min(validation, 4), min(score_steps, 30)
    if images < recipe.batch_size:
        raise UserError(f"--images {images} is less than one batch of {recipe.batch_size}; give more images")
    size = size or choices.preprocess.size
    subsets = (
        cohort.drawn(choices, size, images, validation)
        if arrays is None
        else cohort.preprocessed(arrays, recipe.masks, images, validation)
    )
    task = Task(network, recipe, *subsets, torch.device(kind))
    size = subsets[0].images.shape[1]

    own = counts_processor_time(task.device)
    console = terminal.console(130)
    figures: dict[str, Any] = {
        "settings": _settings(recipe, network=network, device=kind, size=size, images=images, steps=steps),
        "hardware": hardware(),
        "versions": versions(("torch", "numpy", "opencv-python-headless")),
    }
    console.print(show.heading(figures))
    figures["speed"] = measure_speed(task, rounds, steps, warmup)
    console.print(*show.speed(figures["speed"], own), sep="\n")
    write_json(out, figures)  # save now: the rest takes long and may run out of memory
    figures["ladder"] = measure_ladder(task, rounds, steps, warmup)
    console.print(show.rungs(figures["ladder"], own))
    figures["rooflines"] = measure_rooflines(task, figures["speed"], quick)
    console.print(*show.rooflines(figures["rooflines"]), sep="\n")
    write_json(out, figures)
    if score_steps:
        figures["scores"] = measure_scores(task, score_steps, seeds)
        console.print(*show.scores(figures["scores"]), sep="\n")
    write_json(out, figures)
    console.print(f"wrote {out}")


if __name__ == "__main__":
    cli.run(main)
