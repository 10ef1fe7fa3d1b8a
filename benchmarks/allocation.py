"""CPU time saved by keeping freed memory between steps (:func:`model.training.memory.keep_freed_memory`).

    python -m benchmarks.allocation --size 256 --width 0.25

Each measurement runs in a new process, alternately with and without, because the setting applies to a whole process.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from typing import Annotated

import torch
import typer
from rich.console import Console

from core import cli
from core.errors import UserError
from core.terminal import table
from model import networks
from model.inputs import channels_last
from model.training.memory import keep_freed_memory

SIDES = {"returned": False, "kept": True}


def measure(network: str, size: int, width: float, batch: int, steps: int, kept: bool) -> dict[str, float]:
    """Return the CPU seconds of a training step, in user mode and in the system, and its page faults."""
    if kept and not keep_freed_memory():
        raise UserError("the C library has no mallopt: nothing to compare")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    built = networks.build(network, width).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    images = channels_last(torch.rand(batch, 1, size, size))

    def step() -> None:
        built.zero_grad(set_to_none=True)
        built(images).square().mean().backward()

    step()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(steps):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "process": (after.ru_utime - before.ru_utime) / steps,
        "system": (after.ru_stime - before.ru_stime) / steps,
        "faults": (after.ru_minflt - before.ru_minflt) / steps,
    }


def main(
    network: Annotated[str, typer.Option(help="A network of model.networks.")] = "defu_net",
    size: Annotated[int, typer.Option(min=16, help="Side of the pictures, pixels.")] = 128,
    width: Annotated[float, typer.Option(help="Share of the paper's channels.")] = 0.125,
    batch: Annotated[int, typer.Option(min=1)] = 8,
    steps: Annotated[int, typer.Option(min=1)] = 4,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    kept: Annotated[bool | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print processor seconds of a training step with freed memory returned to the system, and kept."""
    if kept is not None:
        print(json.dumps(measure(network, size, width, batch, steps, kept)))
        return
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    given = ["--network", network, "--size", size, "--width", width, "--batch", batch, "--steps", steps]
    for number in range(rounds):
        for side in list(SIDES) if number % 2 == 0 else list(SIDES)[::-1]:
            flag = "--kept" if SIDES[side] else "--no-kept"
            line = [sys.executable, "-m", "benchmarks.allocation", *map(str, given), flag]
            done = subprocess.run(line, capture_output=True, text=True, check=True)
            found[side].append(json.loads(done.stdout))
    title = f"{network}, {size} x {size}, width {width:g}, batch {batch}, float32, one thread: a step"
    shown = table(title, ["freed memory is"], ["seconds in the process", "in the system", "page faults"])
    for side, rows in found.items():
        median = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        shown.add_row(side, f"{median['process']:.3f}", f"{median['system']:.3f}", f"{median['faults']:.0f}")
    Console(width=110).print(shown)
    sums = [[row["process"] + row["system"] for row in rows] for rows in found.values()]
    ratios = sorted(one / other for one, other in zip(*sums, strict=True))
    print(
        f"returned / kept: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f} over {rounds} rounds)"
    )


if __name__ == "__main__":
    cli.run(main)
