"""The downloaded versions on the disk, in a folder that several services may share."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection
from pathlib import Path
from typing import IO

from serving.http.logs import say
from tracking.store import first_line

# Lies in each version that a service has downloaded; who uses the version holds a shared lock on it. The kernel lets go
# of a lock when its process ends, however it ends, so that a version nobody holds is one that no service uses.
USED = ".used-by-services"


class Cache:
    """What one service uses of the folder ``folder``.

    A version that something else than a service has put there is used and never removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[Path, IO[bytes]] = {}

    def take(self, uri: str) -> Path:
        """Return a package's folder as :func:`registry.fetch.fetch` does; nobody removes it from now on.

        Raises:
            UserError: what fetch raises.
        """
        from registry.fetch import fetch

        while True:
            folder = fetch(uri, self.folder, USED)
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
        """Let go of all versions but these, and remove what no service uses: what killed ones have left behind too."""
        from registry.fetch import sweep

        for folder in self._held.keys() - set(kept):
            self._held.pop(folder).close()
        try:
            sweep(self.folder)
            for mark in self.folder.glob(f"*/[0-9]*/{USED}"):  # none of what is being written: that begins with a dot
                if mark.parent not in self._held:
                    _remove_unused(mark)
        except OSError as error:  # no reason to refuse the new version, and tried again after the next one
            say("old version not removed", 30, folder=str(self.folder), error=first_line(error))


def _remove_unused(mark: Path) -> None:
    from registry.fetch import remove

    try:
        file = mark.open("rb")
    except FileNotFoundError:
        return  # another service was faster
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if _is(file, mark):
            remove(mark.parent)


def _is(file: IO[bytes], path: Path) -> bool:
    """Tell whether an open file is still the one of that path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
