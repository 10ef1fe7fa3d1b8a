"""The challenger: find an equal registered version, and decide whether the alias moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from registry import CHALLENGER, CHAMPION, answered, history
from registry.seal import SIGNED_TAG
from registry.versions import MANIFEST_TAG, SPLITS_TAG, Version, read_aliases, read_version, read_versions

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALWAYS, IF_BETTER = "always", "better"
VALIDATION_TAG = "evaluation.validation.original.dice"
SAME = ("weights.sha256", "evaluation.rows_sha256")  # two versions with equal tags are the same model


def registered_already(client: MlflowClient, name: str, tags: Mapping[str, str]) -> Version | None:
    """Return the newest version with the same weights and evaluation as ``tags``, None if there is none.

    If ``tags`` have a clean commit, versions with uncommitted changes do not count, because their lineage cannot be
    verified. If ``tags`` are of a signed package, unsigned versions do not count.

    Raises:
        UserError: the registry does not answer.
    """
    with answered(f"model {name}"):
        if not client.search_registered_models(f"name='{name}'"):
            return None
    for version in read_versions(client, name):
        same = all(version.tags.get(tag) == tags[tag] for tag in SAME)
        signed = SIGNED_TAG not in tags or version.tags.get(SIGNED_TAG) == tags[SIGNED_TAG]
        if same and signed and (version.tags.get("git.dirty") == "false" or tags.get("git.dirty") != "false"):
            return version
    return None


def offer(client: MlflowClient, name: str, number: int, rule: str) -> tuple[bool, str]:
    """Make a version the challenger if the rule allows it.

    Args:
        client: the MLflow client.
        name: the registered model.
        number: the version.
        rule: ``always``, or ``better``: its validation Dice is above the current challenger's. A challenger that was
            validated on other images or rolled back is replaced in any case; a version that was rolled back does not
            become challenger unless the rule is ``always``.

    Returns:
        Whether it is the challenger now, and the reason.

    Raises:
        UserError: the registry does not answer.
    """
    moves, why = _decide(client, name, number, rule)
    if moves:
        with answered(f"model {name}"):
            client.set_registered_model_alias(name, CHALLENGER, str(number))
    return moves, why


def _decide(client: MlflowClient, name: str, number: int, rule: str) -> tuple[bool, str]:
    aliases = read_aliases(client, name)
    present = aliases.get(CHALLENGER)
    if present == number:
        return True, "it was already"
    if rule == ALWAYS:
        return True, f"register.challenger is {ALWAYS}; it was version {present or 'none'}"
    champion = aliases.get(CHAMPION)
    gone = history.rolled_back(history.read(client, name, champion), champion)
    if number in gone:
        return False, f"version {number} was rolled back ({gone[number].reason or 'no reason given'})"
    if present is None:
        return True, "there was none"
    if present in gone:
        return True, f"version {present} was rolled back"
    before, now = (read_version(client, name, each).tags for each in (present, number))
    if any(before.get(tag) != now.get(tag) for tag in (MANIFEST_TAG, SPLITS_TAG)):
        return True, f"version {present} was validated on other images"
    try:
        theirs, ours = float(before[VALIDATION_TAG]), float(now[VALIDATION_TAG])
    except (KeyError, ValueError):
        return True, f"version {present} has no validation Dice"
    figures = f"validation Dice {ours:.4f}, version {present} has {theirs:.4f}"
    return ours > theirs, figures
