"""Locations of checkpoints. This module does not import torch, because :mod:`model.threads` must run first."""

from __future__ import annotations

from pathlib import Path

from core.cell import Cell
from core.s3 import is_s3, split_url


def places(checkpoints: str, cell: Cell, local: Path) -> tuple[Path, str]:
    """Return the local folder of a cell's checkpoints, and the ``s3://bucket/prefix`` of their copies, empty for none.

    Args:
        checkpoints: folder or ``s3://bucket/prefix`` of the checkpoints of all cells.
        cell: the cell.
        local: local folder for the checkpoints of all cells if ``checkpoints`` is in S3.

    Raises:
        UserError: no bucket is named.
    """
    if not is_s3(checkpoints):
        return Path(checkpoints) / cell.folder, ""
    split_url(checkpoints)
    return local / cell.folder, f"{checkpoints.rstrip('/')}/{cell.folder.as_posix()}"
