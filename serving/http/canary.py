"""Which requests the challenger answers, and when it no longer may."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import NamedTuple

import numpy as np

WINDOW = 200  # pictures that the decision looks back on
LEAST = 20  # pictures before flags decide
LEAST_ERRORS = 3  # errors before they decide


class Seen(NamedTuple):
    """One picture: whether the challenger failed, and whether each mask has a flag."""

    failed: bool
    flagged: bool
    champion_flagged: bool


class Canary:
    """The share of requests that one challenger answers, and its last pictures.

    Flags are compared on the same pictures, so that odd pictures do not count against the challenger.

    Args:
        percent: share of the requests that the challenger answers, 0 to 100.
        most_flags: the share of pictures with a flag may exceed the champion's by this much, 0 to 1.
        most_errors: largest share of pictures on which the challenger may fail, 0 to 1.
    """

    def __init__(self, percent: float, most_flags: float, most_errors: float) -> None:
        self._percent, self._most_flags, self._most_errors = percent, most_flags, most_errors
        self._seen: deque[Seen] = deque(maxlen=WINDOW)
        self.withdrawn = ""

    def takes(self, picture: np.ndarray) -> bool:
        """Return whether the challenger answers for a picture (H, W); the same picture always gets the same answer."""
        if self._percent == 0 or self.withdrawn:
            return False
        digest = hashlib.blake2b(np.ascontiguousarray(picture).data, digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64 < self._percent / 100

    def add(self, seen: Seen) -> str:
        """Count a picture; return why the canary is taken back now, empty if it is not, or was before."""
        if self.withdrawn:
            return ""
        self._seen.append(seen)
        self.withdrawn = self._verdict()
        return self.withdrawn

    def _verdict(self) -> str:
        failed = sum(each.failed for each in self._seen)
        if failed >= LEAST_ERRORS and failed > self._most_errors * len(self._seen):
            return f"{failed} errors on the last {len(self._seen)} pictures"
        both = [each for each in self._seen if not each.failed]
        ours, theirs = (sum(getattr(each, name) for each in both) for name in ("flagged", "champion_flagged"))
        if len(both) >= LEAST and ours - theirs > self._most_flags * len(both):
            return f"flags on {ours} of the last {len(both)} pictures, the champion's on {theirs}"
        return ""
