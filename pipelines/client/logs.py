"""Logs of a run's steps from Kubeflow's API: of existing pods, and of deleted pods if the cluster archives logs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from core.errors import UserError
from pipelines.client.kubeflow import Kubeflow
from pipelines.client.runs import ENDED, Run
from pipelines.workflow import CANCELED, FAILED, PENDING, RETRYING, RUNNING, STARTING, Row

# Lines of Kubeflow's launcher (klog's format) and of kfp's executor; some open a block of JSON.
_LAUNCHER = re.compile(r"^([IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \S+\.go:\d+\]|\[KFP Executor )")
_ACTIVE = (STARTING, PENDING, RUNNING, RETRYING)


def logs(kubeflow: Kubeflow, run_id: str, name: str | None, follow: bool, every: float, launcher: bool) -> None:
    """Print the logs of all attempts of the steps whose name contains ``name``; None: of those that failed.

    Args:
        kubeflow: the client.
        run_id: the run.
        name: part of a step's name, such as ``train defu_net mixed``; None: the failed steps.
        follow: whether to print new lines until the steps end.
        every: seconds between two requests while following.
        launcher: whether to print the lines of Kubeflow's launcher, too.

    Raises:
        UserError: no step's name contains ``name``, no step failed, or a log is not available.
    """
    printed: dict[str, int] = {}
    while True:
        run = kubeflow.run(run_id)
        chosen = _chosen(run, name)
        missing = [text for row in chosen for text in _print(kubeflow, run_id, row, printed, launcher)]
        if not follow or run.state in ENDED or not any(row.state in _ACTIVE for row in chosen):
            break
        time.sleep(every)
    if missing:
        raise UserError(f"{'; '.join(missing)}; with access to Kubernetes: {_kubectl(kubeflow, run)}")


def _chosen(run: Run, name: str | None) -> list[Row]:
    if not run.detailed:
        raise UserError(
            f"run {run.id}: this server has no v1beta1 API, which alone names the pods; its page has the logs"
        )
    names = ", ".join(row.name for row in run.rows)
    chosen = [row for row in run.rows if _wanted(row, name)]
    if name is not None and not chosen:
        raise UserError(f"run {run.id}: no step named '{name}' (there: {names})")
    if not chosen:
        raise UserError(f"run {run.id}: {run.state}, no step failed; --task NAME chooses one of {names}")
    return chosen


def _wanted(row: Row, name: str | None) -> bool:
    return row.state in (FAILED, CANCELED, RETRYING) if name is None else name.lower() in row.name.lower()


def _print(kubeflow: Kubeflow, run_id: str, row: Row, printed: dict[str, int], launcher: bool) -> Iterator[str]:
    """Print new lines of a step's logs; yield one line for each log that is not available."""
    if not row.attempts:
        yield f"{row.name}: {row.state}, it had no pod and has no log"
    for number, attempt in enumerate(row.attempts, 1):
        title = f"{row.name}: {row.state}, attempt {number} of {len(row.attempts)}, pod {attempt.pod}"
        text = kubeflow.log(run_id, attempt.pod) if attempt.phase != "Pending" else None
        if text is None:
            reason = f" ({row.reason})" if row.reason and attempt is row.attempts[-1] else ""
            yield f"{row.name}, attempt {number}: no log is available{reason}"
            continue
        lines = text.splitlines() if launcher else list(without_launcher(text))
        if row.state == RUNNING and lines and not text.endswith("\n"):
            del lines[-1]  # an incomplete line
        if attempt.pod not in printed:
            print(f"==> {title} <==")
        for line in lines[printed.get(attempt.pod, 0) :]:
            print(line, flush=True)
        printed[attempt.pod] = len(lines)


def without_launcher(text: str) -> Iterator[str]:
    """Yield the step's lines of a log, without those of Kubeflow's launcher and executor."""
    hidden = opens = False
    for line in text.splitlines():
        if _LAUNCHER.match(line):
            hidden, opens = line.endswith("{"), line.endswith("executor_input:")
        elif opens and line == "{":
            hidden, opens = True, False
        elif hidden:
            hidden = line != "}"
        else:
            opens = False
            yield line


def _kubectl(kubeflow: Kubeflow, run: Run) -> str:
    # Kubeflow labels every pod of a run; the container of the step is called main.
    where = run.namespace or kubeflow.namespace or "kubeflow"
    return f"kubectl logs -n {where} -l pipeline/runid={run.id} -c main --prefix --tail=-1"
