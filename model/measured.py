"""Cache measurements of the machine in the user's cache folder."""

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
    """Return the cache folder of measurements."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "defunet"


def once(file: str, key: str, measure: Callable[[], T], sound: Callable[[Any], bool]) -> T:
    """Return the cached value, or measure it and cache it.

    Args:
        file: name of the JSON file in the cache folder.
        key: everything that the measurement depends on.
        measure: returns the value, serialisable as JSON. Called each time if the cache cannot be written.
        sound: returns whether a cached value is valid, since the file may be damaged.
    """
    path = cache_folder() / file
    lock = FileLock(path.with_name(f".{file}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()  # if several runs start together, one measures and the others wait for its value
    except OSError:  # the cache cannot be written
        return measure()
    try:
        return _once(path, key, measure, sound)
    finally:
        lock.release()


def _once(path: Path, key: str, measure: Callable[[], T], sound: Callable[[Any], bool]) -> T:
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text())
        known = content if isinstance(content, dict) else {}
    if key in known and sound(known[key]):
        cached: T = known[key]
        return cached
    value = measure()
    with suppress(OSError):
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps({**known, key: value}, indent=1))
        partial.replace(path)
    return value


def cpu() -> str:
    """Return the name of the CPU."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
