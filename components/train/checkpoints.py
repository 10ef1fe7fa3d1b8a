"""Where checkpoints lie. Imported before torch, whose threads :mod:`model.threads` sets first."""

from __future__ import annotations

from pathlib import Path

from core.cell import Cell
from core.s3 import is_s3, split_url


def places(checkpoints: str, cell: Cell, local: Path) -> tuple[Path, str]:
    """Return the local folder of a cell's states, and ``s3://bucket/prefix`` of their copies where there are any.

    Args:
        checkpoints: a folder or ``s3://bucket/prefix``, of all cells.
        cell: the cell.
        local: where the local states of all cells lie if ``checkpoints`` is in S3.

    Raises:
        UserError: no bucket is named.
    """
    if not is_s3(checkpoints):
        return Path(checkpoints) / cell.folder, ""
    split_url(checkpoints)
    return local / cell.folder, f"{checkpoints.rstrip('/')}/{cell.folder.as_posix()}"
