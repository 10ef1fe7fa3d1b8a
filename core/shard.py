"""Shards: the parts of a cohort that a step can process separately, ``1/4`` to ``4/4``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from core.errors import UserError

# The option of a step's command; empty: no shard.
ShardOption = Annotated[str, typer.Option("--shard", metavar="I/N", help="Only part I of N, for the step's merge.")]
MOST = 256  # a merge opens a file of each shard


@dataclass(frozen=True, order=True)
class Shard:
    """One part of a cohort.

    Attributes:
        of: the number of parts, 1 to :data:`MOST`.
        number: number of this part, 1 to ``of``.
    """

    of: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that ``text`` names, for example ``2/4``; raises UserError if ``text`` is not a shard."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if match and 1 <= int(match[1]) <= int(match[2]) <= MOST:
            return cls(int(match[2]), int(match[1]))
        raise UserError(f"--shard {text}: not a shard; give i/N with i from 1 to N and N at most {MOST}, such as 2/4")

    @classmethod
    def option(cls, text: str, out: Path, whole: Path) -> Shard | None:
        """Return the shard of a step's command, None for an empty ``text``.

        Args:
            text: the value of ``--shard``.
            out: the output folder.
            whole: the folder of the whole output, where the later steps look for it.

        Raises:
            UserError: ``text`` is not a shard, or ``out`` is the folder of the whole output.
        """
        if not text:
            return None
        shard = cls.parse(text)
        if out == whole:
            raise UserError(f"--shard {text}: {out} is for the whole; name a folder for the part with --out")
        return shard

    @classmethod
    def every(cls, of: int) -> list[Shard]:
        """Return all ``of`` shards, in order."""
        return [cls(of, number) for number in range(1, of + 1)]

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def has(self, site: str, identity: str) -> bool:
        """Return whether an X-ray belongs to this shard."""
        return number_of(site, identity, self.of) == self.number

    def range_of(self, count: int) -> range:
        """Return the positions of this shard's share of ``count`` items; all shards in order cover them in order."""
        return range(count * (self.number - 1) // self.of, count * self.number // self.of)


def number_of(site: str, identity: str, of: int) -> int:
    """Return the number, 1 to ``of``, of the shard to which an X-ray belongs.

    The number depends only on the site and the id. So shards need no coordination, and an X-ray stays in its shard when
    others are added to the cohort.
    """
    digest = hashlib.sha256(f"{site}/{identity}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % of + 1


def require_all(parts: Mapping[Path, str]) -> list[Path]:
    """Return the parts in the order of their shards.

    Args:
        parts: the recorded shard of each folder, ``i/N``; empty if it has none.

    Raises:
        UserError: a folder is not a shard, or the folders are not the shards 1/N to N/N, each once.
    """
    for folder, text in parts.items():
        if not text:
            raise UserError(f"{folder}: not a part that a step wrote with --shard; give the output of each shard")
    shards = {folder: Shard.parse(text) for folder, text in parts.items()}
    order = sorted(shards, key=lambda folder: shards[folder])
    (first, *_), of = order, shards[order[0]].of
    for folder, shard in shards.items():
        if shard.of != of:
            raise UserError(f"{folder}: shard {shard}, but {first} is {shards[first]}; give parts of one number")
    for one, other in pairwise(order):
        if shards[one] == shards[other]:
            raise UserError(f"{other}: shard {shards[one]}, as {one} is too; give each shard once")
    if missing := [str(shard) for shard in Shard.every(of) if shard not in shards.values()]:
        raise UserError(f"{len(missing)} of {of} shards are missing: {_listed(missing)}; run them, then merge")
    return order


def distinct(folders: Sequence[Path]) -> list[Path]:
    """Return the folders of a merge; raises UserError if there is none, or one is named twice."""
    if not folders:
        raise UserError("no parts to merge; give the output of each shard")
    if twice := sorted({str(folder) for folder in folders if folders.count(folder) > 1}):
        raise UserError(f"{twice[0]}: named twice; give each shard once")
    return list(folders)


def _listed(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
