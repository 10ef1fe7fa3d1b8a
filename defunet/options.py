"""Shared options of the ``defunet`` commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.cli import ParamsFile, spliced

if TYPE_CHECKING:
    from pipelines.client.kubeflow import Kubeflow

CONNECTION = "Connection to Kubeflow"
RUN = "The run"

Host = Annotated[
    str | None,
    typer.Option(
        envvar="KF_PIPELINES_ENDPOINT",
        help="Address of Kubeflow Pipelines. Default: the pod's cluster, else the kubeconfig's.",
        rich_help_panel=CONNECTION,
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        envvar="DEFUNET_NAMESPACE",
        help="Your profile's namespace in a multi-user Kubeflow. Default in a pod: its namespace.",
        rich_help_panel=CONNECTION,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        envvar="DEFUNET_TOKEN",
        show_envvar=True,
        help="A bearer token. Prefer the variable: other users can list command lines.",
        rich_help_panel=CONNECTION,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="DEFUNET_TOKEN_FILE",
        help="A file with the token, read before every request. Default in a pod: Kubeflow's token.",
        rich_help_panel=CONNECTION,
    ),
]
KubeContext = Annotated[
    str | None, typer.Option(help="Context of the kubeconfig, used without --host.", rich_help_panel=CONNECTION)
]
SystemNamespace = Annotated[
    str, typer.Option(help="The namespace of Kubeflow Pipelines itself.", rich_help_panel=CONNECTION)
]
CaFile = Annotated[
    Path | None,
    typer.Option(help="CA certificates that verify the host.", rich_help_panel=CONNECTION),
]
Patience = Annotated[
    float,
    typer.Option(min=0, help="Seconds for which failed connections are retried.", rich_help_panel=CONNECTION),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a value of the parameter file, for example train.epochs=3 or 'matrix.networks=\\[unet]'; "
        "repeatable. All values are checked before anything is sent.",
        rich_help_panel=RUN,
    ),
]
Cluster = Annotated[Path, typer.Option(help="The cluster settings, validated as a whole.", rich_help_panel=RUN)]
Image = Annotated[
    str | None, typer.Option(help="The image of every step; overrides the cluster settings.", rich_help_panel=RUN)
]
Source = Annotated[
    str | None,
    typer.Option(
        help="The cohort: s3://bucket/prefix, or a folder or ZIP file that the pods can read. Default: the "
        "s3:// address that data.dvc pins.",
        rich_help_panel=RUN,
    ),
]
DataMd5 = Annotated[
    str | None, typer.Option(help="The MD5 that pins the cohort. Default: the one in data.dvc.", rich_help_panel=RUN)
]
Checkpoints = Annotated[
    str | None,
    typer.Option(
        help="Place of the checkpoints: s3://bucket/prefix or a folder on a volume. Default: the cluster settings'.",
        rich_help_panel=RUN,
    ),
]
Promote = Annotated[
    bool, typer.Option("--promote", help="Make the registered model the champion.", rich_help_panel=RUN)
]
Experiment = Annotated[str, typer.Option(help="The run's experiment in Kubeflow.")]
CreateExperiment = Annotated[bool, typer.Option("--create-experiment", help="Create the experiment if needed.")]
Name = Annotated[str | None, typer.Option(help="The display name. Default: the pipeline's name and the time.")]
ServiceAccount = Annotated[str | None, typer.Option(help="Service account; overrides the cluster settings.")]
PipelineRoot = Annotated[str | None, typer.Option(help="The root of all artifacts, for example s3://bucket/runs.")]
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


def connected(function: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter ``connect`` by the connection options; calling ``connect()`` returns the client."""

    def provide(
        host: Host = None,
        namespace: Namespace = None,
        token: Token = None,
        token_file: TokenFile = None,
        kube_context: KubeContext = None,
        system_namespace: SystemNamespace = "kubeflow",
        ca_file: CaFile = None,
        patience: Patience = 120,
    ) -> Any:
        from core.terminal import say
        from pipelines.client.address import Address
        from pipelines.client.kubeflow import Kubeflow

        address = Address(host, namespace, token, token_file, kube_context, system_namespace, ca_file)
        return Kubeflow(address, patience, say)

    return spliced("connect", provide)(function)


def packaged(function: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter ``pack`` by the options of a run; calling ``pack()`` compiles the pipeline."""

    def provide(
        params: ParamsFile = Path("params.yaml"),
        set_: Set = None,
        cluster: Cluster = Path("pipelines/cluster.yaml"),
        image: Image = None,
        source: Source = None,
        data_md5: DataMd5 = None,
        checkpoints: Checkpoints = None,
        promote: Promote = False,
        experiment: Experiment = "Default",
        create_experiment: CreateExperiment = False,
        name: Name = None,
        service_account: ServiceAccount = None,
        pipeline_root: PipelineRoot = None,
    ) -> Any:
        from core.terminal import say
        from pipelines.client.package import arguments, cohort, overridden, package, shown

        choices, touched = overridden(params, set_ or ())
        source, data_md5 = cohort(source, data_md5)
        built = package(choices, cluster, image)
        values = {"source": source, "data_md5": data_md5, "checkpoints": checkpoints, "promote": promote or None}
        given = arguments(built, choices, touched, values)
        say(f"with {shown(given)}")
        what = {
            "spec": built.spec,
            "arguments": given,
            "name": name or datetime.now(UTC).strftime("lung-segmentation %Y-%m-%d %H:%M:%S"),
            "service_account": service_account or built.service_account,
            "pipeline_root": pipeline_root,
        }
        return Packed(what, experiment, create_experiment)

    return spliced("pack", provide)(function)


@dataclass(frozen=True)
class Packed:
    """The arguments of :meth:`pipelines.client.kubeflow.Kubeflow.submit`, and the experiment's name."""

    what: dict[str, Any]
    experiment: str
    create_experiment: bool

    def send(self, kubeflow: Kubeflow, how: Callable[..., str], **more: Any) -> str:
        """Find or create the experiment, submit or schedule with ``how``, and return Kubeflow's id."""
        where = kubeflow.experiment(self.experiment, self.create_experiment)
        return how(**self.what, experiment_id=where, **more)
