"""The MLflow registry, read: versions, who is champion and since when, and where each version comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from core.params import read_registry_params
from tracking.store import answered

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["CHALLENGER", "CHAMPION", "WIDTH", "answered", "champion_uri", "wide_console"]

MODEL = "lung-segmentation"  # as params.yaml is shipped
CHAMPION = "champion"
CHALLENGER = "challenger"
WIDTH = 200  # characters of a table that no terminal bounds


def champion_uri(params: Path = Path("params.yaml")) -> str:
    """Return the address of the champion of the model that ``register.model`` names.

    Args:
        params: the parameter file; where there is none, as outside the project, the shipped name is taken.

    Raises:
        UserError: the file's sections on the registry are not valid.
    """
    name = read_registry_params(params).register_.model if params.exists() else MODEL
    return f"models:/{name}@{CHAMPION}"


def wide_console() -> Console:
    """Return a console as wide as the terminal, and wide enough for whole tables where there is none."""
    from rich.console import Console

    return Console(highlight=False, width=None if Console().is_terminal else WIDTH)
