"""The registry commands: ``defunet promote``, ``rollback``, ``models`` and ``lineage``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from components.promote.__main__ import main as promote
from core.cli import ParamsFile, Wide
from core.errors import UserError

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the decision; change nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def rollback(
    dry_run: DryRun = False,
    reason: Annotated[str, typer.Option(help="The reason, recorded in the history.")] = "",
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Make the previous champion champion again; twice in a row goes further back."""
    from components.promote import rollback as back
    from core.params import read_registry_params

    back(read_registry_params(params), dry_run=dry_run, reason=reason)


def models(
    history: Annotated[bool, typer.Option("--history", help="Who made which version champion, when and why.")] = False,
    json: Json = False,
    wide: Wide = False,
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """List the registered versions with their aliases, figures and lineage, the newest first."""
    from core.params import read_registry_params
    from registry import models as listing

    choices = read_registry_params(params)
    if history:
        decided = listing.decisions(choices)
        print(listing.as_json(decided)) if json else listing.show_decisions(decided, wide=wide)
    else:
        listed = listing.models(choices)
        print(listing.as_json(listed)) if json else listing.show_models(listed, wide=wide)


def lineage(
    version: Annotated[int | None, typer.Argument(min=1, help="Version number. Default: the challenger.")] = None,
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Verify a version's commit, data, parameters, code, weights and training. Exit code 1 if one is not verified."""
    from core.params import read_params
    from registry.lineage import lineage as prove
    from registry.lineage import show_lineage

    of, facts = prove(read_params(params), version, params)
    show_lineage(of, facts)
    if unproved := [fact.name for fact in facts if not fact.proved]:
        raise UserError(f"{of}: not verified: {', '.join(unproved)}; the table shows what is missing")


promote.__name__ = "promote"
COMMANDS = (promote, rollback, models, lineage)
