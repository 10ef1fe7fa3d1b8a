"""What is measured once a machine, and kept in the user's cache folder."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

T = TypeVar("T")


def cache_folder() -> Path:
    """Return the folder of what is measured once on a machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "defunet"


def once(file: str, key: str, measure: Callable[[], T], sound: Callable[[Any], bool]) -> T:
    """Return what was measured before, or measure it now and keep it.

    Args:
        file: of the cache folder: JSON.
        key: all that the measurement depends on.
        measure: makes the value, which JSON can hold. Where nothing can be kept, it is called each time.
        sound: whether a kept value is such a value; the file may be damaged.
    """
    path = cache_folder() / file
    with suppress(OSError):  # where nothing can be kept, there is nothing to agree on
        path.parent.mkdir(parents=True, exist_ok=True)
        # Of runs that begin together one measures, and the others wait for it and take the same.
        with FileLock(path.with_name(f".{file}.lock")):
            return _once(path, key, measure, sound)
    return measure()


def _once(path: Path, key: str, measure: Callable[[], T], sound: Callable[[Any], bool]) -> T:
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        held = json.loads(path.read_text())
        known = held if isinstance(held, dict) else {}
    if key in known and sound(known[key]):
        kept: T = known[key]
        return kept
    value = measure()
    with suppress(OSError):
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps({**known, key: value}, indent=1))
        partial.replace(path)
    return value


def cpu() -> str:
    """Return the name of the processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
