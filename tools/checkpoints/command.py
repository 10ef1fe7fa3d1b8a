"""The command ``defunet checkpoints``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import UserError

if TYPE_CHECKING:
    from tools.checkpoints.states import Kept


def checkpoints(
    place: Annotated[
        str, typer.Argument(envvar="TRAIN_CHECKPOINTS", help="The folder of all cells' states, or s3://bucket/prefix.")
    ] = "checkpoints",
    older_than: Annotated[
        float | None, typer.Option(min=0, metavar="DAYS", help="Only what was last written so many days ago.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what is listed; needs --older-than.")] = False,
) -> None:
    """List the checkpoints of training runs: cell, digest, state, epochs, age and size; with --remove, remove it."""
    from tools.checkpoints.states import find
    from tools.checkpoints.states import remove as removed

    if remove and older_than is None:
        raise UserError("--remove: say how old what is removed must be, for instance --older-than 30")
    since = datetime.now(UTC) - timedelta(days=older_than or 0)
    listed = [kept for kept in find(place) if kept.changed <= since]
    lines = [_row(kept) for kept in listed]
    widths = [max(map(len, column)) for column in zip(("cell", "training", "state", "age", "MiB"), *lines, strict=True)]
    for line in (("cell", "training", "state", "age", "MiB"), *lines):
        print("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
    if not remove:
        return
    gone = 0
    for kept in listed:
        if why := removed(kept):
            print(f"kept: {kept.place}: {why}")
        else:
            gone += kept.size
            print(f"removed: {kept.place}")
    print(f"{gone / 2**20:.1f} MiB freed")


def _row(kept: Kept) -> tuple[str, ...]:
    epochs = kept.epochs
    state = f"{'finished' if kept.finished else 'unfinished'}, {'?' if epochs is None else epochs} epochs"
    age = datetime.now(UTC) - kept.changed
    days, hours = age.days, age.seconds // 3600
    old = f"{days} d" if days else f"{hours} h" if hours else f"{age.seconds // 60} min"
    return kept.cell, kept.training, state, old, f"{kept.size / 2**20:.1f}"
