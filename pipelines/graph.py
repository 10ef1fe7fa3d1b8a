"""The stages of ``dvc.yaml`` as a Kubeflow pipeline.

The graph has no Kubeflow conditions, because a condition that fails to evaluate counts as False.
:func:`pipelines.steps.plan` derives the cells from the parameters.
"""

# mypy: disable-error-code="untyped-decorator"

import copy
import json
from collections.abc import Mapping
from typing import Any, cast

from kfp import dsl, kubernetes
from kfp.dsl import structures

from core.params import Params
from pipelines import components as steps
from pipelines.cluster import Cluster, Step, StepName
from pipelines.outcome import RUN_ID
from pipelines.tasks import PROCESSES, sections
from pipelines.trainjob_spec import JOB, RUN, settings

SHARED_MEMORY = "/dev/shm"  # noqa: S108


def build(
    params: Params,
    image: str | None = None,
    git_commit: str = "",
    cluster: Cluster | None = None,
    cohort: tuple[str, str] | None = None,
) -> Any:
    """Return the pipeline as kfp's object, to compile or to run.

    Every section of ``params.yaml`` is one pipeline parameter in JSON, with the values of ``params`` as default. Each
    step gets only the sections that it reads, so that a change reruns only the dependent steps, as with DVC. The plan
    step validates all sections first.

    Args:
        params: the defaults of the pipeline's parameters.
        image: the image of every step; None is the image in ``cluster``, or none if the steps run as processes.
        git_commit: commit of the code in ``image``; default of a pipeline parameter that is part of every cache key.
        cluster: the cluster settings of the steps; None sets none, for runs on one machine.
        cohort: the defaults of ``source`` and ``data_md5``; None makes both required.
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
            """Set the variable with the image, which register and promote record in the lineage, and the run's id."""
            if used:
                task.set_env_variable("IMAGE", used)
            return identified(task)

        def identified(task: dsl.PipelineTask) -> dsl.PipelineTask:
            if cluster:  # from the pod's label, since Kubeflow fills no placeholders in variables
                kubernetes.use_field_path_as_env(task, RUN_ID, "metadata.labels['pipeline/runid']")
            return task

        def step(task: dsl.PipelineTask, title: str, cached: bool = True) -> dsl.PipelineTask:
            task.set_display_name(title).set_container_image(image).set_caching_options(cached)
            # Kubeflow copies them into the run's object many times; the components alone keep them.
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
            cohort = step(
                steps.ingest(
                    source=source,
                    params=ingest,
                    data_md5=data_md5,
                    git_commit=git_commit,
                    image_digest=image_digest,
                ).after(planned),
                "Ingest the cohort",
            )
            raw = cohort.outputs["raw"]
            validated = step(steps.validate(raw=raw, params=validate, checkpoints=checkpoints), "Validate the cohort")
            preprocessed = step(
                steps.preprocess(
                    raw=raw,
                    validation=validated.outputs["validation"],
                    params=preprocess,
                    scenarios=planned.outputs["scenarios"],
                ),
                "Preprocess, freeze the splits",
            )
            arrays = preprocessed.outputs["arrays"]
            with dsl.ParallelFor(cells, name="each cell", parallelism=cluster.parallelism if cluster else None) as cell:
                training = {
                    "cell": cell,
                    "arrays": arrays,
                    "params": planned.outputs["training"],
                    "experiment": planned.outputs["experiment"],
                    "checkpoints": checkpoints,
                }
                scoring = planned.outputs["scoring"]
                if cluster and cluster.one_pod_per_cell:
                    evaluated = step(
                        steps.train_and_evaluate(**training, raw=raw, scoring=scoring), "Train and evaluate"
                    )
                else:
                    trained = step(steps.train(**training), "Train")
                    model = trained.outputs["model"]
                    evaluated = step(steps.evaluate(model=model, arrays=arrays, raw=raw, params=scoring), "Evaluate")

            # One step alone takes a list with an entry a cell: such a list is what limits their number.
            collected = step(
                steps.gather(matrix=matrix, evaluations=dsl.Collected(evaluated.outputs["evaluation"])),
                "Gather the cells",
            )
            gathered = collected.outputs["gathered"]
            step(
                steps.report(gathered=gathered, arrays=arrays, params=evaluate),
                "Report and compare with the paper",
            )
            # The cache does not see the registry, so every run registers its model.
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

    if cohort:  # kfp reads the defaults from the function
        lung_segmentation.__defaults__ = (*cohort, *(lung_segmentation.__defaults__ or ()))
    pipeline = dsl.pipeline(
        name="lung-segmentation",
        display_name="Chest X-ray lung segmentation",
        description="From X-rays to a registered lung-segmentation model: every network in every scenario, each seed",
        pipeline_config=ends,
    )
    return pipeline(lung_segmentation)


def _undescribed(spec: structures.ComponentSpec) -> structures.ComponentSpec:
    """Return a component without descriptions, of which Kubeflow keeps many copies with a run."""
    spec = copy.deepcopy(spec)
    for described in (*(spec.inputs or {}).values(), *(spec.outputs or {}).values()):
        described.description = None
    return spec


def place(task: dsl.PipelineTask, cluster: Cluster) -> None:
    """Apply the cluster settings of a step to its task: image, node, resources, variables, retries."""
    step = task.component_spec.name
    # One pod for both asks for what train asks, and gets the variables of both.
    names = cast(tuple[StepName, ...], ("train", "evaluate") if step == "train-and-evaluate" else (step,))
    asked = cluster.step(names[0])
    if asked.nodes > 1:
        _send_train_job(task, cluster)
        # The step itself only sends and follows; the TrainJob's pods have what train asks for.
        kept = {key: getattr(asked, key) for key in ("volumes", "timeout", "retries")}
        asked = cluster.every_step.model_copy(update=kept)
    kubernetes.set_image_pull_policy(task, cluster.image_pull_policy)
    if cluster.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, cluster.image_pull_secrets)
    for key, value in cluster.pod_labels.items():
        kubernetes.add_pod_label(task, key, value)
    for references, use in (
        (cluster.secrets, kubernetes.use_secret_as_env),
        (cluster.config_maps, kubernetes.use_config_map_as_env),
    ):
        for reference in references:
            if not set(names).isdisjoint(reference.steps):
                # kfp maps keys to variables: two variables that share a key need two calls.
                for variables in _with_own_keys(reference.variables):
                    use(task, reference.name, variables, optional=reference.optional)
    _set_resources(task, asked)
    for key, value in asked.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for taint in asked.tolerations:
        kubernetes.add_toleration(task, taint.key, taint.operator, taint.value, taint.effect, taint.seconds)
    if asked.timeout:
        kubernetes.set_timeout(task, asked.timeout)
    if (retries := asked.retries) and retries.count:
        # kfp's default for the last argument is an hour; a long training run would never get a second attempt.
        task.set_retry(retries.count, f"{retries.wait}s", retries.factor, f"{retries.within}s")


def _send_train_job(task: dsl.PipelineTask, cluster: Cluster) -> None:
    """Have the train step send a TrainJob, with the cluster settings of train."""
    image = task.container_spec.image if task.container_spec else cluster.image
    task.set_env_variable(JOB, json.dumps(settings(cluster, image)))
    kubernetes.use_field_path_as_env(task, RUN, "metadata.labels['pipeline/runid']")


def _with_own_keys(variables: Mapping[str, str]) -> list[dict[str, str]]:
    """Return variables with their keys as mappings from key to variable, as few as can be."""
    mappings: list[dict[str, str]] = []
    for variable, key in variables.items():
        free = next((mapping for mapping in mappings if key not in mapping), None)
        if free is None:
            mappings.append(free := {})
        free[key] = variable
    return mappings


def _set_resources(task: dsl.PipelineTask, asked: Step) -> None:
    """Set cores, memory, GPUs and volumes of a task."""
    if asked.cpu:
        task.set_cpu_request(asked.cpu.request).set_cpu_limit(asked.cpu.limit)
    if asked.memory:
        task.set_memory_request(asked.memory.request).set_memory_limit(asked.memory.limit)
    if asked.gpus and asked.gpus.count:
        task.set_accelerator_type(asked.gpus.resource).set_accelerator_limit(asked.gpus.count)
        task.set_env_variable(PROCESSES, str(asked.gpus.count))
    if asked.shared_memory:
        kubernetes.empty_dir_mount(task, "shared-memory", SHARED_MEMORY, "Memory", asked.shared_memory)
    for volume in asked.volumes:
        kubernetes.mount_pvc(task, volume.claim, volume.path)
