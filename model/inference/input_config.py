"""The preprocessing that a network was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class InputConfig:
    """The preprocessing of the network's input: the arguments of :func:`model.preprocessing.standardise`."""

    size: int
    interpolation: str
    intensity_percentiles: tuple[float, float]

    def difference(self, info: Mapping[str, Any]) -> str:
        """Describe how the preprocessing of arrays differs; empty if it does not.

        Args:
            info: content of the arrays' ``arrays.json``.
        """
        for name, value in asdict(self).items():
            if value != (given := tuple(info[name]) if isinstance(info[name], list) else info[name]):
                return f"{name} is {value} for the network and {given} in the arrays"
        return ""
