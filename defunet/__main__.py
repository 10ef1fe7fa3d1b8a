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

from core.cli import ParamsFile, exit_on_user_error
from core.errors import UserError
from defunet import registry
from defunet.options import Cluster, Every, Image, Packed, RunId, Set, Timeout, Wait, connected, packaged
from serving.http.command import serve
from serving.predict.command import predict
from tools.checkpoints.command import checkpoints

if TYPE_CHECKING:
    from pipelines.client.kubeflow import Kubeflow

app = typer.Typer(
    name="defunet",
    help="Run the lung-segmentation pipeline on Kubeflow Pipelines, decide which model is in production, and use it.",
    epilog="Exit codes: 0 done, 1 an error that one line tells, 2 a wrong call, 130 interrupted; with --wait also 3 "
    "the run failed, 4 it was cancelled, 5 it had not ended in time.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Connect = Callable[[], Any]
KUBEFLOW, REGISTRY, MODEL = "The pipeline on Kubeflow", "The MLflow registry", "The model"  # panels of ``--help``
TRAININGS = "Trainings"


def _command(function: Callable[..., None], panel: str = KUBEFLOW) -> Callable[..., None]:
    """Register a function as a command that prints a UserError as one line."""

    @functools.wraps(function)
    def command(**options: Any) -> None:
        with exit_on_user_error():
            function(**options)

    command.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    app.command(rich_help_panel=panel)(command)
    return function


@_command
def compile(
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("build/pipeline.yaml"),
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
    connect: Connect, pack: Callable[[], Packed], wait: Wait = False, every: Every = 5, timeout: Timeout = None
) -> None:
    """Compile the pipeline, start a run of it and print the run's id."""
    from core.terminal import say

    packed, kubeflow = pack(), connect()
    run_id = packed.send(kubeflow, kubeflow.submit)
    print(run_id, flush=True)
    say(f"{kubeflow.host}/#/runs/details/{run_id}")
    if wait:
        _wait(kubeflow, run_id, every, timeout)


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
    """Compile the pipeline, have it run again and again, and print the schedule's id."""
    from core.terminal import say
    from pipelines.client.cron import Cron
    from pipelines.client.watch import moment

    times = Cron(cron)
    packed, kubeflow = pack(), connect()
    print(packed.send(kubeflow, kubeflow.schedule, cron=times.text, catch_up=catch_up, max_concurrency=max_concurrency))
    say("next at " + ", ".join(moment(each) for each in times.next(3)) + " (UTC)")


@_command
@connected
def schedules(connect: Connect) -> None:
    """List the schedules."""
    from pipelines.client.watch import columns

    rows = [
        (each.id, each.name, each.cron, each.status, str(each.max_concurrency), "yes" if each.catch_up else "no")
        for each in connect().schedules()
    ]
    print(columns([("schedule", "name", "cron", "status", "at once", "catches up"), *rows]))


@_command
@connected
def runs(
    connect: Connect,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 10,
    experiment: Annotated[str | None, typer.Option(help="Of this experiment alone.")] = None,
) -> None:
    """List the newest runs, with their states."""
    from pipelines.client.watch import columns, duration, moment

    kubeflow = connect()
    found = kubeflow.runs(limit, kubeflow.experiment(experiment) if experiment else None)
    rows = [(run.id, run.name, run.state, moment(run.created), duration(run)) for run in found]
    print(columns([("run", "name", "state", "created (UTC)", "time"), *rows]))


@_command
@connected
def status(connect: Connect, run: RunId, wait: Wait = False, every: Every = 5, timeout: Timeout = None) -> None:
    """Show a run and the state of every task."""
    from pipelines.client.watch import render_run

    kubeflow = connect()
    if wait:
        _wait(kubeflow, run, every, timeout)
    print(render_run(kubeflow.run(run)))


@_command
@connected
def logs(
    connect: Connect,
    run: RunId,
    task: Annotated[str | None, typer.Option(help="Tasks whose name holds this. Left out: the failed ones.")] = None,
) -> None:
    """Print the logs of failed or chosen tasks, as far as Kubeflow's API has them.

    It has the logs of pods that still exist, and archived ones where the cluster keeps an archive. Those of pods that
    are gone or never started, and the events around them, need access to Kubernetes: the command for it is printed.
    """
    from pipelines.client.logs import logs as read

    read(connect(), run, task)


@_command
@connected
def cancel(
    connect: Connect,
    run: Annotated[str, typer.Argument(metavar="RUN", help="The id of a run, or with --schedule of a schedule.")],
    schedule: Annotated[bool, typer.Option("--schedule", help="Delete a schedule; runs it started go on.")] = False,
) -> None:
    """Ask Kubeflow to stop a run. Its training runs keep their checkpoints."""
    from core.terminal import say

    if schedule:
        connect().unschedule(run)
        say(f"schedule {run}: deleted")
    else:
        connect().cancel(run)
        say(f"run {run}: is being cancelled; `defunet status {run} --wait` sees its end")


@_command
@connected
def retry(connect: Connect, run: RunId, wait: Wait = False, every: Every = 5, timeout: Timeout = None) -> None:
    """Run the failed tasks of a run again; what succeeded is kept."""
    from core.terminal import say

    kubeflow = connect()
    kubeflow.retry(run)
    say(f"run {run}: runs again")
    if wait:
        _wait(kubeflow, run, every, timeout)


for _panel, _commands in (
    (REGISTRY, registry.COMMANDS),
    (MODEL, (predict, serve)),
    (TRAININGS, (checkpoints,)),
):
    for _each in _commands:
        _command(_each, _panel)


def _wait(kubeflow: Kubeflow, run_id: str, every: float, limit: float | None) -> None:
    from core.terminal import say
    from pipelines.client import watch

    again = f"the run goes on; `defunet status {run_id} --wait` sees its end"
    try:
        run = watch.wait(lambda: kubeflow.run(run_id), watch.view(), every, limit)
    except KeyboardInterrupt:
        say(f"interrupted: {again}")
        raise SystemExit(130) from None
    except UserError as error:
        raise UserError(f"{error}; {again}") from None
    code = watch.code(run)
    if code == watch.TIMED_OUT:
        say(f"not ended after {limit:g} s: {again}")
    elif code:
        say(f"run {run_id}: {run.state}{f' ({run.error})' if run.error else ''}; see defunet logs {run_id}")
    raise SystemExit(code)


def main() -> None:
    """Run the command line and exit."""
    app(prog_name="defunet")


if __name__ == "__main__":
    main()
