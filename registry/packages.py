"""Fetch and open model packages."""

from __future__ import annotations

from pathlib import Path

from core.errors import UserError
from model.inference.engines import ENGINES
from model.inference.package import Contract, Package, Segmentation, Training
from registry.fetch import fetch

__all__ = ["ENGINES", "Contract", "Package", "Segmentation", "Training", "fetch", "load"]


def load(folder: Path, engine: str = "auto", threads: int | None = None) -> Package:
    """Open a package.

    Args:
        folder: the package of the register step, or the result of :func:`fetch`.
        engine: ``auto`` or a key of :data:`model.inference.engines.ENGINES`.
        threads: maximum number of threads of the engine; None: as set by :mod:`model.threads`.

    Raises:
        UserError: a file is missing or damaged, or the engine is unknown or not installed.
    """
    from model.inference.package import load as open_package

    try:
        return open_package(folder, engine, threads)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder}: not a model package that can be used ({first_line}); fetch it again") from error
