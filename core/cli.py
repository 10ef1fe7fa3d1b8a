"""Run a step as a command: typed options, one line for a UserError, a traceback for a bug."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from core.errors import UserError
from core.terminal import say
from model.threads import settle

HELP = {"help_option_names": ["-h", "--help"]}  # of a Typer app's context
ParamsFile = Annotated[Path, typer.Option("--params", help="The parameter file.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The output folder; it is created only if the step succeeds.")]


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a UserError or an interrupt inside the block as one line and exit with 1 or 130."""
    # No telemetry: no step may send data or wait for a telemetry server.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    settle()  # before a step imports torch
    try:
        yield
    except UserError as error:
        say(f"error: {error}")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        say("interrupted: no partial output was written; run again to resume")
        raise SystemExit(130) from None


def run(step: Callable[..., Any]) -> None:
    """Run ``step`` as a Typer command and exit: 0 success, 1 UserError, 2 usage error, 130 interrupted."""

    @functools.wraps(step)
    def command(*args: Any, **options: Any) -> None:
        with exit_on_user_error():
            step(*args, **options)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(context_settings=HELP)(command)
    app()
