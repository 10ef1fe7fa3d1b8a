"""The canary: the requests that the challenger answers, and the conditions that withdraw it."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import NamedTuple

import numpy as np

WINDOW = 200  # number of last images that decide
LEAST = 20  # minimum number of images before flags decide
LEAST_ERRORS = 3  # minimum number of errors before they decide


class Seen(NamedTuple):
    """One image: whether the challenger failed, and whether each model's mask has a flag."""

    failed: bool
    flagged: bool
    champion_flagged: bool


class Canary:
    """Routes a share of the requests to a challenger, and withdraws it if its last images have too many faults.

    Flags of both models are compared on the same images, so that unusual images do not count against the challenger.

    Args:
        percent: percentage of requests that the challenger answers, 0 to 100.
        most_flags: maximum excess of the challenger's share of flagged images over the champion's, 0 to 1.
        most_errors: maximum share of images on which the challenger may fail, 0 to 1.
    """

    def __init__(self, percent: float, most_flags: float, most_errors: float) -> None:
        self._percent, self._most_flags, self._most_errors = percent, most_flags, most_errors
        self._seen: deque[Seen] = deque(maxlen=WINDOW)
        self.withdrawn = ""

    def takes(self, picture: np.ndarray) -> bool:
        """Return whether the challenger answers for an image (H, W); equal images give equal results."""
        if self._percent == 0 or self.withdrawn:
            return False
        digest = hashlib.blake2b(np.ascontiguousarray(picture).data, digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64 < self._percent / 100

    def add(self, seen: Seen) -> str:
        """Count an image; return the reason if this withdraws the canary, else an empty text."""
        if self.withdrawn:
            return ""
        self._seen.append(seen)
        self.withdrawn = self._verdict()
        return self.withdrawn

    def _verdict(self) -> str:
        failed = sum(each.failed for each in self._seen)
        if failed >= LEAST_ERRORS and failed > self._most_errors * len(self._seen):
            return f"{failed} errors on the last {len(self._seen)} X-rays"
        both = [each for each in self._seen if not each.failed]
        ours, theirs = (sum(getattr(each, name) for each in both) for name in ("flagged", "champion_flagged"))
        if len(both) >= LEAST and ours - theirs > self._most_flags * len(both):
            return f"flags on {ours} of the last {len(both)} X-rays, the champion's on {theirs}"
        return ""
