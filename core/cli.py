"""How every step becomes a command: typed options, one clear line for a user's error, a traceback for a bug."""

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

ParamsFile = Annotated[Path, typer.Option("--params", help="The file of all choices, validated whole.")]
Out = Annotated[Path, typer.Option("--out", help="The folder to write; it appears only when the step has succeeded.")]


@contextmanager
def told() -> Iterator[None]:
    """Tell a user's error or an interrupt inside the block in one line, and exit with 1 or 130."""
    # No step reports to anyone, and none should wait for a server that would be told.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    settle()  # before a step imports torch
    try:
        yield
    except UserError as error:
        say(f"error: {error}")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        say("interrupted: nothing half-written was left; run again to go on")
        raise SystemExit(130) from None


def run(step: Callable[..., Any]) -> None:
    """Run ``step`` as a Typer command and exit: 0 done, 1 a :class:`UserError`, 2 a wrong call, 130 interrupted."""

    @functools.wraps(step)
    def command(*args: Any, **options: Any) -> None:
        with told():
            step(*args, **options)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    app()
