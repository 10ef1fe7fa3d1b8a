"""Talk to Kubeflow Pipelines: submit, schedule, list, watch, cancel and retry runs.

Uses kfp's generated REST client and not ``kfp.Client``: ``kfp.Client`` has no timeouts and no HTTP retries, prints,
writes to the home folder, cannot retry a run, and its wait does not end when a run is cancelled.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import kfp_server_api as api  # type: ignore[import-untyped]

from core.errors import UserError
from pipelines.client.address import Address
from pipelines.client.http import PatientClient, RequestError, Tell, wrong_place
from pipelines.client.pods import Pods
from pipelines.client.runs import CANCELING, ENDED, GONE, Run, Schedule, run_of, schedule_of, with_tasks, with_workflow
from pipelines.workflow import CANCELED, FAILED, PENDING, Row

LOG = "/apis/v1alpha1/runs/{}/nodes/{}/log"
# The v1beta1 response has the whole Argo Workflow with reasons, attempts, nodes and pods; v2beta1 omits it.
WITH_WORKFLOW = "/apis/v1beta1/runs/{}"


@dataclass(frozen=True)
class Order:
    """What Kubeflow shall run, once or on a schedule.

    Attributes:
        spec: the compiled pipeline.
        arguments: values of the pipeline's parameters.
        name: the display name.
        service_account: None: Kubeflow's default.
        pipeline_root: root of all artifacts, for example ``s3://bucket/runs``; None: Kubeflow's default.
    """

    spec: dict[str, Any]
    arguments: dict[str, Any]
    name: str
    service_account: str | None = None
    pipeline_root: str | None = None

    def body(self, experiment_id: str) -> dict[str, Any]:
        """Return the fields of a request; the unique description identifies it if its response is lost."""
        return {
            "experiment_id": experiment_id,
            "display_name": self.name,
            "description": f"Submitted by defunet, number {uuid.uuid4()}",
            "pipeline_spec": self.spec,
            "runtime_config": api.V2beta1RuntimeConfig(parameters=self.arguments, pipeline_root=self.pipeline_root),
            "service_account": self.service_account,
        }


class Kubeflow:
    """Client of one Kubeflow Pipelines installation.

    The constructor checks the connection, so that a wrong address fails early.

    Args:
        address: host and credentials.
        patience: seconds during which lost connections and transient errors are retried.
        tell: called with one line for each retry.

    Raises:
        UserError: the host cannot be reached, or it is multi-user and there is no namespace.
    """

    def __init__(self, address: Address, patience: float, tell: Tell) -> None:
        configuration = address.configuration()
        self.host: str = configuration.host
        self._client = PatientClient(configuration, patience, tell)
        self._experiments, self._runs = api.ExperimentServiceApi(self._client), api.RunServiceApi(self._client)
        self._schedules = api.RecurringRunServiceApi(self._client)
        try:
            health = api.HealthzServiceApi(self._client).healthz_service_get_healthz()
        except RequestError as trouble:
            raise trouble if trouble.status != 404 else wrong_place(self.host) from None
        self.namespace = address.user_namespace() if health.multi_user else None
        if health.multi_user and not self.namespace:
            raise UserError(f"{self.host}: serves several users; pass --namespace, the name of your profile")
        self._system_namespace = address.system_namespace
        self._through_kubernetes = "/services/ml-pipeline:" in self.host
        kubernetes = address.kubernetes()
        self._pods = Pods(kubernetes) if kubernetes else None

    def page(self, run_id: str) -> str:
        """Return the URL of a run's page, or how to open it if the host has only the API."""
        path = f"/#/runs/details/{run_id}"
        if not self._through_kubernetes and self._has_pages():
            return f"{self.host}{path}"
        forward = f"kubectl port-forward -n {self._system_namespace} svc/ml-pipeline-ui 8080:80"
        return f"its page: http://localhost:8080{path} after {forward}"

    def _has_pages(self) -> bool:
        try:
            return "<html" in self._client.text("/").lower()
        except RequestError:
            return False

    def experiment(self, name: str, create: bool = False) -> str:
        """Return the id of an experiment; if it is missing, create it or raise a UserError that lists the others."""
        predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
        found = self._listed_experiments(filter=json.dumps({"predicates": [predicate]}))
        if found:
            return str(found[0].experiment_id)
        if not create:
            known = ", ".join(sorted(each.display_name for each in self._listed_experiments())) or "none yet"
            where = f" in namespace {self.namespace}" if self.namespace else ""
            raise UserError(f"no experiment '{name}'{where} (there: {known}); pass --create-experiment to make it")
        body = api.V2beta1Experiment(display_name=name, namespace=self.namespace)
        made = self._client.once(
            lambda: self._experiments.experiment_service_create_experiment(experiment=body),
            lambda: next((each for each in self._listed_experiments() if each.display_name == name), None),
        )
        return str(made.experiment_id)

    def submit(self, order: Order, experiment_id: str) -> str:
        """Start a run and return its id; a lost response does not start it twice."""
        body = api.V2beta1Run(**order.body(experiment_id))

        def look() -> Any:
            listed = self._runs.run_service_list_runs(
                experiment_id=experiment_id, page_size=50, sort_by="created_at desc"
            )
            return _marked(listed.runs, body.description)

        return str(self._client.once(lambda: self._runs.run_service_create_run(run=body), look).run_id)

    def schedule(self, order: Order, experiment_id: str, cron: str, catch_up: bool, max_concurrency: int) -> str:
        """Create a recurring run and return its id; a lost response does not create it twice."""
        body = api.V2beta1RecurringRun(
            **order.body(experiment_id),
            mode=api.RecurringRunMode.ENABLE,
            trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=cron)),
            no_catchup=not catch_up,
            max_concurrency=str(max_concurrency),
        )
        made = self._client.once(
            lambda: self._schedules.recurring_run_service_create_recurring_run(recurring_run=body),
            lambda: _marked(self._listed_schedules(), body.description),
        )
        return str(made.recurring_run_id)

    def schedules(self) -> list[Schedule]:
        """Return all recurring runs."""
        return [schedule_of(each) for each in self._listed_schedules()]

    def unschedule(self, schedule_id: str) -> None:
        """Delete a recurring run; the runs that it started continue."""
        try:
            self._schedules.recurring_run_service_delete_recurring_run(recurring_run_id=schedule_id)
        except RequestError as trouble:
            raise _not_found(trouble, "schedule", schedule_id, "schedules") from None

    def pause(self, schedule_id: str, paused: bool = True) -> None:
        """Pause a recurring run, or resume it."""
        disable = self._schedules.recurring_run_service_disable_recurring_run
        ask = disable if paused else self._schedules.recurring_run_service_enable_recurring_run
        try:
            self._client.once(lambda: ask(recurring_run_id=schedule_id), lambda: None)
        except RequestError as trouble:
            raise _not_found(trouble, "schedule", schedule_id, "schedules") from None

    def runs(self, limit: int, experiment_id: str | None = None) -> list[Run]:
        """Return the newest ``limit`` runs, newest first; with access to Kubernetes, deleted workflows are GONE."""
        where: dict[str, Any] = {"experiment_id": experiment_id} if experiment_id else self._everywhere
        listed = _paged(self._runs.run_service_list_runs, "runs", limit, sort_by="created_at desc", **where)
        runs = [run_of(each) for each in listed]
        return [self.run(each.id) if self._pods and each.state not in ENDED else each for each in runs]

    def run(self, run_id: str) -> Run:
        """Return a run with the steps that the server has."""
        try:
            found = self._runs.run_service_get_run(run_id=run_id)
        except RequestError as trouble:
            raise _not_found(trouble, "run", run_id, "runs") from None
        run, manifest = run_of(found), self._manifest(run_id)
        detailed = with_workflow(run, found, manifest) if manifest else None
        return self._asked_kubernetes(detailed) if detailed else with_tasks(run, found)

    def _manifest(self, run_id: str) -> dict[str, Any] | None:
        """Return the Argo Workflow of a run; None from a server without the v1beta1 API."""
        try:
            answer = self._client.json(WITH_WORKFLOW.format(quote(run_id)))
        except RequestError as trouble:
            if trouble.status in (403, 404, 501):
                return None
            raise
        text = (answer.get("pipeline_runtime") or {}).get("workflow_manifest")
        return json.loads(text) if text else None

    def _asked_kubernetes(self, run: Run) -> Run:
        """Return the run with facts from Kubernetes: whether its workflow exists, and why pods wait."""
        if run.state in ENDED:
            return run
        exists = self._pods.has_workflow(run.namespace, run.workflow) if self._pods else None
        if exists is False:
            return replace(run, state=GONE)
        return replace(run, confirmed=bool(exists), rows=tuple(self._with_reason(run, row) for row in run.rows))

    def _with_reason(self, run: Run, row: Row) -> Row:
        if row.state != PENDING or row.reason or not row.attempts:
            return row
        pod = row.attempts[-1].pod
        if run.queue:
            why = self._pods.why_queued(run.namespace, pod) if self._pods else ""
            return replace(row, reason=f"waits in queue {run.queue}{f': {why}' if why else ''}")
        return replace(row, reason=self._pods.last_warning(run.namespace, pod) if self._pods else "")

    def cancel(self, run_id: str) -> None:
        """Request the termination of a run."""
        run = self.run(run_id)
        if run.state in ENDED:
            raise UserError(f"run {run_id}: has ended ({run.state}); there is nothing to cancel")
        self._client.once(
            lambda: self._runs.run_service_terminate_run(run_id=run_id),
            lambda: True if self.run(run_id).state in (*ENDED, CANCELING) else None,
        )

    def retry(self, run_id: str) -> None:
        """Run the failed steps of a run again; those that succeeded keep their results."""
        run = self.run(run_id)
        if run.state not in (FAILED, CANCELED, GONE):
            raise UserError(f"run {run_id}: is {run.state}; only a failed or cancelled run can be retried")
        try:
            self._client.once(
                lambda: self._runs.run_service_retry_run(run_id=run_id),
                lambda: True if self.run(run_id).state not in ENDED else None,
            )
        except RequestError as trouble:
            if trouble.status != 409:
                raise
            raise UserError(f"run {run_id}: has not ended on the cluster yet; retry it in a minute") from None

    def log(self, run_id: str, pod: str) -> str | None:
        """Return the log of a pod, or of a deleted pod if the cluster archives logs; None if there is no log."""
        try:
            text = self._client.text(LOG.format(quote(run_id), quote(pod)))
        except RequestError as trouble:
            # Some versions respond with a server error if the pod was deleted.
            if trouble.status not in (404, 409, 500) or not (trouble.from_api or trouble.status == 404):
                raise
            return None
        return None if _is_error(text) else text

    @property
    def _everywhere(self) -> dict[str, str]:
        return {"namespace": self.namespace} if self.namespace else {}

    def _listed_experiments(self, **options: str) -> list[Any]:
        where: dict[str, Any] = {**self._everywhere, **options}
        return _paged(self._experiments.experiment_service_list_experiments, "experiments", **where)

    def _listed_schedules(self) -> list[Any]:
        where: dict[str, Any] = {"sort_by": "created_at desc", **self._everywhere}
        return _paged(self._schedules.recurring_run_service_list_recurring_runs, "recurring_runs", **where)


def _paged(ask: Callable[..., Any], what: str, limit: int | None = None, **options: Any) -> list[Any]:
    """Return the entries of a paged list: the first ``limit``, or all."""
    found: list[Any] = []
    token = ""
    while limit is None or len(found) < limit:
        size = 100 if limit is None else min(limit - len(found), 100)
        page = ask(page_size=size, page_token=token, **options)
        found += getattr(page, what) or ()
        token = page.next_page_token
        if not token:
            break
    return found[:limit]


def _is_error(text: str) -> bool:
    """Return whether a log's text is an error of the API, which it sends with status 200."""
    try:
        answer = json.loads(text)
    except ValueError:
        return False
    return isinstance(answer, dict) and "error_message" in answer


def _marked(listed: Sequence[Any] | None, mark: str) -> Any:
    return next((each for each in listed or () if each.description == mark), None)


def _not_found(trouble: RequestError, kind: str, name: str, command: str) -> UserError:
    # For an unknown id, some versions respond with 400 and others with 404.
    if trouble.from_api and trouble.status in (400, 404):
        return UserError(f"{kind} {name}: not found; `defunet {command}` lists those that are there")
    return trouble
