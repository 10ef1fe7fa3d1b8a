"""kfp in tests: the same compiler, without the source lines of pytest's deep call stack."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def stacks_without_source() -> Iterator[None]:
    """kfp asks for its caller with every option of a task; the source lines of all frames take most of a compile."""
    with pytest.MonkeyPatch.context() as patch:
        stack = inspect.stack
        patch.setattr(inspect, "stack", lambda *_: stack(0))
        yield
