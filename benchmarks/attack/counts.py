"""Count the outcomes of an attack's tries."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

READ, REFUSED = "read", "refused"


@dataclass
class Counts:
    """The tries of one kind: read, refused, and failures by reason."""

    tried: int = 0
    read: int = 0
    refused: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: str) -> bool:
        """Count an outcome, ``read``, ``refused`` or how it failed; return whether it failed."""
        self.tried += 1
        self.read += outcome == READ
        self.refused += outcome == REFUSED
        failed = outcome not in (READ, REFUSED)
        if failed:
            self.failures[outcome] += 1
        return failed
