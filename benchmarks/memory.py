"""Memory of one training step, with and without memory-saving options: ``python -m benchmarks.memory``.

The paper trained at 512 x 512, batch size 2 and full width on a GPU with 11 GB. This shows with which options a network
fits such a GPU. Each case runs in a new process, so that none inherits memory from another's allocator.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import psutil
import typer
from rich.table import Table

from benchmarks.usage import memory
from core import cli, terminal
from core.errors import UserError
from core.files import write_json
from core.params import Params, read_params
from core.provenance import hardware
from core.terminal import say
from model import networks
from model.training.recipe import TrainParams

GIB = 2**30
# Approximate GPU memory of the CUDA context, before the first tensor.
CONTEXT = 0.5 * GIB
Device = Literal["cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]


def _recipe(params: Params, case: dict[str, Any]) -> TrainParams:
    keys = ("width", "batch_size", "accumulation", "activation_checkpointing", "precision")
    values = params.train.model_dump() | {key: case[key] for key in keys}
    return TrainParams.model_validate(
        values | {"images_per_epoch": case["batch_size"], "epochs": 1, "stages": []} | {"compile": False}
    )


def measure(case: dict[str, Any], params: Params) -> dict[str, Any]:
    """Run one training step in this process and measure its memory.

    Returns:
        In bytes ``weights``, ``copies`` (gradients, Adam's moments and the average of the weights), ``kept`` (tensors
        saved for the backward pass of one micro-batch) and ``peak`` (maximum, weights included); ``seconds`` of the
        step.
    """
    import torch

    from benchmarks.loops import Shipped, Task
    from model.training.batches import Subset

    recipe, device, size = _recipe(params, case), torch.device(case["device"]), case["size"]
    cuda = device.type == "cuda"
    images = np.random.default_rng(0).integers(0, 256, (recipe.batch_size, size, size), dtype=np.uint8)
    subset = Subset(images, (images > 127).astype(np.uint8), [str(n) for n in range(recipe.batch_size)])
    task = Task(case["network"], recipe, subset, subset, device)
    # Run a small step first, to exclude loading of libraries and compilation.
    corner = Subset(subset.images[:, :32, :32], subset.masks[:, :32, :32], subset.ids)
    Shipped(replace(task.changed(width=0.0625), train=corner, validation=corner)).run(1)
    baseline = psutil.Process().memory_info().rss
    loop = Shipped(task)
    tested = loop.trainer
    weights = sum(p.nbytes for p in tested.network.parameters())
    # Adam creates its moments in the first step; create them before, as in all later steps.
    for parameter in tested.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    tested.optimizer.step()
    tested.optimizer.zero_grad(set_to_none=True)
    if cuda:
        # In the first step of a shape cuDNN searches for kernels, with workspaces that later steps do not need.
        loop.run(1)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    loop.run(1)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_reserved() if cuda else memory()["VmHWM"] - baseline
    moments = sum(v.nbytes for state in tested.optimizer.state.values() for v in state.values() if v.ndim)
    copies = weights + moments + (weights if recipe.ema else 0)
    return {"weights": weights, "copies": copies, "kept": _kept(tested), "peak": peak, "seconds": seconds}


def _kept(trainer: Any) -> int:
    """Return the bytes saved for the backward pass of one micro-batch, without the weights."""
    import torch
    from torch import Tensor

    from model.inputs import autocast
    from model.training.augmentation import step_generator
    from model.training.losses import compound_loss

    weights = {p.untyped_storage().data_ptr() for p in trainer.network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()  # several operations may save the same tensor
        return tensor

    part = trainer.params.batch_size // trainer.params.accumulation
    draw = trainer.augmenter.draw(part, step_generator(0, 0))
    images, masks = trainer.augmenter.apply(*trainer.train.batch(torch.arange(part)), draw)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with autocast(trainer.device, trainer.precision):
            logits = trainer.network(images)
        loss = compound_loss(logits, masks, trainer.params.loss)
    del loss, logits
    return sum(kept.values())


def in_a_process(case: dict[str, Any], params: Path, threads: int) -> dict[str, Any]:
    """Measure a case in a new process; all figures are None if it ran out of memory."""
    line = [sys.executable, "-m", "benchmarks.memory", "--params", str(params), "--case", json.dumps(case)]
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    if done.returncode == 0:
        return {**case, **json.loads(done.stdout.splitlines()[-1])}
    if done.returncode in (-9, 137) or "out of memory" in done.stderr or "can't allocate memory" in done.stderr:
        return {**case, "weights": None, "copies": None, "kept": None, "peak": None, "seconds": None}
    raise RuntimeError(f"{case}: ended with {done.returncode}:\n{done.stderr}")


def _first_to_be_killed() -> None:
    """Make the OOM killer choose this process first."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def options(case: dict[str, Any]) -> str:
    """Return a case's name."""
    parts = [f"accumulation {case['accumulation']}"] * (case["accumulation"] > 1)
    parts += ["checkpointing"] * case["activation_checkpointing"]
    return " + ".join(parts) or "nothing"


def table(rows: list[dict[str, Any]], card: float) -> Table:
    """Return the cases as a table, and whether each fits a GPU with ``card`` GiB."""
    columns = ["weights", "gradients, Adam, average", "kept for backward", "peak", f"fits {card:g} GiB", "seconds"]
    shown = terminal.table("Memory of one training step, GiB", ["precision", "options"], columns)
    for row in rows:
        if row["peak"] is None:
            shown.add_row(row["precision"], options(row), "", "", "", "out of memory", "no", "")
            continue
        figures = [f"{row[key] / GIB:.2f}" for key in ("weights", "copies", "kept", "peak")]
        fits = "yes" if row["peak"] + CONTEXT <= card * GIB else "no"
        shown.add_row(row["precision"], options(row), *figures, fits, f"{row['seconds']:.1f}")
    return shown


def main(
    device: Annotated[Device | None, typer.Option(help="Without it, the GPU if there is one.")] = None,
    network: Annotated[str, typer.Option(help="A network of model.networks.")] = "defu_net",
    size: Annotated[int, typer.Option(min=32, help="Side of the images, pixels.")] = 512,
    width: Annotated[float, typer.Option(help="Share of the paper's channels.")] = 1.0,
    batch_size: Annotated[int, typer.Option(min=2, help="A multiple of 2.")] = 2,
    precision: Annotated[Precision | None, typer.Option(help="Without it, both.")] = None,
    card: Annotated[float, typer.Option(help="Memory of the card that it shall fit, GiB.")] = 11.0,
    threads: Annotated[int, typer.Option(min=0, help="Of PyTorch on a CPU; 0: as many as it takes itself.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of all figures.")] = Path(
        "build/benchmarks/memory.json"
    ),
    params: cli.ParamsFile = Path("params.yaml"),
    case: Annotated[str | None, typer.Option(hidden=True, help="One case, as JSON, in this very process.")] = None,
) -> None:
    """Measure the memory of one training step with accumulation, activation checkpointing, both and neither."""
    if case is not None:
        _first_to_be_killed()
        print(json.dumps(measure(json.loads(case), read_params(params))))
        return
    import torch

    if network not in networks.NETWORKS:
        raise UserError(f"unknown network {network!r}; known are {', '.join(sorted(networks.NETWORKS))}")
    if batch_size % 2:
        raise UserError(f"--batch-size {batch_size} is odd: accumulation computes it in two halves")
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no GPU here; pass --device cpu")
    console = terminal.console(130)
    console.print(f"{network}, {size} x {size}, width {width:g}, batch {batch_size}, on the {kind}")
    common = {"network": network, "device": kind, "size": size, "width": width, "batch_size": batch_size}
    rows = []
    precisions = (precision,) if precision else get_args(Precision)
    for number, checkpointing, accumulation in product(precisions, (False, True), (1, 2)):
        chosen = {"precision": number, "activation_checkpointing": checkpointing, "accumulation": accumulation}
        row = in_a_process({**common, **chosen}, params, threads)
        peak = "out of memory" if row["peak"] is None else f"peak {row['peak'] / GIB:.2f} GiB"
        # At the paper's size a CPU takes minutes for each.
        say(f"{number}, {options(row)}: {peak}")
        rows.append(row)
        write_json(out, {"hardware": hardware(), "torch": torch.__version__, "card_gib": card, "cases": rows})
    console.print(table(rows, card))
    where = "weights and the resident memory that the step added"
    if kind == "cuda":
        where = "torch.cuda.max_memory_reserved, weights included"
    console.print(f"peak: {where}; a card also holds CUDA itself, counted as {CONTEXT / GIB:g} GiB.\nwrote {out}")


if __name__ == "__main__":
    cli.run(main)
