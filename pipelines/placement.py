"""Apply the cluster settings of a step to its task."""

# mypy: disable-error-code="untyped-decorator"

import json
from collections.abc import Mapping

from kfp import dsl, kubernetes

from pipelines.cluster import Cluster, Step, settings_of
from pipelines.tasks import PROCESSES
from pipelines.trainjob_spec import JOB, RUN, settings

SHARED_MEMORY = "/dev/shm"  # noqa: S108


def place(task: dsl.PipelineTask, cluster: Cluster) -> None:
    """Apply the cluster settings of a step to its task: image, node, resources, variables, retries."""
    step = task.component_spec.name
    names = settings_of(step)
    asked = cluster.step(names[0])
    if asked.nodes > 1:
        _send_train_job(task, cluster)
        # The step only submits and follows the TrainJob, whose pods get the resources of train.
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
                # kfp maps keys to variables: two variables with the same key need two calls.
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
        # kfp's default of the last argument is an hour; a longer training run would never be retried.
        task.set_retry(retries.count, f"{retries.wait}s", retries.factor, f"{retries.within}s")


def _send_train_job(task: dsl.PipelineTask, cluster: Cluster) -> None:
    """Make the train step submit a TrainJob with the cluster settings of train."""
    image = task.container_spec.image if task.container_spec else cluster.image
    task.set_env_variable(JOB, json.dumps(settings(cluster, image)))
    kubernetes.use_field_path_as_env(task, RUN, "metadata.labels['pipeline/runid']")


def _with_own_keys(variables: Mapping[str, str]) -> list[dict[str, str]]:
    """Invert a mapping from variable to key into the fewest mappings from key to variable."""
    mappings: list[dict[str, str]] = []
    for variable, key in variables.items():
        free = next((mapping for mapping in mappings if key not in mapping), None)
        if free is None:
            mappings.append(free := {})
        free[key] = variable
    return mappings


def _set_resources(task: dsl.PipelineTask, asked: Step) -> None:
    """Set the CPU cores, memory, GPUs and volumes of a task."""
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
