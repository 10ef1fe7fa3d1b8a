"""Read the MLflow model registry: versions, the history of champions, and the lineage of each version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from core.params import SignatureParams, check_section, read_registry_params, read_yaml
from core.terminal import console
from tracking.store import answered

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["CHALLENGER", "CHAMPION", "WIDTH", "answered", "champion_uri", "signatures", "wide_console"]

MODEL = "lung-segmentation"  # the default in params.yaml
CHAMPION = "champion"
CHALLENGER = "challenger"
WIDTH = 200  # characters; width of tables without a terminal


def champion_uri(params: Path = Path("params.yaml")) -> str:
    """Return the URI of the champion of the model in ``register.model``.

    Args:
        params: the parameter file; if it is missing, for example outside the project, the default name is used.

    Raises:
        UserError: the file's sections for the registry are invalid.
    """
    name = read_registry_params(params).register_.model if params.exists() else MODEL
    return f"models:/{name}@{CHAMPION}"


def signatures(params: Path = Path("params.yaml")) -> str:
    """Return ``registry.signatures`` of a parameter file; ``auto`` if the file or the section is missing.

    Raises:
        UserError: the file is not valid YAML, or its section ``registry`` is invalid.
    """
    values = read_yaml(params) if params.exists() else None
    if not isinstance(values, dict) or "registry" not in values:
        return "auto"
    return check_section(SignatureParams, values["registry"], f"{params}, registry").signatures


def wide_console(*, wide: bool = False) -> Console:
    """Return a console as wide as the terminal; without a terminal, as wide as COLUMNS, else :data:`WIDTH`.

    Markup is off, because names, tags and reasons from the registry may contain "[...]". ``wide`` is as for
    :func:`core.terminal.console`.
    """
    return console(WIDTH, markup=False, wide=wide)
