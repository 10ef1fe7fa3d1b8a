"""``defunet``: the command line for the pipeline on Kubeflow, the registry and the model.

Commands import their modules when they run, so that ``--help`` and ``runs`` do not load PyTorch.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core import __version__
from core.cli import HELP, ParamsFile, exit_on_user_error, start
from core.errors import UserError
from defunet import registry
from defunet.examples import example
from defunet.options import (
    Cluster,
    Every,
    Image,
    Packed,
    PendingTimeout,
    RunId,
    ScheduleId,
    Set,
    Timeout,
    Wait,
    connected,
    packaged,
)
from serving.drift.command import drift
from serving.http.command import serve
from serving.predict.command import predict
from serving.review import command as review
from tools.checkpoints.command import checkpoints

if TYPE_CHECKING:
    from pipelines.client.kubeflow import Kubeflow

app = typer.Typer(
    name="defunet",
    help="Run the lung-segmentation pipeline on Kubeflow Pipelines, decide which model is in production, and use it.",
    epilog="Exit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted; with --wait also 3 the run failed, 4 it "
    "was cancelled, 5 it had not ended in time, 6 a pod waited too long.",
    no_args_is_help=True,
    context_settings=HELP,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"defunet {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Run the lung-segmentation pipeline on Kubeflow, decide which model is in production, and use it."""


Connect = Callable[[], Any]
# The panels of ``--help``, in their order.
MODEL, REGISTRY, KUBEFLOW, TRAININGS = "Use a model", "The MLflow registry", "The pipeline on Kubeflow", "Trainings"


def _command(function: Callable[..., None], panel: str = KUBEFLOW) -> Callable[..., None]:
    """Register a function as a command that prints a UserError as one line."""
    app.command(rich_help_panel=panel, epilog=example(function.__name__))(_in_one_line(function))
    return function


def _in_one_line(function: Callable[..., None]) -> Callable[..., None]:

    @functools.wraps(function)
    def command(**options: Any) -> None:
        with exit_on_user_error():
            function(**options)

    command.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    return command


for _panel, _commands in ((MODEL, (predict, serve, drift)), (REGISTRY, registry.COMMANDS)):
    for _each in _commands:
        _command(_each, _panel)

_review = typer.Typer(help="Have flagged masks corrected, and take them into the cohort.", no_args_is_help=True)
app.add_typer(_review, name="review", rich_help_panel=MODEL)
_review.command("export", epilog=example("review export"))(_in_one_line(review.export))
_review.command("import", epilog=example("review import"))(_in_one_line(review.import_))


@_command
def compile(
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("build/pipeline.yaml"),
    params: ParamsFile = Path("params.yaml"),
    set_: Set = None,
    cluster: Cluster = Path("pipelines/cluster.yaml"),
    image: Image = None,
) -> None:
    """Write the pipeline as YAML for Kubeflow's page, with the parameters of a file as its defaults."""
    from core.files import write_file
    from pipelines.client.package import overridden, package

    text = package(overridden(params, set_ or ())[0], cluster, image).text
    with write_file(out) as partial:
        partial.write_text(text)
    print(out)


@_command
@connected
@packaged
def submit(
    connect: Connect,
    pack: Callable[[], Packed],
    wait: Wait = False,
    every: Every = 5,
    timeout: Timeout = None,
    pending_timeout: PendingTimeout = None,
) -> None:
    """Compile the pipeline, start a run of it and print the run's id."""
    from core.terminal import say

    packed, kubeflow = pack(), connect()
    run_id = packed.send(kubeflow, kubeflow.submit)
    print(run_id, flush=True)
    say(kubeflow.page(run_id))
    if wait:
        _wait(kubeflow, run_id, every, timeout, pending_timeout)


@_command
@connected
@packaged
def schedule(
    connect: Connect,
    pack: Callable[[], Packed],
    cron: Annotated[
        str,
        typer.Option(
            help="When: second, minute, hour, day of the month, month, day of the week, as in '0 30 3 * * 1' for "
            "Mondays at half past three; UTC, unless Kubeflow was set up otherwise."
        ),
    ],
    catch_up: Annotated[
        bool, typer.Option("--catch-up/--no-catch-up", help="Run what was missed in an outage, one by one.")
    ] = False,
    max_concurrency: Annotated[
        int, typer.Option(min=1, max=10, help="Runs of this schedule that may run at the same time.")
    ] = 1,
) -> None:
    """Compile the pipeline, run it on a schedule, and print the schedule's id."""
    from core.terminal import say
    from pipelines.client.cron import Cron
    from pipelines.client.render import moment

    times = Cron(cron)
    packed, kubeflow = pack(), connect()
    print(packed.send(kubeflow, kubeflow.schedule, cron=times.text, catch_up=catch_up, max_concurrency=max_concurrency))
    say("next at " + ", ".join(moment(each) for each in times.next(3)) + " (UTC)")


_schedules = typer.Typer(
    help="List, pause, resume and delete schedules.", invoke_without_command=True, epilog=example("schedules")
)
app.add_typer(_schedules, name="schedules", rich_help_panel=KUBEFLOW)


@_schedules.callback()
@_in_one_line
@connected
def schedules(connect: Connect, context: typer.Context) -> None:
    """List the schedules; the commands below change one."""
    from pipelines.client.render import columns

    if context.invoked_subcommand:
        return
    rows = [
        (each.id, each.name, each.cron, each.status, str(each.max_concurrency), "yes" if each.catch_up else "no")
        for each in connect().schedules()
    ]
    print(columns([("schedule", "name", "cron", "status", "at once", "catches up"), *rows]))


@_schedules.command(epilog=example("schedules pause"))
@_in_one_line
@connected
def pause(connect: Connect, schedule: ScheduleId) -> None:
    """Start no more runs of a schedule until it is resumed; runs that it started continue."""
    from core.terminal import say

    connect().pause(schedule)
    say(f"schedule {schedule}: paused")


@_schedules.command(epilog=example("schedules resume"))
@_in_one_line
@connected
def resume(connect: Connect, schedule: ScheduleId) -> None:
    """Start runs of a paused schedule again."""
    from core.terminal import say

    connect().pause(schedule, paused=False)
    say(f"schedule {schedule}: resumed")


@_schedules.command(epilog=example("schedules delete"))
@_in_one_line
@connected
def delete(connect: Connect, schedule: ScheduleId) -> None:
    """Delete a schedule; runs that it started continue."""
    from core.terminal import say

    connect().unschedule(schedule)
    say(f"schedule {schedule}: deleted")


@_command
@connected
def runs(
    connect: Connect,
    limit: Annotated[int, typer.Option(min=1, help="Number of runs to list, newest first.")] = 10,
    experiment: Annotated[str | None, typer.Option(help="Only runs of this experiment.")] = None,
) -> None:
    """List the newest runs, with their states."""
    from pipelines.client.render import columns, duration, moment

    kubeflow = connect()
    found = kubeflow.runs(limit, kubeflow.experiment(experiment) if experiment else None)
    rows = [(run.id, run.name, run.state, moment(run.created), duration(run.created, run.ended)) for run in found]
    print(columns([("run", "name", "state", "created (UTC)", "time"), *rows]))


@_command
@connected
def status(
    connect: Connect,
    run: RunId,
    wait: Wait = False,
    every: Every = 5,
    timeout: Timeout = None,
    pending_timeout: PendingTimeout = None,
) -> None:
    """Show a run, every step and cell of it, and what to do next."""
    from pipelines.client.render import render_run

    kubeflow = connect()
    if wait:
        _wait(kubeflow, run, every, timeout, pending_timeout)
    print(render_run(kubeflow.run(run)))


@_command
@connected
def logs(
    connect: Connect,
    run: RunId,
    task: Annotated[
        str | None, typer.Option(help="Steps whose name contains this, as in 'train defu_net'. Default: failed ones.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines until the steps end.")] = False,
    every: Every = 5,
    launcher: Annotated[bool, typer.Option("--launcher", help="Also print the lines of Kubeflow's launcher.")] = False,
) -> None:
    """Print the logs of failed or chosen steps, of every attempt.

    Kubeflow's API has the logs of pods that still exist, and archived ones where the cluster archives them. A log that
    is not available is an error, with the kubectl command that may have it.
    """
    from pipelines.client.logs import logs as read

    read(connect(), run, task, follow, every, launcher)


@_command
@connected
def cancel(connect: Connect, run: RunId) -> None:
    """Ask Kubeflow to stop a run. Its training runs keep their checkpoints."""
    from core.terminal import say

    connect().cancel(run)
    say(f"run {run}: is being cancelled; `defunet status {run} --wait` waits for its end")


@_command
@connected
def retry(
    connect: Connect,
    run: RunId,
    wait: Wait = False,
    every: Every = 5,
    timeout: Timeout = None,
    pending_timeout: PendingTimeout = None,
) -> None:
    """Run the failed steps of a run again; those that succeeded keep their results."""
    from core.terminal import say

    kubeflow = connect()
    kubeflow.retry(run)
    say(f"run {run}: runs again")
    if wait:
        _wait(kubeflow, run, every, timeout, pending_timeout)


_command(checkpoints, TRAININGS)


def _wait(kubeflow: Kubeflow, run_id: str, every: float, limit: float | None, pending_limit: float | None) -> None:
    from core.terminal import say
    from pipelines.client import watch
    from pipelines.client.render import outcome

    again = f"the run continues; `defunet status {run_id} --wait` waits for its end"
    try:
        run = watch.wait(lambda: kubeflow.run(run_id), watch.view(), every, limit, pending_limit)
    except KeyboardInterrupt:
        say(f"interrupted: {again}")
        raise SystemExit(130) from None
    except UserError as error:
        raise UserError(f"{error}; {again}") from None
    code = watch.code(run, pending_limit)
    if code == watch.TIMED_OUT:
        say(f"not ended after {limit:g} s: {again}")
    elif code == watch.PENDING_TOO_LONG:
        say(f"{outcome(run)}: longer than --pending-timeout {pending_limit:g}; {again}")
    else:
        say(outcome(run))
    raise SystemExit(code)


def main() -> None:
    """Run the command line and exit."""
    start(app, "defunet")


if __name__ == "__main__":
    main()
