"""Logs of a run's tasks from Kubeflow's API."""

from __future__ import annotations

from core.errors import UserError
from core.terminal import say
from pipelines.client.kubeflow import Kubeflow
from pipelines.client.runs import FAILED, Run, Task
from pipelines.client.watch import numbered


def logs(kubeflow: Kubeflow, run_id: str, name: str | None) -> None:
    """Print the logs of the tasks whose name contains ``name``; None: of the failed tasks.

    Raises:
        UserError: no task name contains ``name``.
    """
    run = kubeflow.run(run_id)
    names = numbered(run.tasks)
    chosen = [task for task in run.tasks if _wanted(task, names[task.key], name)]
    if name is not None and not chosen:
        raise UserError(f"run {run_id}: no task named '{name}' (there: {', '.join(names.values()) or 'none yet'})")
    if not chosen:
        say(f"run {run_id}: {run.state}, no task failed; --task NAME chooses one of {', '.join(names.values())}")
    complete = True
    for task in chosen:
        print(f"==> {names[task.key]}: {task.state} <==")
        if task.error:
            print(task.error)
        read = [text for node in task.nodes if (text := kubeflow.log(run_id, node)) is not None]
        for text in read:
            print(text.rstrip("\n"))
        if not read:
            complete = False
            say(f"{names[task.key]}: the API has no log of it")
    if not complete:
        say(f"with access to Kubernetes: {_kubectl(kubeflow, run)}")


def _wanted(task: Task, title: str, name: str | None) -> bool:
    return task.state == FAILED if name is None else name.lower() in title.lower()


def _kubectl(kubeflow: Kubeflow, run: Run) -> str:
    # Kubeflow labels every pod of a run; the container of the step is called main.
    return f"kubectl logs -n {kubeflow.namespace or 'kubeflow'} -l pipeline/runid={run.id} -c main --prefix --tail=-1"
