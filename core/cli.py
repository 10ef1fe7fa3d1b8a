"""Run a step as a command: typed options, one line for a UserError, a traceback for a bug."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from core.errors import UserError
from core.terminal import say
from model.threads import settle

HELP = {"help_option_names": ["-h", "--help"]}  # of a Typer app's context
ParamsFile = Annotated[Path, typer.Option("--params", help="The parameter file.")]
Wide = Annotated[bool, typer.Option("--wide", help="Every column of the tables, however narrow the terminal is.")]
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
    start(app)


def start(app: typer.Typer, name: str | None = None) -> None:
    """Run a Typer app and exit; a wrong usage is one line like every other error, instead of Typer's box.

    Args:
        app: the app.
        name: the program's name in its help; None: as it was called.
    """
    try:
        code = app(standalone_mode=False, prog_name=name)
    except TyperException as error:
        context: Any = getattr(error, "ctx", None)
        if text := error.format_message():  # empty if the help has been printed
            usage = f"; `{context.command_path} --help` shows the usage" if context else ""
            say(f"error: {text[:1].lower()}{text[1:].rstrip('.')}{usage}")
        raise SystemExit(error.exit_code) from None
    raise SystemExit(code or 0)


def spliced(name: str, provide: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that replaces a command's parameter ``name`` by the parameters of ``provide``.

    The command gets a callable as ``name``, which calls ``provide`` with the options; a dataclass is one too.
    """
    shared = inspect.signature(provide, eval_str=True).parameters

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(function, eval_str=True).parameters

        @functools.wraps(function)
        def command(**options: Any) -> None:
            known = {key: options.pop(key) for key in shared}
            function(**options, **{name: lambda: provide(**known)})

        parameters = [parameter for key, parameter in own.items() if key != name] + list(shared.values())
        # Keyword-only, so that parameters with a default may precede those without.
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del command.__wrapped__
        return command

    return decorate
