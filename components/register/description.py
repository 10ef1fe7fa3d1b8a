"""Descriptions in MLflow: the model card for a version, and short texts for the model and the experiment."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tracking.store import answered

if TYPE_CHECKING:
    from mlflow import MlflowClient

LONGEST = 5000  # characters of a description in MLflow's database
# Sections of the card in a description, in this order. ``Use`` is left out: it is about the package's folder.
SECTIONS = (
    "How good it is",
    "How well it knows that",
    "Limits",
    "Intended use",
    "What goes in",
    "Data",
    "Where it comes from",
)
WHOLE = "The whole card is `README.md` in the version's artifacts, in `artifacts/package`."
MODEL = (
    "Finds the lungs in frontal chest X-rays. A version is registered by each run's register step; `challenger` is the "
    "best one by validation Dice, and `champion` is in production after `defunet promote` has compared the two."
)
EXPERIMENT = (
    "Training runs of the pipeline, one for each network, scenario and seed, with parameters, metrics by epoch, test "
    "figures and the evaluation's pictures."
)
NOTE = "mlflow.note.content"


def abridged(card: str) -> str:
    """Return a card in Markdown without front matter, with as many sections as fit in :data:`LONGEST`."""
    text = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL).strip()
    head, *rest = re.split(r"^## ", text, flags=re.MULTILINE)
    found = {name: body for name, _, body in (section.partition("\n") for section in rest)}
    parts = [head.strip()]
    for name in SECTIONS:
        part = f"## {name}\n\n{found.get(name, '').strip()}"
        if name in found and sum(map(len, [*parts, part, WHOLE])) + 2 * (len(parts) + 1) <= LONGEST:
            parts.append(part)
    return "\n\n".join([*parts, WHOLE])


def describe_version(client: MlflowClient, name: str, number: int, card: str, experiment: str) -> None:
    """Set the description of a version, and those of its model and experiment if they have none.

    Args:
        client: the MLflow client.
        name: the registered model.
        number: the version's number.
        card: the card in Markdown.
        experiment: name of the experiment of the training runs.

    Raises:
        UserError: the registry does not answer.
    """
    with answered(f"model {name}"):
        client.update_model_version(name, str(number), abridged(card))
        if not client.get_registered_model(name).description:
            client.update_registered_model(name, MODEL)
        found = client.get_experiment_by_name(experiment)
        if found is not None and NOTE not in found.tags:
            client.set_experiment_tag(found.experiment_id, NOTE, EXPERIMENT)
