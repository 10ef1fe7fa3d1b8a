"""The command ``serve``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import typer

from core import cli
from model.inference.engines import ENGINES
from serving.http import serve as run_service
from serving.http.settings import Settings


@cli.spliced("settings", Settings)
def serve(settings: Callable[[], Settings]) -> None:
    """Segment X-rays over HTTP, with a page to look at them; follows promotions without a restart."""
    given = settings()
    if given.engine not in ("auto", *ENGINES):
        raise typer.BadParameter(
            f"no engine {given.engine!r}; there are auto, {', '.join(ENGINES)}", param_hint="--engine"
        )
    if given.canary and given.shadow is None:
        raise typer.BadParameter("names no model: add --shadow models:/NAME@challenger", param_hint="--canary")
    from registry.pretrained import model_or_default, named

    shadow = given.shadow and named(given.shadow)
    run_service(replace(given, model=model_or_default(given.model), shadow=shadow))
