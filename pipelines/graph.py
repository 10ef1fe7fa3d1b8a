"""The stages of ``dvc.yaml`` as a Kubeflow pipeline.

The graph has no Kubeflow conditions, because a condition that fails to evaluate counts as False.
:func:`pipelines.steps.plan` derives the cells from the parameters.
"""

# mypy: disable-error-code="untyped-decorator"

from typing import Any

from kfp import dsl, kubernetes

from core.params import Params
from pipelines import components as steps
from pipelines.cells import train_and_score
from pipelines.cluster import Cluster
from pipelines.outcome import RUN_ID
from pipelines.placement import place
from pipelines.prepare import prepare
from pipelines.tasks import sections


def build(
    params: Params,
    image: str | None = None,
    git_commit: str = "",
    cluster: Cluster | None = None,
    cohort: tuple[str, str] | None = None,
    shards: int = 1,
    evaluate_shards: int = 1,
) -> Any:
    """Return the pipeline as kfp's object, to compile or to run.

    Every section of ``params.yaml`` is one pipeline parameter in JSON, with defaults from ``params``. Each step gets
    only the sections that it reads, so that a change reruns only the dependent steps, as with DVC. The plan step
    validates all sections first.

    Args:
        params: the defaults of the pipeline's parameters.
        image: the image of every step; None: the image in ``cluster``, or no image if the steps run as processes.
        git_commit: commit of the code in ``image``; default of a pipeline parameter that is part of every cache key.
        cluster: the cluster settings of the steps; None: no settings, for local runs.
        cohort: the defaults of ``source`` and ``data_md5``; None: both are required.
        shards: number of shards of ingest and preprocess in a graph without ``cluster``; 1: no shards.
        evaluate_shards: number of shards of evaluate of each cell, likewise.
    """
    default = sections(params)
    used = image or (cluster.image if cluster else None)  # None: the steps run as local processes
    image = used or steps.IMAGE
    digest = image.partition("@")[2]
    states = (cluster.checkpoints if cluster else None) or ""
    ends = dsl.PipelineConfig(active_deadline_seconds=cluster.run_timeout) if cluster else None

    def lung_segmentation(
        source: str,
        data_md5: str,
        git_commit: str = git_commit,
        image_digest: str = digest,
        checkpoints: str = states,
        promote: bool = False,
        ingest: str = default["ingest"],
        validate: str = default["validate"],
        preprocess: str = default["preprocess"],
        scenarios: str = default["scenarios"],
        matrix: str = default["matrix"],
        train: str = default["train"],
        evaluate: str = default["evaluate"],
        register: str = default["register"],
        promotion: str = default["promotion"],
        registry: str = default["registry"],
    ) -> None:
        """Chain the steps.

        Args:
            source: A folder, a ZIP file or s3://bucket/prefix with X-rays in their publishers' layouts.
            data_md5: MD5 of the source, from data.dvc. Other data with an old value would give stale cache hits.
            git_commit: Commit of the code in the image. Part of every cache key.
            image_digest: Digest of the image, since a tag can move. Part of every cache key.
            checkpoints: A folder on a volume of train or s3://bucket/prefix for checkpoints; empty, next to each model.
            promote: True makes the registered model champion if it passes the gate; False only registers it.
            ingest: Section of params.yaml as JSON.
            validate: Section of params.yaml as JSON.
            preprocess: Section of params.yaml as JSON.
            scenarios: Section of params.yaml as JSON.
            matrix: Section of params.yaml as JSON: the networks, scenarios and seeds that are run.
            train: Section of params.yaml as JSON.
            evaluate: Section of params.yaml as JSON.
            register: Section of params.yaml as JSON.
            promotion: Section of params.yaml as JSON: the bounds of the gate.
            registry: Section of params.yaml as JSON: whether packages must be signed.
        """

        def traced(task: dsl.PipelineTask) -> dsl.PipelineTask:
            """Set variables with the image and the run's id; register and promote record the image in the lineage."""
            if used:
                task.set_env_variable("IMAGE", used)
            return identified(task)

        def identified(task: dsl.PipelineTask) -> dsl.PipelineTask:
            if cluster:  # from the pod's label: Kubeflow does not fill placeholders in variables
                kubernetes.use_field_path_as_env(task, RUN_ID, "metadata.labels['pipeline/runid']")
            return task

        def step(task: dsl.PipelineTask, title: str, cached: bool = True) -> dsl.PipelineTask:
            task.set_display_name(title).set_container_image(image).set_caching_options(cached)
            # Kubeflow copies descriptions into the run's object many times; only the separate components keep them.
            for described in (
                *(task.component_spec.inputs or {}).values(),
                *(task.component_spec.outputs or {}).values(),
            ):
                described.description = None
            if cluster:
                place(task, cluster)
            return task

        ended = step(
            identified(steps.outcome(source=source, data_md5=data_md5, git_commit=git_commit)),
            "Say how the run ended",
            cached=False,
        )
        with dsl.ExitHandler(ended, name="From X-rays to a registered model"):
            planned = step(
                steps.plan(
                    ingest=ingest,
                    validate=validate,
                    preprocess=preprocess,
                    scenarios=scenarios,
                    matrix=matrix,
                    train=train,
                    evaluate=evaluate,
                    register=register,
                    promotion=promotion,
                    registry=registry,
                    git_commit=git_commit,
                    image_digest=image_digest,
                ),
                "Check the parameters",
            )
            cells = planned.outputs["Output"]
            given = {
                "source": source,
                "data_md5": data_md5,
                "git_commit": git_commit,
                "image_digest": image_digest,
                "checkpoints": checkpoints,
                "ingest": ingest,
                "validate": validate,
                "preprocess": preprocess,
            }
            limit = cluster.parallelism if cluster else None
            prepared = prepare(step, planned, given, cluster.shards if cluster else shards, limit)
            arrays = prepared.arrays
            with dsl.ParallelFor(cells, name="each cell", parallelism=limit) as cell:
                training = {
                    "cell": cell,
                    "arrays": arrays,
                    "params": planned.outputs["training"],
                    "experiment": planned.outputs["experiment"],
                    "checkpoints": checkpoints,
                }
                parts = cluster.evaluate_shards if cluster else evaluate_shards
                evaluation = train_and_score(step, training, prepared, planned.outputs["scoring"], cluster, parts)

            # Only one step has a list input with one entry per cell: such a list limits the number of cells.
            collected = step(steps.gather(matrix=matrix, evaluations=dsl.Collected(evaluation)), "Gather the cells")
            gathered = collected.outputs["gathered"]
            step(
                steps.report(gathered=gathered, arrays=arrays, params=evaluate),
                "Report and compare with the paper",
            )
            # Not cached, because the cache key does not include the registry: every run registers its model.
            whole = planned.outputs["params"]
            registered = step(
                traced(steps.register(gathered=gathered, arrays=arrays, params=whole)),
                "Register as challenger",
                cached=False,
            )
            step(
                traced(
                    steps.promote(
                        version=registered.outputs["version"],
                        arrays=arrays,
                        params=whole,
                        wanted=promote,
                    )
                ),
                "Promote to champion, if wanted",
                cached=False,
            )

    if cohort:  # kfp reads the defaults from the function's signature
        lung_segmentation.__defaults__ = (*cohort, *(lung_segmentation.__defaults__ or ()))
    pipeline = dsl.pipeline(
        name="lung-segmentation",
        display_name="Chest X-ray lung segmentation",
        description="From X-rays to a registered lung-segmentation model: every network in every scenario, each seed",
        pipeline_config=ends,
    )
    return pipeline(lung_segmentation)
