"""Put a registered version into production: move the alias ``champion``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from components.errors import UserError
from components.register import CHALLENGER
from components.tracking import connect, explained

CHAMPION = "champion"
EVIDENCE = ("evaluation.validation.original.dice", "evaluation.test.original.dice")


@dataclass(frozen=True)
class Promotion:
    """What a promotion changed; ``previous`` is the version that was champion before, None for the first."""

    name: str
    version: int
    previous: int | None


def promote(name: str, version: int | None = None) -> Promotion:
    """Make a version of ``name`` the champion.

    Args:
        name: the registered model.
        version: which version; None is the challenger.

    Raises:
        UserError: there is no such version, or its evaluation is missing; the champion then stays what it was.
    """
    client = connect()
    with explained(f"model {name}"):
        aliases = client.get_registered_model(name).aliases
        if version is None and CHALLENGER not in aliases:
            raise UserError(f"{name}: no version is {CHALLENGER}; run the register step first, or say --version N")
        chosen = client.get_model_version(name, str(version if version is not None else aliases[CHALLENGER]))
        missing = [tag for tag in EVIDENCE if not _is_figure(chosen.tags.get(tag, ""))]
        if missing:
            raise UserError(
                f"{name} version {chosen.version}: its evaluation is missing ({', '.join(missing)}), so it is not "
                "promoted; evaluate the model and register it again"
            )
        client.set_registered_model_alias(name, CHAMPION, chosen.version)
    previous = int(aliases[CHAMPION]) if CHAMPION in aliases else None
    print(f"{name}: version {chosen.version} is champion (before: {previous or 'none'})")
    return Promotion(name, int(chosen.version), previous)


def _is_figure(tag: str) -> bool:
    try:
        return math.isfinite(float(tag))
    except ValueError:
        return False
