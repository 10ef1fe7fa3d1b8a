"""What the workers of pytest-xdist share, and which tests belong to one worker.

Without pytest-xdist there is one process, in which all of this holds too.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

# Fixtures that each worker would start anew: all their tests go to one worker, by the first that a test uses.
GROUPS = {
    "engine": "engine",
    "reproduced": "dvc",
    "service": "service",
    "s3_server": "servers",
    "mlflow_server": "servers",
}

# A shell starts background commands with SIGINT ignored, which Python and the commands that tests start inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Once:
    """Makes folders once a session; the first worker that asks makes one, the others wait for it."""

    base: Path

    def __call__(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return the folder of a name, made by ``make`` where it is not there yet; tests leave it as it is."""
        folder, made = self.base / name, self.base / f"{name}.made"
        with FileLock(self.base / f"{name}.lock"):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of one that failed
                folder.mkdir()
                make(folder)
                made.touch()
        return folder


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Return what makes a folder once for all workers: ``once("name", make) -> folder``."""
    base = tmp_path_factory.getbasetemp()
    base = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"
    base.mkdir(exist_ok=True)
    return Once(base)


def scopes(item: pytest.Item) -> dict[str, str]:
    """Return the scope of each fixture that a test uses."""
    known = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009
    return {name: found[-1].scope for name, found in known.items() if found}


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Group tests that share a fixture which each worker would make anew, and start slow tests first.

    A mark ``xdist_group`` wins.
    """
    for item in items:
        found = scopes(item)
        group = next((GROUPS[name] for name in GROUPS if name in found), None)
        if group is None and "module" in found.values():
            group = item.nodeid.partition("::")[0]
        marked = item.get_closest_marker("xdist_group")
        group = marked.args[0] if marked else group
        if group is not None and hasattr(config, "workerinput"):
            # Where pytest-xdist looks for it; with pytest 9.2 it cannot write it there itself (pytest-xdist#1386).
            item._id = type(item.id).parse(f"{item.nodeid}@{group}")  # type: ignore[attr-defined]
    if hasattr(config, "workerinput"):
        items.sort(key=_late)
        # One worker makes the project that many tests copy, while the others run tests that need none.
        items.insert(0, items.pop(next((at for at, item in enumerate(items) if "trained" in scopes(item)), 0)))


def _late(item: pytest.Item) -> tuple[bool, bool]:
    """Sort key: a slow test that started last would leave the other workers without work."""
    return item.get_closest_marker("slow") is None, "prepared" in scopes(item)
