"""The history of champion decisions: one MLflow run per decision in the experiment ``<model>-promotions``.

The alias alone defines the champion. A decision is recorded before the alias moves and closed afterwards. If a decision
was never closed, the next decision shows whether the alias moved, because it recorded the champion that it found. For
the last decision, the alias itself shows it.
"""

from __future__ import annotations

import getpass
import itertools
import os
import socket
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.terminal import printable, say
from registry import answered
from tracking.store import make_experiment

if TYPE_CHECKING:
    from mlflow import MlflowClient

JSON, MARKDOWN = "decision.json", "decision.md"
# States of a decision. INTENDED: recorded, but it is unknown whether the alias moved.
INTENDED, DONE, FAILED, REFUSED = "intended", "done", "failed", "refused"
PROMOTE, ROLLBACK = "promote", "rollback"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One decision of the history.

    Attributes:
        id: id of its MLflow run.
        number: number of its lock, which orders decisions; 0 for a refusal, which has no lock.
        when: time in ISO 8601, UTC.
        who: user and host.
        kind: promote or rollback.
        state: intended, done, failed or refused.
        previous: the champion before the decision; None: no champion.
        version: the version to become champion.
        forced: whether a failed gate was overridden.
        reason: the reason given by the user.
        figures: the gate's main values by name, Dice from 0 to 1.
        closed: whether the state is recorded in the registry, and not inferred from the next decision.
    """

    id: str = ""
    number: int = 0
    when: str = ""
    who: str = ""
    kind: str
    state: str
    previous: int | None
    version: int
    forced: bool = False
    reason: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    closed: bool = False


def actor() -> str:
    """Return user and host, and the Kubeflow run if KUBEFLOW_RUN_ID is set."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"user {os.getuid()}"  # a container's user may have no name
    run = os.environ.get("KUBEFLOW_RUN_ID")
    return f"{user}@{socket.gethostname()}" + (f", Kubeflow run {run}" if run else "")


def experiment_of(name: str) -> str:
    """Return the name of the experiment with the history of ``name``."""
    return f"{name}-promotions"


def write(
    client: MlflowClient, name: str, decision: Decision, details: dict[str, Any] | None = None, text: str = ""
) -> Decision:
    """Record a decision of now and of this user, with ``decision.json`` and ``decision.md`` as artifacts.

    Args:
        client: MLflow's client.
        name: the registered model.
        decision: the decision; its id, time, user and ``closed`` are set here.
        details: the gate, for ``decision.json``.
        text: ``decision.md``.

    Returns:
        The recorded decision.

    Raises:
        UserError: the registry does not answer.
    """
    when = datetime.now(UTC).isoformat(timespec="milliseconds")
    decision = replace(decision, when=when, who=actor(), closed=decision.state != INTENDED)
    apart = ("id", "figures", "state", "closed")
    values = {key: value for key, value in asdict(decision).items() if key not in apart}
    tags = {f"decision.{key}": "" if value is None else str(value) for key, value in values.items()}
    with answered(f"experiment {experiment_of(name)}"):
        where = _experiment(client, name)
        run = client.create_run(
            where, tags=tags | {"decision.model": name}, run_name=f"{decision.kind} version {decision.version}"
        )
        decision = replace(decision, id=run.info.run_id)
        for key, value in decision.figures.items():
            client.log_metric(decision.id, key, value)
        client.log_dict(decision.id, {**asdict(decision), "model": name, "gate": details}, JSON)
        client.log_text(decision.id, text, MARKDOWN)
        # Set last: a run without this tag, from a killed process, does not count as a decision.
        client.set_tag(decision.id, "decision.state", decision.state)
        if decision.state == REFUSED:
            client.set_terminated(decision.id, "FINISHED")
    return decision


def close(client: MlflowClient, decision: Decision, state: str) -> None:
    """Record the final state of an intended decision; raises UserError if the registry does not answer."""
    with answered(f"run {decision.id}"):
        client.set_tag(decision.id, "decision.state", state)
        client.set_terminated(decision.id, "FINISHED" if state == DONE else "FAILED")


def _experiment(client: MlflowClient, name: str) -> str:
    title = experiment_of(name)
    about = {"mlflow.note.content": f"Who made which version of {name} champion, when and why. Delete nothing here."}
    make_experiment(client, title, **about)
    found = client.get_experiment_by_name(title)
    if found is None:
        raise UserError(f"experiment {title}: could not be found or created; run again")
    if found.lifecycle_stage != "active":
        raise UserError(f"experiment {title} was deleted: restore it, it has the history of {name}")
    return str(found.experiment_id)


def read(client: MlflowClient, name: str, champion: int | None) -> list[Decision]:
    """Return the history, oldest first, with the state of unclosed decisions inferred.

    Args:
        client: the MLflow client.
        name: the registered model.
        champion: the version that has the alias now.

    Raises:
        UserError: the registry does not answer.
    """
    with answered(f"experiment {experiment_of(name)}"):
        found = client.get_experiment_by_name(experiment_of(name))
        if found is None:
            return []
        runs, token = [], None
        while True:
            page = client.search_runs([found.experiment_id], "tags.`decision.state` != ''", page_token=token)
            runs += list(page)
            if not (token := page.token):
                break
    decisions = sorted(filter(None, map(_decision, runs)), key=lambda each: each.when)
    return _settled(decisions, champion)


def _decision(run: Any) -> Decision | None:
    """Return the decision of a run; None, with a warning, for a run that is not a decision."""
    try:
        return _decision_of(run)
    except (KeyError, ValueError) as error:
        say(f"warning: run {run.info.run_id} is not a promotion decision ({type(error).__name__}); it is ignored")
        return None


def _decision_of(run: Any) -> Decision:
    # A reason may have several lines.
    tags = {
        name: printable(value, lines=name == "reason")
        for name, value in ((key.removeprefix("decision."), value) for key, value in run.data.tags.items())
    }
    return Decision(
        id=run.info.run_id,
        number=int(tags["number"]),
        when=tags["when"],
        who=tags["who"],
        kind=tags["kind"],
        state=tags["state"],
        previous=int(tags["previous"]) if tags["previous"] else None,
        version=int(tags["version"]),
        forced=tags["forced"] == "True",
        reason=tags["reason"],
        figures=dict(run.data.metrics),
        closed=tags["state"] != INTENDED,
    )


def _settled(decisions: list[Decision], champion: int | None) -> list[Decision]:
    """Infer the state of every intended decision from the champion that the next decision found."""
    locked = sorted((each for each in decisions if each.number), key=lambda each: each.number)
    found_next = {each.id: following.previous for each, following in itertools.pairwise(locked)}
    result = []
    for each in decisions:
        if each.state == INTENDED:
            moved = found_next.get(each.id, champion) == each.version
            each = replace(each, state=DONE if moved else FAILED)
        result.append(each)
    return sorted(result, key=lambda each: (each.when, each.number))


def line_of_champions(decisions: list[Decision], champion: int | None) -> list[int]:
    """Return the stack of champions for rollbacks, the current champion last.

    A promotion pushes its version, and a rollback pops the last one. So repeated rollbacks go further back, and none
    restores a version that was rolled back. A manually set champion counts as promoted.
    """
    line: list[int] = []
    for each in sorted((each for each in decisions if each.state == DONE), key=lambda each: each.number):
        if each.previous is not None and (not line or line[-1] != each.previous):
            line.append(each.previous)
        if each.kind == ROLLBACK:
            del line[-1:]
            if not line or line[-1] != each.version:
                line.append(each.version)
        else:
            line.append(each.version)
    if champion is not None and (not line or line[-1] != champion):
        line.append(champion)
    return line


def rolled_back(decisions: list[Decision], champion: int | None) -> dict[int, Decision]:
    """Return the versions that were rolled back and not promoted since, with the decision of the rollback.

    Args:
        decisions: the history.
        champion: the version that has the alias now; a manually set champion counts as promoted.
    """
    gone: dict[int, Decision] = {}
    for each in sorted((each for each in decisions if each.state == DONE), key=lambda each: each.number):
        if each.kind == ROLLBACK and each.previous is not None:
            gone[each.previous] = each
        elif each.previous is not None:
            gone.pop(each.previous, None)  # it was champion at the time of this decision
        gone.pop(each.version, None)
    if champion is not None:
        gone.pop(champion, None)
    return gone
