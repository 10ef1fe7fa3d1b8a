"""List all versions of the model and the history of its champions."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from core.params import RegistryParams
from core.terminal import fit
from registry import CHAMPION, history, wide_console
from registry.lock import live_locks
from registry.versions import Version, read_aliases, read_versions
from tracking.store import connect

LINEAGE = ("git.commit", "git.dirty", "data.md5", "params.hash", "image", "kubeflow.run", "run_id", "weights.sha256")
UNDER_WAY = "under way"


@dataclass(frozen=True)
class Listed:
    """A version of the registered model.

    Attributes:
        version: its number.
        aliases: its aliases.
        created: time of registration in ISO 8601, UTC.
        cell: network, scenario and seed.
        figures: Dice by split and masks, 0 to 1, from the evaluation at registration.
        gate: the last result of the gate, by rule; empty if the gate never ran.
        lineage: the tags in :data:`LINEAGE`; a missing tag is None.
    """

    version: int
    aliases: list[str]
    created: str
    cell: str
    figures: dict[str, float]
    gate: dict[str, str]
    lineage: dict[str, str | None]


def models(params: RegistryParams) -> list[Listed]:
    """Return all versions of the registered model, newest first.

    Raises:
        UserError: there is no such model, or the registry does not answer.
    """
    return [_listed(version) for version in read_versions(connect(existing=True), params.register_.model)]


def _listed(version: Version) -> Listed:
    tags = version.tags
    return Listed(
        version=version.number,
        aliases=list(version.aliases),
        created=datetime.fromtimestamp(version.created / 1000, UTC).isoformat(timespec="seconds"),
        cell=" ".join(tags.get(name, "?") for name in ("network", "scenario", "seed")),
        figures={
            name.removeprefix("evaluation.").removesuffix(".dice"): dice
            for name, value in sorted(tags.items())
            if name.startswith("evaluation.") and name.endswith(".dice") and (dice := _number(value)) is not None
        },
        gate={n.removeprefix("promotion."): value for n, value in sorted(tags.items()) if n.startswith("promotion.")},
        lineage={name: tags.get(name) for name in LINEAGE},
    )


def decisions(params: RegistryParams) -> list[history.Decision]:
    """Return the history of champions, newest first; a decision in progress has the state ``under way``.

    Raises:
        UserError: there is no such model, or the registry does not answer.
    """
    name, client = params.register_.model, connect(existing=True)
    champion = read_aliases(client, name).get(CHAMPION)
    every = history.read(client, name, champion)
    if any(not each.closed and each.state == history.FAILED for each in every):
        held = live_locks(client, name, params.promotion.lock)
        every = [
            replace(each, state=UNDER_WAY)
            if not each.closed and each.state == history.FAILED and each.number in held
            else each
            for each in every
        ]
    return every[::-1]


def _number(value: str) -> float | None:
    """Return a tag's number; None if it is not a finite number, because anyone may edit a tag."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def show_models(listed: list[Listed], *, wide: bool = False) -> None:
    """Print the versions as a table; ``wide`` prints every column."""
    from rich.table import Table

    table = Table("version", "alias", "created (UTC)", "network, scenario, seed")
    for heading in ("validation", "test"):
        table.add_column(heading, justify="right")
    for heading in ("gate", "commit", "data", "params", "image", "Kubeflow run"):
        table.add_column(heading)
    for each in listed:
        of = each.lineage
        dirty = " +changes" if of["git.dirty"] == "true" else ""
        table.add_row(
            str(each.version),
            "\n".join(each.aliases),
            each.created[:16].replace("T", " "),
            each.cell,
            *(_figure(each.figures.get(f"{split}.original")) for split in ("validation", "test")),
            each.gate.get("verdict", "-"),
            (of["git.commit"] or "-")[:8] + dirty,
            (of["data.md5"] or "-")[:12],
            of["params.hash"] or "-",
            of["image"] or "-",
            of["kubeflow.run"] or "-",
        )
    console = wide_console(wide=wide)
    console.print(fit(table, console, ("Kubeflow run", "image", "params", "data", "created (UTC)", "commit", "gate")))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def show_decisions(decided: list[history.Decision], *, wide: bool = False) -> None:
    """Print the history as a table; ``wide`` prints every column."""
    from rich.table import Table

    table = Table("when (UTC)", "what", "from", "to", "outcome", "difference", "by", "reason")
    for each in decided:
        of = each.figures
        table.add_row(
            each.when[:19].replace("T", " "),
            each.kind,
            str(each.previous or "-"),
            str(each.version),
            each.state + (", forced" if each.forced else ""),
            f"{of['difference']:+.4f}" if "difference" in of else "-",
            each.who,
            each.reason or "-",
        )
    console = wide_console(wide=wide)
    console.print(fit(table, console, ("by", "difference")))


def as_json(rows: list[Any]) -> str:
    """Return rows as a JSON list."""
    import json

    return json.dumps([asdict(row) for row in rows], indent=2)
