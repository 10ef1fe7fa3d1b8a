"""``python -m components.train``: train one cell of the matrix."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from core import cli
from core.cell import Cell
from core.errors import UserError
from core.params import Processes, read_params, require_shares
from core.terminal import loading


def main(
    arrays: Annotated[Path, typer.Argument(help="The preprocessed cohort.")],
    network: Annotated[str, typer.Option(help="A network of model.networks.")],
    scenario: Annotated[str, typer.Option(help="A scenario of params.yaml.")],
    split: Annotated[Path, typer.Option(help="The scenario's frozen split.")],
    out: cli.Out,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights, the order and the augmentation.")] = 0,
    checkpoints: Annotated[
        str,
        typer.Option(
            envvar="TRAIN_CHECKPOINTS",
            help="Folder of the full states of all cells, or s3://bucket/prefix (then ./checkpoints holds copies).",
        ),
    ] = "checkpoints",
    params: cli.ParamsFile = Path("params.yaml"),
    processes: Processes = 1,
) -> None:
    """Train a network on a scenario's training split; a killed run resumes from its last checkpoint."""
    choices = read_params(params)
    if "RANK" not in os.environ:  # with RANK set, torchrun started this process and the checks are done
        if processes > 1:
            # Checked here because torchrun would add a traceback for each of its processes.
            require_shares(choices, processes)
        loading(f"PyTorch, to train {network} {scenario} seed {seed}")
        if processes > 1:
            _become_torchrun(processes)
    from components.train import train
    from components.train.checkpoints import places

    cell = Cell(network, scenario, seed)
    states, remote = places(checkpoints, cell, Path("checkpoints"))
    train(
        cell,
        arrays,
        split,
        choices.train,
        choices.register_.experiment,
        out,
        states,
        remote,
        lambda: read_params(params).train,
        choices.registry.signatures,
    )


def _become_torchrun(processes: int) -> None:
    """Replace this process with torchrun, which starts this command once per training process."""
    import torch

    gpus = torch.cuda.device_count()
    if 0 < gpus < processes:
        raise UserError(
            f"--processes {processes}: this machine has {gpus} GPU(s), and each process needs one; use fewer processes"
        )
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *launcher, "-m", "components.train", *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    cli.run(main)
