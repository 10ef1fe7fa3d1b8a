"""Shared options of the ``defunet`` commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.cli import ParamsFile, spliced

if TYPE_CHECKING:
    from pipelines.client.kubeflow import Kubeflow, Order

of_connection, of_run = (
    partial(typer.Option, rich_help_panel=panel) for panel in ("Connection to Kubeflow", "The run")
)

Set = Annotated[
    list[str] | None,
    of_run(
        "--set",
        metavar="KEY=VALUE",
        help="Override a value of the parameter file, for example train.epochs=3 or 'matrix.networks=\\[unet]'; "
        "repeatable. All values are checked before anything is sent.",
    ),
]
Cluster = Annotated[Path, of_run(help="The cluster settings, validated as a whole.")]
Image = Annotated[str | None, of_run(help="The image of every step; overrides the cluster settings.")]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait", help="Show every step until the run ends; the exit code is 0, 3 or 4, and 5 or 6 after a timeout."
    ),
]
Every = Annotated[float, typer.Option(min=0.01, help="Seconds between two requests while waiting.")]
Timeout = Annotated[
    float | None, typer.Option(min=0, help="With --wait: give up (exit code 5) after these seconds; the run continues.")
]
PendingTimeout = Annotated[
    float | None,
    typer.Option(min=0, help="With --wait: give up (exit code 6) when a pod waits longer than these seconds."),
]
ScheduleId = Annotated[str, typer.Argument(metavar="SCHEDULE", help="The id of a schedule, from `defunet schedules`.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The id of a run, as `defunet runs` lists it.")]


def _connect(
    host: Annotated[
        str | None,
        of_connection(
            envvar="KF_PIPELINES_ENDPOINT",
            help="Address of Kubeflow Pipelines. Default: the pod's cluster, else the kubeconfig's.",
        ),
    ] = None,
    namespace: Annotated[
        str | None,
        of_connection(
            envvar="DEFUNET_NAMESPACE",
            help="Your profile's namespace in a multi-user Kubeflow. Default in a pod: its namespace.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        of_connection(
            envvar="DEFUNET_TOKEN",
            show_envvar=True,
            help="A bearer token. Prefer the variable: other users can list command lines.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        of_connection(
            envvar="DEFUNET_TOKEN_FILE",
            help="A file with the token, read before every request. Default in a pod: Kubeflow's token.",
        ),
    ] = None,
    kube_context: Annotated[str | None, of_connection(help="Context of the kubeconfig, used without --host.")] = None,
    system_namespace: Annotated[str, of_connection(help="The namespace of Kubeflow Pipelines itself.")] = "kubeflow",
    ca_file: Annotated[Path | None, of_connection(help="CA certificates that verify the host.")] = None,
    patience: Annotated[float, of_connection(min=0, help="Seconds for which failed connections are retried.")] = 120,
) -> Any:  # Kubeflow, whose import takes time
    """Return the client."""
    from core.terminal import say
    from pipelines.client.address import Address
    from pipelines.client.kubeflow import Kubeflow

    address = Address(host, namespace, token, token_file, kube_context, system_namespace, ca_file)
    return Kubeflow(address, patience, say)


@dataclass(frozen=True)
class Packed:
    """What Kubeflow shall run, and the experiment's name."""

    order: Order
    experiment: str
    create_experiment: bool

    def send(self, kubeflow: Kubeflow, how: Callable[..., str], **more: Any) -> str:
        """Find or create the experiment, submit or schedule with ``how``, and return Kubeflow's id."""
        where = kubeflow.experiment(self.experiment, self.create_experiment)
        return how(self.order, where, **more)


def _pack(
    params: ParamsFile = Path("params.yaml"),
    set_: Set = None,
    cluster: Cluster = Path("pipelines/cluster.yaml"),
    image: Image = None,
    source: Annotated[
        str | None,
        of_run(
            help="The cohort: s3://bucket/prefix, or a folder or ZIP file that the pods can read. Default: the "
            "s3:// address that data.dvc pins."
        ),
    ] = None,
    data_md5: Annotated[str | None, of_run(help="The MD5 that pins the cohort. Default: the one in data.dvc.")] = None,
    checkpoints: Annotated[
        str | None,
        of_run(
            help="Place of the checkpoints: s3://bucket/prefix or a folder on a volume. Default: the cluster settings'."
        ),
    ] = None,
    promote: Annotated[bool, of_run("--promote", help="Make the registered model the champion.")] = False,
    experiment: Annotated[str, typer.Option(help="The run's experiment in Kubeflow.")] = "Default",
    create_experiment: Annotated[
        bool, typer.Option("--create-experiment", help="Create the experiment if needed.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="The display name. Default: the pipeline's name and the time.")
    ] = None,
    service_account: Annotated[
        str | None, typer.Option(help="Service account; overrides the cluster settings.")
    ] = None,
    pipeline_root: Annotated[
        str | None, typer.Option(help="The root of all artifacts, for example s3://bucket/runs.")
    ] = None,
) -> Packed:
    """Compile the pipeline."""
    from core.terminal import say
    from pipelines.client.kubeflow import Order
    from pipelines.client.package import arguments, cohort, overridden, package, shown

    choices, touched = overridden(params, set_ or ())
    source, data_md5 = cohort(source, data_md5)
    built = package(choices, cluster, image)
    values = {"source": source, "data_md5": data_md5, "checkpoints": checkpoints, "promote": promote or None}
    given = arguments(built, choices, touched, values)
    say(f"with {shown(given)}")
    name = name or datetime.now(UTC).strftime("lung-segmentation %Y-%m-%d %H:%M:%S")
    order = Order(built.spec, given, name, service_account or built.service_account, pipeline_root)
    return Packed(order, experiment, create_experiment)


# Decorators of commands. The first replaces the parameter ``connect`` by the connection options; calling ``connect()``
# returns the client. The second replaces ``pack`` by the options of a run; calling ``pack()`` compiles the pipeline.
connected, packaged = spliced("connect", _connect), spliced("pack", _pack)
