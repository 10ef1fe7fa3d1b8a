"""Which values of a parametrised test `make test` runs; `make test-all` runs all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def daily(values: Iterable[Any], *kept: int) -> list[Any]:
    """Return the values of ``pytest.mark.parametrize``, marked ``full`` but for those at the positions ``kept``."""
    return [value if number in kept else full(value) for number, value in enumerate(values)]


def full(value: Any) -> Any:
    """Mark one value ``full``; a tuple holds the values of several parameters."""
    if isinstance(value, type(pytest.param())):
        return pytest.param(*value.values, marks=[*value.marks, pytest.mark.full], id=value.id)
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.full)
