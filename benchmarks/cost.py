"""Cost of a prediction: ``python -m benchmarks.cost`` counts and times every network and writes results/cost.csv."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Annotated

import pandas as pd
import torch
import typer
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.clock import Stopwatch
from components.report import paper
from core import cli
from core.errors import UserError
from core.files import write_file
from core.provenance import hardware
from core.terminal import table
from model.networks import NETWORKS, build
from model.threads import processors

CPU = torch.device("cpu")


def gigamacs(network: nn.Module, size: int) -> float:
    """Return the 10^9 multiply-accumulates of one prediction.

    This is half of PyTorch's count of FLOPs of convolutions and matrix products. Element-wise operations, norms and
    pooling are not counted.

    Args:
        network: a network with one input channel.
        size: side of the image in pixels.
    """
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        network(torch.zeros(1, 1, size, size))
    return float(counter.get_total_flops()) / 2 / 1e9


def milliseconds(networks: dict[str, nn.Module], size: int, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of one eager prediction of one image, for every network and round, after one warm-up.

    With one thread this is CPU time, which other programs hardly disturb, else wall time.

    Args:
        networks: the networks by name, in evaluation mode.
        size: side of the image in pixels.
        rounds: number of measured rounds.
    """
    found: dict[str, list[float]] = {name: [] for name in networks}
    picture = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0))
    for turn in range(rounds + 1):
        for name, network in networks.items():
            watch = Stopwatch(CPU)
            with torch.inference_mode():
                network(picture).sigmoid()
            if turn:
                found[name].append(1e3 / watch.stop(1).own_rate)
    return found


def measure(names: Iterable[str], size: int, width: float, rounds: int, where: str) -> pd.DataFrame:
    """Return one row per network, as :func:`tools.publish.measured.read_cost` describes.

    Args:
        names: names of the networks.
        size: side of the image in pixels.
        width: share of the paper's channels.
        rounds: number of measured rounds.
        where: name of the hardware.
    """
    torch.manual_seed(0)
    networks = {name: build(name, width).eval() for name in names}
    lines = []
    for name, times in milliseconds(networks, size, rounds).items():
        lines.append(
            {
                "network": name,
                "width": width,
                "size": size,
                "parameters": sum(value.numel() for value in networks[name].parameters()),
                "gmac": round(gigamacs(networks[name], size), 4),
                "milliseconds": round(median(times), 2),
                "least": round(min(times), 2),
                "most": round(max(times), 2),
                "hardware": where,
            }
        )
    return pd.DataFrame(lines)


def main(
    size: Annotated[int, typer.Option(min=16, help="Side of the picture in pixels.")] = 128,
    width: Annotated[float, typer.Option(min=0.01, help="Share of the paper's channels.")] = 0.125,
    rounds: Annotated[int, typer.Option(min=1, help="How often each network is timed.")] = 20,
    threads: Annotated[int, typer.Option(min=1, help="Of the processor.")] = 2,
    network: Annotated[list[str] | None, typer.Option(help="Only this network; repeatable.")] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The file; lines of other sizes and widths in it stay.")
    ] = Path("results/cost.csv"),
) -> None:
    """Count multiplications and parameters, and time one eager prediction, of every network on this processor."""
    names = network or sorted(NETWORKS, key=paper.order)
    if unknown := sorted(set(names) - set(NETWORKS)):
        raise UserError(f"--network: unknown; known are {', '.join(NETWORKS)}", unknown)
    torch.set_num_threads(min(threads, processors()))
    cores = torch.get_num_threads()
    where = f"{cores} core{'s' * (cores > 1)} of {hardware()['cpu']}"
    lines = measure(names, size, width, rounds, where)
    title = f"One picture of {size} pixels, width {width:g}, {where}"
    shown = table(title, ["network"], ["parameters", "GMAC", "ms", "least to most"])
    for name, count, gmac, middle, least, most in lines.iloc[:, [0, 3, 4, 5, 6, 7]].itertuples(index=False):
        shown.add_row(str(name), f"{count:,}", f"{gmac:.3f}", f"{middle:.1f}", f"{least:.1f} to {most:.1f}")
    Console().print(shown)
    kept = pd.read_csv(out) if out.exists() else lines.iloc[:0]
    same = kept["network"].isin(lines["network"]) & (kept["size"] == size) & (kept["width"] == width)
    with write_file(out) as partial:
        pd.concat([kept[~same], lines]).to_csv(partial, index=False)
    typer.echo(f"wrote {out}")


if __name__ == "__main__":
    cli.run(main)
