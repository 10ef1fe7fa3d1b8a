"""Disk cache of downloaded model versions, in a folder that several services may share."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection
from pathlib import Path
from typing import IO

from serving.http.logs import say
from tracking.store import first_line

# A file in the folder of each version that a service has downloaded. A service that uses the version holds a shared
# lock on it. The kernel releases the lock when the process ends, even if it is killed: an unlocked version is unused.
USED = ".used-by-services"


class Cache:
    """The model versions in ``folder`` that one service uses.

    A version that another program downloaded is used but never removed.

    Args:
        folder: the folder.
        signatures: as for :func:`registry.seal.verify`.
    """

    def __init__(self, folder: Path, signatures: str = "auto") -> None:
        self.folder, self._signatures = folder, signatures
        self._held: dict[Path, IO[bytes]] = {}

    def take(self, uri: str) -> Path:
        """Return a package's folder from :func:`registry.fetch.fetch` and lock it against removal.

        Raises:
            UserError: as :func:`registry.fetch.fetch`.
        """
        from registry.fetch import fetch

        while True:
            folder = fetch(uri, self.folder, USED, self._signatures)
            try:
                file = (folder / USED).open("rb")
            except FileNotFoundError:
                if folder.exists():
                    return folder
                continue  # removed since it was found
            fcntl.flock(file, fcntl.LOCK_SH)
            if _is(file, folder / USED):
                if before := self._held.pop(folder, None):
                    before.close()
                self._held[folder] = file
                return folder
            file.close()

    def keep(self, kept: Collection[Path]) -> None:
        """Unlock all versions except ``kept``, and remove versions that no running service uses."""
        from registry.fetch import sweep

        for folder in self._held.keys() - set(kept):
            self._held.pop(folder).close()
        try:
            sweep(self.folder)
            for mark in self.folder.glob(f"*/[0-9]*/{USED}"):  # skips partial downloads: their names begin with a dot
                if mark.parent not in self._held:
                    _remove_unused(mark)
        except OSError as error:  # the new version is still usable; removal is retried after the next swap
            say("old version not removed", 30, folder=str(self.folder), error=first_line(error))


def _remove_unused(mark: Path) -> None:
    from registry.fetch import remove

    try:
        file = mark.open("rb")
    except FileNotFoundError:
        return  # another service has removed it
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if _is(file, mark):
            remove(mark.parent)


def _is(file: IO[bytes], path: Path) -> bool:
    """Return whether an open file is still the file at ``path``."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
