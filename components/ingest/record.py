"""``cohort.json``, the record of a raw cohort or of one shard of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from core.cohort import COHORT
from core.errors import UserError
from core.files import read_json, write_json


@dataclass(frozen=True)
class SiteCount:
    """Numbers of X-rays of a site: all, with a mask, and without."""

    images: int
    masks: int
    unpaired: int


@dataclass(frozen=True)
class Record:
    """The content of ``cohort.json``.

    Attributes:
        name: the cohort's name.
        synthetic: whether its X-rays are synthetic.
        description: a sentence about it.
        source: what it was read from, as the user gave it.
        data_md5: MD5 that pins the source; None if it is not pinned.
        sites: counts by site; of a shard, only its own.
        shard: ``i/N`` for a shard; empty, and not in the file, for a whole cohort.
        listing_sha256: for a shard, the SHA-256 of the names and sizes of all X-rays' files in the source.
    """

    name: str
    synthetic: bool
    description: str
    source: str
    data_md5: str | None
    sites: dict[str, SiteCount]
    shard: str = ""
    listing_sha256: str = ""

    def write(self, folder: Path) -> None:
        """Write the record to a cohort's folder."""
        values = asdict(self)
        write_json(folder / COHORT, values if self.shard else {key: values[key] for key in WHOLE})

    @classmethod
    def read(cls, folder: Path) -> Record:
        """Read the record of a cohort; raises UserError if it is missing or not such a record."""
        values = read_json(folder / COHORT)
        try:
            sites = {site: SiteCount(**counts) for site, counts in values["sites"].items()}
            return cls(**(values | {"sites": sites}))
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(f"{folder / COHORT}: not an output of the ingest step ({error}); run it again") from error

    def differs(self, other: Record) -> str:
        """Return the first field of :data:`SAME` in which two shards differ; empty if none does."""
        return next((key for key in SAME if getattr(self, key) != getattr(other, key)), "")


WHOLE = ("name", "synthetic", "description", "source", "data_md5", "sites")  # in cohort.json of a whole cohort
SAME = ("source", "data_md5", "name", "synthetic", "description", "listing_sha256")  # in all shards of a cohort


def count(frame: pd.DataFrame) -> dict[str, SiteCount]:
    """Return the counts by site of a manifest's rows."""
    images = Counter(frame["site"])
    masks = Counter(frame["site"][frame["mask"] != ""])
    return {site: SiteCount(images[site], masks[site], images[site] - masks[site]) for site in sorted(images)}
